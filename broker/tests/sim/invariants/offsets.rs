//! An offset that was acknowledged, or read by anyone, never names another record.

use std::collections::BTreeMap;

use baton_protocol::ids::{Offset, TopicPartition};

use crate::observation::Observation;
use crate::oracle::RecordId;

#[derive(Default)]
pub struct Offsets {
    told: BTreeMap<TopicPartition, BTreeMap<Offset, RecordId>>,
}

impl Offsets {
    pub fn check(&mut self, observation: &Observation) {
        match observation {
            Observation::Acknowledged {
                partition, told, ..
            } => {
                for i in 0..u64::from(told.records) {
                    let record = RecordId(told.first.0 + i);
                    self.tell(*partition, told.base.plus(i), record);
                }
            }
            Observation::Read {
                partition,
                offset,
                record,
                ..
            } => self.tell(*partition, *offset, *record),
            _ => {}
        }
    }

    fn tell(&mut self, partition: TopicPartition, offset: Offset, record: RecordId) {
        let told = self.told.entry(partition).or_default();
        let first = *told.entry(offset).or_insert(record);
        assert_eq!(
            first, record,
            "{partition}: offset {offset} names another record"
        );
    }
}
