//! An election that may lose entries happens only where the topic, an operator or the loss of disks
//! leaves no other way; and one that claims to lose nothing has heard as many as that takes.

use std::collections::BTreeMap;

use baton_controller::command::{Elected, Grade};
use baton_controller::session::FenceAnswer;
use baton_protocol::ids::{BrokerId, LeaderEpoch, Tick, TopicPartition};
use baton_protocol::metadata::PartitionRecord;

use crate::cluster::World;
use crate::observation::Observation;

/// How long the election of a topic that allows unclean ones waits for a clean one, in milliseconds.
const UNCLEAN_WAIT_MS: u64 = 10_000;

/// What is known of the newest election of a partition.
struct Begun {
    epoch: LeaderEpoch,
    at: Tick,
    /// The failures that it reckoned with since, least and most: an operator may change them.
    failures: (u32, u32),
}

#[derive(Default)]
pub struct Losses {
    begun: BTreeMap<TopicPartition, Begun>,
    /// The answers to the newest fence of each partition, by broker. It may have answered in several
    /// lives.
    answers: BTreeMap<TopicPartition, BTreeMap<BrokerId, Vec<FenceAnswer>>>,
}

impl Losses {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        match observation {
            Observation::MetadataChanged => self.note_elections(world),
            Observation::FenceAnswered(answer) => {
                let answers = self.answers.entry(answer.partition).or_default();
                let answers = answers.entry(answer.life.broker).or_default();
                answers.retain(|known| known.epoch >= answer.epoch);
                answers.push(*answer);
            }
            Observation::Elected { elected, before } => self.check_election(world, elected, before),
            _ => {}
        }
    }

    fn note_elections(&mut self, world: &World) {
        let now = world.controller_clock();
        let all = world.controller.committed.partitions();
        for (partition, record) in all.filter(|(_, record)| record.leader.is_none()) {
            let failures = record.sync_followers_elect;
            let begun = self.begun.entry(partition).or_insert(Begun {
                epoch: LeaderEpoch::NONE,
                at: now,
                failures: (failures, failures),
            });
            if begun.epoch < record.epoch {
                *begun = Begun {
                    epoch: record.epoch,
                    at: now,
                    failures: (failures, failures),
                };
            }
            let (least, most) = begun.failures;
            begun.failures = (least.min(failures), most.max(failures));
        }
    }

    fn check_election(&self, world: &World, elected: &Elected, before: &PartitionRecord) {
        let partition = &elected.partition;
        let Some(begun) = self
            .begun
            .get(partition)
            .filter(|b| b.epoch == elected.epoch)
        else {
            // It began, and ended, while one controller followed another.
            return;
        };
        let to_this = |id: &BrokerId| {
            let answers = self.answers.get(partition)?.get(id)?;
            let answers = answers.iter().filter(|a| a.epoch == elected.epoch);
            Some(answers.collect::<Vec<_>>()).filter(|answers| !answers.is_empty())
        };
        let answered = before.in_sync.iter().filter_map(to_this);
        let answered: Vec<Vec<&FenceAnswer>> = answered.collect();
        let members = before.in_sync.len();
        let needed = |failures: u32| members.saturating_sub(failures as usize).max(1);
        match elected.grade {
            Grade::Clean => {
                // Who lost its disk since has lost nothing that the winner lacks.
                let vote = |answers: &&Vec<&FenceAnswer>| answers.iter().any(|a| !a.suspect);
                let votes = answered.iter().filter(vote).count();
                assert!(
                    votes >= needed(begun.failures.1),
                    "{partition}: {:?} is elected by {votes} of {:?}",
                    elected.leader,
                    before.in_sync
                );
            }
            Grade::Asynchronous => assert_eq!(
                begun.failures.0, 0,
                "{partition}: an election loses what {} followers hold",
                begun.failures.0
            ),
            Grade::Unclean => {
                let vote = |answers: &&Vec<&FenceAnswer>| {
                    let last = answers.last();
                    last.is_some_and(|a| !a.suspect && !before.suspects.contains(&a.life.broker))
                };
                let votes = answered.iter().filter(vote).count();
                let nothing_better = answered.len() == members && votes < needed(begun.failures.0);
                let state = &world.controller.committed;
                let topic = state.topics.get(&partition.topic);
                let allowed = topic.is_some_and(|topic| topic.config.unclean_election);
                let waited_ms = world.controller_clock().since_ms(begun.at);
                let impatient = allowed && waited_ms >= UNCLEAN_WAIT_MS;
                let asked = world.topics.gave_up(*partition, elected.epoch);
                assert!(
                    nothing_better || impatient || asked,
                    "{partition}: an election loses entries after {waited_ms} ms, with {votes} votes of {:?}",
                    before.in_sync
                );
            }
        }
    }
}
