//! A record of an idempotent producer is in the log once.

use std::collections::BTreeMap;

use baton_protocol::ids::{Offset, TopicPartition};

use crate::cluster::World;
use crate::observation::Observation;
use crate::oracle::RecordId;

#[derive(Default)]
pub struct Duplicates {
    places: BTreeMap<TopicPartition, BTreeMap<RecordId, Offset>>,
}

impl Duplicates {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        match observation {
            Observation::Acknowledged {
                partition, told, ..
            } => self.place(world, *partition, told.first, told.base),
            Observation::Read {
                partition,
                offset,
                record,
                ..
            } => self.place(world, *partition, *record, *offset),
            _ => {}
        }
    }

    fn place(
        &mut self,
        world: &World,
        partition: TopicPartition,
        record: RecordId,
        offset: Offset,
    ) {
        let places = self.places.entry(partition).or_default();
        let first = places.entry(record).or_insert(offset);
        // What an election gave up is rightly stored again; the old copy may still be read where
        // that is not known yet.
        if let Some(committed) = world.oracle.committed(&partition) {
            if committed.is_given_up(*first) {
                *first = offset;
            } else if committed.is_given_up(offset) {
                return;
            }
        }
        let first = *first;
        assert_eq!(
            first, offset,
            "{partition}: record {} is in the log twice",
            record.0
        );
    }
}
