//! Entries of equal (epoch, offset) are equal, on all replicas and at all times.

use std::collections::BTreeMap;

use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};

use crate::cluster::World;
use crate::disk::News;
use crate::observation::Observation;

/// The end and the checksum of what was seen first under an epoch and an offset.
type Entries = BTreeMap<(LeaderEpoch, Offset), (Offset, u32)>;

#[derive(Default)]
pub struct EqualEntries {
    seen: BTreeMap<TopicPartition, Entries>,
}

impl EqualEntries {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        let Observation::Disk(id, News::Appended(partition, stored)) = observation else {
            return;
        };
        let seen = self.seen.entry(*partition).or_default();
        // A compaction leaves fewer records of an entry, not the same on all replicas.
        let some_compact = world.compacting.is_on || world.groups.are_on;
        let entry = (stored.end, if some_compact { 0 } else { stored.crc });
        let first = *seen.entry((stored.epoch, stored.base)).or_insert(entry);
        assert_eq!(
            first, entry,
            "broker {id}, {partition}: another entry of epoch {} at {}",
            stored.epoch, stored.base
        );
    }
}
