//! No log goes beyond the offset limit that the metadata shows, and that never falls: so an election
//! that may lose entries knows where to begin.

use std::collections::BTreeMap;

use baton_protocol::ids::{Offset, TopicPartition};

use crate::cluster::World;
use crate::disk::News;
use crate::observation::Observation;

#[derive(Default)]
pub struct OffsetLimit {
    limits: BTreeMap<TopicPartition, Offset>,
}

impl OffsetLimit {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        let state = &world.controller.committed;
        match observation {
            Observation::MetadataChanged => {
                for (partition, record) in state.partitions() {
                    let before = self.limits.insert(partition, record.offset_limit);
                    assert!(
                        before <= Some(record.offset_limit),
                        "{partition}: the offset limit falls from {before:?} to {}",
                        record.offset_limit
                    );
                }
            }
            Observation::Disk(id, News::Appended(partition, stored)) => {
                let limit = state.partition(partition).map(|record| record.offset_limit);
                assert!(
                    limit.is_none_or(|limit| stored.end <= limit),
                    "broker {id}, {partition}: {} to {} are beyond the limit {limit:?}",
                    stored.base,
                    stored.end
                );
            }
            _ => {}
        }
    }
}
