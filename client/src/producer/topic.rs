//! A topic as a producer knows it: an intake for each of its partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use baton_protocol::ids::{PartitionIndex, TopicPartition};
use baton_protocol::metadata::TopicRecord;

use super::intake::Intake;
use crate::backoff::random;
use crate::client::no_partition;
use crate::error::Result;
use crate::place::Place;

/// A topic that records were sent to.
pub(crate) struct Topic {
    pub name: Arc<str>,
    pub intakes: Vec<Intake>,
    /// It was deleted: the next record looks whether there is another of its name.
    pub is_gone: AtomicBool,
    /// The partition that records go to which may go anywhere. It moves on with every batch, and
    /// begins anywhere, so that many small producers do not all begin with the first.
    sticky: AtomicU32,
}

impl Topic {
    pub fn new(name: Arc<str>, record: &TopicRecord) -> Topic {
        let place = |index| Place {
            topic: name.clone(),
            id: TopicPartition {
                topic: record.id,
                partition: PartitionIndex(index),
            },
        };
        let partitions = record.partitions.len() as u32;
        Topic {
            intakes: (0..partitions).map(|i| Intake::new(place(i))).collect(),
            name,
            is_gone: AtomicBool::new(false),
            sticky: AtomicU32::new(random() as u32),
        }
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> u32 {
        self.intakes.len() as u32
    }

    /// The next batch of records that may go anywhere goes elsewhere.
    pub fn move_on(&self) {
        self.sticky.fetch_add(1, Ordering::Relaxed);
    }

    /// The intake of the partition that was chosen; of any, if none was.
    pub fn intake(&self, chosen: Option<PartitionIndex>) -> Result<(usize, &Intake)> {
        let index = match chosen {
            Some(PartitionIndex(index)) => index as usize,
            None => (self.sticky.load(Ordering::Relaxed) % self.partitions().max(1)) as usize,
        };
        let intake = self.intakes.get(index).ok_or_else(|| {
            let partition = PartitionIndex(index as u32);
            no_partition(&self.name, partition, self.intakes.len())
        })?;
        Ok((index, intake))
    }
}
