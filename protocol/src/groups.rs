//! What consumers and operators say to the coordinator of a consumer group.
//!
//! A group's coordinator is the leader of partition [`coordinator_partition`] of the topic
//! [`GROUPS_TOPIC`]. Every request names its group and is answered by a [`GroupResponse`] once what
//! the answer tells is committed.
//!
//! # What a member has to do
//!
//! A member is a consumer that takes part in a group. It has a [`MemberId`], drawn at random when
//! it joins, and an *assignment*: the partitions it may consume, with the epoch they were told in.
//!
//! * It joins with a [`Heartbeat`] of epoch 0 that carries its subscription, and repeats that until
//!   it is answered. Then it sends a heartbeat whenever `heartbeat_interval_ms` have passed, one at
//!   a time, each with the epoch of the assignment that it has *applied*.
//! * An answer of a greater epoch bears a new assignment. What is new in it may be consumed at once,
//!   from the committed offset on. What is no longer in it has to be given up: stop handing records
//!   out, let those at hand be finished, commit. Only then is the assignment applied, and the next
//!   heartbeat, which is due at once, shows its epoch. **A heartbeat of epoch *e* says: I have the
//!   assignment of *e*, and consume nothing beside it.** It is what gives a partition to its next
//!   owner. An answer of the same or a lower epoch changes nothing.
//! * Its session ends `session_timeout_ms` after it *sent* the last heartbeat that was answered. From
//!   then on the coordinator may give its partitions to others, so it consumes nothing any more and
//!   joins anew.
//! * Where an answer says `revoke_within_ms`, the member has so long, counted from when it sent the
//!   heartbeat, until a heartbeat that shows the new epoch *is answered*. Otherwise it is put out of
//!   the group and has to give up everything.
//! * At `UnknownMember` or `FencedMember` it gives up every partition at once, does not commit, and
//!   joins anew under a new id. At `NotCoordinator` and every other error that can be retried it asks
//!   for the leader anew and repeats the request; its session goes on counting.
//! * When it stops, it gives up its partitions, commits, and sends [`GroupRequest::Leave`].
//!
//! A *static* member has an instance id besides, which outlives its process. It leaves with
//! `keep_seat`, so that whoever comes back under that instance id within its session time-out gets the
//! same partitions, and nobody else's change.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupEpoch, LeaderEpoch, MemberId, Offset, PartitionIndex, TopicId};

/// The internal topic that groups and their committed offsets are kept in.
pub const GROUPS_TOPIC: &str = "__groups";

/// Longest name of a group, and longest instance id, in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 249;

/// The partition of [`GROUPS_TOPIC`] that keeps a group, of so many.
///
/// It is the CRC-32 (IEEE) of the name, modulo the number of partitions; that number must never
/// change once the topic is made.
pub fn coordinator_partition(group: &str, partitions: u32) -> PartitionIndex {
    PartitionIndex(crc32fast::hash(group.as_bytes()) % partitions.max(1))
}

/// Whether a group, or an instance, may be called so: letters, digits, `.`, `_`, `-`, 1 to
/// [`GROUP_NAME_BYTES_MAX`] bytes.
pub fn is_group_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=GROUP_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

/// A request to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupRequest {
    /// Joins, or shows that the member lives and what it has applied. Answered by
    /// [`GroupResponse::Heartbeat`].
    Heartbeat(Heartbeat),
    /// Ends a membership. The member has given up all its partitions. Answered by `Done`, also if
    /// there is no such member any more.
    Leave {
        /// The group.
        group: String,
        /// The member.
        member: MemberId,
        /// Keep its partitions for the next member of the same instance id, until its session
        /// time-out has passed. For static members only.
        keep_seat: bool,
    },
    /// Commits offsets. Answered by [`GroupResponse::Committed`].
    Commit(Commit),
    /// Asks for all committed offsets of a group. Answered by [`GroupResponse::Offsets`]; a group
    /// that is not known has none.
    FetchOffsets {
        /// The group.
        group: String,
    },
    /// Asks for the groups of this coordinator. Answered by [`GroupResponse::Groups`].
    List,
    /// Asks for one group. Answered by [`GroupResponse::Group`].
    Describe {
        /// The group.
        group: String,
    },
    /// Sets offsets, forward or back, all of them or none. Refused while the group has members
    /// (`GroupActive`), and if an offset is not what the request expects (`OffsetChanged`).
    /// Answered by `Done`. A group that is not known is made.
    Reset {
        /// The group.
        group: String,
        /// The partitions.
        offsets: Vec<OffsetReset>,
    },
    /// Forgets a group and its offsets. Refused while it has members. Answered by `Done`.
    Delete {
        /// The group.
        group: String,
    },
}

impl GroupRequest {
    /// The group it is about, if it is about one.
    pub fn group(&self) -> Option<&str> {
        match self {
            GroupRequest::Heartbeat(heartbeat) => Some(&heartbeat.group),
            GroupRequest::Commit(commit) => Some(&commit.group),
            GroupRequest::Leave { group, .. }
            | GroupRequest::FetchOffsets { group }
            | GroupRequest::Describe { group }
            | GroupRequest::Reset { group, .. }
            | GroupRequest::Delete { group } => Some(group),
            GroupRequest::List => None,
        }
    }
}

/// A member shows that it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The group.
    pub group: String,
    /// The member.
    pub member: MemberId,
    /// A static member's instance id: the same in all heartbeats of a member.
    #[serde(default)]
    pub instance: Option<String>,
    /// The epoch of the assignment that the member has applied; 0 before it has one.
    pub epoch: GroupEpoch,
    /// What it wants. Sent to join, and from a change of it on until a heartbeat that bore it was
    /// answered.
    #[serde(default)]
    pub subscription: Option<Subscription>,
}

/// What a member wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Raised by the member at each change, so that a late copy of an older one changes nothing.
    pub version: u64,
    /// The topics, by name. One that does not exist yet counts once it does.
    pub topics: Vec<String>,
    /// How long the member may be silent before it is put out.
    pub session_timeout_ms: u32,
    /// How long it may take to give up partitions that it loses, before it is put out. The session
    /// time-out, if that is longer.
    pub rebalance_timeout_ms: u32,
    /// A name for people.
    #[serde(default)]
    pub client: String,
}

/// Offsets up to which a group has consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The group.
    pub group: String,
    /// Who commits. None for a reader that is no member; taken only while the group has none.
    #[serde(default)]
    pub member: Option<CommittingMember>,
    /// What is committed. Each partition is taken or refused for itself.
    pub offsets: Vec<OffsetCommit>,
}

/// A member that commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittingMember {
    /// The member.
    pub member: MemberId,
    /// The epoch of the assignment it has.
    pub epoch: GroupEpoch,
}

/// One partition of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The next offset to consume.
    pub offset: Offset,
    /// The leader epoch of the last record consumed, or of the leader that told the offset.
    pub leader_epoch: LeaderEpoch,
    /// Anything the consumer likes to keep with it.
    #[serde(default)]
    pub metadata: String,
    /// Allows the offset to be lower than the committed one, if that is this one: for a consumer
    /// whose user went back. Bound to a value, so that a late copy cannot go back again.
    #[serde(default)]
    pub back_from: Option<Offset>,
}

/// One partition of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetReset {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The committed offset as the preview showed it.
    pub from: Option<Offset>,
    /// The next offset to consume.
    pub to: Offset,
    /// The epoch of the leader that told it.
    pub leader_epoch: LeaderEpoch,
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupResponse {
    /// To `Heartbeat`.
    Heartbeat(HeartbeatAnswer),
    /// To `Commit`: what was refused; all else is committed.
    Committed {
        /// The partitions that were not committed.
        refused: Vec<CommitRefused>,
    },
    /// To `FetchOffsets`.
    Offsets(Vec<CommittedOffset>),
    /// To `List`.
    Groups(Vec<GroupSummary>),
    /// To `Describe`.
    Group(GroupDescription),
    /// To `Leave`, `Reset` and `Delete`.
    Done,
}

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The epoch of its present assignment.
    pub epoch: GroupEpoch,
    /// When the next heartbeat is due.
    pub heartbeat_interval_ms: u32,
    /// All that it may consume; left out if it has applied this epoch already.
    pub assignment: Option<Vec<AssignedTopic>>,
    /// How long after it sent the heartbeat the member is put out, unless one that shows this epoch
    /// is answered before. None if it has nothing to give up.
    #[serde(default)]
    pub revoke_within_ms: Option<u32>,
}

/// Partitions of one topic that a member may consume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedTopic {
    /// The topic.
    pub topic: TopicId,
    /// Its name.
    pub name: String,
    /// The partitions, in order.
    pub partitions: Vec<PartitionIndex>,
}

/// A partition whose offset was not committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRefused {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// Why.
    pub error: crate::error::WireError,
    /// The committed offset, if there is one.
    pub committed: Option<Offset>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The next offset to consume.
    pub offset: Offset,
    /// The leader epoch that was committed with it.
    pub leader_epoch: LeaderEpoch,
    /// What the consumer keeps with it.
    pub metadata: String,
    /// When it was committed, in milliseconds since 1970 by the coordinator's clock.
    pub committed_at_ms: u64,
}

/// How a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupPhase {
    /// It has no members.
    Empty,
    /// Every member may consume what it shall have.
    Stable,
    /// Partitions wait to be given up by one member for another.
    Rebalancing,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Its name.
    pub group: String,
    /// How it is.
    pub phase: GroupPhase,
    /// Number of members.
    pub members: u32,
    /// Number of partitions with a committed offset.
    pub offsets: u32,
}

/// All about a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// How it is.
    pub phase: GroupPhase,
    /// Its epoch.
    pub epoch: GroupEpoch,
    /// Its members, in the order of their ids.
    pub members: Vec<MemberDescription>,
    /// Its committed offsets.
    pub offsets: Vec<CommittedOffset>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDescription {
    /// The member.
    pub member: MemberId,
    /// Its instance id.
    pub instance: Option<String>,
    /// Its name for people.
    pub client: String,
    /// The topics it subscribes to.
    pub topics: Vec<String>,
    /// The epoch of its assignment.
    pub epoch: GroupEpoch,
    /// It left, and its partitions are kept for its instance.
    pub away: bool,
    /// What it may consume.
    pub assigned: Vec<AssignedTopic>,
    /// What it has to give up, and has not yet.
    pub revoking: Vec<AssignedTopic>,
    /// What it shall have once others have given it up.
    pub awaited: Vec<AssignedTopic>,
}

/// Where offsets shall be reset to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetTo {
    /// The first record there is.
    Earliest,
    /// Behind the last committed record.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record of this time (milliseconds since 1970) or later.
    Time(u64),
    /// So many offsets on from the committed one, or back.
    Shift(i64),
}

/// What a partition's leader says of its log, for [`ResetTo::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// First offset of the log.
    pub start: Offset,
    /// The high watermark.
    pub end: Offset,
    /// For [`ResetTo::Time`]: the first offset of that time or later, if there is one.
    pub at_time: Option<Offset>,
}

/// Where a reset goes in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The offset.
    pub offset: Offset,
    /// What was asked for lies outside the log, and this is its nearest end.
    pub clamped: bool,
}

impl ResetTo {
    /// The offset that is meant in a partition with this log. None for a shift where nothing is
    /// committed.
    pub fn resolve(self, committed: Option<Offset>, log: LogRange) -> Option<Resolved> {
        let wanted = match self {
            ResetTo::Earliest => i128::from(log.start.0),
            ResetTo::Latest => i128::from(log.end.0),
            ResetTo::Offset(offset) => i128::from(offset.0),
            ResetTo::Time(_) => i128::from(log.at_time.unwrap_or(log.end).0),
            ResetTo::Shift(by) => i128::from(committed?.0) + i128::from(by),
        };
        let (start, end) = (i128::from(log.start.0), i128::from(log.end.0));
        let within = wanted.min(end).max(start);
        Some(Resolved {
            offset: Offset(u64::try_from(within).unwrap_or(log.start.0)),
            clamped: within != wanted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_partition() {
        // Offsets are where this says: it may never change.
        assert_eq!(coordinator_partition("billing", 50), PartitionIndex(26));
        assert_eq!(coordinator_partition("", 50), PartitionIndex(0));
        assert_eq!(coordinator_partition("billing", 0), PartitionIndex(0));
    }

    #[test]
    fn names_are_plain() {
        assert!(is_group_name("a-b_c.9"));
        assert!(!is_group_name(""));
        assert!(!is_group_name("a b"));
        assert!(!is_group_name("ä"));
        assert!(is_group_name(&"x".repeat(GROUP_NAME_BYTES_MAX)));
        assert!(!is_group_name(&"x".repeat(GROUP_NAME_BYTES_MAX + 1)));
    }

    #[test]
    fn a_reset_stays_within_the_log() {
        let log = LogRange {
            start: Offset(10),
            end: Offset(100),
            at_time: Some(Offset(40)),
        };
        let at = |offset, clamped| {
            Some(Resolved {
                offset: Offset(offset),
                clamped,
            })
        };
        let from = Some(Offset(50));
        assert_eq!(ResetTo::Earliest.resolve(None, log), at(10, false));
        assert_eq!(ResetTo::Latest.resolve(None, log), at(100, false));
        assert_eq!(ResetTo::Offset(Offset(7)).resolve(None, log), at(10, true));
        assert_eq!(ResetTo::Time(1).resolve(None, log), at(40, false));
        assert_eq!(ResetTo::Shift(-10).resolve(from, log), at(40, false));
        assert_eq!(ResetTo::Shift(i64::MAX).resolve(from, log), at(100, true));
        assert_eq!(ResetTo::Shift(i64::MIN).resolve(from, log), at(10, true));
        assert_eq!(ResetTo::Shift(1).resolve(None, log), None);
        let later = LogRange {
            at_time: None,
            ..log
        };
        assert_eq!(ResetTo::Time(u64::MAX).resolve(None, later), at(100, false));
    }
}
