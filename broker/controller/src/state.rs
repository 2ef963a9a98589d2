//! The cluster's metadata and how commands change it.
//!
//! [`ClusterState::apply`] is total and deterministic: the same commands in the same order give the
//! same state everywhere, in the controller's Raft group and on every broker that follows it. A
//! command that does not fit the state changes nothing and says so in its [`Outcome`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, PartitionVersion, TopicId, TopicPartition,
};
use baton_protocol::metadata::{
    BrokerRecord, EpochBegin, Flush, PartitionRecord, TopicConfig, TopicRecord,
};
use serde::{Deserialize, Serialize};

use crate::command::{
    Command, Elected, Grade, Handover, OffsetGrant, Outcome, SetChange, SetChangeResult,
};
use crate::lineage;
use crate::rules::{Rule, Rules};

/// How far a new partition's leader may assign offsets, and by how much every election raises that
/// at least: an epoch's first entry always has room.
pub const OFFSET_QUANTUM: u64 = 1 << 20;

/// The cluster's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The last command that was applied.
    pub index: MetadataIndex,
    /// All brokers that ever registered.
    pub brokers: BTreeMap<BrokerId, BrokerRecord>,
    /// All topics. Copies of the state share those that are alike, down to the partitions: there may
    /// be thousands, and few of them change at a time.
    pub topics: BTreeMap<TopicId, Arc<TopicRecord>>,
    /// The next producer id to hand out.
    pub next_producer_id: u64,
    /// Which rules hold; not part of what is stored or sent.
    #[serde(skip)]
    pub rules: Rules,
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
                shown_life,
                process,
                unclean_restart,
            } => {
                let epoch = BrokerEpoch(index.0);
                self.register(
                    BrokerRecord {
                        id: *id,
                        epoch,
                        directory: *directory,
                        shown_life: *shown_life,
                        process: *process,
                        client_address: client_address.clone(),
                        peer_address: peer_address.clone(),
                        fenced: false,
                        draining: false,
                    },
                    *log_lost,
                    *unclean_restart,
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
            Command::ReportSuspect { life, partitions } => self.report_suspect(*life, partitions),
            Command::GrantOffsets { leader, grants } => self.grant_offsets(*leader, grants),
            Command::HandOver { leader, handovers } => {
                for handover in handovers {
                    self.hand_over(*leader, handover);
                }
                Outcome::Done
            }
            Command::SetPolicy { id, policy } => match self.topics.get_mut(id) {
                Some(topic) => {
                    Arc::make_mut(topic).config.policy = *policy;
                    Outcome::Done
                }
                None => Outcome::UnknownTopic,
            },
            Command::SetSyncFollowers { id, sync_followers } => {
                self.set_sync_followers(*id, *sync_followers)
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

    /// Applies what was committed since. What it knows already is skipped: it may come twice.
    pub fn catch_up(&mut self, commands: &[(MetadataIndex, Command)]) {
        for (index, command) in commands {
            if *index > self.index {
                self.apply(*index, command);
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

    /// A disk that is not the one the broker had before, or that shows another life than the last,
    /// does not hold what the broker acknowledged. A process that registers once more because it
    /// never heard of the life it was given has acknowledged nothing in it. One that ends before it
    /// has written its life down looks like an older disk, and is suspected until a leader has
    /// looked.
    fn register(&mut self, record: BrokerRecord, log_lost: bool, unclean_restart: bool) {
        let before = self.brokers.get(&record.id);
        let other_disk = before.is_some_and(|before| {
            let asks_again =
                before.process == record.process && before.shown_life == record.shown_life;
            let shows_the_last = record.shown_life == Some(before.epoch);
            before.directory != record.directory || !(shows_the_last || asks_again)
        });
        let lost_all = other_disk && self.rules.hold(Rule::OtherDiskIsSuspect) || log_lost;
        for topic in self.topics.values_mut() {
            let unflushed = unclean_restart && topic.config.flush == Flush::Interval;
            if !lost_all && !unflushed {
                continue;
            }
            for partition in &mut Arc::make_mut(topic).partitions {
                if partition.replicas.contains(&record.id)
                    && !partition.suspects.contains(&record.id)
                {
                    let partition = Arc::make_mut(partition);
                    partition.suspects.insert(record.id);
                    partition.version = partition.version.next();
                }
            }
        }
        self.brokers.insert(record.id, record);
    }

    fn report_suspect(&mut self, life: BrokerLife, partitions: &[TopicPartition]) -> Outcome {
        if !self.is_current(life) {
            return Outcome::Stale;
        }
        for id in partitions {
            // What a leader is without was given up when it was elected: its report is late.
            if let Some(partition) = self.partition_mut(id)
                && partition.replicas.contains(&life.broker)
                && partition.leader != Some(life)
                && partition.suspects.insert(life.broker)
            {
                partition.version = partition.version.next();
            }
        }
        Outcome::Done
    }

    /// The version stays: a grant takes nothing from a change that is on its way.
    fn grant_offsets(&mut self, leader: BrokerLife, grants: &[OffsetGrant]) -> Outcome {
        for grant in grants {
            if let Some(partition) = self.partition_mut(&grant.partition)
                && partition.leader == Some(leader)
                && partition.epoch == grant.epoch
            {
                let limit = grant.limit.min(Offset::MAX);
                partition.offset_limit = partition.offset_limit.max(limit);
            }
        }
        Outcome::Done
    }

    /// Compare and set, as for a set change. The version is raised whatever comes of it, where the
    /// one that asks leads: so it sees what became of it, and no late copy counts.
    fn hand_over(&mut self, leader: BrokerLife, handover: &Handover) {
        let to = handover.to;
        let able = self.is_current(to) && !self.is_fenced(to.broker);
        let rules = self.rules;
        let versions = rules.hold(Rule::CompareOnVersion);
        let Some(partition) = self.partition_mut(&handover.partition) else {
            return;
        };
        if partition.leader != Some(leader)
            || partition.epoch != handover.epoch
            || (versions && partition.version != handover.version)
        {
            return;
        }
        partition.version = partition.version.next();
        if able
            && partition.in_sync.contains(&to.broker)
            && !partition.suspects.contains(&to.broker)
        {
            let begin = EpochBegin {
                epoch: partition.epoch.next(),
                start: handover.log_end,
                parent: partition.epoch,
                parent_end: handover.log_end,
            };
            partition.epoch = begin.epoch;
            partition.leader = Some(to);
            partition.leader_keeps = Offset::MAX;
            lineage::note(&mut partition.begins, begin);
            make_room(partition, rules.offset_quantum());
        }
    }

    /// More followers count for commits at once, and for elections when their leader has proven
    /// it; fewer count for both at once.
    fn set_sync_followers(&mut self, id: TopicId, sync_followers: u32) -> Outcome {
        let proven_first = self.rules.hold(Rule::FailuresAreRaisedWhenProven);
        let Some(topic) = self.topics.get_mut(&id) else {
            return Outcome::UnknownTopic;
        };
        if sync_followers >= topic.config.replicas {
            return Outcome::Stale;
        }
        let few =
            |partition: &Arc<PartitionRecord>| partition.in_sync.len() <= sync_followers as usize;
        if let Some(index) = topic.partitions.iter().position(few) {
            return Outcome::TooFewInSync(TopicPartition {
                topic: id,
                partition: PartitionIndex(index as u32),
            });
        }
        let topic = Arc::make_mut(topic);
        topic.config.sync_followers = sync_followers;
        for partition in &mut topic.partitions {
            let partition = Arc::make_mut(partition);
            partition.sync_followers_commit = sync_followers;
            partition.sync_followers_elect = if proven_first {
                partition.sync_followers_elect.min(sync_followers)
            } else {
                sync_followers
            };
            partition.version = partition.version.next();
        }
        Outcome::Done
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
        if !self.rules.hold(Rule::OnlyTheLeaderRemoves) {
            self.drop_fenced_members();
        }
        Outcome::Done
    }

    /// What no controller does: for the tests that show why.
    fn drop_fenced_members(&mut self) {
        let brokers = self.brokers.clone();
        for partition in self.partitions_mut() {
            let alive = |id: &BrokerId| brokers.get(id).is_some_and(|broker| !broker.fenced);
            let stay = partition.in_sync.iter().copied().filter(alive);
            let stay: BTreeSet<BrokerId> = stay.collect();
            if !stay.is_empty() && stay != partition.in_sync {
                partition.in_sync = stay;
                partition.version = partition.version.next();
            }
        }
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
            .map(|replicas| Arc::new(self.new_partition(replicas, config)));
        let topic = TopicRecord {
            id,
            name: name.to_owned(),
            config: config.clone(),
            partitions: partitions.collect(),
        };
        self.topics.insert(id, Arc::new(topic));
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
            offset_limit: Offset(self.rules.offset_quantum()),
            offset_floor: Offset::ZERO,
            lossy_epoch: LeaderEpoch::NONE,
            leader_keeps: Offset::MAX,
            begins: vec![EpochBegin {
                epoch: LeaderEpoch(1),
                start: Offset::ZERO,
                parent: LeaderEpoch::NONE,
                parent_end: Offset::ZERO,
            }],
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
        let rules = self.rules;
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
                let limit = partition.offset_limit;
                make_room(partition, rules.offset_quantum());
                let (parent, end) = elected.log;
                if elected.grade != Grade::Clean && rules.hold(Rule::LossyElectionsAreRecorded) {
                    partition.offset_floor = limit;
                    partition.lossy_epoch = partition.epoch;
                }
                // One that holds nothing of the last lossy reign is in the same position as its
                // leader was.
                partition.leader_keeps = if parent < partition.lossy_epoch {
                    lineage::kept(&partition.begins, parent)
                } else {
                    Offset::MAX
                };
                let kept_end = end.min(partition.leader_keeps);
                let start = kept_end.max(partition.offset_floor);
                let begin = EpochBegin {
                    epoch: partition.epoch,
                    start,
                    parent,
                    parent_end: kept_end,
                };
                lineage::note(&mut partition.begins, begin);
                if elected.grade != Grade::Clean {
                    // What it may have lost is given up with the rest: its log is what counts now.
                    partition.suspects.remove(&leader.broker);
                }
                if elected.grade == Grade::Unclean {
                    partition.in_sync = BTreeSet::from([leader.broker]);
                }
            }
        }
        if !rules.hold(Rule::ElectionsShrinkNoSet) {
            self.drop_fenced_members();
        }
        Outcome::Done
    }

    /// Compare and set. A refusal is for good: should the only reason be one that may pass (a
    /// member is fenced at the moment), the version is raised, so that no late copy is accepted
    /// after its sender was told no.
    fn change_set(&mut self, leader: BrokerLife, change: &SetChange) -> SetChangeResult {
        let verified = change.verified.iter();
        let rules = self.rules;
        let lives_are_current = verified.clone().all(|life| self.is_current(*life))
            || !rules.hold(Rule::AdditionBoundToLife);
        let fenced = verified.clone().any(|life| self.is_fenced(life.broker));
        let Some(partition) = self.partition_mut(&change.partition) else {
            return SetChangeResult::Refused;
        };
        let stale = partition.leader != Some(leader)
            || partition.epoch != change.epoch
            || (partition.version != change.version && rules.hold(Rule::CompareOnVersion))
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
            && added.into_iter().all(|id| verified.contains(id))
            && change
                .sync_followers_elect
                .is_none_or(|failures| failures <= partition.sync_followers_commit);
        partition.version = partition.version.next();
        if fenced || !sound {
            return SetChangeResult::Refused;
        }
        partition.in_sync = change.new_set.clone();
        partition.suspects.retain(|id| !verified.contains(id));
        if let Some(failures) = change.sync_followers_elect {
            partition.sync_followers_elect = failures;
        }
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
        let mut topics = self.topics.values().map(Arc::as_ref);
        topics.find(|topic| topic.name == name)
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
                (id, record.as_ref())
            })
        })
    }

    fn partition_mut(&mut self, id: &TopicPartition) -> Option<&mut PartitionRecord> {
        let topic = Arc::make_mut(self.topics.get_mut(&id.topic)?);
        let partition = topic.partitions.get_mut(id.partition.0 as usize)?;
        Some(Arc::make_mut(partition))
    }

    fn partitions_mut(&mut self) -> impl Iterator<Item = &mut PartitionRecord> {
        self.topics
            .values_mut()
            .flat_map(|topic| &mut Arc::make_mut(topic).partitions)
            .map(Arc::make_mut)
    }
}

/// A new epoch begins: its first entry has room, above everything that was assigned before. The
/// floor stays, for good: the leader for whom it was raised may have ended before it stored
/// anything there, and the next one must not begin below it either.
fn make_room(partition: &mut PartitionRecord, quantum: u64) {
    let limit = partition.offset_limit.0.saturating_add(quantum);
    partition.offset_limit = Offset(limit).min(Offset::MAX);
}
