//! The cluster's metadata as records: brokers, topics, partitions.
//!
//! The controller's state is made of these records and clients are shown the same ones. How they
//! change is decided elsewhere (the controller crate).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, PartitionVersion, ProcessId, TopicId,
};
use crate::policy::TopicPolicy;

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Its id.
    pub id: BrokerId,
    /// Its present (or last) life.
    pub epoch: BrokerEpoch,
    /// The data directory that this life runs on.
    pub directory: DirectoryId,
    /// The last life that the directory showed when this one was registered; none on an empty one.
    #[serde(default)]
    pub shown_life: Option<BrokerEpoch>,
    /// The process that has this life.
    #[serde(default)]
    pub process: ProcessId,
    /// `host:port` that clients connect to.
    pub client_address: String,
    /// `host:port` that brokers connect to.
    pub peer_address: String,
    /// True while the controller holds it for dead: it is granted nothing, and leaders may drop it
    /// from their in-sync sets.
    pub fenced: bool,
    /// True from the start of a planned leave until the next registration.
    pub draining: bool,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The brokers that hold a copy, preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Who leads in `epoch`; none while an election is on.
    pub leader: Option<BrokerLife>,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The in-sync set: the leader and every replica that counts for an acknowledgement.
    pub in_sync: BTreeSet<BrokerId>,
    /// Members of the in-sync set (or replicas) that may have lost what they acknowledged.
    pub suspects: BTreeSet<BrokerId>,
    /// Raised at each change of this record; changes are compared and set on it.
    pub version: PartitionVersion,
    /// How many followers must hold an entry before it is acknowledged.
    pub sync_followers_commit: u32,
    /// How many failures an election reckons with; at most `sync_followers_commit`.
    pub sync_followers_elect: u32,
    /// A leader assigns offsets below this one only.
    pub offset_limit: Offset,
    /// The lowest offset that a leader assigns: the offset limit as it was at the last election that
    /// may have lost entries, so that no offset ever names two records; 0 before any. Where the
    /// log ends higher up, as it does but right after such an election, this says nothing.
    pub offset_floor: Offset,
    /// The last epoch whose election may have lost acknowledged entries; `NONE` if there was none.
    pub lossy_epoch: LeaderEpoch,
    /// How much of its log the leader of `epoch` keeps when it takes the lead. All of it, unless its
    /// election may have lost entries, or it holds nothing yet of the last such reign: what lies
    /// beyond was superseded by leaders whose entries are given up, and shares offsets with them.
    pub leader_keeps: Offset,
    /// Where the latest leaders began, oldest first, as far as elections show it.
    pub begins: Vec<EpochBegin>,
}

/// Where the leader of an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochBegin {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset that it may have assigned: the end of its log when it was elected, or
    /// the offset floor.
    pub start: Offset,
    /// The epoch of the last entry before that.
    pub parent: LeaderEpoch,
    /// The end of what the leader had of it and of the epochs before, and did not cut: the start, or
    /// less where there is a gap.
    pub parent_end: Offset,
}

/// When stored entries are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    /// Before a replica acknowledges them: nothing acknowledged is lost in a power cut, even of
    /// all brokers at once.
    #[default]
    Ack,
    /// Now and then. What a broker acknowledged last may be lost when its machine (not only its
    /// process) fails; while at most `sync_followers` machines fail at a time, another has it.
    Interval,
}

/// What a topic was created with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// Copies of each partition, the leader's included.
    pub replicas: u32,
    /// Followers that must hold an entry before it is acknowledged: 0 (asynchronous) to
    /// `replicas - 1` (synchronous).
    pub sync_followers: u32,
    /// When stored entries are made durable.
    #[serde(default)]
    pub flush: Flush,
    /// Whether a leader may be elected by itself although acknowledged entries may be lost, where
    /// too few replicas answer for long. Where not, an operator decides.
    #[serde(default)]
    pub unclean_election: bool,
    /// How long entries are kept.
    #[serde(default)]
    pub policy: TopicPolicy,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// What it was created with.
    pub config: TopicConfig,
    /// Its partitions; the position in the vector is the partition's index. Copies of the record
    /// share those that are alike: there may be thousands, and few of them change at a time.
    pub partitions: Vec<Arc<PartitionRecord>>,
}

impl TopicRecord {
    /// The partition of this index, if the topic has it.
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionRecord> {
        self.partitions.get(index.0 as usize).map(Arc::as_ref)
    }
}

/// What a client is shown of the cluster: the state at one position of the metadata log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The position in the metadata log that this view shows.
    pub index: MetadataIndex,
    /// The broker whose controller is active, as far as the answering broker knows.
    pub controller: Option<BrokerId>,
    /// All registered brokers.
    pub brokers: BTreeMap<BrokerId, BrokerRecord>,
    /// Topics by name (all, or those that were asked for).
    pub topics: BTreeMap<String, TopicRecord>,
}
