//! What a follower does: take entries that continue its log, cut what conflicts, acknowledge what
//! is durable.

use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, Tick};
use baton_protocol::peer::{Ack, Append, Mismatch, Refused, ReplicaMessage, Reset};

use crate::epochs::EpochHistory;
use crate::event::{Breach, Effect, EntryShape};
use crate::producers::ProducerTable;
use crate::replica::{Replica, Role};
use crate::rules::Rule;

/// How many runs of the epoch history a mismatch carries at most.
pub const HISTORY_RUNS_MAX: usize = 64;

/// A follower's state: whom it follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Follower {
    /// The leader that last appended here, with its epoch.
    leader: Option<(BrokerId, LeaderEpoch)>,
    /// The log start that it told, once this log is a prefix of its.
    leader_start: Offset,
}

impl Follower {
    /// Whether `peer` is the leader that last appended here.
    pub fn leader_is(&self, peer: BrokerId) -> bool {
        self.leader.is_some_and(|(id, _)| id == peer)
    }
}

/// What is to be done with the entries of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// All are held already.
    Held,
    /// The entries from `skip` on are new; the log is first cut at `cut`, if given.
    New { skip: usize, cut: Option<Offset> },
    /// They overlap what is held as no leader writes it.
    Overlap,
}

/// Whether the entries are what a leader can have written: a chain that continues `prev_end`,
/// with epochs that do not fall. This comes from outside, so it is checked, not asserted.
fn check_shape(append: &Append, entries: &[EntryShape]) -> Result<(), &'static str> {
    let (mut epoch, mut end) = (append.prev_epoch, append.prev_end);
    for entry in entries {
        if entry.base < end || entry.end <= entry.base {
            return Err("entries that do not follow one another");
        }
        if entry.epoch < epoch || entry.epoch > append.epoch || entry.epoch == LeaderEpoch::NONE {
            return Err("an entry of an epoch that cannot be there");
        }
        (epoch, end) = (entry.epoch, entry.end);
    }
    Ok(())
}

impl Replica {
    pub(crate) fn on_append(
        &mut self,
        now: Tick,
        append: Append,
        entries: &[EntryShape],
        out: &mut Vec<Effect>,
    ) {
        if !self.admits(append.epoch, append.leader, append.to, out) {
            return;
        }
        if let Err(why) = check_shape(&append, entries) {
            return out.push(Effect::Ignored {
                from: append.leader.broker,
                why,
            });
        }
        if !self.follow(append.epoch, append.leader, out) {
            return;
        }
        if !self.fills_gaps(append.epoch, out) {
            return;
        }
        if !self.continues(append.prev_end, append.prev_epoch) {
            return self.answer_mismatch(&append, out);
        }
        match self.fit(&append, entries) {
            Fit::Held => {}
            Fit::Overlap => {
                return out.push(Effect::Ignored {
                    from: append.leader.broker,
                    why: "an entry that overlaps one held, of the same epoch",
                });
            }
            Fit::New { skip, cut } => {
                if let Some(to) = cut {
                    if to < self.log.high_watermark && !self.may_give_up(append.epoch) {
                        // The metadata may not have told yet of the election that allows it.
                        if self.knows_outcome_of(append.epoch) {
                            let breach = Breach::TruncateBelowWatermark {
                                to,
                                high_watermark: self.log.high_watermark,
                            };
                            self.break_down(breach, out);
                        }
                        return;
                    }
                    if self.cut_leaves_gaps(to, append.epoch) {
                        if !self.may_discard() {
                            return;
                        }
                        self.start_over(append.epoch, out);
                        // A log that does continue there must not be told to begin further down.
                        return match self.continues(append.prev_end, append.prev_epoch) {
                            true => self.acknowledge(out),
                            false => self.answer_mismatch(&append, out),
                        };
                    }
                    self.truncate(to, append.epoch, out);
                }
                for entry in &entries[skip..] {
                    self.record_entry(entry);
                }
                out.push(Effect::AppendEntries { skip });
            }
        }
        self.follow_watermark(&append, out);
        self.flush(now, out);
        if self.held_end() == self.log.end {
            self.acknowledge(out);
        }
    }

    /// Whether a leader's message counts here. One that was meant for an earlier life of this broker does
    /// not: what was known of that one may be untrue of this one. One of a lower epoch is refused.
    fn admits(
        &self,
        epoch: LeaderEpoch,
        leader: BrokerLife,
        to: BrokerEpoch,
        out: &mut Vec<Effect>,
    ) -> bool {
        if to != self.me.epoch {
            return false;
        }
        if epoch < self.promised && self.rules.hold(Rule::FenceRefusesLower) {
            let refused = Refused {
                epoch,
                from: self.me,
                promised: self.promised,
            };
            self.send(leader.broker, ReplicaMessage::Refused(refused), out);
            return false;
        }
        true
    }

    /// Follows this leader from now on; tells whether this replica follows at all.
    fn follow(&mut self, epoch: LeaderEpoch, leader: BrokerLife, out: &mut Vec<Effect>) -> bool {
        if epoch > self.promised {
            self.promised = epoch;
            self.step_down(out);
        }
        let Role::Follower(follower) = &mut self.role else {
            return false;
        };
        let leader = Some((leader.broker, epoch));
        if follower.leader != leader {
            follower.leader = leader;
            follower.leader_start = Offset::ZERO;
        }
        true
    }

    /// Whether what this replica knows to be committed may be cut: an election that is recorded as
    /// one that may lose entries lies between its log and this leader.
    fn may_give_up(&self, epoch: LeaderEpoch) -> bool {
        self.log.epochs.last() < self.view.lossy_epoch && self.view.lossy_epoch <= epoch
    }

    /// Whether the metadata seen so far tells how the election of this epoch ended.
    fn knows_outcome_of(&self, epoch: LeaderEpoch) -> bool {
        epoch < self.view.epoch || (epoch == self.view.epoch && self.view.leader.is_some())
    }

    /// Whether this log holds the entry that ends here, of this epoch.
    fn continues(&self, end: Offset, epoch: LeaderEpoch) -> bool {
        if end > self.log.end || end < self.log.start {
            return false;
        }
        end == Offset::ZERO || self.log.epochs.before(end) == epoch
    }

    /// Compares the entries with those held. Those with equal offset and epoch are equal; the
    /// first other one decides.
    fn fit(&self, append: &Append, entries: &[EntryShape]) -> Fit {
        let prev_end = append.prev_end;
        if !self.rules.hold(Rule::EqualEntriesAreSkipped) {
            let cut = (prev_end < self.log.end).then_some(prev_end);
            return if entries.is_empty() && cut.is_none() {
                Fit::Held
            } else {
                Fit::New { skip: 0, cut }
            };
        }
        let (mut end, mut epoch) = (prev_end, append.prev_epoch);
        for (i, entry) in entries.iter().enumerate() {
            if end >= self.log.end {
                return Fit::New { skip: i, cut: None };
            }
            let same = entry.base < self.log.end && self.log.epochs.at(entry.base) == entry.epoch;
            if !same {
                let parts = self.parts_at(end, epoch, entry.epoch);
                return Fit::New {
                    skip: i,
                    cut: (parts < self.log.end).then_some(parts),
                };
            }
            if entry.end > self.log.end {
                return Fit::Overlap;
            }
            (end, epoch) = (entry.end, entry.epoch);
        }
        Fit::Held
    }

    /// Where this log parts from a leader's that has an entry of `before` up to `end`, and next one of
    /// `after`, which is not held. Within one epoch the leader's log may lack entries, because newer ones
    /// have superseded them: what this log has there of that epoch, both had.
    fn parts_at(&self, end: Offset, before: LeaderEpoch, after: LeaderEpoch) -> Offset {
        match before == after && self.rules.hold(Rule::GapsCutNothing) {
            true => self.log.epochs.end_of(before, self.log.end).max(end),
            false => end,
        }
    }

    /// Whether this log may lack entries that others superseded.
    fn may_lack_entries(&self) -> bool {
        self.view.compacted && self.rules.hold(Rule::LostSupersedersAreMadeGood)
    }

    /// Sees to it that nothing is missing for good where an election may have lost entries. This log may lack
    /// some that others have superseded which are lost now, and what was superseded counts again. A member
    /// of the in-sync set had the others: it is whole up to where it is cut. Any other begins anew. False
    /// while the metadata does not tell enough.
    fn fills_gaps(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) -> bool {
        let is_empty = self.log.end == self.log.start;
        let is_new = self.log.epochs.last() < epoch;
        if !self.may_lack_entries() || !is_new || is_empty {
            return true;
        }
        if !self.knows_outcome_of(epoch) {
            return false;
        }
        let is_member = self.view.in_sync.contains(&self.me.broker);
        if self.may_give_up(epoch) && !is_member && self.anew_after < self.view.lossy_epoch {
            self.start_over(epoch, out);
        }
        true
    }

    /// Whether a log that is cut here may lack entries that were superseded by some that are cut, and count
    /// again: below what was known to be committed. What an earlier life knew is not known any more; it
    /// may have been all that it left.
    fn cut_leaves_gaps(&self, to: Offset, epoch: LeaderEpoch) -> bool {
        let known = self.log.high_watermark.max(self.inherited_end);
        to < known && self.may_give_up(epoch) && self.may_lack_entries()
    }

    /// Whether the metadata does not count on this log, so that it may be discarded. An asynchronous election
    /// leaves the in-sync set as it is: a member that holds next to nothing, and does not say so, could win
    /// the next one. So it is to be a suspect first; its host has the metadata say so.
    fn may_discard(&mut self) -> bool {
        let counts = self.view.in_sync.contains(&self.me.broker) && !self.is_flagged();
        if counts && self.rules.hold(Rule::MembersDiscardNothing) {
            self.log.lossy = true;
            return false;
        }
        true
    }

    /// Discards the log, to be sent all of it again.
    fn start_over(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        self.anew_after = self.view.lossy_epoch;
        let start = self.log.start;
        let before = self.log.epochs.before(start);
        let producers = self.log.producers.below(start);
        self.begin_anew(start, before, epoch, producers, out);
    }

    pub(crate) fn truncate(&mut self, to: Offset, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        out.push(Effect::Truncate { to, epoch });
        if self.flushing {
            self.flush_ceiling = Some(self.flush_ceiling.map_or(to, |ceiling| ceiling.min(to)));
        }
        self.log.end = to;
        self.inherited_end = self.inherited_end.min(to);
        self.log.durable_end = self.log.durable_end.min(to);
        self.log.epochs.truncate(to);
        self.log.producers.truncate(to);
        if to < self.log.high_watermark {
            self.log.high_watermark = to;
            out.push(Effect::PublishHighWatermark(to));
        }
    }

    /// Below the leader's watermark everything is committed; but that says something of this log
    /// only once it is a prefix of the leader's.
    fn follow_watermark(&mut self, append: &Append, out: &mut Vec<Effect>) {
        let prefix = self.log.epochs.last() == append.epoch;
        if prefix || !self.rules.hold(Rule::WatermarkOnlyOncePrefix) {
            let to = append.high_watermark.min(self.log.end);
            self.raise_high_watermark(to, out);
            if let Role::Follower(follower) = &mut self.role {
                follower.leader_start = append.log_start;
            }
            self.follow_start(out);
        }
    }

    /// Lets go of what the leader has let go of, as far as it is known to be committed.
    pub(crate) fn follow_start(&mut self, out: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &self.role {
            self.advance_start(follower.leader_start, out);
        }
    }

    /// The leader cannot push this replica what it lacks: the log begins anew where the leader's does.
    pub(crate) fn on_reset(
        &mut self,
        reset: Reset,
        mut producers: ProducerTable,
        out: &mut Vec<Effect>,
    ) {
        let Reset {
            epoch,
            leader,
            start,
            prev_epoch,
            ..
        } = reset;
        if !self.admits(epoch, leader, reset.to, out) {
            return;
        }
        if prev_epoch > epoch || start > reset.high_watermark || start >= Offset::MAX {
            return out.push(Effect::Ignored {
                from: leader.broker,
                why: "a reset to where its log cannot start",
            });
        }
        if !self.follow(epoch, leader, out) {
            return;
        }
        if self.continues(start, prev_epoch) && self.rules.hold(Rule::ResetOnlyWhatDiffers) {
            // As for a message without entries: this one was late, or not needed.
            if self.held_end() == self.log.end {
                self.acknowledge(out);
            }
            return;
        }
        if !self.may_give_up(epoch) && self.rules.hold(Rule::ResetOnlyWhatDiffers) {
            // What has begun further up since does not go back.
            if start < self.log.start {
                return;
            }
            let high_watermark = self.log.high_watermark;
            if start <= high_watermark {
                if self.knows_outcome_of(epoch) {
                    let to = start;
                    let breach = Breach::TruncateBelowWatermark { to, high_watermark };
                    self.break_down(breach, out);
                }
                return;
            }
        }
        if !self.rules.hold(Rule::ResetBringsProducers) {
            producers = ProducerTable::default();
        }
        producers.truncate(start);
        self.begin_anew(start, prev_epoch, epoch, producers, out);
        self.acknowledge(out);
    }

    /// Discards the log, which begins anew at `start`, behind an entry of `prev_epoch`, as the history of
    /// `epoch` demands it.
    fn begin_anew(
        &mut self,
        start: Offset,
        prev_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
        producers: ProducerTable,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::Reset {
            start,
            epoch_before: prev_epoch,
            keep_from: self.log.high_watermark,
            epoch,
        });
        if self.flushing {
            // What it makes durable is gone.
            self.flush_ceiling = Some(start);
        }
        self.log.start = start;
        self.log.end = start;
        self.inherited_end = start;
        self.log.durable_end = start;
        self.log.epochs = EpochHistory::empty_at(start, prev_epoch);
        self.log.producers = producers;
        if self.log.high_watermark != start {
            self.log.high_watermark = start;
            out.push(Effect::PublishHighWatermark(start));
        }
    }

    /// Tells the leader how far this replica holds its log, durably.
    pub(crate) fn acknowledge(&mut self, out: &mut Vec<Effect>) {
        let Role::Follower(Follower {
            leader: Some((leader, epoch)),
            ..
        }) = self.role
        else {
            return;
        };
        // A flush may end after a fence. What it made durable was not in the answer to the fence,
        // so the deposed leader must not count it.
        if epoch < self.promised && self.rules.hold(Rule::FenceRefusesLower) {
            return;
        }
        let durable_end = self.held_end();
        let ack = Ack {
            epoch,
            from: self.me,
            last_epoch: self.log.epochs.before(durable_end),
            durable_end,
            log_end: self.log.end,
        };
        self.send(leader, ReplicaMessage::Ack(ack), out);
    }

    fn answer_mismatch(&self, append: &Append, out: &mut Vec<Effect>) {
        let mismatch = Mismatch {
            epoch: append.epoch,
            from: self.me,
            prev_end: append.prev_end,
            log_start: self.log.start,
            log_end: self.log.end,
            history: self.log.epochs.around(append.prev_end, HISTORY_RUNS_MAX),
        };
        self.send(
            append.leader.broker,
            ReplicaMessage::Mismatch(mismatch),
            out,
        );
    }
}
