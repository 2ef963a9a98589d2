//! What goes into the core and what comes out of it.
//!
//! The host's duties (the actor of a partition of the internal topic, and whoever carries it):
//!
//! * When it leads the partition and its epoch-start entry is committed, it reads the partition from
//!   its start and hands in every record ([`Input::Replay`]), then [`Input::Ready`]. The topics that
//!   come with that are at least as new as the metadata that named this leader. (What a topic id is
//!   committed for was known to the leader who took it, and that leader knew of no later one; so a
//!   topic that is missing here has been deleted, and its offsets can go.)
//! * [`Effect::Append`] appends these records, in order, as one batch or several. Once all are
//!   committed it answers with [`Input::Committed`]; with [`Input::Failed`] only if none is in the
//!   log nor ever will be. If it does not know, it says nothing until it does, or until it has lost
//!   the lead. There is one append at a time.
//! * At the loss of the lead, [`Input::Lost`] comes at once, and nothing of the reign after it.
//! * [`Input::Tick`] comes at least every hundred milliseconds.

use std::sync::Arc;

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::{GroupRequest, GroupResponse};

use crate::record::Record;
use crate::refusal::Refusal;
use crate::topics::Topics;

/// Names a request until it is answered. Chosen by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an append. Greater for later ones, over all reigns of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick {
        /// What the wall clock shows, in milliseconds since 1970. For retention only.
        unix_ms: u64,
    },
    /// A record of the partition, committed by an earlier leader.
    Replay(Record),
    /// All records were replayed: from here on this is the coordinator.
    Ready {
        /// The cluster's topics.
        topics: Arc<Topics>,
        /// What the wall clock shows.
        unix_ms: u64,
    },
    /// The lead is lost.
    Lost,
    /// The cluster's topics are these now.
    Topics(Arc<Topics>),
    /// A client asks for something.
    Request {
        /// Names the request in the answer.
        request: RequestId,
        /// What it asks for.
        body: GroupRequest,
    },
    /// The records of this append are committed.
    Committed(Token),
    /// The records of this append are not in the log, and will not be.
    Failed {
        /// The append.
        token: Token,
        /// Why, for those who wait.
        code: ErrorCode,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append these records to the partition.
    Append {
        /// Comes back in [`Input::Committed`] or [`Input::Failed`].
        token: Token,
        /// At least one.
        records: Vec<Record>,
    },
    /// Answer a request.
    Reply {
        /// The request.
        request: RequestId,
        /// The answer.
        result: Result<GroupResponse, Refusal>,
    },
}

/// The coordinator's settings. All limits are of one coordinator, that is of one partition of the
/// internal topic.
#[derive(Clone, Debug)]
pub struct Config {
    /// When members have to show themselves, in milliseconds; three times in a session at least.
    pub heartbeat_interval_ms: u32,
    /// The same for members that give up partitions or wait for some.
    pub heartbeat_rebalance_ms: u32,
    /// The shortest session time-out, and rebalance time-out, that a member may ask for.
    pub timeout_min_ms: u32,
    /// The longest.
    pub timeout_max_ms: u32,
    /// How long the offsets of a group are kept after its last member has left, and after the last
    /// commit.
    pub offsets_retention_ms: u64,
    /// How often to look for groups that are past that.
    pub retention_check_ms: u64,
    /// How long a request may wait for a commit.
    pub answer_timeout_ms: u64,
    /// Most groups.
    pub groups_max: usize,
    /// Most members of a group.
    pub members_max: usize,
    /// Most topics that a member can subscribe to.
    pub topics_max: usize,
    /// Most partitions of all the topics that a member subscribes to, when it does.
    pub partitions_max: usize,
    /// Largest record of a member, in bytes: a subscription that might need a larger one is refused.
    pub member_bytes_max: usize,
    /// Most partitions in one commit or reset.
    pub offsets_max: usize,
    /// Longest text to keep with an offset, and longest name of a client, in bytes.
    pub metadata_bytes_max: usize,
    /// Most records that may wait for an append to end, and most requests that may wait for one to
    /// be committed; beyond it requests are refused.
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            heartbeat_interval_ms: 1_000,
            heartbeat_rebalance_ms: 200,
            timeout_min_ms: 1_000,
            timeout_max_ms: 30 * 60 * 1_000,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            retention_check_ms: 60 * 1_000,
            answer_timeout_ms: 10_000,
            groups_max: 10_000,
            members_max: 1_000,
            topics_max: 256,
            partitions_max: 50_000,
            member_bytes_max: 8 << 20,
            offsets_max: 1_000,
            metadata_bytes_max: 4_096,
            waiting_max: 10_000,
        }
    }
}
