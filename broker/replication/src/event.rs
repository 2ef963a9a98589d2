//! What goes into the core and what comes out of it.
//!
//! The host's duties (the driver and whoever carries it):
//!
//! * Carry out the effects of one step in their order, before the next step.
//! * Storing ([`Effect::AppendBatch`], [`Effect::AppendEntries`], [`Effect::AppendEpochStart`]) must
//!   not fail: reserve the room before the step. If it fails all the same, the replica is dropped.
//! * [`Effect::Truncate`] is durable, and what it discards is in quarantine, before the next effect.
//! * [`Effect::Reset`] is durable, and what it discards above the watermark is in quarantine, before the
//!   next effect. [`Effect::AdvanceStart`] need not be durable: a start that is found where it was once
//!   comes with all its entries.
//! * A replica starts with what is known of the producers of entries below its log's start too: the host
//!   keeps [`ProducerTable::below`] with each start.
//! * After [`Effect::Flush`] comes exactly one [`Input::Flushed`] or [`Input::FlushFailed`]; until then
//!   no further flush is asked for.
//! * [`Effect::Push`] is answered with [`Input::Pushed`], at once or when the entries have been read: a
//!   host may read on while the replica goes on. Entries that come late are sent only if the replica
//!   still [awaits](crate::Replica::awaits) them; otherwise the push is dropped without an answer.
//! * Messages may be lost, repeated, delayed and reordered; [`Input::Tick`] comes at least every
//!   hundred milliseconds.

use std::collections::BTreeSet;
use std::sync::Arc;

use baton_protocol::client::Acks;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick,
};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::{Ack, Append, Mismatch, Refused, ReplicaMessage, Reset};

use crate::by_broker::ByBroker;
use crate::producers::{ProducerStamp, ProducerTable};

/// Names a producer's request until it is answered. Chosen by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A partition's metadata, with what is known of the brokers that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The leader in that epoch; none during an election.
    pub leader: Option<BrokerLife>,
    /// Version of this record.
    pub version: PartitionVersion,
    /// The in-sync set.
    pub in_sync: BTreeSet<BrokerId>,
    /// Followers that must hold an entry before it is acknowledged.
    pub sync_followers_commit: u32,
    /// Failures that an election reckons with. Lower than the former while it is not proven that
    /// as many followers hold what was committed before that was raised.
    pub sync_followers_elect: u32,
    /// When entries are made durable.
    pub flush: Flush,
    /// A leader assigns offsets below this one only.
    pub offset_limit: Offset,
    /// The lowest offset that a leader assigns.
    pub offset_floor: Offset,
    /// The last epoch whose election may have lost committed entries.
    pub lossy_epoch: LeaderEpoch,
    /// How much of its log the leader of this epoch keeps when it takes the lead.
    pub leader_keeps: Offset,
    /// Logs may lack entries that newer ones have superseded.
    pub compacted: bool,
    /// All replicas, this one included.
    pub replicas: ByBroker<ReplicaView>,
}

/// What the metadata says of one replica's broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its present life.
    pub life: BrokerEpoch,
    /// Held for dead by the controller.
    pub fenced: bool,
    /// May have lost what it acknowledged.
    pub suspect: bool,
}

/// An entry as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryShape {
    /// The epoch it was appended in.
    pub epoch: LeaderEpoch,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub end: Offset,
    /// Its producer's mark, if it has one.
    pub producer: Option<ProducerStamp>,
}

/// A batch that a producer wants stored, as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Names the request.
    pub request: RequestId,
    /// Number of records, at least 1.
    pub records: u32,
    /// Its producer's mark, if it has one.
    pub producer: Option<ProducerStamp>,
    /// How firmly it must be stored before it is answered. With [`Acks::None`] only a refusal is.
    pub acks: Acks,
    /// How long it may wait for that, in milliseconds.
    pub timeout_ms: u32,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The metadata shows the partition so.
    Metadata(Arc<PartitionView>),
    /// The controller bars all epochs below this one.
    Fence(LeaderEpoch),
    /// The controller has confirmed that it heard this broker, by a heartbeat that was sent then.
    ControllerHeard(Tick),
    /// A producer wants a batch stored.
    Propose(Proposal),
    /// A leader's message, with the shapes of the entries it carries.
    Append(Append, Vec<EntryShape>),
    /// A leader has this replica begin anew, with what is known of the producers of what lies below.
    Reset(Reset, ProducerTable),
    /// What lies below this offset may go, as far as it is committed: a leader's host decides by the
    /// topic's retention.
    AdvanceStart {
        /// The start that is wanted; the end of an entry.
        to: Offset,
    },
    /// A follower's acknowledgement.
    Ack(Ack),
    /// A follower's answer that an append did not fit.
    Mismatch(Mismatch),
    /// A follower's answer that it has promised a higher epoch.
    Refused(Refused),
    /// The entries of an [`Effect::Push`] are on their way.
    Pushed {
        /// To whom.
        to: BrokerId,
        /// The message that they were sent with.
        append: Append,
        /// End (exclusive) of the last entry that was sent.
        end: Offset,
        /// Their size.
        bytes: u64,
    },
    /// The log is durable up to here.
    Flushed {
        /// The durable end.
        end: Offset,
    },
    /// A flush failed. Nothing can be believed of the log's tail any more.
    FlushFailed,
    /// So much has been stored since the last flush that the next one is due, where the log is flushed at
    /// intervals. To be said as often as the host likes.
    FlushDue,
    /// The connection to a broker stands (again). What was sent before may be lost.
    LinkUp(BrokerId),
    /// The connection to a broker broke.
    LinkDown(BrokerId),
    /// The controller refused a set change for a reason that holds for every later copy of it too.
    SetChangeRefused {
        /// The version that the change was proposed against.
        version: PartitionVersion,
    },
    /// Hand the lead over to this member of the set: appends pause until it holds the whole log
    /// and is named, or the time is up before it was proposed.
    HandOver {
        /// To whom.
        to: BrokerId,
        /// How long the pause may last before the successor is proposed, in milliseconds.
        timeout_ms: u64,
    },
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Store the batch of this request.
    AppendBatch {
        /// Whose batch.
        request: RequestId,
        /// Offset of its first record.
        base: Offset,
        /// Its leader epoch.
        epoch: LeaderEpoch,
    },
    /// Store an epoch-start entry.
    AppendEpochStart {
        /// Its offset.
        base: Offset,
        /// Its epoch.
        epoch: LeaderEpoch,
    },
    /// Store the entries of the append in hand, but for the first `skip`.
    AppendEntries {
        /// How many are held already.
        skip: usize,
    },
    /// Cut the log; put what is discarded into quarantine first.
    Truncate {
        /// The new end (exclusive).
        to: Offset,
        /// The leader epoch whose history demands it.
        epoch: LeaderEpoch,
    },
    /// The log starts here from now on: what lies below may be removed.
    AdvanceStart {
        /// The first offset.
        to: Offset,
    },
    /// Discard the log, and begin anew. What lies above `keep_from` goes into quarantine first.
    Reset {
        /// Where the log starts, and ends.
        start: Offset,
        /// Epoch of the entry before.
        epoch_before: LeaderEpoch,
        /// Everything below this was committed, or is known to be lost.
        keep_from: Offset,
        /// The leader epoch whose history demands it.
        epoch: LeaderEpoch,
    },
    /// Make the log durable.
    Flush,
    /// Send entries to a follower: as many whole ones from `prev_end` on as fit, at least one.
    Push {
        /// To whom.
        to: BrokerId,
        /// The message to send them with.
        append: Append,
        /// Most bytes; 0 for a message without entries, which is not answered by `Pushed`.
        bytes_max: u64,
    },
    /// Send a message to another replica.
    Send {
        /// To whom.
        to: BrokerId,
        /// What.
        message: ReplicaMessage,
    },
    /// Answer a producer.
    Reply {
        /// Which request.
        request: RequestId,
        /// With what.
        result: Result<Acknowledged, Refusal>,
    },
    /// Readers may read up to here. Less than before only where a lossy election gave up entries
    /// that this replica knew to be committed.
    PublishHighWatermark(Offset),
    /// Answer the controller's fence.
    AnswerFence(FenceAnswer),
    /// Ask the controller for another in-sync set.
    ProposeInSync(SetProposal),
    /// Ask the controller for room: to raise the offset limit to `limit`.
    AskOffsets {
        /// The leader's epoch.
        epoch: LeaderEpoch,
        /// The limit that is wanted.
        limit: Offset,
    },
    /// Ask the controller to name the successor, in the next epoch.
    ProposeHandover(HandoverProposal),
    /// This replica took the lead or laid it down.
    RoleChanged {
        /// The epoch it leads in now, if it does.
        leading: Option<LeaderEpoch>,
    },
    /// A message made no sense and was ignored. Worth a line in the log: a peer is out of order.
    Ignored {
        /// Who sent it.
        from: BrokerId,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A promise was broken that nothing repairs: the replica takes no part any more.
    Broken(Breach),
}

/// A batch is stored as firmly as was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Offset of its first record, if it is committed. Before that the next leader may give the
    /// offset to another.
    pub base: Option<Offset>,
    /// The epoch it was appended in.
    pub epoch: LeaderEpoch,
}

/// Why a batch is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead. Not stored.
    NotLeader,
    /// Too few followers can be reached. Not stored.
    NotEnoughReplicas {
        /// Members of the in-sync set that can be reached, this one included.
        reachable: u32,
        /// How many are needed.
        needed: u32,
    },
    /// Stored, but not committed in time: outcome unknown.
    CommitTimeout,
    /// Stored, but the office was lost before the commit: outcome unknown.
    LeaderChanged,
    /// The sequence leaves a gap or goes back too far. Not stored.
    OutOfOrder {
        /// The sequence that was expected.
        expected: u32,
    },
    /// A newer epoch of the producer has written. Not stored.
    ProducerFenced {
        /// That epoch.
        current: u16,
    },
    /// The controller has not been heard for so long that it may have named another leader, and there
    /// is no synchronous follower that would tell. Not stored.
    NoLease,
    /// All offsets that were granted are assigned; more were asked for. Not stored.
    OutOfOffsets,
    /// The log's storage failed: outcome unknown.
    StorageFailed,
}

/// An answer to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// The fence.
    pub epoch: LeaderEpoch,
    /// *n*: the epoch of the last entry of the durable log.
    pub last_epoch: LeaderEpoch,
    /// The durable end.
    pub durable_end: Offset,
    /// The epoch of the last entry of the whole log, and its end: where it would begin to lead.
    pub log: (LeaderEpoch, Offset),
    /// The log start.
    pub log_start: Offset,
    /// Who answers, in which life.
    pub life: BrokerLife,
    /// It may have lost what it acknowledged: its answer is no vote.
    pub suspect: bool,
}

/// A set change that the leader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetProposal {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The version it was proposed against.
    pub version: PartitionVersion,
    /// The set that is to be.
    pub new_set: BTreeSet<BrokerId>,
    /// Every member that is added or cleared of suspicion, in the life that was verified.
    pub verified: Vec<BrokerLife>,
    /// Failures that elections may reckon with from now on, where it is proven that enough members
    /// hold everything.
    pub sync_followers_elect: Option<u32>,
}

/// A planned change of leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverProposal {
    /// The epoch that is to end.
    pub epoch: LeaderEpoch,
    /// The version it was proposed against.
    pub version: PartitionVersion,
    /// The successor, in the life that holds the whole log.
    pub to: BrokerLife,
    /// The end of that log.
    pub log_end: Offset,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The leader's history demands to cut below what this replica knows to be committed.
    TruncateBelowWatermark {
        /// The cut.
        to: Offset,
        /// The watermark.
        high_watermark: Offset,
    },
    /// A flush failed.
    FlushFailed,
}
