//! Errors as they travel: a code to branch on and a text for a person.

use serde::{Deserialize, Serialize};

use crate::ids::Offset;

/// What went wrong, as far as a program cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The asked broker does not lead the partition. Not stored. Retry at the leader.
    NotLeader,
    /// The partition has no leader at the moment. Not stored. Retry.
    NoLeader,
    /// Too few followers can be reached. Not stored. Retry.
    NotEnoughReplicas,
    /// In the leader's log, but not committed in time: outcome unknown. Retry under the same
    /// producer sequence, which cannot duplicate.
    CommitTimeout,
    /// The leader lost its office while the entry waited: outcome unknown. Retry as for
    /// `CommitTimeout`.
    LeaderChanged,
    /// No topic of that name or id.
    UnknownTopic,
    /// The topic has no partition of that index.
    UnknownPartition,
    /// A topic of that name exists.
    TopicExists,
    /// The topic's name is not allowed.
    InvalidTopicName,
    /// A number or combination in the request is not allowed.
    InvalidRequest,
    /// The record batch is malformed: lengths, counts, checksum, codec.
    InvalidBatch,
    /// The batch is larger than `message_bytes_max`.
    MessageTooLarge,
    /// The producer's sequence leaves a gap or goes back further than the broker remembers.
    OutOfOrderSequence,
    /// A newer epoch of the same producer is at work.
    ProducerFenced,
    /// The offset asked for lies outside the log.
    OffsetOutOfRange,
    /// The leader is new and does not know its watermark yet. Retry.
    NotReady,
    /// The peer or client belongs to another cluster.
    WrongCluster,
    /// No protocol version in common.
    UnsupportedVersion,
    /// The frame could not be decoded; the connection is closed.
    MalformedFrame,
    /// No controller can be reached at the moment. Retry.
    NoController,
    /// The request does not fit how things stand: the election it names has ended, a replica it
    /// needs is not in the in-sync set.
    InvalidState,
    /// The broker has no room: its disk is full, or it can open or map no more files. Not stored.
    /// Retry later.
    StorageFull,
    /// The disk of the broker failed.
    StorageFailed,
    /// The broker is overloaded or is shutting down. Not stored. Retry.
    Unavailable,
    /// A broken promise inside the broker; its log says more.
    Internal,
    /// The asked broker does not coordinate the consumer group. Nothing was changed. Retry at the
    /// leader of the group's partition.
    NotCoordinator,
    /// No consumer group of that name.
    UnknownGroup,
    /// The group does not know the member: it left, or its session ended. The consumer gives up
    /// every partition and joins anew, under another member id.
    UnknownMember,
    /// The member was replaced, or shows an epoch that it was never given. The consumer gives up
    /// every partition.
    FencedMember,
    /// A member with the same instance id is at work. Retry; it is over with the other's session.
    InstanceInUse,
    /// The partition is not the member's in the epoch that it names. Not committed.
    NotAssigned,
    /// The group has members, so this is refused. Stop its consumers first.
    GroupActive,
    /// The offset lies below the committed one. Not committed.
    OffsetMovedBack,
    /// The committed offset is not what the request expected. Nothing was changed.
    OffsetChanged,
    /// A limit on groups, members or what they subscribe to is reached.
    GroupLimit,
}

impl ErrorCode {
    /// Whether the same request can succeed later, unchanged.
    pub fn is_retriable(self) -> bool {
        match self {
            ErrorCode::NotLeader
            | ErrorCode::NoLeader
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::CommitTimeout
            | ErrorCode::LeaderChanged
            | ErrorCode::NotReady
            | ErrorCode::NoController
            | ErrorCode::StorageFull
            | ErrorCode::StorageFailed
            | ErrorCode::NotCoordinator
            | ErrorCode::InstanceInUse
            | ErrorCode::Unavailable => true,
            ErrorCode::UnknownTopic
            | ErrorCode::UnknownPartition
            | ErrorCode::TopicExists
            | ErrorCode::InvalidTopicName
            | ErrorCode::InvalidRequest
            | ErrorCode::InvalidBatch
            | ErrorCode::MessageTooLarge
            | ErrorCode::OutOfOrderSequence
            | ErrorCode::ProducerFenced
            | ErrorCode::OffsetOutOfRange
            | ErrorCode::WrongCluster
            | ErrorCode::UnsupportedVersion
            | ErrorCode::MalformedFrame
            | ErrorCode::InvalidState
            | ErrorCode::UnknownGroup
            | ErrorCode::UnknownMember
            | ErrorCode::FencedMember
            | ErrorCode::NotAssigned
            | ErrorCode::GroupActive
            | ErrorCode::OffsetMovedBack
            | ErrorCode::OffsetChanged
            | ErrorCode::GroupLimit
            | ErrorCode::Internal => false,
        }
    }
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What a program branches on.
    pub code: ErrorCode,
    /// What a person reads: what is wrong, where, and what to do.
    pub message: String,
    /// With `OffsetOutOfRange`: which offsets there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<OffsetRange>,
}

/// The offsets of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The first one.
    pub start: Offset,
    /// The one after the last.
    pub end: Offset,
}

impl WireError {
    /// An error of this kind, saying this.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        WireError {
            code,
            message: message.into(),
            offsets: None,
        }
    }

    /// The same, with the offsets that there are.
    #[must_use]
    pub fn with_offsets(self, start: Offset, end: Offset) -> Self {
        WireError {
            offsets: Some(OffsetRange { start, end }),
            ..self
        }
    }
}
