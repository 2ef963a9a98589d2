//! Joins the core to a log: hands the core the shapes of what arrives, and carries its effects out
//! on the log.
//!
//! The core moves offsets, the driver moves bytes. It is synchronous and knows neither actors nor
//! sockets: what has to leave this replica comes out as [`Output`]. The simulator runs this very
//! code on a faulty log. No decision about replication is taken here.
//!
//! | module | what |
//! | --- | --- |
//! | `log` | the log it works on, as it sees it |
//! | `shape` | what the core is told of batches and entries |
//! | `push` | sending followers what they lack |
//! | `output` | what leaves the replica |

use std::collections::VecDeque;
use std::sync::Arc;

use baton_protocol::batch::{self, EntryIter, LeaderStamp};
use baton_protocol::client::Acks;
use baton_protocol::ids::{LeaderEpoch, Offset, Tick};
use baton_protocol::peer::{Append, ReplicaMessage};
use baton_protocol::policy::{Timestamps, TopicPolicy};
use baton_replication::Replica;
use baton_replication::by_broker::ByBroker;
use baton_replication::event::{Effect, Input, PartitionView, Proposal, Refusal, RequestId};
use baton_replication::producers::ProducerTable;
use baton_storage::{Shortage, StorageError};
use bytes::Bytes;

pub use log::{Beginning, FlushWork, Found, PartitionLog, ReadWork};
pub use output::{BrokenReason, Output, ProduceError};
pub use push::Push;
pub use shape::{CheckedBatch, shape_of};

mod log;
mod output;
mod push;
mod shape;

/// Most bytes that a message tells of producers.
const PRODUCERS_BYTES_MAX: usize = 8 << 20;

/// A producer with one batch takes less than this.
const PRODUCER_BYTES: usize = 128;

/// Room for a reign's first entry, with some to spare.
const EPOCH_START_ROOM_BYTES: usize = 512;

/// One replica with its log.
pub struct Driver {
    replica: Replica,
    log: Box<dyn PartitionLog>,
    /// Milliseconds since 1970, as the host last said; stamps entries, decides nothing.
    wall_clock_ms: i64,
    /// Records get the time of their append.
    stamps_time: bool,
    /// Metadata that names this replica leader, kept back while there is no room for the entry that
    /// a reign begins with, and what there is too little of.
    kept_back: Option<(Arc<PartitionView>, Shortage)>,
    /// The bytes that there was no room for last, and what there was too little of.
    short_of: Option<(usize, Shortage)>,
    /// How far each follower has been sent entries in this reign.
    sent: ByBroker<Offset>,
    failed: bool,
}

/// The bytes that the effects of a step are about.
enum InHand<'a> {
    Nothing,
    Batch(&'a [u8]),
    Entries(&'a [&'a [u8]]),
}

impl Driver {
    /// A replica on its log.
    pub fn new(replica: Replica, log: Box<dyn PartitionLog>) -> Self {
        Driver {
            replica,
            log,
            wall_clock_ms: 0,
            stamps_time: false,
            kept_back: None,
            short_of: None,
            sent: ByBroker::default(),
            failed: false,
        }
    }

    /// The core, to look at.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Tells the time of day.
    pub fn set_wall_clock(&mut self, ms: i64) {
        self.wall_clock_ms = ms;
    }

    /// Takes a producer's batch.
    pub fn produce(
        &mut self,
        now: Tick,
        request: RequestId,
        batch: &CheckedBatch,
        acks: Acks,
        timeout_ms: u32,
        out: &mut Vec<Output>,
    ) {
        let may = match self.replica.may_append(now) {
            Err(refusal) => Err(ProduceError::Refused(refusal)),
            Ok(()) => self
                .reserve(batch.len() + batch::ENTRY_OVERHEAD_BYTES)
                .map_err(ProduceError::Storage),
        };
        if let Err(error) = may {
            let result = Err(error);
            return out.push(Output::Reply { request, result });
        }
        let proposal = Proposal {
            request,
            records: batch.records,
            producer: batch.producer,
            acks,
            timeout_ms,
        };
        self.step(
            now,
            Input::Propose(proposal),
            &InHand::Batch(&batch.bytes),
            out,
        );
    }

    /// Takes a batch of this broker's own, which waits for its commit for as long as it takes. What it says
    /// follows from the log as it was in this reign, so no other takes it: what another leader has stored
    /// meanwhile would be overwritten by it.
    pub fn append_own(
        &mut self,
        now: Tick,
        request: RequestId,
        reign: LeaderEpoch,
        batch: &CheckedBatch,
        out: &mut Vec<Output>,
    ) {
        if self.replica.leading() != Some(reign) {
            let result = Err(ProduceError::Refused(Refusal::NotLeader));
            return out.push(Output::Reply { request, result });
        }
        self.produce(now, request, batch, Acks::Committed, u32::MAX, out);
    }

    /// Takes a message of another replica. `payload` holds an append's entries.
    pub fn receive(
        &mut self,
        now: Tick,
        message: ReplicaMessage,
        payload: &[u8],
        out: &mut Vec<Output>,
    ) {
        match message {
            ReplicaMessage::Append(append) => self.receive_append(now, append, payload, out),
            ReplicaMessage::Reset(reset) => match rmp_serde::from_slice(payload) {
                Ok(producers) => self.input(now, Input::Reset(reset, producers), out),
                Err(error) => {
                    let why = format!(
                        "a reset with an account of producers that cannot be read: {error}"
                    );
                    out.push(Output::BadPeer { why });
                }
            },
            ReplicaMessage::Ack(ack) => self.input(now, Input::Ack(ack), out),
            ReplicaMessage::Mismatch(mismatch) => self.input(now, Input::Mismatch(mismatch), out),
            ReplicaMessage::Refused(refused) => self.input(now, Input::Refused(refused), out),
        }
    }

    fn receive_append(&mut self, now: Tick, append: Append, payload: &[u8], out: &mut Vec<Output>) {
        let mut shapes = Vec::new();
        let mut entries = Vec::new();
        for entry in EntryIter::new(payload) {
            match entry {
                Ok(entry) => {
                    shapes.push(shape_of(&entry.header));
                    entries.push(entry.bytes);
                }
                Err(error) => {
                    let why = format!("an append with a damaged entry: {error}");
                    return out.push(Output::BadPeer { why });
                }
            }
        }
        // No room: as if the message had not come. The leader asks again, and meanwhile counts
        // this replica out.
        let lacked_room = self.short_of.is_some();
        if let Err(error) = self.reserve(payload.len()) {
            // Said once: the leader goes on asking.
            if !lacked_room {
                tracing::warn!(%error, "an append is not taken");
            }
            return;
        }
        self.step(
            now,
            Input::Append(append, shapes),
            &InHand::Entries(&entries),
            out,
        );
    }

    /// Takes any input that carries no bytes.
    pub fn input(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Metadata(view) => self.learn(now, view, out),
            Input::Tick => {
                if let Some((view, _)) = self.kept_back.take() {
                    self.learn(now, view, out);
                }
                self.step(now, Input::Tick, &InHand::Nothing, out);
            }
            input => self.step(now, input, &InHand::Nothing, out),
        }
    }

    /// Takes the metadata's view. A view that would make this replica the leader waits until there
    /// is room for the first entry of the reign: a full disk, or a process that may open no more
    /// files, is a reason not to lead, not a reason to distrust the disk.
    fn learn(&mut self, now: Tick, view: Arc<PartitionView>, out: &mut Vec<Output>) {
        self.kept_back = None;
        if self.replica.would_lead(&view)
            && let Err(error) = self.reserve(EPOCH_START_ROOM_BYTES)
        {
            match error.shortage() {
                Some(of) => self.kept_back = Some((view, of)),
                None => self.fail(error, out),
            }
            return;
        }
        let was_lossy = self.replica.log().lossy;
        self.step(now, Input::Metadata(view), &InHand::Nothing, out);
        if was_lossy && !self.replica.log().lossy {
            // Kept until the metadata says it: a process that died before that has to say it again.
            if let Err(error) = self.log.damage_is_known() {
                tracing::warn!(%error, "the note of a damage cannot be removed; the damage is reported again at the next start");
            }
        }
    }

    /// Whether time alone would change nothing; see [`Replica::is_at_rest`].
    pub fn is_at_rest(&self) -> bool {
        self.kept_back.is_none() && self.short_of.is_none() && self.replica.is_at_rest()
    }

    /// Gives back the room that was taken for what is over.
    pub fn give_room_back(&mut self) {
        self.replica.give_room_back();
        self.log.give_room_back();
    }

    /// What the lead waits for, if it does: room on the disk, or what else a log may be short of.
    pub fn waits_for_room(&self) -> Option<Shortage> {
        self.kept_back.as_ref().map(|(_, of)| *of)
    }

    /// What there is too little of to store what was to be stored last. Looks again, which costs a
    /// call of the system where there was too little.
    pub fn lacks_room(&mut self) -> Option<Shortage> {
        if let Some((bytes, _)) = self.short_of {
            // Whatever else is wrong comes up where something is stored.
            drop(self.reserve(bytes));
        }
        self.short_of.map(|(_, of)| of)
    }

    /// Makes sure of room for the next appends, and remembers where there is none.
    fn reserve(&mut self, bytes: usize) -> Result<(), StorageError> {
        let reserved = self.log.reserve(bytes);
        self.short_of = match &reserved {
            Err(error) => error.shortage().map(|of| (bytes, of)),
            // Room for less, or for nothing, as an append without entries takes it, proves nothing.
            Ok(()) => self.short_of.filter(|(wanted, _)| *wanted > bytes),
        };
        reserved
    }

    /// Takes the result of the flush that was asked for.
    pub fn flushed(
        &mut self,
        now: Tick,
        result: Result<baton_storage::FlushDone, StorageError>,
        out: &mut Vec<Output>,
    ) {
        match result.and_then(|done| self.log.flushed(done)) {
            Ok(end) => self.input(now, Input::Flushed { end }, out),
            Err(error) => {
                tracing::error!(%error, "a flush failed; this replica takes no part any more");
                self.input(now, Input::FlushFailed, out);
            }
        }
    }

    /// Ends the log in good order, with the producers' state as of its end.
    pub fn close(&mut self) -> Result<(), StorageError> {
        self.log.save_producers(&self.replica.log().producers)?;
        self.log.close()
    }

    fn step(&mut self, now: Tick, input: Input, in_hand: &InHand<'_>, out: &mut Vec<Output>) {
        if self.failed {
            return self.refuse(input, out);
        }
        let mut effects = Vec::new();
        self.replica.step(now, input, &mut effects);
        self.carry_out_all(now, VecDeque::from(effects), in_hand, out);
    }

    fn carry_out_all(
        &mut self,
        now: Tick,
        mut queue: VecDeque<Effect>,
        in_hand: &InHand<'_>,
        out: &mut Vec<Output>,
    ) {
        while let Some(effect) = queue.pop_front() {
            if let Err(error) = self.carry_out(now, effect, in_hand, &mut queue, out) {
                return self.fail(error, out);
            }
        }
        self.log.keep_in_memory(self.replica.lacked_from());
    }

    fn carry_out(
        &mut self,
        now: Tick,
        effect: Effect,
        in_hand: &InHand<'_>,
        queue: &mut VecDeque<Effect>,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        match effect {
            Effect::AppendBatch { base, epoch, .. } => {
                let InHand::Batch(batch) = in_hand else {
                    unreachable!("a batch is stored in the step that proposed it");
                };
                let stamp = LeaderStamp {
                    base,
                    epoch,
                    append_time_ms: self.stamps_time.then_some(self.wall_clock_ms),
                };
                self.log.append_batch(batch, &stamp)?;
                self.flush_if_due(now, queue);
            }
            Effect::AppendEpochStart { base, epoch } => {
                let batch = batch::control_batch_epoch_start(base, epoch, self.wall_clock_ms);
                self.log
                    .reserve(batch.len() + batch::ENTRY_OVERHEAD_BYTES)?;
                self.log
                    .append_batch(&batch, &LeaderStamp::new(base, epoch))?;
            }
            Effect::AppendEntries { skip } => {
                let InHand::Entries(entries) = in_hand else {
                    unreachable!("entries are stored in the step that brought them");
                };
                for entry in &entries[skip..] {
                    self.log.append_entry(entry)?;
                }
                self.flush_if_due(now, queue);
            }
            Effect::Truncate { to, epoch } => {
                self.log.truncate(to, epoch)?;
                out.push(Output::Truncated { to, epoch });
            }
            Effect::AdvanceStart { to } => {
                let below = self.replica.log().producers.below(to);
                self.log.advance_start(to, &below)?;
            }
            Effect::Reset {
                start,
                epoch_before,
                keep_from,
                epoch,
            } => {
                let beginning = Beginning {
                    start,
                    epoch_before,
                    keep_from,
                    epoch,
                };
                let below = self.replica.log().producers.below(start);
                self.log.begin_anew(&beginning, &below)?;
                out.push(Output::BeganAnew(beginning));
            }
            Effect::Flush => {
                let shape = self.replica.log();
                self.log.note_producers(shape.end, &shape.producers);
                out.push(Output::Flush(self.log.prepare_flush()?));
            }
            Effect::Push {
                to,
                append,
                bytes_max,
            } => self.push(now, Push { to, append }, bytes_max, queue, out)?,
            Effect::Send { to, message } => {
                let payload = self.payload_of(&message);
                out.push(Output::Send {
                    to,
                    message,
                    payload,
                });
            }
            Effect::Reply { request, result } => out.push(Output::Reply {
                request,
                result: result.map_err(ProduceError::Refused),
            }),
            Effect::PublishHighWatermark(to) => {
                self.log.publish_high_watermark(to);
                out.push(Output::HighWatermark(to));
            }
            Effect::AnswerFence(answer) => out.push(Output::FenceAnswer(answer)),
            Effect::ProposeInSync(proposal) => out.push(Output::ProposeInSync(proposal)),
            Effect::AskOffsets { epoch, limit } => out.push(Output::AskOffsets { epoch, limit }),
            Effect::ProposeHandover(proposal) => out.push(Output::ProposeHandover(proposal)),
            Effect::RoleChanged { leading } => {
                self.sent.clear();
                out.push(Output::RoleChanged { leading });
            }
            Effect::Ignored { from, why } => out.push(Output::BadPeer {
                why: format!("broker {from} sent {why}"),
            }),
            Effect::Broken(breach) => {
                out.push(Output::Broken(BrokenReason::Breach(breach)));
            }
        }
        Ok(())
    }

    fn flush_if_due(&mut self, now: Tick, queue: &mut VecDeque<Effect>) {
        if self.log.is_flush_due() {
            let mut effects = Vec::new();
            self.replica.step(now, Input::FlushDue, &mut effects);
            queue.extend(effects);
        }
    }

    /// What a message carries besides: a reset, what is known of producers.
    fn payload_of(&self, message: &ReplicaMessage) -> Bytes {
        let ReplicaMessage::Reset(reset) = message else {
            return Bytes::new();
        };
        let below = self.replica.log().producers.below(reset.start);
        let encode = |table: &ProducerTable| rmp_serde::to_vec_named(table).unwrap_or_default();
        let mut payload = encode(&below);
        if payload.len() > PRODUCERS_BYTES_MAX {
            tracing::warn!(
                producers = below.len(),
                "a follower that begins anew is told of the newest producers only"
            );
            payload = encode(&below.newest(PRODUCERS_BYTES_MAX / PRODUCER_BYTES));
        }
        payload.into()
    }

    /// Takes note of what the topic says of its entries.
    pub fn set_policy(&mut self, policy: &TopicPolicy) {
        self.stamps_time = policy.timestamps() == Timestamps::Append;
        self.log.set_policy(policy);
    }

    /// Has what is too old go, if this replica leads; the others follow. What newer entries supersede goes on
    /// each by itself. To be called now and then.
    pub fn expire(&mut self, now: Tick, out: &mut Vec<Output>) {
        let up_to = self.replica.compactable_end();
        self.log.compact(self.wall_clock_ms, up_to);
        let expired = self.log.expired(self.wall_clock_ms);
        if let Some(to) = expired
            && self.replica.leading().is_some()
            && to > self.replica.log().start
        {
            self.input(now, Input::AdvanceStart { to }, out);
        }
    }

    /// The log failed under an effect: what the core believes and what is stored may differ, so
    /// this replica takes no part any more.
    fn fail(&mut self, error: StorageError, out: &mut Vec<Output>) {
        self.failed = true;
        let mut effects = Vec::new();
        self.replica.step(Tick(0), Input::FlushFailed, &mut effects);
        for effect in effects {
            if let Effect::Reply { request, result } = effect {
                let result = result.map_err(ProduceError::Refused);
                out.push(Output::Reply { request, result });
            }
        }
        out.push(Output::Broken(BrokenReason::Storage(error)));
    }

    fn refuse(&self, input: Input, out: &mut Vec<Output>) {
        if let Input::Propose(proposal) = input {
            out.push(Output::Reply {
                request: proposal.request,
                result: Err(ProduceError::Refused(Refusal::NotLeader)),
            });
        }
    }
}

#[cfg(test)]
mod tests;
