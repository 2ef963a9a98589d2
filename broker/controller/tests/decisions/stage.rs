//! A controller's core that runs alone: its proposals are committed by hand.

use std::collections::{BTreeMap, BTreeSet};

use baton_controller::command::{Command, Handover, Outcome, SetChange, SetChangeResult};
use baton_controller::core::{Config, ControllerCore, Effect, Input, SessionId};
use baton_controller::session::{FenceAnswer, FromController, ToController};
use baton_controller::state::ClusterState;
use baton_protocol::admin::{AdminRequest, AdminResponse};
use baton_protocol::error::WireError;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, ProcessId, Tick, TopicId, TopicPartition,
};
use baton_protocol::metadata::PartitionRecord;
use baton_protocol::policy::TopicPolicy;
use uuid::Uuid;

/// The one topic.
pub const TOPIC: TopicId = TopicId(Uuid::from_u128(9));

/// Its one partition.
pub const PARTITION: TopicPartition = TopicPartition {
    topic: TOPIC,
    partition: PartitionIndex(0),
};

/// A controller with three brokers and one partition on all of them, led by broker 1.
pub struct Stage {
    pub core: ControllerCore,
    pub log: ClusterState,
    pub now: u64,
    pub lives: BTreeMap<u32, BrokerEpoch>,
    /// The last life that each directory was given.
    pub shown: BTreeMap<u32, BrokerEpoch>,
    /// What each session was sent, newest last.
    pub sent: BTreeMap<SessionId, Vec<FromController>>,
    /// Proposals are committed at once, unless held.
    pub hold: bool,
    pub silent: BTreeSet<u32>,
}

impl Stage {
    pub fn new(sync_followers: u32) -> Stage {
        let mut log = ClusterState::default();
        let cluster_id = ClusterId(Uuid::from_u128(1));
        log.apply(MetadataIndex(1), &Command::FormCluster { cluster_id });
        let core = ControllerCore::new(BrokerId(1), 1, Config::default(), log.clone(), Tick(0));
        let mut stage = Stage {
            core,
            log,
            now: 0,
            lives: BTreeMap::new(),
            shown: BTreeMap::new(),
            sent: BTreeMap::new(),
            hold: false,
            silent: BTreeSet::new(),
        };
        stage.step(Input::Tick);
        for broker in 1..=3 {
            stage.register(broker, u64::from(broker), broker);
        }
        let request = AdminRequest::CreateTopic {
            name: "t".into(),
            partitions: Some(1),
            replicas: Some(3),
            sync_followers: Some(sync_followers),
            flush: None,
            unclean_election: Some(false),
            policy: TopicPolicy::default(),
        };
        stage.say(
            1,
            ToController::Admin {
                id: 7,
                request,
                fresh_topic_id: TOPIC,
            },
        );
        stage
    }

    pub fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.core.step(Tick(self.now), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(session, message) => {
                    self.sent.entry(session).or_default().push(message)
                }
                Effect::Close(_) => {}
                Effect::Propose(_, _) if self.hold => {}
                Effect::Propose(token, command) => {
                    let index = MetadataIndex(self.log.index.0 + 1);
                    let outcome = self.log.apply(index, &command);
                    self.step(Input::Applied(index, command));
                    self.step(Input::Outcome(token, outcome));
                }
            }
        }
    }

    /// A command is committed, whoever proposed it.
    pub fn commit(&mut self, command: Command) {
        let index = MetadataIndex(self.log.index.0 + 1);
        self.log.apply(index, &command);
        self.step(Input::Applied(index, command));
    }

    /// The controller learns that it led for sure at this time.
    pub fn surely_led(&mut self, at: u64) {
        let term = self.core.term();
        self.step(Input::SurelyLed { term, at: Tick(at) });
    }

    pub fn say(&mut self, session: u64, message: ToController) {
        self.step(Input::Message(SessionId(session), message));
    }

    pub fn register(&mut self, broker: u32, session: u64, directory: u32) {
        let hello = ToController::Hello {
            broker: BrokerId(broker),
            life: None,
        };
        self.say(session, hello);
        self.say(
            session,
            ToController::Register {
                directory: DirectoryId(Uuid::from_u128(u128::from(directory))),
                client_address: String::new(),
                peer_address: String::new(),
                log_lost: false,
                shown_life: self.shown.get(&directory).copied(),
                process: ProcessId(Uuid::from_u128(u128::from(session))),
                unclean_restart: false,
            },
        );
        let epoch = self.log.life_of(BrokerId(broker)).expect("registered");
        self.lives.insert(broker, epoch);
        self.shown.insert(directory, epoch);
        self.say(session, ToController::Heartbeat { disk_progress: 0 });
    }

    /// Lets time pass, with heartbeats of all that are not silent.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 25 {
            self.now += 25;
            for broker in 1..=3 {
                if !self.silent.contains(&broker) {
                    let disk_progress = self.now;
                    self.say(u64::from(broker), ToController::Heartbeat { disk_progress });
                }
            }
            self.step(Input::Tick);
        }
    }

    pub fn life(&self, broker: u32) -> BrokerLife {
        BrokerLife {
            broker: BrokerId(broker),
            epoch: self.lives[&broker],
        }
    }

    pub fn partition(&self) -> &PartitionRecord {
        self.log.partition(&PARTITION).expect("it exists")
    }

    pub fn answer(&mut self, broker: u32, epoch: u32, last_epoch: u32, end: u64) {
        let life = self.life(broker);
        self.answer_as(life, epoch, last_epoch, end);
    }

    pub fn answer_as(&mut self, life: BrokerLife, epoch: u32, last_epoch: u32, end: u64) {
        self.answer_with(life, epoch, last_epoch, end, false);
    }

    pub fn answer_suspect(&mut self, broker: u32, epoch: u32, last_epoch: u32, end: u64) {
        let life = self.life(broker);
        self.answer_with(life, epoch, last_epoch, end, true);
    }

    fn answer_with(
        &mut self,
        life: BrokerLife,
        epoch: u32,
        last_epoch: u32,
        end: u64,
        suspect: bool,
    ) {
        let answer = FenceAnswer {
            partition: PARTITION,
            epoch: LeaderEpoch(epoch),
            last_epoch: LeaderEpoch(last_epoch),
            durable_end: Offset(end),
            log: (LeaderEpoch(last_epoch), Offset(end)),
            log_start: Offset::ZERO,
            life,
            suspect,
        };
        self.say(
            u64::from(life.broker.0),
            ToController::FenceAnswers(vec![answer]),
        );
    }

    /// The last answer to a request of this session.
    pub fn last_answer(&self, session: u64) -> Result<AdminResponse, WireError> {
        let mut sent = self.sent[&SessionId(session)].iter().rev();
        let answer = sent.find_map(|message| match message {
            FromController::AdminResult { result, .. } => Some(result.clone()),
            _ => None,
        });
        answer.expect("answered")
    }

    pub fn was_sent(&self, session: u64, message: &FromController) -> bool {
        self.sent[&SessionId(session)].contains(message)
    }

    /// The core takes over what was committed behind its back.
    pub fn adopt_log(&mut self) {
        let state = self.log.clone();
        self.core = ControllerCore::new(BrokerId(1), 2, Config::default(), state, Tick(self.now));
        for (broker, life) in self.lives.clone() {
            let hello = ToController::Hello {
                broker: BrokerId(broker),
                life: Some(life),
            };
            self.say(u64::from(broker), hello);
        }
    }

    /// The leader proposes its successor.
    pub fn hand_over(&mut self, leader: BrokerLife, to: BrokerLife) {
        let handover = Handover {
            partition: PARTITION,
            epoch: self.partition().epoch,
            version: self.partition().version,
            to,
            log_end: Offset(10),
        };
        let session = u64::from(leader.broker.0);
        self.say(session, ToController::ProposeHandovers(vec![handover]));
    }

    pub fn kill_leader(&mut self) {
        self.silent.insert(1);
        self.step(Input::Closed(SessionId(1)));
        for reporter in [2, 3] {
            let life = self.life(1);
            self.say(reporter, ToController::ConnectionRefused { life });
        }
    }

    pub fn fences_sent_to(&self, session: u64) -> usize {
        let sent = self.sent.get(&SessionId(session)).into_iter().flatten();
        sent.filter(|message| matches!(message, FromController::Fence(_)))
            .count()
    }
}

/// A set change that the leader could ask for now.
pub fn change(stage: &Stage, members: &[u32], verified: &[BrokerLife]) -> SetChange {
    SetChange {
        partition: PARTITION,
        epoch: stage.partition().epoch,
        version: stage.partition().version,
        new_set: members.iter().map(|id| BrokerId(*id)).collect(),
        verified: verified.to_vec(),
        sync_followers_elect: None,
    }
}

/// What becomes of it.
pub fn apply(stage: &mut Stage, leader: BrokerLife, change: SetChange) -> SetChangeResult {
    let index = MetadataIndex(stage.log.index.0 + 1);
    let changes = vec![change];
    match stage
        .log
        .apply(index, &Command::ChangeInSync { leader, changes })
    {
        Outcome::SetChanges(results) => results[0],
        other => panic!("{other:?}"),
    }
}
