//! Every actor message, grouped by who receives it.

use std::sync::Arc;

use actix::Message;
use baton_controller::command::Command;
use baton_controller::state::ClusterState;
use baton_protocol::client::{Acks, PartitionStatus};
use baton_protocol::error::WireError;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, MetadataIndex, PartitionVersion, TopicPartition,
};
use baton_protocol::peer::ReplicaMessage;
use baton_protocol::policy::TopicPolicy;
use baton_replication::event::PartitionView;
use baton_storage::{Chunk, FlushDone, StorageError};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::actors::answer::Answer;
use crate::driver::{CheckedBatch, FlushWork, Push};
use crate::groups::host::Fate;

// ---- to a partition -------------------------------------------------------------------------

/// A producer's batch, with where to answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Produce {
    /// The batch, checked.
    pub batch: CheckedBatch,
    /// How firmly it must be stored before it is answered.
    pub acks: Acks,
    /// How long it may wait for that, in milliseconds.
    pub timeout_ms: u32,
    /// Where to answer.
    pub answer: Answer,
}

/// A batch of this broker's own, which waits for its commit for as long as it takes.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AppendOwn {
    /// The epoch of the lead that it was made in. It is of no other: whoever made it may have been at it
    /// for longer than the lead lasted.
    pub reign: LeaderEpoch,
    /// The batch, checked.
    pub batch: CheckedBatch,
    /// Told what became of it.
    pub done: oneshot::Sender<Fate>,
}

/// A message of another replica.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// What.
    pub message: ReplicaMessage,
    /// The entries of an append.
    pub payload: Bytes,
}

/// A reader has come upon damage in the log; what it is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LogDamaged(pub String);

/// The metadata shows the partition so.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ViewChanged(pub Arc<PartitionView>);

/// The topic keeps its entries so long.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PolicyChanged(pub TopicPolicy);

/// The controller bars the epochs below this one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Fence(pub LeaderEpoch);

/// The leader of this epoch shall hand over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandOver {
    /// Whom it is meant for.
    pub epoch: LeaderEpoch,
    /// The broker that shall lead.
    pub to: BrokerId,
}

/// The controller refused a set change for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SetChangeRefused(pub PartitionVersion);

/// A flush ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flushed(pub Result<FlushDone, StorageError>);

/// What a follower needs was read from the disk.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WasRead {
    /// What it was read for.
    pub push: Push,
    /// What came of it.
    pub result: Result<Option<Chunk>, StorageError>,
}

/// The link to a broker stands, or broke.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct LinkChanged {
    /// The broker.
    pub peer: BrokerId,
    /// The worker whose link it is.
    pub lane: u32,
    /// Whether it stands.
    pub up: bool,
}

/// Time passed.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct TimePassed;

/// Asks for the partition's offsets, as its leader knows them.
#[derive(Message)]
#[rtype(result = "Result<PartitionStatus, WireError>")]
pub struct AskStatus;

/// Ends the replica. Whether everything it holds is known to be durable.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct ClosePartition;

// ---- to the flusher -------------------------------------------------------------------------

/// A flush to run.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RunFlush {
    /// What to do.
    pub work: FlushWork,
    /// Whom to tell.
    pub done: actix::Recipient<Flushed>,
}

// ---- to the router --------------------------------------------------------------------------

/// This broker is registered.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Registered(pub BrokerEpoch);

/// The cluster's metadata as a whole.
#[derive(Message)]
#[rtype(result = "()")]
pub struct MetadataSnapshot(pub ClusterState);

/// What was committed to the metadata since.
#[derive(Message)]
#[rtype(result = "()")]
pub struct MetadataCommands(pub Vec<(MetadataIndex, Command)>);

/// The controller bars epochs of partitions.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FencePartitions(pub Vec<(TopicPartition, LeaderEpoch)>);

/// A leader shall hand over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandOverPartition(pub TopicPartition, pub LeaderEpoch, pub BrokerId);

/// The controller refused set changes for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SetChangesRefused(pub Vec<(TopicPartition, PartitionVersion)>);

/// Which broker's controller is active, as far as is known.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ControllerKnown(pub Option<BrokerId>);

/// Ends all replicas in good order. Whether all did.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct CloseAll;
