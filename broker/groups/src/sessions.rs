//! When members are put out: clocks that are a coordinator's own and begin anew with each.

use std::collections::BTreeMap;

use baton_protocol::ids::{MemberId, Tick};

use crate::record::MemberState;
use crate::state::Group;

/// The clocks of one member.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// When its session ends.
    pub ends: Tick,
    /// When it must have given up what was taken back.
    pub revoke_by: Option<Tick>,
    /// When a process last asked for its instance id.
    pub claimed: Option<Tick>,
}

/// The clocks of all members.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    groups: BTreeMap<String, BTreeMap<MemberId, Session>>,
    /// No clock runs out before this.
    earliest: Option<Tick>,
}

/// Why a member is put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The member.
    pub member: MemberId,
    /// When a process last asked for its instance id.
    pub claimed: Option<Tick>,
}

impl Sessions {
    /// Fits the clocks to a group's members: a full session for whoever has none yet.
    pub fn fit(&mut self, now: Tick, name: &str, group: Option<&Group>) {
        let Some(group) = group.filter(|group| !group.members.is_empty()) else {
            self.groups.remove(name);
            return;
        };
        let sessions = self.groups.entry(name.to_owned()).or_default();
        sessions.retain(|member, _| group.members.contains_key(member));
        for (id, member) in &group.members {
            let session = sessions.entry(*id).or_insert(Session {
                ends: session_end(now, member),
                revoke_by: None,
                claimed: None,
            });
            if member.revoking().next().is_none() {
                session.revoke_by = None;
            } else {
                // A member that has not been told yet goes by its session, which must be over.
                let wanted = &member.subscription;
                let within = wanted.rebalance_timeout_ms.max(wanted.session_timeout_ms);
                session
                    .revoke_by
                    .get_or_insert(now.after_ms(u64::from(within)));
            }
            self.earliest = earlier(self.earliest, Some(session.next()));
        }
    }

    /// A member has shown itself.
    pub fn renew(&mut self, now: Tick, group: &str, id: MemberId, member: &MemberState) {
        if let Some(session) = self.get_mut(group, id) {
            session.ends = session_end(now, member);
        }
    }

    /// A member is gone, and its partitions are kept from now on.
    pub fn leave(&mut self, now: Tick, group: &str, id: MemberId, member: &MemberState) {
        if let Some(session) = self.get_mut(group, id) {
            session.ends = session_end(now, member);
            session.revoke_by = None;
            session.claimed = None;
        }
    }

    /// A member has given up something of what was taken back: it gets the whole time for the rest.
    pub fn gave_up(&mut self, group: &str, id: MemberId) {
        if let Some(session) = self.get_mut(group, id) {
            session.revoke_by = None;
        }
    }

    /// Somebody asks for the instance id of a member.
    pub fn claim(&mut self, now: Tick, group: &str, id: MemberId) {
        if let Some(session) = self.get_mut(group, id) {
            session.claimed = Some(now);
        }
    }

    /// How long a member still has to give up what was taken back, in milliseconds.
    pub fn revoke_within_ms(&self, now: Tick, group: &str, id: MemberId) -> Option<u32> {
        let revoke_by = self.groups.get(group)?.get(&id)?.revoke_by?;
        Some(u32::try_from(revoke_by.since_ms(now)).unwrap_or(u32::MAX))
    }

    /// The members whose time is up, by group.
    pub fn expired(&mut self, now: Tick) -> BTreeMap<String, Vec<Expired>> {
        let mut expired: BTreeMap<String, Vec<Expired>> = BTreeMap::new();
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return expired;
        }
        self.earliest = None;
        for (group, sessions) in &self.groups {
            for (member, session) in sessions {
                if session.next() > now {
                    self.earliest = earlier(self.earliest, Some(session.next()));
                    continue;
                }
                expired.entry(group.clone()).or_default().push(Expired {
                    member: *member,
                    claimed: session.claimed,
                });
            }
        }
        expired
    }

    /// Ends all sessions of a group: what a coordinator that forgets to begin them anew would do.
    pub fn end_all(&mut self, now: Tick, group: &str) {
        for session in self
            .groups
            .get_mut(group)
            .into_iter()
            .flat_map(BTreeMap::values_mut)
        {
            session.ends = now;
            self.earliest = Some(now);
        }
    }

    fn get_mut(&mut self, group: &str, id: MemberId) -> Option<&mut Session> {
        self.groups.get_mut(group)?.get_mut(&id)
    }
}

impl Session {
    fn next(&self) -> Tick {
        self.revoke_by
            .map_or(self.ends, |revoke_by| revoke_by.min(self.ends))
    }
}

fn session_end(now: Tick, member: &MemberState) -> Tick {
    now.after_ms(u64::from(member.subscription.session_timeout_ms))
}

fn earlier(a: Option<Tick>, b: Option<Tick>) -> Option<Tick> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
