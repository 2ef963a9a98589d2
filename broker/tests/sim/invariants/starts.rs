//! A log starts above nothing that is not committed, its start never moves back while its process lives
//! and it does not begin anew, and a log that begins anew discards nothing committed at or above the new
//! start.

use std::collections::BTreeMap;

use baton_protocol::ids::{BrokerId, Offset, TopicPartition};

use crate::cluster::World;
use crate::disk::News;
use crate::observation::Observation;
use crate::schedule::Run;

#[derive(Default)]
pub struct Starts {
    last: BTreeMap<(BrokerId, TopicPartition), (Run, Offset)>,
}

impl Starts {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        match observation {
            Observation::Stepped(id, partition) => self.check_start(world, *id, *partition),
            Observation::Disk(
                id,
                News::BeganAnew {
                    partition,
                    start,
                    discarded,
                },
            ) => {
                let record = world.controller.committed.partition(partition);
                // A suspect may: after an election that may have lost entries a log that is compacted is
                // sent anew.
                let is_member = record.is_some_and(|record| {
                    record.in_sync.contains(id) && !record.suspects.contains(id)
                });
                let Some(committed) = world.oracle.committed(partition) else {
                    return;
                };
                for entry in discarded.iter().filter(|entry| entry.end > *start) {
                    assert!(
                        !is_member || !committed.covers(entry.base, entry.epoch),
                        "broker {id}, {partition}: beginning anew at {start} discards {}, which is committed",
                        entry.base
                    );
                }
            }
            _ => {}
        }
    }

    fn check_start(&mut self, world: &World, id: BrokerId, partition: TopicPartition) {
        let broker = &world.brokers[&id];
        let Some(driver) = broker.driver(&partition) else {
            return;
        };
        let log = driver.replica().log();
        let start = log.start;
        let committed = world.oracle.committed(&partition);
        let ever_end = committed.map_or(Offset::ZERO, |committed| committed.ever_end);
        assert!(
            start <= ever_end,
            "broker {id}, {partition}: starts at {start}, and only what is below {ever_end} was ever committed"
        );
        let before = self.last.insert((id, partition), (broker.run, start));
        if let Some((run, before)) = before
            && run == broker.run
        {
            let last = Offset(before.0.saturating_sub(1));
            let given_up = committed.is_some_and(|committed| committed.is_given_up(last));
            // Where entries may be given up as lost, a follower obeys a late copy of the reset that this reign
            // sent before its own start moved up. It is empty then, and is reset once more.
            let begins_anew = start == log.end;
            assert!(
                start >= before || given_up || begins_anew,
                "broker {id}, {partition}: the start moved back from {before} to {start}"
            );
        }
    }
}
