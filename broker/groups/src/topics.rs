//! The cluster's topics, as far as groups care.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{TopicId, TopicPartition};

/// A topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: u32,
}

/// All topics of the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_name: BTreeMap<String, Topic>,
    by_id: BTreeMap<TopicId, (String, u32)>,
}

impl Topics {
    /// These topics.
    pub fn new(topics: impl IntoIterator<Item = (String, Topic)>) -> Self {
        let by_name: BTreeMap<String, Topic> = topics.into_iter().collect();
        let by_id = by_name
            .iter()
            .map(|(name, topic)| (topic.id, (name.clone(), topic.partitions)))
            .collect();
        Topics { by_name, by_id }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The topic of this name.
    pub fn named(&self, name: &str) -> Option<Topic> {
        self.by_name.get(name).copied()
    }

    /// The name of a topic.
    pub fn name(&self, id: TopicId) -> Option<&str> {
        self.by_id.get(&id).map(|(name, _)| name.as_str())
    }

    /// The topic's number of partitions.
    pub fn partitions(&self, id: TopicId) -> Option<u32> {
        self.by_id.get(&id).map(|(_, partitions)| *partitions)
    }

    /// Whether there is such a partition.
    pub fn has(&self, at: TopicPartition) -> bool {
        self.partitions(at.topic)
            .is_some_and(|count| at.partition.0 < count)
    }

    /// The names whose topic is another one, or another size, than `before`.
    pub fn changed(&self, before: &Topics) -> BTreeSet<String> {
        let names = self.by_name.keys().chain(before.by_name.keys());
        names
            .filter(|name| self.by_name.get(*name) != before.by_name.get(*name))
            .cloned()
            .collect()
    }
}
