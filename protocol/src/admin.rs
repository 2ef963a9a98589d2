//! What operators ask of the cluster. Any broker takes these and passes them to the controller.

use serde::{Deserialize, Serialize};

use crate::ids::{BrokerId, LeaderEpoch, MetadataIndex, PartitionIndex, TopicId};

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
    },
    /// Deletes a topic and its data.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Asks for the cluster's health as the controller sees it.
    ClusterStatus,
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

/// A partition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTrouble {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// Its leader epoch.
    pub epoch: LeaderEpoch,
    /// True: it has no leader. False: it is under-replicated.
    pub leaderless: bool,
    /// Why, in words: who is missing or what is waited for.
    pub reason: String,
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
    if name.starts_with("__") {
        return Err(format!(
            "names that start with `__` are internal; `{name}` does"
        ));
    }
    Ok(())
}
