//! What a leader knows of one follower: how far it holds the log, and what is on its way to it.
//!
//! New entries, catch-up and re-sending are one path: a cursor and a window.

use std::collections::VecDeque;

use baton_protocol::ids::{BrokerEpoch, LeaderEpoch, Offset, Tick};

/// How messages are sent to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// The follower's log is not known to continue at the cursor: one message at a time, without
    /// entries, until it answers.
    Probe {
        /// One is on its way.
        asked: bool,
    },
    /// Entries are streamed, as many as the window allows.
    Stream,
}

/// One follower.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The life that `matched` was heard from and that messages are meant for.
    pub life: BrokerEpoch,
    /// The connection to it stands.
    pub linked: bool,
    /// How messages are sent.
    pub sending: Sending,
    /// The end of what was sent: the next message continues there.
    pub cursor: Offset,
    /// How far it durably holds this leader's log, n = e. Zero before it said so.
    pub matched: Offset,
    /// It said n = e in this life.
    pub verified: bool,
    /// The watermark it was last told.
    pub told_high_watermark: Offset,
    /// The log start it was last told.
    pub told_log_start: Offset,
    /// Since when it has been silent while an answer is due; none if none is due.
    pub silent_since: Option<Tick>,
    /// How often in a row it was asked again in vain.
    pub retries: u32,
    /// When it last held everything that was in the log a moment before.
    pub caught_up_at: Tick,
    /// When it was last taken out of the in-sync set by this leader.
    pub removed_at: Option<Tick>,
    /// A log end of the past and when it was seen: the follower has caught up to that moment once
    /// it holds that end.
    goal: (Offset, Tick),
    /// The host is asked to send entries and has not said yet how far they went.
    pub pushing: bool,
    in_flight: VecDeque<(Offset, u64)>,
    in_flight_bytes: u64,
}

impl Progress {
    /// A follower of which nothing is known. The cursor starts at the log's end: most followers
    /// are there, and the others answer with where they are.
    pub fn new(life: BrokerEpoch, linked: bool, log_end: Offset, now: Tick) -> Self {
        Progress {
            life,
            linked,
            sending: Sending::Probe { asked: false },
            cursor: log_end,
            matched: Offset::ZERO,
            verified: false,
            told_high_watermark: Offset::ZERO,
            told_log_start: Offset::ZERO,
            silent_since: None,
            retries: 0,
            caught_up_at: now,
            removed_at: None,
            goal: (log_end, now),
            pushing: false,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Bytes sent and not yet acknowledged.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Records that entries up to `end` were sent.
    pub fn sent(&mut self, end: Offset, bytes: u64, now: Tick) {
        self.cursor = end;
        self.pushing = false;
        self.in_flight.push_back((end, bytes));
        self.in_flight_bytes += bytes;
        self.silent_since.get_or_insert(now);
    }

    /// Records that the follower has received everything up to `end`.
    pub fn received(&mut self, end: Offset, now: Tick) {
        let mut progressed = false;
        while let Some((sent_end, bytes)) = self.in_flight.front() {
            if *sent_end > end {
                break;
            }
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
            progressed = true;
        }
        if self.in_flight.is_empty() {
            self.silent_since = None;
        } else if progressed {
            self.silent_since = Some(now);
        }
        self.retries = 0;
    }

    /// Gives back the room of what is not on its way any more.
    pub fn give_room_back(&mut self) {
        self.in_flight.shrink_to_fit();
    }

    /// Forgets what is on its way, and asks before more is sent. `from` is where to ask.
    pub fn probe(&mut self, from: Offset) {
        self.sending = Sending::Probe { asked: false };
        self.cursor = from;
        self.pushing = false;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.silent_since = None;
    }

    /// Where it is surely equal to the leader's log, or the best guess.
    pub fn restart_point(&self, log_end: Offset) -> Offset {
        if self.verified { self.matched } else { log_end }
    }

    /// A new life of the broker: nothing that an earlier one said counts.
    pub fn reborn(&mut self, life: BrokerEpoch, log_end: Offset, now: Tick) {
        let linked = self.linked;
        let removed_at = self.removed_at;
        *self = Progress::new(life, linked, log_end, now);
        self.removed_at = removed_at;
    }

    /// Whether it holds the log up to its end, knows that, and nothing is on the way.
    pub fn is_at_rest(&self, log_start: Offset, log_end: Offset) -> bool {
        self.linked
            && self.verified
            && self.sending == Sending::Stream
            && self.matched == log_end
            && self.cursor == log_end
            && self.told_high_watermark == log_end
            && self.told_log_start >= log_start
            && self.in_flight.is_empty()
            && self.silent_since.is_none()
            && !self.pushing
    }

    /// Keeps the account of how far back the follower's log lies in time.
    pub fn measure_lag(&mut self, log_end: Offset, now: Tick) {
        if self.matched >= log_end {
            self.caught_up_at = now;
            self.goal = (log_end, now);
        } else if self.matched >= self.goal.0 {
            self.caught_up_at = self.goal.1;
            self.goal = (log_end, now);
        }
    }

    /// Takes an acknowledgement's word on durability.
    pub fn acknowledged(&mut self, epoch: LeaderEpoch, own: LeaderEpoch, end: Offset) {
        if epoch == own {
            self.verified = true;
            self.matched = self.matched.max(end);
        }
    }
}
