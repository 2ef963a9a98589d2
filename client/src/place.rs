//! A partition as the client names it: by its topic's name, and by the identity of the topic that
//! had this name when it was looked up.

use std::sync::Arc;

use baton_protocol::ids::{BrokerId, PartitionIndex, TopicPartition};
use baton_protocol::metadata::{ClusterView, PartitionRecord, TopicRecord};

/// One partition of one topic. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub topic: Arc<str>,
    pub id: TopicPartition,
}

impl Place {
    /// A partition of this topic.
    pub fn of(topic: &TopicRecord, partition: PartitionIndex) -> Place {
        let id = TopicPartition {
            topic: topic.id,
            partition,
        };
        let topic = topic.name.as_str().into();
        Place { topic, id }
    }

    /// The topic, if it still exists. One that was made anew under the same name is another.
    pub fn topic_in<'a>(&self, view: &'a ClusterView) -> Option<&'a TopicRecord> {
        let topic = view.topics.get(&*self.topic)?;
        (topic.id == self.id.topic).then_some(topic)
    }

    /// The partition, if it still exists.
    pub fn partition_in<'a>(&self, view: &'a ClusterView) -> Option<&'a PartitionRecord> {
        self.topic_in(view)?.partition(self.id.partition)
    }

    /// The broker that leads it.
    pub fn leader_in(&self, view: &ClusterView) -> Option<BrokerId> {
        Some(self.partition_in(view)?.leader?.broker)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.id.partition)
    }
}

#[cfg(test)]
impl Place {
    pub fn example(topic: &str, partition: u32) -> Place {
        let id = TopicPartition {
            topic: baton_protocol::ids::TopicId::default(),
            partition: baton_protocol::ids::PartitionIndex(partition),
        };
        let topic = topic.into();
        Place { topic, id }
    }
}
