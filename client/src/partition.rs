//! A partition as a program names it.

use std::fmt;
use std::sync::Arc;

use baton_protocol::ids::PartitionIndex;

use crate::record::Message;

/// A partition, by the name of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition within it.
    pub index: PartitionIndex,
}

impl Partition {
    /// Partition `index` of this topic.
    pub fn new(topic: impl Into<Arc<str>>, index: impl Into<PartitionIndex>) -> Self {
        Partition {
            topic: topic.into(),
            index: index.into(),
        }
    }
}

impl<T: Into<Arc<str>>, I: Into<PartitionIndex>> From<(T, I)> for Partition {
    fn from((topic, index): (T, I)) -> Self {
        Partition::new(topic, index)
    }
}

/// As `orders/3`.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

impl Message {
    /// The partition that it is in.
    pub fn place(&self) -> Partition {
        Partition::new(self.topic.clone(), self.partition)
    }
}
