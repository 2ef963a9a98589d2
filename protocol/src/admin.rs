//! What operators ask of the cluster. Any broker takes these and passes them to the controller.

use serde::{Deserialize, Serialize};

use crate::ids::{BrokerId, LeaderEpoch, MetadataIndex, Offset, PartitionIndex, TopicId};
use crate::metadata::Flush;
use crate::policy::{PolicyChanges, TopicPolicy};

/// Longest name of a topic, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Most partitions a topic can be created with.
pub const PARTITIONS_MAX: u32 = 10_000;

/// An operator's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Makes a topic. What is `None` gets a default that fits the cluster's size: 1 partition;
    /// 3 replicas or as many as there are brokers; 1 synchronous follower where there is a second
    /// replica.
    CreateTopic {
        /// Its name: letters, digits, `.`, `_`, `-`, 1 to 249 bytes, not `.` or `..`; names that
        /// start with `__` are internal.
        name: String,
        /// 1 to [`PARTITIONS_MAX`].
        partitions: Option<u32>,
        /// 1 to the number of brokers that are alive.
        replicas: Option<u32>,
        /// 0 to `replicas - 1`.
        sync_followers: Option<u32>,
        /// When entries are made durable; before they are acknowledged, if not said.
        #[serde(default)]
        flush: Option<Flush>,
        /// Whether leaders may be elected by themselves although that may lose entries; if not
        /// said, only in an asynchronous topic (`sync_followers` = 0).
        #[serde(default)]
        unclean_election: Option<bool>,
        /// How long entries are kept; for ever, if not said.
        #[serde(default)]
        policy: TopicPolicy,
    },
    /// Changes how long a topic's entries are kept.
    SetPolicy {
        /// The topic's name.
        name: String,
        /// What is to be changed.
        changes: PolicyChanges,
    },
    /// Changes how many followers must hold an entry before it is acknowledged.
    SetSyncFollowers {
        /// The topic's name.
        name: String,
        /// 0 to `replicas - 1`, and less than every partition's in-sync set has members.
        sync_followers: u32,
    },
    /// Asks how a partition's election stands. What it answers is needed to hold an unclean one.
    DescribeElection {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
    },
    /// Ends an election that waits for too few answers: the best log that answered wins, and what
    /// only others held is lost (they keep it in quarantine when they return).
    ElectUnclean {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The election, as it was described: another one is not meant.
        epoch: LeaderEpoch,
    },
    /// Moves a partition's lead to another member of its in-sync set, without losing or refusing
    /// anything.
    HandOver {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The broker that shall lead.
        to: BrokerId,
    },
    /// Deletes a topic and its data.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Asks for the cluster's health as the controller sees it.
    ClusterStatus,
    /// Makes the internal topic that consumer groups are kept in; `TopicExists` where there is one.
    /// Brokers ask this when the first consumer comes; of clients it is not taken.
    MakeGroupsTopic {
        /// 1 to [`PARTITIONS_MAX`]. It never changes.
        partitions: u32,
        /// Copies of each partition. As many brokers must have come, and two of them be alive.
        replicas: u32,
    },
    /// Reserves a range of ids for idempotent producers. Brokers ask this for their clients.
    AllocateProducerIds {
        /// How many, 1 to 100,000.
        count: u32,
    },
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminResponse {
    /// The topic exists from this position of the metadata log on.
    TopicCreated {
        /// Its identity.
        topic: TopicId,
        /// Where in the metadata log.
        index: MetadataIndex,
        /// Partitions it got.
        partitions: u32,
        /// Replicas it got.
        replicas: u32,
        /// Synchronous followers it got.
        sync_followers: u32,
    },
    /// The topic is gone from this position of the metadata log on.
    TopicDeleted {
        /// Where in the metadata log.
        index: MetadataIndex,
    },
    /// A change was made, from this position of the metadata log on.
    Changed {
        /// Where in the metadata log.
        index: MetadataIndex,
    },
    /// The leader was told to hand over; the metadata will show it.
    HandoverBegun,
    /// How an election stands.
    Election(ElectionStatus),
    /// The cluster's health.
    ClusterStatus(ClusterStatus),
    /// Producer ids `first .. first + count`.
    ProducerIds {
        /// The first id of the range.
        first: u64,
        /// How many.
        count: u32,
    },
}

/// The cluster's health as the active controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The broker whose controller is active.
    pub controller: BrokerId,
    /// The position of the metadata log it has applied.
    pub index: MetadataIndex,
    /// The Raft term it leads in.
    pub term: u64,
    /// Partitions that something is wrong with.
    pub troubles: Vec<PartitionTrouble>,
    /// Number of all partitions.
    pub partitions: u32,
}

/// How a partition's election stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionStatus {
    /// The epoch it began.
    pub epoch: LeaderEpoch,
    /// Answers of members free of suspicion that are needed to lose nothing.
    pub needed: u32,
    /// The in-sync set, with what each member answered.
    pub members: Vec<ElectionMember>,
    /// The member that would win now, if the election had to end; none if nobody answered.
    pub candidate: Option<BrokerId>,
}

/// A member of the in-sync set in an election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionMember {
    /// Its broker.
    pub broker: BrokerId,
    /// It may have lost what it acknowledged, so its answer does not count.
    pub suspect: bool,
    /// The last epoch and the end of its log, if it answered.
    pub log: Option<(LeaderEpoch, Offset)>,
}

/// A partition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTrouble {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// Its leader epoch.
    pub epoch: LeaderEpoch,
    /// True: it has no leader. False: it has one, and not all replicas do their part.
    pub leaderless: bool,
    /// Why, in words: which replicas do not do their part, what keeps them from it, what is waited
    /// for.
    pub reason: String,
}

/// Whether a topic of this name is Baton's own: users read it, and do nothing else with it.
pub fn is_internal_topic(name: &str) -> bool {
    name.starts_with("__")
}

/// Checks a topic's name. The error says what is allowed.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(format!(
            "a topic name has 1 to {TOPIC_NAME_BYTES_MAX} characters, this one has {}",
            name.len()
        ));
    }
    if name == "." || name == ".." {
        return Err(format!("`{name}` cannot be a topic name"));
    }
    if let Some(bad) = name.chars().find(|c| !legal(*c)) {
        return Err(format!(
            "a topic name has letters, digits, `.`, `_` and `-` only; `{}` has {bad:?}",
            name.escape_debug()
        ));
    }
    if is_internal_topic(name) {
        return Err(format!(
            "names that start with `__` are internal; `{name}` does"
        ));
    }
    Ok(())
}
