//! What a leader does: append, commit, answer producers, keep the in-sync set. How it feeds its
//! followers is in `push.rs`.

use baton_protocol::client::Acks;
use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick};

use crate::by_broker::ByBroker;
use crate::event::{Acknowledged, Effect, EntryShape, Proposal, Refusal, ReplicaView, RequestId};
use crate::handover::Handover;
use crate::in_sync::{Holders, InFlight};
use crate::offsets::OffsetRoom;
use crate::pending::Pending;
use crate::producers::Verdict;
use crate::progress::Progress;
use crate::replica::{Replica, Role};
use crate::rules::Rule;

/// A leader's state.
#[derive(Clone, Debug)]
pub struct Leader {
    /// The epoch it leads in.
    pub epoch: LeaderEpoch,
    /// The log's end when it took the lead.
    pub taken_at: Offset,
    /// Offset of its epoch-start entry: there, or higher up after a lossy election.
    pub epoch_start: Offset,
    /// The other replicas.
    pub followers: ByBroker<Progress>,
    /// A set change whose outcome is not known.
    pub change: Option<InFlight>,
    /// Requests that wait for their commit.
    pub pending: Pending,
    /// Requests that wait until this replica itself holds them.
    pub stored: Pending,
    /// Since when too few members of the set can be reached.
    pub short_since: Option<Tick>,
    /// It takes no appends: its successor catches up, or is being named.
    pub handover: Option<Handover>,
    /// The room for offsets that was asked for.
    pub offsets: OffsetRoom,
    /// Followers with nothing else to hear are told the watermark at the next tick only, not after
    /// every commit: a producer with one batch in flight would double the traffic.
    pub tell_watermark: bool,
}

impl Leader {
    /// Gives back the room that was taken for what is over.
    pub(crate) fn give_room_back(&mut self) {
        self.pending.give_room_back();
        self.stored.give_room_back();
        for follower in self.followers.values_mut() {
            follower.give_room_back();
        }
    }

    /// Answers everything that waits with `refusal`.
    pub(crate) fn refuse_all(&mut self, refusal: Refusal, out: &mut Vec<Effect>) {
        self.pending.refuse_all(refusal, out);
        self.stored.refuse_all(refusal, out);
    }
}

impl Replica {
    /// Takes up the lead: the first entry of a reign is its epoch-start entry.
    pub(crate) fn take_the_lead(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let epoch = self.view.epoch;
        self.cut_superseded(out);
        let taken_at = self.log.end;
        let base = if self.rules.hold(Rule::LossyElectionsStartAtTheLimit) {
            taken_at.max(self.view.offset_floor)
        } else {
            taken_at
        };
        let followers = self
            .view
            .replicas
            .iter()
            .filter(|(id, _)| **id != self.me.broker)
            .map(|(id, replica)| {
                let linked = self.links.contains(id);
                (*id, Progress::new(replica.life, linked, taken_at, now))
            })
            .collect();
        self.led = epoch;
        self.role = Role::Leader(Box::new(Leader {
            epoch,
            taken_at,
            epoch_start: base,
            followers,
            change: None,
            pending: Pending::default(),
            stored: Pending::default(),
            short_since: None,
            handover: None,
            offsets: OffsetRoom::new(self.rules.offset_quantum()),
            tell_watermark: false,
        }));
        out.push(Effect::RoleChanged {
            leading: Some(epoch),
        });
        self.record_entry(&EntryShape {
            epoch,
            base,
            end: base.plus(1),
            producer: None,
        });
        out.push(Effect::AppendEpochStart { base, epoch });
        self.lead_on(now, out);
    }

    /// After a lossy election: what lies beyond the point where later leaders went another way has
    /// offsets that they gave to other entries. Those are lost, and their offsets with them.
    fn cut_superseded(&mut self, out: &mut Vec<Effect>) {
        let kept = self.view.leader_keeps.max(self.log.start);
        if kept < self.log.end && self.rules.hold(Rule::SupersededTailsAreCut) {
            self.truncate(kept, self.view.epoch, out);
        }
    }

    /// Does what the present state calls for: flush, commit, answer, push, keep the set. Called
    /// after everything that a leader hears.
    pub(crate) fn lead_on(&mut self, now: Tick, out: &mut Vec<Effect>) {
        self.flush(now, out);
        let has_lease = self.has_lease(now);
        if has_lease {
            self.commit(out);
        }
        let log_end = self.log.end;
        let own_end = self.held_end();
        if let Role::Leader(leader) = &mut self.role {
            leader.pending.release(self.log.high_watermark, out);
            leader.pending.expire(now, out);
            if has_lease {
                leader.stored.release(own_end, out);
            }
            leader.stored.expire(now, out);
            for follower in leader.followers.values_mut() {
                follower.measure_lag(log_end, now);
            }
        }
        self.ask_again(now);
        self.push_all(now, out);
        self.watch_reach(now);
        self.keep_set(now, out);
        self.keep_room(now, out);
        self.hand_over(now, out);
        if let Role::Leader(leader) = &mut self.role {
            leader.tell_watermark = false;
        }
    }

    /// All followers hold and know everything, or are gone, and nobody waits for anything.
    pub(crate) fn reign_is_at_rest(&self, leader: &Leader) -> bool {
        let (start, end) = (self.log.start, self.log.end);
        self.log.high_watermark == end
            && leader.pending.is_empty()
            && leader.stored.is_empty()
            && leader.change.is_none()
            && leader.handover.is_none()
            && leader.short_since.is_none()
            && leader.offsets.is_granted()
            && self.view.sync_followers_elect >= self.view.sync_followers_commit
            && leader.followers.iter().all(|(id, follower)| {
                let whole = |replica: &ReplicaView| !replica.suspect && !replica.fenced;
                if self.view.in_sync.contains(id) {
                    self.view.replicas.get(id).is_some_and(whole) && follower.is_at_rest(start, end)
                } else {
                    !follower.linked
                }
            })
    }

    /// Whether nobody else can have been named leader without that this one noticed. Followers that
    /// acknowledge in its epoch show that; where none has to, only the controller's word does, for as
    /// long as the controller would wait for this broker's.
    fn has_lease(&self, now: Tick) -> bool {
        self.view.sync_followers_commit > 0
            || self.view.replicas.len() == 1
            || !self.rules.hold(Rule::LeaseWithoutFollowers)
            || self
                .heard_at
                .is_some_and(|at| now.since_ms(at) < self.config.lease_ms)
    }

    fn holders(&self) -> Option<Holders<'_>> {
        match &self.role {
            Role::Leader(leader) => Some(Holders {
                me: self.me.broker,
                own_end: self.held_end(),
                log: &self.log,
                view: &self.view,
                leader,
                rules: self.rules,
            }),
            Role::Follower(_) | Role::Broken => None,
        }
    }

    fn commit(&mut self, out: &mut Vec<Effect>) {
        if let Some(end) = self.holders().map(|holders| holders.committed_end()) {
            self.raise_high_watermark(end, out);
        }
    }

    pub(crate) fn on_propose(&mut self, now: Tick, proposal: Proposal, out: &mut Vec<Effect>) {
        let request = proposal.request;
        if let Err(refusal) = self.may_append(now) {
            return refuse(request, refusal, out);
        }
        if let Some(stamp) = &proposal.producer
            && self.rules.hold(Rule::DedupeSurvivesFailover)
        {
            match self.log.producers.judge(stamp, self.view.lossy_epoch) {
                Verdict::Fresh => {}
                Verdict::Duplicate(first) => {
                    let (base, epoch) = (first.base, first.leader_epoch);
                    return self.await_hold(now, &proposal, base, first.end, epoch, out);
                }
                Verdict::OutOfOrder { expected } => {
                    return refuse(request, Refusal::OutOfOrder { expected }, out);
                }
                Verdict::Fenced { current } => {
                    return refuse(request, Refusal::ProducerFenced { current }, out);
                }
            }
        }
        let base = self.log.end;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        // Who holds all that there was lags from now on, not since somebody looked last.
        for follower in leader.followers.values_mut() {
            follower.measure_lag(base, now);
        }
        let epoch = leader.epoch;
        let end = base.plus(u64::from(proposal.records));
        if end > self.view.offset_limit {
            return refuse(request, Refusal::OutOfOffsets, out);
        }
        self.record_entry(&EntryShape {
            epoch,
            base,
            end,
            producer: proposal.producer,
        });
        out.push(Effect::AppendBatch {
            request,
            base,
            epoch,
        });
        self.await_hold(now, &proposal, base, end, epoch, out);
    }

    /// Lets a request wait until its batch is held as firmly as was asked for. What only the
    /// leader holds may be discarded yet, and its offset given to another: so it is not told.
    fn await_hold(
        &mut self,
        now: Tick,
        proposal: &Proposal,
        base: Offset,
        end: Offset,
        epoch: LeaderEpoch,
        out: &mut Vec<Effect>,
    ) {
        let sure = self.view.sync_followers_commit == 0;
        let tells_nothing = self.rules.hold(Rule::LeaderAckTellsNoOffset);
        if let Role::Leader(leader) = &mut self.role {
            let deadline = now.after_ms(u64::from(proposal.timeout_ms));
            let request = proposal.request;
            let base = Some(base);
            match proposal.acks {
                Acks::None => {}
                Acks::Leader if !sure => {
                    let base = base.filter(|_| !tells_nothing);
                    let answer = Acknowledged { base, epoch };
                    leader.stored.push(request, end, answer, deadline);
                }
                Acks::Leader | Acks::Committed => {
                    let answer = Acknowledged { base, epoch };
                    leader.pending.push(request, end, answer, deadline);
                }
            }
        }
        self.lead_on(now, out);
    }

    /// Whether a batch may enter the log now. It may not where too many followers have been out
    /// of reach for too long: then it is refused while it is certain that it is not stored. A host
    /// may ask before it reserves room.
    pub fn may_append(&self, now: Tick) -> Result<(), Refusal> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refusal::NotLeader);
        };
        if leader.handover.is_some() {
            return Err(Refusal::NotLeader);
        }
        if !self.has_lease(now) {
            return Err(Refusal::NoLease);
        }
        match leader.short_since {
            Some(since) if now.since_ms(since) >= self.config.append_wait_ms => {
                Err(Refusal::NotEnoughReplicas {
                    reachable: self.reachable(leader),
                    needed: self.view.sync_followers_commit + 1,
                })
            }
            _ => Ok(()),
        }
    }

    /// Members of the set that answer, or at least can be written to.
    fn reachable(&self, leader: &Leader) -> u32 {
        let others = self.view.in_sync.iter().filter(|member| {
            leader
                .followers
                .get(member)
                .is_some_and(|follower| follower.linked && follower.retries == 0)
        });
        1 + others.count() as u32
    }

    fn watch_reach(&mut self, now: Tick) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let short = self.reachable(leader) < self.view.sync_followers_commit + 1;
        if let Role::Leader(leader) = &mut self.role {
            leader.short_since = match (short, leader.short_since) {
                (true, None) => Some(now),
                (true, since) => since,
                (false, _) => None,
            };
        }
    }

    /// The metadata changed under a leader that stays in office.
    pub(crate) fn on_view_as_leader(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let log_end = self.log.end;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader
            .followers
            .retain(|id, _| self.view.replicas.contains_key(id));
        for (id, replica) in self.view.replicas.iter() {
            if *id == self.me.broker {
                continue;
            }
            let linked = self.links.contains(id);
            let follower = leader
                .followers
                .get_or_insert_with(*id, || Progress::new(replica.life, linked, log_end, now));
            if replica.life > follower.life {
                follower.reborn(replica.life, log_end, now);
            }
        }
        if leader
            .change
            .as_ref()
            .is_some_and(|change| self.view.version > change.proposal.version)
        {
            leader.change = None;
        }
        self.lead_on(now, out);
    }

    fn keep_set(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let config = self.config.clone();
        let timeout_holds = self.rules.hold(Rule::TimeoutIsNotRejection);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if let Some(change) = &mut leader.change {
            if now.since_ms(change.sent_at) < config.change_retry_ms {
                return;
            }
            if timeout_holds {
                change.sent_at = now;
                out.push(Effect::ProposeInSync(change.proposal.clone()));
                return;
            }
            leader.change = None;
        }
        if leader.handover.is_some() {
            return;
        }
        let Some(proposal) = self
            .holders()
            .and_then(|holders| holders.wanted_change(&config, now))
        else {
            return;
        };
        let removed: Vec<BrokerId> = self
            .view
            .in_sync
            .difference(&proposal.new_set)
            .copied()
            .collect();
        if let Role::Leader(leader) = &mut self.role {
            for id in removed {
                if let Some(follower) = leader.followers.get_mut(&id) {
                    follower.removed_at = Some(now);
                }
            }
            out.push(Effect::ProposeInSync(proposal.clone()));
            leader.change = Some(InFlight {
                proposal,
                sent_at: now,
            });
        }
    }

    /// A refusal frees the change only where the view shows why it was refused, and will be for
    /// ever: a member that was verified has begun another life. Every other lasting reason shows
    /// as a newer view, which frees it by itself; until that is here, the refusal may be of a copy
    /// of a change that was accepted.
    pub(crate) fn on_change_refused(
        &mut self,
        now: Tick,
        version: PartitionVersion,
        out: &mut Vec<Effect>,
    ) {
        if let Role::Leader(leader) = &mut self.role {
            let replicas = &self.view.replicas;
            let outlived = |verified: &BrokerLife| {
                let replica = replicas.get(&verified.broker);
                replica.is_none_or(|replica| replica.life > verified.epoch)
            };
            if let Some(InFlight { proposal, .. }) = &leader.change
                && proposal.version == version
                && proposal.verified.iter().any(outlived)
            {
                leader.change = None;
            }
            self.lead_on(now, out);
        }
    }
}

fn refuse(request: RequestId, refusal: Refusal, out: &mut Vec<Effect>) {
    out.push(Effect::Reply {
        request,
        result: Err(refusal),
    });
}
