//! The topics that are wanted over time, and the operator who sees to it.

use std::collections::{BTreeMap, BTreeSet};

use baton_controller::session::ToController;
use baton_protocol::admin::AdminRequest;
use baton_protocol::groups::GROUPS_TOPIC;
use baton_protocol::ids::{BrokerId, LeaderEpoch, PartitionIndex, Tick, TopicId, TopicPartition};
use baton_protocol::metadata::Flush;
use baton_protocol::policy::{Cleanup, TopicPolicy};
use uuid::Uuid;

use crate::cluster::World;
use crate::random::Random;
use crate::schedule::Event;

/// Between two looks of the operator, in milliseconds.
const LOOK_MS: u64 = 250;

/// Names of topics; every simulation has them all.
pub const NAMES: [&str; 2] = ["orders", "events"];

/// What a topic is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub partitions: u32,
    pub replicas: u32,
    pub sync_followers: u32,
    pub flush: Flush,
    pub unclean_election: bool,
}

/// An operator's act on a topic.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// From then on there is to be a topic of this shape, and not the one before.
    Make(Shape),
    /// So many followers are to hold an entry before it is acknowledged.
    SetSyncFollowers(u32),
    /// The lead of the first partition is to move to its replica at this place.
    HandOver(usize),
    /// If the first partition's election waits, it is to end.
    ElectUnclean,
}

/// The acts on one topic, in order.
struct Plan {
    acts: Vec<(Tick, Act)>,
}

/// All plans.
pub struct Topics {
    plans: Vec<Plan>,
    attempts: u128,
    /// Elections that the operator wanted to end, whatever is lost.
    given_up: BTreeSet<(TopicPartition, LeaderEpoch)>,
    /// The name that each topic was asked for under.
    pub names: BTreeMap<TopicId, String>,
}

impl Topics {
    pub fn new(seed: u64, brokers: u32, until: Tick, lags: bool) -> Topics {
        let mut random = Random::new(seed, 0x70);
        let plan = |_| {
            let mut acts = vec![(Tick(300), Act::Make(shape(&mut random, brokers, lags)))];
            let remakes = random.weighted(&[(5, 0), (3, 1), (1, 2)]);
            for _ in 0..remakes {
                let at = Tick(random.between(5_000, until.0));
                acts.push((at, Act::Make(shape(&mut random, brokers, lags))));
            }
            for _ in 0..random.below(4) {
                let at = Tick(random.between(3_000, until.0));
                acts.push((at, Act::SetSyncFollowers(random.below(3) as u32)));
            }
            for _ in 0..random.below(12) {
                let at = Tick(random.between(2_000, until.0));
                acts.push((at, Act::HandOver(random.below(3) as usize)));
            }
            for _ in 0..random.weighted(&[(6, 0), (1, 1), (1, 4)]) {
                let at = Tick(random.between(5_000, until.0));
                acts.push((at, Act::ElectUnclean));
            }
            acts.sort_by_key(|(at, _)| *at);
            Plan { acts }
        };
        Topics {
            plans: NAMES.iter().enumerate().map(plan).collect(),
            attempts: 0,
            given_up: BTreeSet::new(),
            names: BTreeMap::new(),
        }
    }

    /// Whether the operator wanted this election to end, whatever is lost.
    pub fn gave_up(&self, partition: TopicPartition, epoch: LeaderEpoch) -> bool {
        self.given_up.contains(&(partition, epoch))
    }

    /// A fresh id that tells which act it is for.
    fn fresh_id(&mut self, act: usize) -> TopicId {
        self.attempts += 1;
        TopicId(Uuid::from_u128((act as u128) << 64 | self.attempts))
    }
}

fn act_of(id: TopicId) -> usize {
    (id.0.as_u128() >> 64) as usize
}

/// Where followers lag, fewer of them hold what is acknowledged.
fn shape(random: &mut Random, brokers: u32, lags: bool) -> Shape {
    let replicas = match lags {
        false => &[(6, 3), (2, 4), (2, 5), (1, 2)],
        true => &[(3, 3), (1, 4), (1, 5), (3, 2)],
    };
    let replicas = random.weighted(replicas).min(brokers);
    let most = u64::from(replicas - 1);
    let sync_followers = match lags {
        false => &[(8, 1), (3, 2), (1, 0)],
        true => &[(4, 1), (1, 2), (4, 0)],
    };
    let sync_followers = random.weighted(sync_followers).min(most);
    Shape {
        partitions: random.weighted(&[(2, 1), (1, 2)]),
        replicas,
        sync_followers: sync_followers as u32,
        flush: random.weighted(&[(3, Flush::Ack), (1, Flush::Interval)]),
        unclean_election: sync_followers == 0 || random.chance(50),
    }
}

impl World {
    /// The operator looks whether all is as it should be, and asks for what is missing.
    pub fn on_admin_tick(&mut self) {
        self.schedule.after(LOOK_MS, Event::AdminTick);
        let now = self.schedule.now();
        for (i, name) in NAMES.iter().enumerate() {
            let acts = &self.topics.plans[i].acts;
            let made = |(at, act): &(Tick, Act)| *at <= now && matches!(act, Act::Make(_));
            let Some(act) = acts.iter().rposition(made) else {
                continue;
            };
            let Act::Make(shape) = acts[act].1 else {
                continue;
            };
            let due: Vec<Act> = acts
                .iter()
                .filter(|(at, _)| *at <= now && now.since_ms(*at) < LOOK_MS)
                .map(|(_, act)| *act)
                .collect();
            let found = self.controller.committed.topic_named(name);
            let found = found.map(|topic| topic.id);
            let name = (*name).to_owned();
            let request = match found {
                Some(id) if act_of(id) == act => {
                    for act in due {
                        self.look_after(&name, id, act);
                    }
                    continue;
                }
                Some(_) => AdminRequest::DeleteTopic { name },
                None => AdminRequest::CreateTopic {
                    name,
                    partitions: Some(shape.partitions),
                    replicas: Some(shape.replicas),
                    sync_followers: Some(shape.sync_followers),
                    flush: Some(shape.flush),
                    unclean_election: Some(shape.unclean_election),
                    policy: TopicPolicy {
                        cleanup: self.compacting.is_on.then_some(Cleanup::Compact),
                        delete_retention_ms: self
                            .compacting
                            .is_on
                            .then_some(self.compacting.delete_retention_ms),
                        ..TopicPolicy::default()
                    },
                },
            };
            self.ask(act, request);
        }
        if self.groups.are_on
            && self
                .controller
                .committed
                .topic_named(GROUPS_TOPIC)
                .is_none()
        {
            // As brokers do when the first consumer of a group comes.
            let request = AdminRequest::MakeGroupsTopic {
                partitions: 1,
                replicas: 3,
            };
            self.ask(0, request);
        }
    }

    /// Asks once: what does not come about then does not.
    fn look_after(&mut self, name: &str, id: TopicId, act: Act) {
        let topic = name.to_owned();
        let partition = PartitionIndex(0);
        let whole = TopicPartition {
            topic: id,
            partition,
        };
        let Some(record) = self.controller.committed.partition(&whole) else {
            return;
        };
        let request = match act {
            Act::Make(_) => return,
            Act::SetSyncFollowers(sync_followers) => AdminRequest::SetSyncFollowers {
                name: topic,
                sync_followers,
            },
            Act::HandOver(place) => AdminRequest::HandOver {
                topic,
                partition,
                to: record.replicas[place % record.replicas.len()],
            },
            Act::ElectUnclean => {
                self.topics.given_up.insert((whole, record.epoch));
                AdminRequest::ElectUnclean {
                    topic,
                    partition,
                    epoch: record.epoch,
                }
            }
        };
        self.ask(0, request);
    }

    fn ask(&mut self, act: usize, request: AdminRequest) {
        let id = self.topics.attempts as u64;
        let fresh_topic_id = self.topics.fresh_id(act);
        if let AdminRequest::CreateTopic { name, .. } = &request {
            self.topics.names.insert(fresh_topic_id, name.clone());
        }
        let brokers: Vec<BrokerId> = self.brokers.keys().copied().collect();
        let broker = self.random.pick(&brokers);
        self.tell_controller(
            broker,
            ToController::Admin {
                id,
                request,
                fresh_topic_id,
            },
        );
    }
}
