//! Why a request is refused.

use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::{GroupEpoch, MemberId, Offset, TopicPartition};

/// A refusal, by kind. The text is what a person is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This broker does not lead the group's partition.
    #[error("this broker does not coordinate the group; ask the leader of its partition")]
    NotCoordinator,
    /// It does, and is not done with reading.
    #[error("the group's coordinator is starting; retry")]
    Starting,
    /// The lead was lost while the request waited.
    #[error("the group's coordinator changed; whether the request was carried out is not known")]
    LeadLost,
    /// The commit takes too long.
    #[error("the request was not committed in time; whether it will be is not known")]
    CommitTimeout,
    /// What the request needed could not be stored.
    #[error("the group's partition does not take records now ({0:?}); nothing was changed, retry")]
    NotStored(ErrorCode),
    /// Too much waits already.
    #[error("the coordinator has too many requests that wait for a commit; retry later")]
    Overloaded,
    /// The name of a group or instance.
    #[error(
        "{what} `{name}` is not allowed: use 1 to {} letters, digits, `.`, `_`, `-`",
        baton_protocol::groups::GROUP_NAME_BYTES_MAX
    )]
    Name {
        /// Of what.
        what: &'static str,
        /// The name, cut short.
        name: String,
    },
    /// A time-out outside of what is allowed.
    #[error("{what} is {value}; it must be from {min} to {max}")]
    Timeout {
        /// Which.
        what: &'static str,
        /// What was asked for.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A limit that is one of the request.
    #[error("the request has {value} {what}; at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        value: usize,
        /// How many there may be.
        max: usize,
    },
    /// A subscription that is too large to be stored.
    #[error(
        "what the member subscribes to may take {bytes} bytes in the log, and at most {max} can be stored; subscribe to fewer partitions, or raise limits.message_bytes_max"
    )]
    TooLarge {
        /// The most that it may take.
        bytes: usize,
        /// The most that there may be.
        max: usize,
    },
    /// An offset that no log has.
    #[error("offset {0} is beyond what a log can hold")]
    Offset(Offset),
    /// Something only static members do.
    #[error("only a member with an instance id can leave and keep its seat")]
    NotStatic,
    /// A limit of the coordinator.
    #[error("the coordinator has {max} {what} already, which is the most it takes")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// No such group.
    #[error("there is no group `{0}`")]
    UnknownGroup(String),
    /// No such member.
    #[error("the group does not know member {0}: it left, or its session ended; join anew")]
    UnknownMember(MemberId),
    /// The member shows an epoch that it was not given.
    #[error("member {member} shows epoch {shown}, but it was given {given}; join anew")]
    FencedEpoch {
        /// The member.
        member: MemberId,
        /// The epoch it shows.
        shown: GroupEpoch,
        /// The epoch it has.
        given: GroupEpoch,
    },
    /// The member left, or another took its place.
    #[error("member {0} is no more: it left, or another one has its instance id")]
    Replaced(MemberId),
    /// Its instance is at work elsewhere.
    #[error("instance `{0}` is at work as another member; it is free when that one leaves")]
    InstanceInUse(String),
    /// The group has members.
    #[error("the group has members ({0}), so this is refused; stop its consumers first")]
    GroupActive(usize),
    /// No such topic or partition.
    #[error("there is no partition {0}")]
    UnknownPartition(TopicPartition),
    /// The partition is another's.
    #[error("the partition is not assigned to this member in the epoch it names")]
    NotAssigned,
    /// It would go back.
    #[error("offset {offset} lies below the committed {committed}; a commit does not go back")]
    MovedBack {
        /// The offset of the commit.
        offset: Offset,
        /// The committed one.
        committed: Offset,
    },
    /// A reset that was previewed against something else.
    #[error("the committed offset of {at} has changed since the preview; preview again")]
    OffsetChanged {
        /// The partition.
        at: TopicPartition,
    },
}

impl Refusal {
    /// What a program branches on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Refusal::NotCoordinator => ErrorCode::NotCoordinator,
            Refusal::Starting => ErrorCode::NotReady,
            Refusal::LeadLost => ErrorCode::LeaderChanged,
            Refusal::CommitTimeout => ErrorCode::CommitTimeout,
            Refusal::NotStored(code) => *code,
            Refusal::Overloaded => ErrorCode::Unavailable,
            Refusal::Name { .. }
            | Refusal::Timeout { .. }
            | Refusal::TooMany { .. }
            | Refusal::Offset(_)
            | Refusal::NotStatic => ErrorCode::InvalidRequest,
            Refusal::Full { .. } | Refusal::TooLarge { .. } => ErrorCode::GroupLimit,
            Refusal::UnknownGroup(_) => ErrorCode::UnknownGroup,
            Refusal::UnknownMember(_) => ErrorCode::UnknownMember,
            Refusal::FencedEpoch { .. } | Refusal::Replaced(_) => ErrorCode::FencedMember,
            Refusal::InstanceInUse(_) => ErrorCode::InstanceInUse,
            Refusal::GroupActive(_) => ErrorCode::GroupActive,
            Refusal::UnknownPartition(_) => ErrorCode::UnknownPartition,
            Refusal::NotAssigned => ErrorCode::NotAssigned,
            Refusal::MovedBack { .. } => ErrorCode::OffsetMovedBack,
            Refusal::OffsetChanged { .. } => ErrorCode::OffsetChanged,
        }
    }
}

impl From<Refusal> for WireError {
    fn from(refusal: Refusal) -> Self {
        WireError::new(refusal.code(), refusal.to_string())
    }
}
