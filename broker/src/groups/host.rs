//! Carries the coordinator of one partition: what it owes the core stands in [`baton_groups::event`].
//!
//! It takes office when its replica leads and the log below is known to be all there is: then the
//! log is replayed, piece by piece. What the core has appended goes to the log as one batch or several,
//! one at a time; only what is certain is told the core. It does no IO itself: what has to be done comes
//! out as [`Order`]s, so that tests and the simulator carry the very same host.

use std::collections::VecDeque;
use std::sync::Arc;

use baton_groups::event::{RequestId, Token};
use baton_groups::record::Record;
use baton_groups::rules::Rules;
use baton_groups::{Config, Coordinator, Effect, Input, Refusal, Topics};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::{GroupRequest, GroupResponse};
use baton_protocol::ids::{LeaderEpoch, Offset, Tick};
use baton_replication::Replica;
use bytes::Bytes;

use crate::groups::log::{Piece, ReplayError, pack};

/// Pause before a log that could not be replayed is read again, and before a batch is appended again
/// that was refused, in milliseconds.
const AGAIN_AFTER_MS: u64 = 500;

/// What a replica tells of its lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The epoch it leads in.
    pub epoch: LeaderEpoch,
    /// Once all that earlier leaders have acknowledged is known to lie below the watermark: where that
    /// stood then.
    pub ready_at: Option<Offset>,
}

impl Lead {
    /// What a replica has to tell, and told last.
    pub fn of(replica: &Replica, told: Option<Lead>) -> Option<Lead> {
        let epoch = replica.leading()?;
        let told = told.filter(|told| told.epoch == epoch);
        let ready = || replica.is_ready().then_some(replica.log().high_watermark);
        let ready_at = told.and_then(|told| told.ready_at).or_else(ready);
        Some(Lead { epoch, ready_at })
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is not in the log, and never will be.
    NotStored(ErrorCode),
    /// Nobody can tell here: the lead is lost.
    Unknown,
}

/// The time, as whoever carries the host sees it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For decisions.
    pub tick: Tick,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Something to be done.
#[derive(Debug)]
pub enum Order {
    /// Read a piece of the log, from an offset or from its start; it comes back by
    /// [`Host::was_read`].
    Read {
        /// The reign it is read for.
        reign: LeaderEpoch,
        /// The first offset.
        from: Option<Offset>,
        /// The end (exclusive).
        up_to: Offset,
    },
    /// Append a batch, and wait for its commit for as long as it takes. What becomes of it comes back
    /// by [`Host::appended`].
    Append {
        /// Names the batch.
        number: u64,
        /// The reign that it is of: no other may append it.
        reign: LeaderEpoch,
        /// The batch.
        batch: Bytes,
    },
    /// Answer a request.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        result: Result<GroupResponse, WireError>,
    },
}

/// How far it is on its way to the office.
#[derive(Debug)]
enum Stage {
    /// There is nothing to be read: no lead, or one that is not ready.
    Waiting,
    /// The log is being read.
    Reading,
    /// The log could not be read; it is tried again.
    Failed { why: String, again_at: Tick },
    /// The core coordinates.
    Office,
}

/// An append that is under way.
#[derive(Debug)]
struct Appending {
    token: Token,
    /// What is not committed yet; the first was sent, unless it has to be sent again.
    batches: VecDeque<Bytes>,
    /// Some of it is committed: it cannot fail any more.
    begun: bool,
    number: u64,
    /// The first has to be sent again then: it was refused.
    again_at: Option<Tick>,
}

/// The coordinator of one partition, with what its log and its lead are known to be.
#[derive(Debug)]
pub struct Host {
    core: Coordinator,
    batch_bytes_max: usize,
    topics: Arc<Topics>,
    lead: Option<Lead>,
    stage: Stage,
    appending: Option<Appending>,
    /// The number of the last batch, over all reigns.
    number: u64,
    /// What this reign has replayed.
    replayed: u64,
    /// What is wrong has been said in this reign.
    complained: bool,
}

impl Host {
    /// One that leads nothing. `batch_bytes_max` bounds the batches that it has appended.
    pub fn new(config: Config, rules: Rules, batch_bytes_max: usize) -> Self {
        Host {
            core: Coordinator::new(config, rules),
            batch_bytes_max,
            topics: Arc::default(),
            lead: None,
            stage: Stage::Waiting,
            appending: None,
            number: 0,
            replayed: 0,
            complained: false,
        }
    }

    /// The core, to look at.
    pub fn core(&self) -> &Coordinator {
        &self.core
    }

    /// The lead it goes by.
    pub fn lead(&self) -> Option<Lead> {
        self.lead
    }

    /// Whether time has to be told. A coordinator without groups needs none.
    pub fn needs_ticks(&self) -> bool {
        match self.stage {
            Stage::Waiting | Stage::Reading => false,
            Stage::Failed { .. } => true,
            Stage::Office => !self.core.state().groups().is_empty() || !self.core.is_settled(),
        }
    }

    /// How the replica's lead is now. To be told before anything else that happens after it.
    pub fn set_lead(&mut self, now: Now, lead: Option<Lead>, out: &mut Vec<Order>) {
        if lead == self.lead {
            return;
        }
        let before = std::mem::replace(&mut self.lead, lead);
        if before.map(|lead| lead.epoch) != lead.map(|lead| lead.epoch) {
            self.leave_office(now, out);
        }
        if let Some(Lead {
            epoch,
            ready_at: Some(up_to),
        }) = lead
            && matches!(self.stage, Stage::Waiting)
        {
            self.read_from_the_start(epoch, up_to, out);
        }
    }

    /// The cluster's topics, as known now. To be told before the lead is that came with them.
    pub fn set_topics(&mut self, now: Now, topics: Arc<Topics>, out: &mut Vec<Order>) {
        if Arc::ptr_eq(&self.topics, &topics) {
            return;
        }
        self.topics = topics.clone();
        if matches!(self.stage, Stage::Office) {
            self.step(now, Input::Topics(topics), out);
        }
    }

    /// A client asks for something.
    pub fn request(
        &mut self,
        now: Now,
        request: RequestId,
        body: GroupRequest,
        out: &mut Vec<Order>,
    ) {
        let refusal = match (&self.stage, self.lead) {
            (Stage::Office, _) => return self.step(now, Input::Request { request, body }, out),
            (Stage::Failed { why, .. }, _) => WireError::new(
                ErrorCode::NotReady,
                format!("the group's coordinator cannot read what it has to know: {why}"),
            ),
            (Stage::Waiting | Stage::Reading, Some(_)) => Refusal::Starting.into(),
            (Stage::Waiting | Stage::Reading, None) => Refusal::NotCoordinator.into(),
        };
        let result = Err(refusal);
        out.push(Order::Reply { request, result });
    }

    /// Time passed.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Order>) {
        let due = |at: &Tick| now.tick >= *at;
        if let Stage::Failed { again_at, .. } = &self.stage
            && due(again_at)
            && let Some(Lead {
                epoch,
                ready_at: Some(up_to),
            }) = self.lead
        {
            self.read_from_the_start(epoch, up_to, out);
        }
        if let Some(appending) = &mut self.appending
            && appending.again_at.as_ref().is_some_and(due)
        {
            appending.again_at = None;
            self.send(out);
        }
        if matches!(self.stage, Stage::Office) {
            let unix_ms = now.unix_ms;
            self.step(now, Input::Tick { unix_ms }, out);
        }
    }

    /// A piece of the log was read for this reign, or could not be.
    pub fn was_read(
        &mut self,
        now: Now,
        reign: LeaderEpoch,
        result: Result<Piece, ReplayError>,
        out: &mut Vec<Order>,
    ) {
        let Some(Lead {
            epoch,
            ready_at: Some(up_to),
        }) = self.lead
        else {
            return;
        };
        if epoch != reign || !matches!(self.stage, Stage::Reading) {
            return;
        }
        match result {
            Ok(piece) => {
                self.replayed += piece.records.len() as u64;
                for record in piece.records {
                    self.step(now, Input::Replay(record), out);
                }
                match piece.next {
                    Some(from) => out.push(Order::Read {
                        reign,
                        from: Some(from),
                        up_to,
                    }),
                    None => self.take_office(now, out),
                }
            }
            Err(error) => self.give_up_reading(now, &error, out),
        }
    }

    /// What became of a batch.
    pub fn appended(&mut self, now: Now, number: u64, fate: Fate, out: &mut Vec<Order>) {
        let Some(appending) = &mut self.appending else {
            return;
        };
        // Of an earlier reign, or of one that waits to be sent again.
        if appending.number != number || appending.again_at.is_some() {
            return;
        }
        match fate {
            Fate::Committed => {
                appending.begun = true;
                appending.batches.pop_front();
                if appending.batches.is_empty() {
                    let token = appending.token;
                    self.appending = None;
                    self.step(now, Input::Committed(token), out);
                } else {
                    self.send(out);
                }
            }
            Fate::NotStored(code) if !appending.begun => {
                let token = appending.token;
                self.appending = None;
                self.step(now, Input::Failed { token, code }, out);
            }
            // A part of it is in the log, so that the rest has to follow.
            Fate::NotStored(_) => {
                appending.again_at = Some(now.tick.after_ms(AGAIN_AFTER_MS));
            }
            // It may be in the log; whoever leads next finds out. The loss of the lead is told.
            Fate::Unknown => {}
        }
    }

    fn read_from_the_start(&mut self, reign: LeaderEpoch, up_to: Offset, out: &mut Vec<Order>) {
        self.stage = Stage::Reading;
        self.replayed = 0;
        out.push(Order::Read {
            reign,
            from: None,
            up_to,
        });
    }

    fn take_office(&mut self, now: Now, out: &mut Vec<Order>) {
        self.stage = Stage::Office;
        self.complained = false;
        let (topics, unix_ms) = (self.topics.clone(), now.unix_ms);
        self.step(now, Input::Ready { topics, unix_ms }, out);
        let (records, groups) = (self.replayed, self.core.state().groups().len());
        tracing::debug!(records, groups, "coordinates consumer groups");
    }

    fn leave_office(&mut self, now: Now, out: &mut Vec<Order>) {
        self.appending = None;
        self.complained = false;
        if !matches!(self.stage, Stage::Waiting) {
            self.stage = Stage::Waiting;
            self.step(now, Input::Lost, out);
        }
    }

    /// What was replayed is forgotten, and all of it is read anew after a pause.
    fn give_up_reading(&mut self, now: Now, error: &ReplayError, out: &mut Vec<Order>) {
        let passes = matches!(error, ReplayError::StartMoved(_) | ReplayError::NotYet);
        if !passes && !std::mem::replace(&mut self.complained, true) {
            tracing::error!(%error, "the groups of a partition cannot be read; it is tried again");
        }
        self.step(now, Input::Lost, out);
        self.stage = Stage::Failed {
            why: error.to_string(),
            again_at: now.tick.after_ms(AGAIN_AFTER_MS),
        };
    }

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Order>) {
        let mut inputs = VecDeque::from([input]);
        let mut effects = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.core.step(now.tick, input, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Reply { request, result } => out.push(Order::Reply {
                        request,
                        result: result.map_err(WireError::from),
                    }),
                    Effect::Append { token, records } => {
                        if let Err(code) = self.append(now, token, &records, out) {
                            inputs.push_back(Input::Failed { token, code });
                        }
                    }
                }
            }
        }
    }

    fn append(
        &mut self,
        now: Now,
        token: Token,
        records: &[Record],
        out: &mut Vec<Order>,
    ) -> Result<(), ErrorCode> {
        assert!(self.appending.is_none(), "there is one append at a time");
        let timestamp_ms = i64::try_from(now.unix_ms).unwrap_or(i64::MAX);
        let batches = pack(records, self.batch_bytes_max, timestamp_ms).map_err(|error| {
            // Requests that would come to this are refused; only a topic that grew can.
            if !std::mem::replace(&mut self.complained, true) {
                tracing::error!(%error, "a change of a consumer group cannot be stored");
            }
            ErrorCode::MessageTooLarge
        })?;
        self.appending = Some(Appending {
            token,
            batches,
            begun: false,
            number: 0,
            again_at: None,
        });
        self.send(out);
        Ok(())
    }

    /// Sends the first batch of the append, under a new number.
    fn send(&mut self, out: &mut Vec<Order>) {
        let (Some(appending), Some(lead)) = (&mut self.appending, self.lead) else {
            return;
        };
        let Some(batch) = appending.batches.front() else {
            return;
        };
        self.number += 1;
        appending.number = self.number;
        out.push(Order::Append {
            number: self.number,
            reign: lead.epoch,
            batch: batch.clone(),
        });
    }
}

#[cfg(test)]
mod tests;
