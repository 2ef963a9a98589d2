//! What brokers say to each other about partitions.
//!
//! Each thread of a broker has one connection to each other broker. Everything on it goes from the
//! connecting broker to the accepting one, so that an append never waits behind an acknowledgement. A frame's
//! header is one [`PeerMessage`]; an append's entries are the frame's payload.

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, LeaderEpoch, Offset, TopicPartition,
};

/// The version of the protocol between brokers.
pub const PEER_PROTOCOL_VERSION: u16 = 1;

/// The first frame of a connection to a broker's peer port: what the connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// For [`PeerMessage`]s from the connecting broker to the accepting one.
    Replication {
        /// [`PEER_PROTOCOL_VERSION`] of the sender.
        version: u16,
        /// The sender's cluster.
        cluster_id: ClusterId,
        /// The sender.
        from: BrokerLife,
        /// Whom it means to talk to.
        to: BrokerId,
        /// Which of the sender's connections to that broker this is, from 0: one for each of its
        /// threads.
        #[serde(default)]
        lane: u32,
    },
    /// For the session of a broker with the controller.
    Control {
        /// [`PEER_PROTOCOL_VERSION`] of the sender.
        version: u16,
        /// The sender's cluster, if it belongs to one already.
        cluster_id: Option<ClusterId>,
    },
}

/// The answer to an [`Opening`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpeningReply {
    /// Go on.
    Welcome,
    /// Not here; the connection is closed.
    Rejected(WireError),
}

/// A message from one broker to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerMessage {
    /// The partition it is about.
    pub partition: TopicPartition,
    /// What.
    pub message: ReplicaMessage,
}

/// A message from one replica of a partition to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaMessage {
    /// Leader to follower. The payload holds the entries that come right after `prev_end`; none
    /// for a probe or a mere watermark.
    Append(Append),
    /// Leader to follower: what the follower holds does not reach up to the leader's log, or is another
    /// history there; it is to begin anew at the leader's start. The payload is what is known of the
    /// producers of what lies below.
    Reset(Reset),
    /// Follower to leader.
    Ack(Ack),
    /// Follower to leader: `prev_end` is unknown here or belongs to another history.
    Mismatch(Mismatch),
    /// Follower to leader: a higher epoch has been promised.
    Refused(Refused),
}

/// Leader to follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The leader, in the life that was elected.
    pub leader: BrokerLife,
    /// The life of the follower that this is meant for.
    pub to: BrokerEpoch,
    /// Epoch of the entry before these; `LeaderEpoch::NONE` at the log's beginning.
    pub prev_epoch: LeaderEpoch,
    /// End (exclusive) of the entry before these: the log end that they continue.
    pub prev_end: Offset,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The leader's log start.
    pub log_start: Offset,
}

/// Leader to follower: begin anew here, unless the log continues here anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The leader, in the life that was elected.
    pub leader: BrokerLife,
    /// The life of the follower that this is meant for.
    pub to: BrokerEpoch,
    /// The leader's log start: where the follower's log is to begin.
    pub start: Offset,
    /// Epoch of the entry before it.
    pub prev_epoch: LeaderEpoch,
    /// The leader's high watermark, which is not below the start.
    pub high_watermark: Offset,
}

/// Follower to leader: how far the follower holds the leader's log. Cumulative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The epoch of the leader that this answers.
    pub epoch: LeaderEpoch,
    /// The follower, in the life that holds this.
    pub from: BrokerLife,
    /// *n*: the epoch of the last entry of the follower's durable log.
    pub last_epoch: LeaderEpoch,
    /// How far the follower counts itself a holder.
    pub durable_end: Offset,
    /// How far it has received. At least `durable_end`.
    pub log_end: Offset,
}

/// Follower to leader: the append does not continue the follower's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The epoch of the leader that this answers.
    pub epoch: LeaderEpoch,
    /// The follower.
    pub from: BrokerLife,
    /// The `prev_end` that was refused.
    pub prev_end: Offset,
    /// The follower's log start.
    pub log_start: Offset,
    /// The follower's log end.
    pub log_end: Offset,
    /// The follower's history at and below the refused point, oldest first: each epoch with the
    /// offset its entries start at. A bounded piece of it; the leader asks again further down.
    pub history: Vec<(LeaderEpoch, Offset)>,
}

/// Follower to leader: a higher epoch has been promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The epoch of the append that was refused.
    pub epoch: LeaderEpoch,
    /// The follower.
    pub from: BrokerLife,
    /// The epoch it has promised to.
    pub promised: LeaderEpoch,
}
