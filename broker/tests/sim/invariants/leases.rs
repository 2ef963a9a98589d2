//! A leader without synchronous followers acknowledges nothing from the moment on when its lead is to be another's:
//! nobody shows it that there is one, so it goes by what the controller has told it.

use std::collections::BTreeSet;

use baton_protocol::ids::{BrokerLife, LeaderEpoch, TopicPartition};

use crate::cluster::World;
use crate::observation::Observation;

/// For so long after a disk has stood still its broker may be fenced for it, in milliseconds.
const STUCK_MS: u64 = 3_000;

/// For so long after their outcomes were lost commands may be committed, in milliseconds.
const LATE_MS: u64 = 5_000;

#[derive(Default)]
pub struct Leases {
    /// Reigns that have ended.
    over: BTreeSet<(TopicPartition, LeaderEpoch)>,
}

impl Leases {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        match observation {
            Observation::Deposed {
                partition,
                leader,
                epoch,
            } if !may_be_early(world, *leader) => {
                self.over.insert((*partition, *epoch));
            }
            Observation::Acknowledged {
                broker,
                partition,
                epoch: Some(epoch),
                ..
            } => {
                let driver = world.brokers[broker].driver(partition);
                let goes_by_the_lease = driver.is_some_and(|driver| {
                    let view = driver.replica().view();
                    view.sync_followers_commit == 0 && view.replicas.len() > 1
                });
                assert!(
                    !goes_by_the_lease || !self.over.contains(&(*partition, *epoch)),
                    "{partition}: broker {broker} acknowledges in epoch {epoch}, which is over"
                );
            }
            _ => {}
        }
    }
}

/// Whether the controller may end a reign before the lease is over: where another process of the broker has
/// registered, where its disk stood still, and where commands are committed that the controller took for lost.
fn may_be_early(world: &World, leader: BrokerLife) -> bool {
    let now = world.schedule.now();
    let is_past = world.controller.committed.life_of(leader.broker) != Some(leader.epoch);
    let hung_until = world.brokers[&leader.broker].disk_hangs_until;
    let lost_until = world.controller.outcomes_lost_until;
    is_past || hung_until.after_ms(STUCK_MS) > now || lost_until.after_ms(LATE_MS) > now
}
