//! How far the replicas of this broker have been brought in step with the metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerId, PartitionIndex, TopicId, TopicPartition};
use baton_protocol::metadata::{BrokerRecord, PartitionRecord, TopicRecord};

/// What the replicas have been told of: whoever has not changed since need not be looked at. A broker may
/// have thousands of replicas, and a command of the controller is about few of them mostly.
#[derive(Default)]
pub(super) struct Followed {
    pub brokers: BTreeMap<BrokerId, BrokerRecord>,
    pub topics: BTreeMap<TopicId, Arc<TopicRecord>>,
}

impl Followed {
    /// The topics whose replicas have to be looked at.
    pub fn news_in<'a>(&self, state: &'a ClusterState) -> Vec<&'a TopicRecord> {
        // What a replica is told speaks of the brokers, too.
        let all = self.brokers != state.brokers;
        let is_known = |topic: &Arc<TopicRecord>| {
            let known = self.topics.get(&topic.id);
            known.is_some_and(|known| Arc::ptr_eq(known, topic))
        };
        let topics = state.topics.values();
        let news = topics.filter(|topic| all || !is_known(topic));
        news.map(Arc::as_ref).collect()
    }

    /// The partitions of such a topic whose replicas have to be looked at.
    pub fn news_of<'a>(
        &self,
        state: &ClusterState,
        topic: &'a TopicRecord,
    ) -> Vec<(TopicPartition, &'a PartitionRecord)> {
        let known = self.topics.get(&topic.id).filter(|known| {
            // All are told of these.
            known.config == topic.config && self.brokers == state.brokers
        });
        let known = known.map_or(&[][..], |known| &known.partitions);
        let is_known = |index: u32, record: &Arc<PartitionRecord>| {
            let known = known.get(index as usize);
            known.is_some_and(|known| Arc::ptr_eq(known, record))
        };
        partitions_of(topic)
            .zip(&topic.partitions)
            .filter(|(id, record)| !is_known(id.partition.0, record))
            .map(|(id, record)| (id, record.as_ref()))
            .collect()
    }

    /// Whether the replicas of this topic, if they have been told of it, know its policy.
    pub fn has_policy(&self, topic: &TopicRecord) -> bool {
        let known = self.topics.get(&topic.id);
        known.is_none_or(|known| known.config.policy == topic.config.policy)
    }

    /// The partitions of topics that are no more.
    pub fn gone_from(&self, state: &ClusterState) -> Vec<TopicPartition> {
        let gone = |topic: &&Arc<TopicRecord>| !state.topics.contains_key(&topic.id);
        let topics = self.topics.values().filter(gone);
        topics.flat_map(|topic| partitions_of(topic)).collect()
    }
}

/// A topic's partitions, in order.
fn partitions_of(topic: &TopicRecord) -> impl Iterator<Item = TopicPartition> + use<> {
    let (topic, count) = (topic.id, topic.partitions.len() as u32);
    (0..count).map(move |index| TopicPartition {
        topic,
        partition: PartitionIndex(index),
    })
}
