//! What clients and brokers say to each other.
//!
//! A frame's header is one [`ClientRequest`] or [`ServerMessage`]; record batches are the frame's
//! payload and never pass through serde. Requests on a connection may be pipelined; answers carry
//! the request's id, and those of one partition and one [`Acks`] come in the order of the requests.

use serde::{Deserialize, Serialize};

use crate::admin::{AdminRequest, AdminResponse};
use crate::error::WireError;
use crate::groups::{GroupRequest, GroupResponse};
use crate::ids::{BrokerId, ClusterId, LeaderEpoch, Offset, PartitionIndex, ProducerId, TopicId};
use crate::inspect::{InspectRequest, InspectResponse};
use crate::metadata::ClusterView;

/// The version of this protocol. A hello names the lowest and highest that its sender speaks.
pub const CLIENT_PROTOCOL_VERSION: u16 = 1;

/// How strong an acknowledgement a producer wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acks {
    /// Not answered.
    None,
    /// Answered once the leader has stored the entry, as durably as the topic's flush setting
    /// says. The next failover may still discard it, so unless `sync_followers` is 0 the answer
    /// carries no offset.
    Leader,
    /// Answered once the entry is committed: the leader and `sync_followers` followers hold it.
    #[default]
    Committed,
}

/// A request: an id chosen by the client, and what is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// Comes back in the answer. Unique among the requests in flight on the connection.
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// The first request of every connection. Answered by [`ResponseBody::Hello`], or by an error
    /// (`UnsupportedVersion`, `WrongCluster`) and the connection's end.
    Hello {
        /// Lowest protocol version the client speaks.
        version_min: u16,
        /// Highest protocol version the client speaks.
        version_max: u16,
        /// The cluster the client expects, if it has met it before.
        cluster_id: Option<ClusterId>,
        /// A name for logs.
        client: String,
    },
    /// Asks for the cluster's metadata, once.
    Metadata {
        /// Topics wanted, by name; `None` means all. Unknown names are left out of the answer.
        topics: Option<Vec<String>>,
    },
    /// Asks for the cluster's metadata now and, as [`ServerMessage::Metadata`], whenever it changes.
    WatchMetadata,
    /// Asks for an id for an idempotent producer.
    InitProducer,
    /// Stores one record batch: the frame's payload. Answered by [`ResponseBody::Produced`], or
    /// not at all with [`Acks::None`].
    Produce {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// How strong an acknowledgement is wanted.
        acks: Acks,
        /// How long the entry may wait for its commit before `CommitTimeout`, in milliseconds.
        timeout_ms: u32,
    },
    /// Asks the partition's leader for its offsets.
    PartitionStatus {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
    },
    /// Asks for the first offset whose record has this timestamp or a later one. Any replica answers,
    /// for what lies below its high watermark.
    OffsetForTime {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// Milliseconds since 1970.
        timestamp_ms: i64,
    },
    /// Asks for records to be pushed as [`ServerMessage::Records`] from `offset` on. Any replica
    /// answers, up to its high watermark.
    Subscribe {
        /// Chosen by the client, unique among the connection's subscriptions.
        subscription: u32,
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// The first offset wanted.
        offset: Offset,
        /// How many bytes of batches may be pushed before more credit is given.
        credit_bytes: u64,
    },
    /// Allows more bytes on a subscription. Not answered.
    Credit {
        /// The subscription.
        subscription: u32,
        /// How many more bytes.
        bytes: u64,
    },
    /// Ends a subscription. Answered with `Done`, after which nothing more is pushed for it.
    Unsubscribe {
        /// The subscription.
        subscription: u32,
    },
    /// An operator's request.
    Admin(AdminRequest),
    /// A request about consumer groups, to the leader of a partition of the internal topic
    /// [`GROUPS_TOPIC`](crate::groups::GROUPS_TOPIC): the coordinator of the groups that belong to
    /// it. Answered by [`ResponseBody::Group`], or by `NotCoordinator` where that partition is led
    /// elsewhere, or the topic is not made yet (asking for it makes it).
    Group {
        /// The partition of the internal topic.
        partition: PartitionIndex,
        /// What is asked.
        request: GroupRequest,
    },
    /// Asks this broker about itself. Answered by [`ResponseBody::Inspect`].
    Inspect(InspectRequest),
}

/// What a broker sends on a client's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// The answer to a request.
    Response {
        /// The request's id.
        id: u64,
        /// The answer.
        result: Result<ResponseBody, WireError>,
    },
    /// Record batches for a subscription: the frame's payload is one or more whole stored entries
    /// (`[u32 crc32][record batch]`), back to back. The first batch may start below the offset
    /// that was asked for.
    Records {
        /// The subscription.
        subscription: u32,
        /// The partition's high watermark as the broker knows it.
        high_watermark: Offset,
    },
    /// A subscription ended from the broker's side.
    SubscriptionEnded {
        /// The subscription.
        subscription: u32,
        /// Why.
        error: WireError,
    },
    /// The cluster's metadata changed (after `WatchMetadata`).
    Metadata(ClusterView),
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseBody {
    /// To `Hello`.
    Hello {
        /// The protocol version that the connection speaks from now on.
        version: u16,
        /// The cluster.
        cluster_id: ClusterId,
        /// The broker that answered.
        broker: BrokerId,
        /// Largest record batch the broker takes, in bytes.
        message_bytes_max: u32,
    },
    /// To `Metadata` and `WatchMetadata`.
    Metadata(ClusterView),
    /// To `InitProducer`.
    Producer {
        /// The id.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: u16,
    },
    /// To `Produce`: stored as firmly as was asked for.
    Produced {
        /// Offset of the batch's first record; none for what is not committed yet.
        base_offset: Option<Offset>,
        /// The leader epoch it was appended in.
        epoch: LeaderEpoch,
    },
    /// To `PartitionStatus`.
    PartitionStatus(PartitionStatus),
    /// To `OffsetForTime`.
    OffsetForTime {
        /// The offset; none if all records below the watermark are older.
        offset: Option<Offset>,
        /// The high watermark of the replica that answers: where what is newer will be.
        high_watermark: Offset,
    },
    /// To `Subscribe`.
    Subscribed {
        /// First offset of the log.
        log_start: Offset,
        /// The high watermark.
        high_watermark: Offset,
    },
    /// To `Unsubscribe`.
    Done,
    /// To `Admin`.
    Admin(AdminResponse),
    /// To `Group`.
    Group(GroupResponse),
    /// To `Inspect`.
    Inspect(InspectResponse),
}

/// A partition's offsets, as its leader knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// First offset of the log.
    pub log_start: Offset,
    /// The offset the next record gets on the leader.
    pub log_end: Offset,
    /// First offset not known to be committed.
    pub high_watermark: Offset,
    /// False while the leader is so new that its watermark may still lag behind what its
    /// predecessor acknowledged: then `high_watermark` must not be taken for the end.
    pub ready: bool,
    /// How far each member of the in-sync set has acknowledged.
    pub acknowledged: Vec<(BrokerId, Offset)>,
}
