//! The cluster's metadata and how commands change it.
//!
//! [`ClusterState::apply`] is total and deterministic: the same commands in the same order give the
//! same state everywhere, in the controller's Raft group and on every broker that follows it. A
//! command that does not fit the state changes nothing and says so in its [`Outcome`].

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, PartitionVersion, TopicId, TopicPartition,
};
use baton_protocol::metadata::{BrokerRecord, PartitionRecord, TopicConfig, TopicRecord};
use serde::{Deserialize, Serialize};

/// Where a new partition's offset limit stands. Grants beyond it are not needed yet: no log gets
/// there.
const OFFSET_LIMIT: Offset = Offset::MAX;

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
    /// It does not fit the state: it came too late, or twice.
    Stale,
}

/// The cluster's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The last command that was applied.
    pub index: MetadataIndex,
    /// All brokers that ever registered.
    pub brokers: BTreeMap<BrokerId, BrokerRecord>,
    /// All topics.
    pub topics: BTreeMap<TopicId, TopicRecord>,
    /// The next producer id to hand out.
    pub next_producer_id: u64,
}

impl ClusterState {
    /// Carries out a command.
    pub fn apply(&mut self, index: MetadataIndex, command: &Command) -> Outcome {
        self.index = index;
        match command {
            Command::FormCluster { cluster_id } => self.form(*cluster_id),
            Command::RegisterBroker {
                id,
                directory,
                client_address,
                peer_address,
                log_lost,
            } => {
                let epoch = BrokerEpoch(index.0);
                self.register(
                    BrokerRecord {
                        id: *id,
                        epoch,
                        directory: *directory,
                        client_address: client_address.clone(),
                        peer_address: peer_address.clone(),
                        fenced: false,
                        draining: false,
                    },
                    *log_lost,
                );
                Outcome::Registered(epoch)
            }
            Command::SetFenced { fence, unfence } => self.set_fenced(fence, unfence),
            Command::CreateTopic {
                id,
                name,
                config,
                assignments,
            } => self.create_topic(*id, name, config, assignments),
            Command::DeleteTopic { id } => match self.topics.remove(id) {
                Some(_) => Outcome::Done,
                None => Outcome::UnknownTopic,
            },
            Command::BeginElections(elections) => self.begin_elections(elections),
            Command::ElectLeaders(elected) => self.elect_leaders(elected),
            Command::ChangeInSync { leader, changes } => {
                let results = changes
                    .iter()
                    .map(|change| self.change_set(*leader, change));
                Outcome::SetChanges(results.collect())
            }
            Command::AllocateProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id += u64::from(*count);
                Outcome::ProducerIds {
                    first,
                    count: *count,
                }
            }
        }
    }

    fn form(&mut self, cluster_id: ClusterId) -> Outcome {
        if self.cluster_id != ClusterId::default() {
            return Outcome::Stale;
        }
        self.cluster_id = cluster_id;
        Outcome::Done
    }

    /// A disk that is not the one the broker had before does not hold what the broker
    /// acknowledged.
    fn register(&mut self, record: BrokerRecord, log_lost: bool) {
        let before = self.brokers.get(&record.id);
        let other_disk = before.is_some_and(|before| before.directory != record.directory);
        if other_disk || log_lost {
            for partition in self.partitions_mut() {
                if partition.replicas.contains(&record.id) && partition.suspects.insert(record.id) {
                    partition.version = partition.version.next();
                }
            }
        }
        self.brokers.insert(record.id, record);
    }

    fn set_fenced(&mut self, fence: &[BrokerLife], unfence: &[BrokerLife]) -> Outcome {
        for (lives, fenced) in [(fence, true), (unfence, false)] {
            for life in lives {
                if let Some(broker) = self.brokers.get_mut(&life.broker)
                    && broker.epoch == life.epoch
                {
                    broker.fenced = fenced;
                }
            }
        }
        Outcome::Done
    }

    fn create_topic(
        &mut self,
        id: TopicId,
        name: &str,
        config: &TopicConfig,
        assignments: &[Vec<BrokerId>],
    ) -> Outcome {
        if self.topics.contains_key(&id) || self.topic_named(name).is_some() {
            return Outcome::TopicExists;
        }
        let sound = assignments.iter().all(|replicas| {
            let distinct: BTreeSet<_> = replicas.iter().collect();
            distinct.len() == replicas.len()
                && replicas.len() == config.replicas as usize
                && config.sync_followers < config.replicas
                && replicas.iter().all(|id| self.brokers.contains_key(id))
        });
        if !sound {
            return Outcome::Stale;
        }
        let partitions = assignments
            .iter()
            .map(|replicas| self.new_partition(replicas, config));
        let topic = TopicRecord {
            id,
            name: name.to_owned(),
            config: config.clone(),
            partitions: partitions.collect(),
        };
        self.topics.insert(id, topic);
        Outcome::Done
    }

    fn new_partition(&self, replicas: &[BrokerId], config: &TopicConfig) -> PartitionRecord {
        let leader = replicas.first().and_then(|id| self.brokers.get(id));
        PartitionRecord {
            replicas: replicas.to_vec(),
            leader: leader.map(|broker| BrokerLife {
                broker: broker.id,
                epoch: broker.epoch,
            }),
            epoch: LeaderEpoch(1),
            in_sync: replicas.iter().copied().collect(),
            suspects: BTreeSet::new(),
            version: PartitionVersion(1),
            sync_followers_commit: config.sync_followers,
            sync_followers_elect: config.sync_followers,
            offset_limit: OFFSET_LIMIT,
        }
    }

    fn begin_elections(&mut self, elections: &[(TopicPartition, LeaderEpoch)]) -> Outcome {
        for (id, epoch) in elections {
            if let Some(partition) = self.partition_mut(id)
                && partition.epoch == *epoch
            {
                partition.epoch = epoch.next();
                partition.leader = None;
                partition.version = partition.version.next();
            }
        }
        Outcome::Done
    }

    fn elect_leaders(&mut self, elected: &[Elected]) -> Outcome {
        for elected in elected {
            let leader = elected.leader;
            let current = self.is_current(leader);
            if let Some(partition) = self.partition_mut(&elected.partition)
                && partition.epoch == elected.epoch
                && partition.leader.is_none()
                && partition.in_sync.contains(&leader.broker)
                && current
            {
                partition.leader = Some(leader);
                partition.version = partition.version.next();
            }
        }
        Outcome::Done
    }

    /// Compare and set. A refusal is for good: should the only reason be one that may pass (a
    /// member is fenced at the moment), the version is raised, so that no late copy is accepted
    /// after its sender was told no.
    fn change_set(&mut self, leader: BrokerLife, change: &SetChange) -> SetChangeResult {
        let verified = change.verified.iter();
        let lives_are_current = verified.clone().all(|life| self.is_current(*life));
        let fenced = verified.clone().any(|life| self.is_fenced(life.broker));
        let Some(partition) = self.partition_mut(&change.partition) else {
            return SetChangeResult::Refused;
        };
        let stale = partition.leader != Some(leader)
            || partition.epoch != change.epoch
            || partition.version != change.version
            || !lives_are_current;
        if stale {
            return SetChangeResult::Refused;
        }
        let added = change.new_set.difference(&partition.in_sync);
        let verified: BTreeSet<BrokerId> = change.verified.iter().map(|life| life.broker).collect();
        let sound = change.new_set.contains(&leader.broker)
            && change.new_set.len() > partition.sync_followers_commit as usize
            && change
                .new_set
                .iter()
                .all(|id| partition.replicas.contains(id))
            && verified.is_subset(&change.new_set)
            && added.into_iter().all(|id| verified.contains(id));
        partition.version = partition.version.next();
        if fenced || !sound {
            return SetChangeResult::Refused;
        }
        partition.in_sync = change.new_set.clone();
        partition.suspects.retain(|id| !verified.contains(id));
        SetChangeResult::Accepted
    }

    /// Whether this is the broker's present life.
    pub fn is_current(&self, life: BrokerLife) -> bool {
        self.brokers
            .get(&life.broker)
            .is_some_and(|broker| broker.epoch == life.epoch)
    }

    /// Whether the broker is held for dead, or was never heard of.
    pub fn is_fenced(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_none_or(|broker| broker.fenced)
    }

    /// The broker's present life.
    pub fn life_of(&self, id: BrokerId) -> Option<BrokerEpoch> {
        self.brokers.get(&id).map(|broker| broker.epoch)
    }

    /// The topic of this name.
    pub fn topic_named(&self, name: &str) -> Option<&TopicRecord> {
        self.topics.values().find(|topic| topic.name == name)
    }

    /// The partition, if it exists.
    pub fn partition(&self, id: &TopicPartition) -> Option<&PartitionRecord> {
        self.topics.get(&id.topic)?.partition(id.partition)
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &PartitionRecord)> {
        self.topics.values().flat_map(|topic| {
            topic.partitions.iter().enumerate().map(|(index, record)| {
                let id = TopicPartition {
                    topic: topic.id,
                    partition: PartitionIndex(index as u32),
                };
                (id, record)
            })
        })
    }

    fn partition_mut(&mut self, id: &TopicPartition) -> Option<&mut PartitionRecord> {
        let topic = self.topics.get_mut(&id.topic)?;
        topic.partitions.get_mut(id.partition.0 as usize)
    }

    fn partitions_mut(&mut self) -> impl Iterator<Item = &mut PartitionRecord> {
        self.topics
            .values_mut()
            .flat_map(|topic| &mut topic.partitions)
    }
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
            Command::AllocateProducerIds { count } => write!(f, "allocate {count} producer ids"),
        }
    }
}
