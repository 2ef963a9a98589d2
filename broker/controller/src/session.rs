//! What a broker and the active controller say to each other, over the one connection that each
//! broker keeps to it.

use baton_protocol::admin::{AdminRequest, AdminResponse};
use baton_protocol::error::WireError;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, DirectoryId, LeaderEpoch, MetadataIndex, Offset,
    PartitionVersion, ProcessId, TopicId, TopicPartition,
};
use serde::{Deserialize, Serialize};

use crate::command::{Command, Handover, OffsetGrant, SetChange};
use crate::state::ClusterState;

/// From a broker to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToController {
    /// Always the first message.
    Hello {
        /// Who it is.
        broker: BrokerId,
        /// The life it was given, if it has one: then it goes on, and need not register.
        life: Option<BrokerEpoch>,
    },
    /// The process has started and wants a life.
    Register {
        /// Its data directory.
        directory: DirectoryId,
        /// Where clients reach it.
        client_address: String,
        /// Where brokers reach it.
        peer_address: String,
        /// Its disk may have lost acknowledged entries.
        log_lost: bool,
        /// The last life that its disk shows; none on an empty one.
        shown_life: Option<BrokerEpoch>,
        /// Its process.
        process: ProcessId,
        /// The machine has restarted since, without a proper end before.
        unclean_restart: bool,
    },
    /// It lives, and so does its disk: the count of disk operations rises as long as they end.
    Heartbeat {
        /// That count.
        disk_progress: u64,
    },
    /// Answers to fences.
    FenceAnswers(Vec<FenceAnswer>),
    /// Set changes that its leaders ask for.
    ProposeInSync(Vec<SetChange>),
    /// Logs that it found missing or damaged.
    ReportSuspect(Vec<TopicPartition>),
    /// Why replicas of its cannot do their part, in words that follow its name; none where that is
    /// over. For people: nothing is decided by it. A session begins without any.
    ReplicaTroubles(Vec<(TopicPartition, Option<String>)>),
    /// Offset limits that its leaders ask for.
    AskOffsets(Vec<OffsetGrant>),
    /// Successors that its leaders propose.
    ProposeHandovers(Vec<Handover>),
    /// A connection to this broker, in this life, was refused.
    ConnectionRefused {
        /// Whose.
        life: BrokerLife,
    },
    /// An operator's (or the broker's own) request.
    Admin {
        /// Comes back in the answer.
        id: u64,
        /// What.
        request: AdminRequest,
        /// A random id, should a topic be made: the controller's core draws none itself.
        fresh_topic_id: TopicId,
    },
}

/// An answer to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAnswer {
    /// The partition.
    pub partition: TopicPartition,
    /// The fence.
    pub epoch: LeaderEpoch,
    /// The epoch of the last entry of the durable log.
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
    #[serde(default)]
    pub suspect: bool,
}

/// From the controller to a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromController {
    /// This is the active controller.
    Welcome {
        /// Its broker.
        controller: BrokerId,
    },
    /// This is not the active controller; the connection ends.
    NotController {
        /// Where it is, as far as is known.
        leader: Option<BrokerId>,
    },
    /// The broker has a life.
    Registered {
        /// Which.
        epoch: BrokerEpoch,
    },
    /// The life that the broker claims has passed: another process has registered under its id.
    Obsolete,
    /// A heartbeat arrived, when nobody else had been elected controller. Answers come in the order of the
    /// heartbeats.
    HeartbeatAck {
        /// The broker is taken for alive: none of its leads will be given to another before the
        /// session time-out from that heartbeat on, unless it ends or its disk stands still.
        alive: bool,
    },
    /// The metadata as a whole: never older than the broker's registration.
    Snapshot(ClusterState),
    /// What was committed since, in order and without gaps.
    Commands(Vec<(MetadataIndex, Command)>),
    /// Bars the epochs below these.
    Fence(Vec<(TopicPartition, LeaderEpoch)>),
    /// Set changes, by the version they were proposed against, that are refused for good.
    SetChangesRefused(Vec<(TopicPartition, PartitionVersion)>),
    /// The leader of this partition, in this epoch, shall hand over to that broker.
    HandOver(TopicPartition, LeaderEpoch, BrokerId),
    /// The answer to a request.
    AdminResult {
        /// Of the request.
        id: u64,
        /// What.
        result: Result<AdminResponse, WireError>,
    },
}
