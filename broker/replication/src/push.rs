//! How a leader feeds its followers: what it sends them, what it hears back, and how it finds out where
//! a follower's log parts from its own. New entries, catch-up and repetition are one path.

use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, Tick};
use baton_protocol::peer::{Ack, Append, Mismatch, Refused, ReplicaMessage, Reset};

use crate::epochs::Divergence;
use crate::event::Effect;
use crate::progress::{Progress, Sending};
use crate::replica::{Replica, Role};
use crate::rules::Rule;

/// A probe that was not answered is repeated after `resend_timeout_ms`, doubled each time up to
/// this many times.
const RETRY_DOUBLINGS_MAX: u32 = 3;

impl Replica {
    /// A follower that owes an answer for too long is asked where it stands.
    pub(crate) fn ask_again(&mut self, now: Tick) {
        let log_end = self.log.end;
        let resend_ms = self.config.resend_timeout_ms;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        for follower in leader.followers.values_mut() {
            let patience = resend_ms << follower.retries.min(RETRY_DOUBLINGS_MAX);
            let overdue = follower
                .silent_since
                .is_some_and(|since| now.since_ms(since) >= patience);
            if overdue {
                let from = match follower.sending {
                    Sending::Probe { .. } => follower.cursor,
                    Sending::Stream => follower.restart_point(log_end),
                };
                follower.probe(from);
                follower.retries += 1;
            }
        }
    }

    pub(crate) fn push_all(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let ids: Vec<BrokerId> = leader.followers.keys().copied().collect();
        for id in ids {
            self.push(now, id, out);
        }
    }

    /// Sends a follower what it lacks, as far as the window allows. One push is in hand at a time:
    /// the next one follows when the host has said how far this one went, which may take as long as
    /// the disk does.
    fn push(&mut self, now: Tick, to: BrokerId, out: &mut Vec<Effect>) {
        let log_end = self.log.end;
        let log_start = self.log.start;
        let high_watermark = self.log.high_watermark;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(follower) = leader.followers.get_mut(&to) else {
            return;
        };
        if !follower.linked || follower.pushing {
            return;
        }
        if follower.cursor < log_start {
            // There is nothing left to push from there. Where the follower's log has come meanwhile, it
            // will say.
            follower.probe(log_start);
        }
        let bytes_max = match follower.sending {
            Sending::Probe { asked: true } => return,
            Sending::Probe { asked: false } => {
                follower.sending = Sending::Probe { asked: true };
                follower.silent_since = Some(now);
                0
            }
            Sending::Stream => {
                let behind = follower.cursor < log_end;
                let room = follower.in_flight_bytes() < self.config.window_bytes;
                let news = leader.tell_watermark
                    && (follower.told_high_watermark < high_watermark
                        || follower.told_log_start < log_start);
                if behind && room {
                    follower.pushing = true;
                    self.config.append_bytes_max
                } else if news && !behind && follower.in_flight_bytes() == 0 {
                    follower.silent_since.get_or_insert(now);
                    0
                } else {
                    return;
                }
            }
        };
        follower.told_high_watermark = high_watermark;
        follower.told_log_start = log_start;
        let append = Append {
            epoch: leader.epoch,
            leader: self.me,
            to: follower.life,
            prev_epoch: self.log.epochs.before(follower.cursor),
            prev_end: follower.cursor,
            high_watermark,
            log_start,
        };
        out.push(Effect::Push {
            to,
            append,
            bytes_max,
        });
    }

    /// Whether the entries of this push are still to be sent. A host that had to wait for them asks:
    /// meanwhile the reign may be over and the log cut, and other entries stand where it reads; or the
    /// log may start further up; or the follower has been asked where it is, in this life or the next,
    /// and told something else.
    pub fn awaits(&self, to: BrokerId, append: &Append) -> bool {
        if !self.rules.hold(Rule::LateEntriesAreDropped) {
            return true;
        }
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.epoch == append.epoch
            && append.prev_end >= self.log.start
            && leader.followers.get(&to).is_some_and(|follower| {
                follower.pushing && follower.life == append.to && follower.cursor == append.prev_end
            })
    }

    pub(crate) fn on_pushed(
        &mut self,
        now: Tick,
        to: BrokerId,
        append: &Append,
        end: Offset,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        if self.awaits(to, append)
            && let Role::Leader(leader) = &mut self.role
            && let Some(follower) = leader.followers.get_mut(&to)
        {
            assert!(end > follower.cursor && end <= self.log.end);
            follower.sent(end, bytes, now);
            self.push(now, to, out);
        }
    }

    /// The follower this message is from, if it counts: in this epoch, and in the life that is
    /// known, or a later one.
    fn hear(&mut self, now: Tick, epoch: LeaderEpoch, from: BrokerLife) -> Option<&mut Progress> {
        let log_end = self.log.end;
        let bound = self.rules.hold(Rule::AckBoundToLife);
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        if epoch != leader.epoch {
            return None;
        }
        let follower = leader.followers.get_mut(&from.broker)?;
        if bound && from.epoch < follower.life {
            return None;
        }
        if from.epoch > follower.life {
            follower.reborn(from.epoch, log_end, now);
        }
        Some(follower)
    }

    pub(crate) fn on_ack(&mut self, now: Tick, ack: Ack, out: &mut Vec<Effect>) {
        let log_end = self.log.end;
        let prefix = ack.last_epoch == ack.epoch;
        if prefix && ack.log_end > log_end {
            // It claims more of this epoch than was ever written: not a peer of ours.
            return;
        }
        // How far the log it speaks of is ours. Before n = e what it received may be another's, and
        // stands for nothing that was sent.
        let common_end = if prefix {
            ack.log_end
        } else if ack.durable_end <= log_end
            && self.log.epochs.before(ack.durable_end) == ack.last_epoch
        {
            ack.durable_end
        } else {
            Offset::ZERO
        };
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let taken_at = leader.taken_at;
        let Some(follower) = self.hear(now, ack.epoch, ack.from) else {
            return;
        };
        follower.acknowledged(ack.last_epoch, ack.epoch, ack.durable_end);
        follower.received(common_end, now);
        if matches!(follower.sending, Sending::Probe { .. }) {
            // This need not be the answer to the probe: an acknowledgement may be late, or follow
            // a new connection. So streaming starts no further up than what it says for certain.
            follower.cursor = if prefix {
                follower.cursor.min(ack.log_end).max(follower.matched)
            } else {
                follower.cursor.min(taken_at)
            };
            follower.sending = Sending::Stream;
            follower.silent_since = None;
        }
        self.lead_on(now, out);
    }

    pub(crate) fn on_mismatch(&mut self, now: Tick, mismatch: Mismatch, out: &mut Vec<Effect>) {
        let (log_start, log_end) = (self.log.start, self.log.end);
        let point = match self.log.epochs.diverges_from(
            log_end,
            &mismatch.history,
            mismatch.log_end.min(mismatch.prev_end),
        ) {
            Divergence::At(end) => end,
            Divergence::Below(end) => end.min(log_end),
        };
        let Some(follower) = self.hear(now, mismatch.epoch, mismatch.from) else {
            return;
        };
        if mismatch.prev_end != follower.cursor && matches!(follower.sending, Sending::Probe { .. })
        {
            // An answer to a message that was sent before the one that is asked now.
            return;
        }
        if follower.verified && mismatch.prev_end <= follower.matched {
            // It has held more than that since: an answer of before.
            return;
        }
        follower.retries = 0;
        // Further down there is nothing to compare.
        let lowest = log_start.max(mismatch.log_start);
        if mismatch.prev_end == lowest || lowest > log_end {
            let (to, life) = (mismatch.from.broker, follower.life);
            return self.reset(now, to, life, out);
        }
        let from = point.max(lowest).max(follower.matched);
        follower.probe(from);
        if from == mismatch.prev_end {
            // It is asked again in time, not at once, or the two would go in circles.
            follower.sending = Sending::Probe { asked: true };
            follower.silent_since = Some(now);
        }
        self.lead_on(now, out);
    }

    /// Has a follower begin anew where this log starts. If the message is lost, the follower is asked
    /// again in time, and answers that it still does not continue there.
    fn reset(&mut self, now: Tick, to: BrokerId, life: BrokerEpoch, out: &mut Vec<Effect>) {
        let log = &self.log;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let reset = Reset {
            epoch: leader.epoch,
            leader: self.me,
            to: life,
            start: log.start,
            prev_epoch: log.epochs.before(log.start),
            high_watermark: log.high_watermark,
        };
        if let Some(follower) = leader.followers.get_mut(&to) {
            follower.probe(log.start);
            follower.sending = Sending::Probe { asked: true };
            follower.silent_since = Some(now);
        }
        self.send(to, ReplicaMessage::Reset(reset), out);
        self.lead_on(now, out);
    }

    /// What lies below may go, as far as it is committed.
    pub(crate) fn on_advance_start(&mut self, now: Tick, to: Offset, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Leader(_)) {
            self.advance_start(to, out);
            let start = self.log.start;
            if let Role::Leader(leader) = &mut self.role {
                // What is being read for them is not there any more.
                let behind = leader.followers.values_mut();
                for follower in behind.filter(|follower| follower.cursor < start) {
                    follower.probe(start);
                }
            }
            self.lead_on(now, out);
        }
    }

    /// A higher epoch was promised somewhere: this reign is over, but the metadata will say so.
    /// Until then the follower simply does not count.
    pub(crate) fn on_refused(&mut self, now: Tick, refused: Refused, out: &mut Vec<Effect>) {
        if let Some(follower) = self.hear(now, refused.epoch, refused.from) {
            follower.silent_since = Some(now);
        }
        self.lead_on(now, out);
    }

    pub(crate) fn on_link_up_as_leader(
        &mut self,
        now: Tick,
        peer: BrokerId,
        out: &mut Vec<Effect>,
    ) {
        let log_end = self.log.end;
        if let Role::Leader(leader) = &mut self.role
            && let Some(follower) = leader.followers.get_mut(&peer)
        {
            follower.linked = true;
            follower.retries = 0;
            follower.probe(follower.restart_point(log_end));
            self.lead_on(now, out);
        }
    }

    pub(crate) fn on_link_down_as_leader(&mut self, peer: BrokerId) {
        let log_end = self.log.end;
        if let Role::Leader(leader) = &mut self.role
            && let Some(follower) = leader.followers.get_mut(&peer)
        {
            follower.linked = false;
            follower.probe(follower.restart_point(log_end));
        }
    }
}
