//! What can be done to the metadata, and what became of it. What each command means is in
//! [`crate::state`].

use std::collections::BTreeSet;

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, LeaderEpoch, Offset,
    PartitionVersion, ProcessId, TopicId, TopicPartition,
};
use baton_protocol::metadata::TopicConfig;
use baton_protocol::policy::TopicPolicy;
use serde::{Deserialize, Serialize};

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of every cluster.
    FormCluster {
        /// Its identity.
        cluster_id: ClusterId,
    },
    /// A broker's process has started. Its life is the index of this command.
    RegisterBroker {
        /// The broker.
        id: BrokerId,
        /// Its data directory.
        directory: DirectoryId,
        /// Where clients reach it.
        client_address: String,
        /// Where brokers reach it.
        peer_address: String,
        /// Its disk says itself that it may have lost acknowledged entries.
        log_lost: bool,
        /// The last life that the disk shows; none on an empty one.
        shown_life: Option<BrokerEpoch>,
        /// Its process.
        process: ProcessId,
        /// The machine has restarted since, without a proper end before: what was not flushed is
        /// gone.
        unclean_restart: bool,
    },
    /// Brokers died, or came back without having died.
    SetFenced {
        /// Lives that are held for dead.
        fence: Vec<BrokerLife>,
        /// Lives that are not, any more.
        unfence: Vec<BrokerLife>,
    },
    /// Makes a topic.
    CreateTopic {
        /// Its identity.
        id: TopicId,
        /// Its name.
        name: String,
        /// Its configuration.
        config: TopicConfig,
        /// The replicas of each partition, the leader first.
        assignments: Vec<Vec<BrokerId>>,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its identity.
        id: TopicId,
    },
    /// Ends the reigns of leaders: raises the epoch and leaves the partition without one. Each
    /// partition with the epoch that is to end.
    BeginElections(Vec<(TopicPartition, LeaderEpoch)>),
    /// Names leaders, in the epochs that elections began.
    ElectLeaders(Vec<Elected>),
    /// Changes in-sync sets, as their leader asks.
    ChangeInSync {
        /// Who asks.
        leader: BrokerLife,
        /// What.
        changes: Vec<SetChange>,
    },
    /// A broker found logs missing or damaged: it may have lost what it acknowledged in them.
    ReportSuspect {
        /// Who, in the life that found out.
        life: BrokerLife,
        /// Which logs.
        partitions: Vec<TopicPartition>,
    },
    /// Raises offset limits, as their leader asks.
    GrantOffsets {
        /// Who asks.
        leader: BrokerLife,
        /// What.
        grants: Vec<OffsetGrant>,
    },
    /// Changes leaders as planned, as the old ones ask.
    HandOver {
        /// Who asks.
        leader: BrokerLife,
        /// What.
        handovers: Vec<Handover>,
    },
    /// Changes how many followers must hold an entry of a topic before it is acknowledged.
    SetSyncFollowers {
        /// The topic.
        id: TopicId,
        /// How many.
        sync_followers: u32,
    },
    /// Changes how long a topic's entries are kept.
    SetPolicy {
        /// The topic.
        id: TopicId,
        /// What holds from now on.
        policy: TopicPolicy,
    },
    /// Reserves ids for idempotent producers.
    AllocateProducerIds {
        /// How many.
        count: u32,
    },
}

/// An election's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that the election began.
    pub epoch: LeaderEpoch,
    /// The winner, in the life that answered.
    pub leader: BrokerLife,
    /// What may be lost by it.
    pub grade: Grade,
    /// The last epoch and the end of its log, with what was not durable yet when it answered.
    pub log: (LeaderEpoch, Offset),
}

/// What an election may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grade {
    /// Nothing: the winner holds everything that was acknowledged as committed.
    Clean,
    /// What only the old leader held, as asynchronous replication has it. The in-sync set stays.
    Asynchronous,
    /// What the winner does not hold. The winner alone is in sync from here on.
    Unclean,
}

/// A raised offset limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetGrant {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch of the leader that asks.
    pub epoch: LeaderEpoch,
    /// The limit it asks for.
    pub limit: Offset,
}

/// A planned change of leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that is to end.
    pub epoch: LeaderEpoch,
    /// The version that it goes by.
    pub version: PartitionVersion,
    /// The successor, in the life that holds the whole log.
    pub to: BrokerLife,
    /// The end of that log.
    pub log_end: Offset,
}

/// A change of an in-sync set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch of the leader that asks.
    pub epoch: LeaderEpoch,
    /// The version that it goes by.
    pub version: PartitionVersion,
    /// The set that is to be.
    pub new_set: BTreeSet<BrokerId>,
    /// Every member that is added, or cleared of suspicion, in the life that was verified.
    pub verified: Vec<BrokerLife>,
    /// Failures that elections may reckon with from now on, where that is proven.
    pub sync_followers_elect: Option<u32>,
}

/// What became of a set change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetChangeResult {
    /// It is in force.
    Accepted,
    /// It was refused, and every later copy of it would be: its epoch, version or lives have
    /// passed.
    Refused,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// A broker's new life.
    Registered(BrokerEpoch),
    /// Producer ids `first .. first + count`.
    ProducerIds {
        /// The first.
        first: u64,
        /// How many.
        count: u32,
    },
    /// What became of each set change.
    SetChanges(Vec<SetChangeResult>),
    /// The topic's name is taken.
    TopicExists,
    /// There is no such topic.
    UnknownTopic,
    /// A partition's in-sync set has too few members for it.
    TooFewInSync(TopicPartition),
    /// It does not fit the state: it came too late, or twice.
    Stale,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Command::FormCluster { cluster_id } => write!(f, "form cluster {cluster_id}"),
            Command::RegisterBroker { id, .. } => write!(f, "register broker {id}"),
            Command::SetFenced { fence, unfence } => {
                write!(
                    f,
                    "fence {} and unfence {} brokers",
                    fence.len(),
                    unfence.len()
                )
            }
            Command::CreateTopic { name, .. } => write!(f, "create topic {name}"),
            Command::DeleteTopic { id } => write!(f, "delete topic {id}"),
            Command::BeginElections(list) => write!(f, "begin {} elections", list.len()),
            Command::ElectLeaders(list) => write!(f, "elect {} leaders", list.len()),
            Command::ChangeInSync { leader, changes } => {
                write!(
                    f,
                    "change {} in-sync sets for broker {leader}",
                    changes.len()
                )
            }
            Command::ReportSuspect { life, partitions } => {
                write!(
                    f,
                    "suspect broker {life} in {} partitions",
                    partitions.len()
                )
            }
            Command::GrantOffsets { leader, grants } => {
                write!(f, "grant {} offset limits to broker {leader}", grants.len())
            }
            Command::HandOver { leader, handovers } => {
                write!(
                    f,
                    "hand {} partitions of broker {leader} over",
                    handovers.len()
                )
            }
            Command::SetSyncFollowers { id, sync_followers } => {
                write!(
                    f,
                    "set {sync_followers} synchronous followers for topic {id}"
                )
            }
            Command::SetPolicy { id, .. } => write!(f, "set how long topic {id} keeps entries"),
            Command::AllocateProducerIds { count } => write!(f, "allocate {count} producer ids"),
        }
    }
}
