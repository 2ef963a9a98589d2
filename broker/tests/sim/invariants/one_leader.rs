//! One life of one broker leads and acknowledges in an epoch; and once enough members have answered
//! the fence of a later epoch, nothing is committed that their answers do not cover.

use std::collections::BTreeMap;

use baton_controller::session::FenceAnswer;
use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, TopicPartition};

use crate::cluster::World;
use crate::observation::Observation;

/// The answers to the newest fence of a partition.
#[derive(Default)]
struct Fence {
    epoch: LeaderEpoch,
    answers: BTreeMap<BrokerId, FenceAnswer>,
}

#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<(TopicPartition, LeaderEpoch), BrokerLife>,
    fences: BTreeMap<TopicPartition, Fence>,
}

impl OneLeader {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        match observation {
            Observation::Leads(id, partition, epoch) => {
                self.check_leader(world, *id, *partition, *epoch);
            }
            Observation::Acknowledged {
                broker,
                partition,
                epoch: Some(epoch),
                ..
            } => self.check_leader(world, *broker, *partition, *epoch),
            Observation::FenceAnswered(answer) => {
                let fence = self.fences.entry(answer.partition).or_default();
                if answer.epoch > fence.epoch {
                    *fence = Fence {
                        epoch: answer.epoch,
                        answers: BTreeMap::new(),
                    };
                }
                if answer.epoch == fence.epoch {
                    fence.answers.insert(answer.life.broker, *answer);
                }
            }
            Observation::HighWatermark(id, partition, to) => {
                self.check_fence(world, *id, *partition, *to);
            }
            _ => {}
        }
    }

    fn check_leader(
        &mut self,
        world: &World,
        id: BrokerId,
        partition: TopicPartition,
        epoch: LeaderEpoch,
    ) {
        let Some(driver) = world.brokers[&id].driver(&partition) else {
            return;
        };
        let life = driver.replica().me();
        let first = *self.leaders.entry((partition, epoch)).or_insert(life);
        assert_eq!(first, life, "{partition}: two leaders of epoch {epoch}");
    }

    fn check_fence(&self, world: &World, id: BrokerId, partition: TopicPartition, to: Offset) {
        let leading = world.brokers[&id]
            .driver(&partition)
            .and_then(|driver| driver.replica().leading());
        let state = &world.controller.committed;
        let (Some(epoch), Some(fence), Some(record)) = (
            leading,
            self.fences.get(&partition),
            state.partition(&partition),
        ) else {
            return;
        };
        // While the election is on, the set does not change.
        if epoch >= fence.epoch || record.epoch != fence.epoch || record.leader.is_some() {
            return;
        }
        let counted = fence.answers.values().filter(|answer| {
            let id = answer.life.broker;
            record.in_sync.contains(&id)
                && !(answer.suspect || record.suspects.contains(&id))
                && state.is_current(answer.life)
        });
        let counted: Vec<_> = counted
            .map(|answer| (answer.last_epoch, answer.durable_end))
            .collect();
        let failures = record.sync_followers_elect as usize;
        let needed = record.in_sync.len().saturating_sub(failures).max(1);
        if counted.len() >= needed {
            assert!(
                counted.iter().max() >= Some(&(epoch, to)),
                "{partition}: broker {id} commits {to} in epoch {epoch}, which the answers to the fence of {} do not cover: {counted:?}",
                fence.epoch
            );
        }
    }
}
