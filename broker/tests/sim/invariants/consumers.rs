//! A consumer never reads what is not committed, and never goes back.

use std::collections::BTreeMap;

use baton_protocol::ids::{Offset, TopicPartition};

use crate::cluster::World;
use crate::observation::Observation;
use crate::schedule::ClientIndex;

#[derive(Default)]
pub struct Consumers {
    positions: BTreeMap<(ClientIndex, TopicPartition), Offset>,
}

impl Consumers {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        let Observation::Read {
            consumer,
            broker,
            partition,
            offset,
            ..
        } = observation
        else {
            return;
        };
        let position = self.positions.entry((*consumer, *partition)).or_default();
        assert!(
            *offset >= *position,
            "{partition}: a consumer is given {offset} after {position}"
        );
        *position = offset.plus(1);
        // What an election gave up may be read where that is not known yet.
        let committed = world.oracle.committed(partition).map(|log| log.ever_end);
        assert!(
            Some(*offset) < committed,
            "{partition}: broker {broker} lets read {offset}, which is not committed"
        );
    }
}
