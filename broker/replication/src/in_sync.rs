//! The in-sync set, as its leader uses and changes it.
//!
//! Two rules live here: when an entry is committed (by enough holders, in the set and, while a
//! change of it is in flight, in the set that is to be as well), and when a member may be added or
//! removed. Only the leader proposes; the controller compares and sets.

use std::collections::BTreeSet;

use baton_protocol::ids::{BrokerId, BrokerLife, Offset, Tick};

use crate::event::{PartitionView, SetProposal};
use crate::leader::Leader;
use crate::progress::Progress;
use crate::replica::{Config, LogShape};
use crate::rules::{Rule, Rules};

/// A proposal whose outcome is not known.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// What was proposed.
    pub proposal: SetProposal,
    /// When it was last sent.
    pub sent_at: Tick,
}

/// Everything that the rules about the set look at.
pub(crate) struct Holders<'a> {
    pub me: BrokerId,
    /// How far this replica counts itself a holder.
    pub own_end: Offset,
    pub log: &'a LogShape,
    pub view: &'a PartitionView,
    pub leader: &'a Leader,
    pub rules: Rules,
}

impl Holders<'_> {
    /// How far a member counts as a holder.
    fn held_end(&self, member: BrokerId) -> Offset {
        let suspect = self.view.replicas.get(&member).is_none_or(|r| r.suspect);
        if suspect && self.rules.hold(Rule::SuspectsDoNotCount) {
            return Offset::ZERO;
        }
        if member == self.me {
            return self.own_end;
        }
        match self.leader.followers.get(&member) {
            Some(follower) if follower.verified => follower.matched,
            _ => Offset::ZERO,
        }
    }

    /// How many members of `set` hold everything below `end`.
    fn count(&self, set: &BTreeSet<BrokerId>, end: Offset) -> usize {
        set.iter().filter(|m| self.held_end(**m) >= end).count()
    }

    /// The greatest offset that `needed` members of `set` hold.
    fn held_by(&self, set: &BTreeSet<BrokerId>, needed: usize) -> Offset {
        let mut ends: Vec<Offset> = set.iter().map(|member| self.held_end(*member)).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(needed - 1).copied().unwrap_or(Offset::ZERO)
    }

    fn needed(&self) -> usize {
        self.view.sync_followers_commit as usize + 1
    }

    /// The end of what is committed by the rule, as far as this leader can tell now. Never below
    /// its watermark.
    pub fn committed_end(&self) -> Offset {
        if !self.view.in_sync.contains(&self.me) {
            return self.log.high_watermark;
        }
        let mut end = self.held_by(&self.view.in_sync, self.needed());
        if let Some(change) = &self.leader.change
            && self.rules.hold(Rule::JointCommit)
        {
            end = end.min(self.held_by(&change.proposal.new_set, self.needed()));
        }
        let own_epoch = end > self.leader.epoch_start || !self.rules.hold(Rule::OwnEpochCommits);
        if own_epoch {
            end.max(self.log.high_watermark)
        } else {
            self.log.high_watermark
        }
    }

    /// Everything below this must be held by those that stay, and by those that come.
    fn required_end(&self) -> Offset {
        self.log.high_watermark.max(self.leader.epoch_start.plus(1))
    }

    /// The change of the set that should be proposed now, if any.
    pub fn wanted_change(&self, config: &Config, now: Tick) -> Option<SetProposal> {
        let required = self.required_end();
        let mut set = self.view.in_sync.clone();
        let mut verified = Vec::new();
        for (id, follower) in self.leader.followers.iter() {
            if self.may_be_added(*id, follower, required, config, now) {
                set.insert(*id);
                verified.push(BrokerLife {
                    broker: *id,
                    epoch: follower.life,
                });
            }
        }
        for member in self.view.in_sync.iter().filter(|m| **m != self.me) {
            if !self.should_be_removed(*member, config, now) {
                continue;
            }
            let mut smaller = set.clone();
            smaller.remove(member);
            if self.may_shrink_to(&smaller, required) {
                set = smaller;
                verified.retain(|life: &BrokerLife| life.broker != *member);
            }
        }
        let sync_followers_elect = if set == self.view.in_sync && verified.is_empty() {
            Some(self.proven_failures(required)?)
        } else {
            None
        };
        Some(SetProposal {
            epoch: self.leader.epoch,
            version: self.view.version,
            new_set: set,
            verified,
            sync_followers_elect,
        })
    }

    /// Elections may reckon with more failures, once as many followers hold everything that was
    /// committed when fewer sufficed.
    fn proven_failures(&self, required: Offset) -> Option<u32> {
        let raised = self.view.sync_followers_elect < self.view.sync_followers_commit;
        let proven = self.count(&self.view.in_sync, required) >= self.needed();
        (raised && proven).then_some(self.view.sync_followers_commit)
    }

    /// Never below k+1 members, and k+1 of those that stay hold everything.
    fn may_shrink_to(&self, set: &BTreeSet<BrokerId>, required: Offset) -> bool {
        if set.len() < self.needed() {
            return false;
        }
        !self.rules.hold(Rule::RemovalCheck) || self.count(set, required) >= self.needed()
    }

    /// Adding a member and clearing a suspect are the same check: that life of the broker holds
    /// everything that is committed.
    fn may_be_added(
        &self,
        id: BrokerId,
        follower: &Progress,
        required: Offset,
        config: &Config,
        now: Tick,
    ) -> bool {
        let Some(replica) = self.view.replicas.get(&id) else {
            return false;
        };
        let outside = !self.view.in_sync.contains(&id) || replica.suspect;
        let rested = follower
            .removed_at
            .is_none_or(|removed| now.since_ms(removed) >= config.in_sync_return_ms);
        outside
            && rested
            && !replica.fenced
            && follower.linked
            && follower.verified
            && follower.matched >= required
    }

    fn should_be_removed(&self, member: BrokerId, config: &Config, now: Tick) -> bool {
        let Some(replica) = self.view.replicas.get(&member) else {
            return true;
        };
        let Some(follower) = self.leader.followers.get(&member) else {
            return true;
        };
        replica.fenced || now.since_ms(follower.caught_up_at) > config.in_sync_lag_ms
    }
}
