//! Members: how they join, show themselves, leave and are put out.

use baton_protocol::groups::{GroupResponse, Heartbeat, HeartbeatAnswer, Subscription};
use baton_protocol::ids::{GroupEpoch, MemberId, Tick};

use crate::coordinator::{Coordinator, check_name};
use crate::record::{self, Holding, MemberState, Record};
use crate::refusal::Refusal;
use crate::rules::Rule;
use crate::sessions::Expired;
use crate::view;

impl Coordinator {
    pub(crate) fn heartbeat(
        &mut self,
        now: Tick,
        heartbeat: Heartbeat,
    ) -> Result<GroupResponse, Refusal> {
        if let Some(instance) = &heartbeat.instance {
            check_name("the instance id", instance)?;
        }
        let Heartbeat {
            group,
            member,
            epoch,
            ..
        } = &heartbeat;
        match self.state.member(group, *member) {
            Some(known) => {
                admit(*member, known, &heartbeat)?;
                self.sessions.renew(now, group, *member, known);
                self.hear(now, &heartbeat)?;
            }
            None => self.join(now, &heartbeat)?,
        }
        self.tell(now, group, *member, *epoch)
    }

    /// A member shows what it has applied, and perhaps a new subscription.
    fn hear(&mut self, now: Tick, heartbeat: &Heartbeat) -> Result<(), Refusal> {
        let (group, id) = (&heartbeat.group, heartbeat.member);
        let Some(before) = self.state.member(group, id) else {
            return Ok(());
        };
        let mut member = before.clone();
        let wanted = heartbeat.subscription.as_ref();
        let wanted = wanted.filter(|wanted| wanted.version > member.subscription.version);
        let accepted = wanted.map(|wanted| self.accept(wanted)).transpose();
        // One that is refused changes nothing else: what the member gave up, others wait for.
        let refused = match accepted {
            Ok(accepted) => {
                member.subscription = accepted.unwrap_or(member.subscription);
                None
            }
            Err(refusal) => Some(refusal),
        };
        let by_epoch = self.rules.hold(Rule::GivenUpByEpoch);
        let applied = |revoked: GroupEpoch| revoked <= heartbeat.epoch || !by_epoch;
        let gave_up = |holding: &Holding| holding.revoked.is_some_and(applied);
        member.held.retain(|_, holding| !gave_up(holding));
        if member == *before {
            return refused.map_or(Ok(()), Err);
        }
        if member.held.len() < before.held.len() {
            self.sessions.gave_up(group, id);
        }
        self.put(group, id, Some(member));
        self.settle(now, group);
        refused.map_or(Ok(()), Err)
    }

    fn join(&mut self, now: Tick, heartbeat: &Heartbeat) -> Result<(), Refusal> {
        let (group, id) = (&heartbeat.group, heartbeat.member);
        let wanted = match &heartbeat.subscription {
            Some(wanted) if heartbeat.epoch == GroupEpoch::NONE => wanted,
            _ => return Err(Refusal::UnknownMember(id)),
        };
        let mut joining = MemberState {
            instance: heartbeat.instance.clone(),
            subscription: self.accept(wanted)?,
            epoch: GroupEpoch::NONE,
            away: false,
            held: Default::default(),
            awaited: Default::default(),
        };
        match self.seat_of(group, heartbeat.instance.as_deref()) {
            Some((former, seat)) if seat.away => {
                let epoch = self
                    .state
                    .group(group)
                    .map_or(GroupEpoch::NONE, |g| g.epoch());
                take_over(&seat, &mut joining, epoch.next());
                self.put(group, former, None);
            }
            Some((former, _)) => {
                self.sessions.claim(now, group, former);
                let instance = heartbeat.instance.clone().unwrap_or_default();
                return Err(Refusal::InstanceInUse(instance));
            }
            None => self.room_for_member(group)?,
        }
        self.put(group, id, Some(joining));
        self.settle(now, group);
        Ok(())
    }

    /// The member that has this instance id.
    fn seat_of(&self, group: &str, instance: Option<&str>) -> Option<(MemberId, MemberState)> {
        let instance = instance?;
        let members = &self.state.group(group)?.members;
        let mut members = members.iter();
        members
            .find(|(_, member)| member.instance.as_deref() == Some(instance))
            .map(|(id, member)| (*id, member.clone()))
    }

    fn room_for_member(&self, name: &str) -> Result<(), Refusal> {
        self.room_for_group(name)?;
        let members = self.state.group(name).map_or(0, |g| g.members.len());
        let max = self.config.members_max;
        if members >= max {
            return Err(Refusal::Full {
                what: "members in the group",
                max,
            });
        }
        Ok(())
    }

    /// The subscription with its topics in order, if it keeps to the limits.
    fn accept(&self, wanted: &Subscription) -> Result<Subscription, Refusal> {
        let config = &self.config;
        for (what, value) in [
            ("session_timeout_ms", wanted.session_timeout_ms),
            ("rebalance_timeout_ms", wanted.rebalance_timeout_ms),
        ] {
            let (min, max) = (config.timeout_min_ms, config.timeout_max_ms);
            if !(min..=max).contains(&value) {
                return Err(Refusal::Timeout {
                    what,
                    value,
                    min,
                    max,
                });
            }
        }
        let mut accepted = wanted.clone();
        accepted.topics.sort();
        accepted.topics.dedup();
        let known = accepted.topics.iter();
        let partitions: usize = known
            .filter_map(|name| self.topics.named(name))
            .map(|topic| topic.partitions as usize)
            .sum();
        at_most("topics", accepted.topics.len(), config.topics_max)?;
        at_most("partitions", partitions, config.partitions_max)?;
        for name in &accepted.topics {
            check_name("the topic's name", name)?;
        }
        let client = accepted.client.len();
        at_most("bytes of client name", client, config.metadata_bytes_max)?;
        let (bytes, max) = (
            record::member_bytes_max(&accepted, partitions),
            config.member_bytes_max,
        );
        if bytes > max {
            return Err(Refusal::TooLarge { bytes, max });
        }
        Ok(accepted)
    }

    /// What a member is told.
    fn tell(
        &self,
        now: Tick,
        group: &str,
        id: MemberId,
        applied: GroupEpoch,
    ) -> Result<GroupResponse, Refusal> {
        let member = self.state.member(group, id);
        let member = member.ok_or(Refusal::UnknownMember(id))?;
        let interval = if member.in_flux() {
            self.config.heartbeat_rebalance_ms
        } else {
            self.config.heartbeat_interval_ms
        };
        let news = applied != member.epoch;
        Ok(GroupResponse::Heartbeat(HeartbeatAnswer {
            epoch: member.epoch,
            heartbeat_interval_ms: interval.min(member.subscription.session_timeout_ms / 3),
            assignment: news.then(|| view::by_topic(member.assigned(), &self.topics)),
            revoke_within_ms: self.sessions.revoke_within_ms(now, group, id),
        }))
    }

    pub(crate) fn leave(
        &mut self,
        now: Tick,
        group: &str,
        id: MemberId,
        keep_seat: bool,
    ) -> Result<GroupResponse, Refusal> {
        let Some(member) = self.state.member(group, id) else {
            return Ok(GroupResponse::Done);
        };
        if keep_seat && member.instance.is_none() {
            return Err(Refusal::NotStatic);
        }
        if !keep_seat {
            self.put(group, id, None);
            self.settle(now, group);
        } else if !member.away {
            self.keep_seat(now, group, id);
        }
        Ok(GroupResponse::Done)
    }

    /// Nobody consumes what the member has any more; it is kept for the next of its instance.
    fn keep_seat(&mut self, now: Tick, group: &str, id: MemberId) {
        let Some(member) = self.state.member(group, id) else {
            return;
        };
        let mut member = member.clone();
        member.away = true;
        member.held.retain(|_, holding| holding.revoked.is_none());
        self.sessions.leave(now, group, id, &member);
        self.put(group, id, Some(member));
        self.settle(now, group);
    }

    pub(crate) fn expire_members(&mut self, now: Tick) {
        for (group, expired) in self.sessions.expired(now) {
            for one in expired {
                self.put_out(now, &group, one);
            }
            self.settle(now, &group);
        }
    }

    /// The member's time is up. If a process waits for its instance id, that one gets what it had.
    fn put_out(&mut self, now: Tick, group: &str, expired: Expired) {
        let Some(member) = self.state.member(group, expired.member) else {
            return;
        };
        let within = u64::from(member.subscription.session_timeout_ms);
        let waits = |claimed: Tick| now.since_ms(claimed) <= within;
        if !member.away && expired.claimed.is_some_and(waits) {
            self.keep_seat(now, group, expired.member);
        } else {
            self.put(group, expired.member, None);
        }
    }

    fn put(&mut self, group: &str, member: MemberId, value: Option<MemberState>) {
        self.change(Record::Member {
            group: group.to_owned(),
            member,
            value,
        });
    }
}

/// Whether a heartbeat is of the member that is known under this id.
fn admit(id: MemberId, known: &MemberState, heartbeat: &Heartbeat) -> Result<(), Refusal> {
    if known.away || known.instance != heartbeat.instance {
        return Err(Refusal::Replaced(id));
    }
    if heartbeat.epoch > known.epoch {
        return Err(Refusal::FencedEpoch {
            member: id,
            shown: heartbeat.epoch,
            given: known.epoch,
        });
    }
    Ok(())
}

/// The next member of an instance gets all that the former one, who is gone, had or waited for.
fn take_over(seat: &MemberState, joining: &mut MemberState, since: GroupEpoch) {
    let revoked = None;
    joining.held = seat
        .assigned()
        .map(|at| (at, Holding { since, revoked }))
        .collect();
    joining.awaited = seat.awaited.clone();
}

/// Whether there are no more than that.
pub(crate) fn at_most(what: &'static str, value: usize, max: usize) -> Result<(), Refusal> {
    if value > max {
        return Err(Refusal::TooMany { what, value, max });
    }
    Ok(())
}
