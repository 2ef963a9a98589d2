//! openraft, set up for Baton's metadata.

use baton_controller::command::{Command, Outcome};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Serialize};

/// A member of the Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voter {
    /// Its broker.
    pub broker: u32,
    /// Where its Raft port is.
    pub address: String,
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Voter,
);

pub(crate) type Entry = EntryOf<Types>;
pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type Membership = StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Types>;
