//! The simulated cluster: brokers with one partition, a controller, a network, one producer, faults.

use std::collections::{BTreeMap, BTreeSet};

use baton::actors::router::view_of;
use baton::driver::{CheckedBatch, Driver, FlushWork, Output, shape_of};
use baton_controller::core::{
    Config, ControllerCore, Effect, Input as ControllerInput, SessionId, Token,
};
use baton_controller::session::{FenceAnswer, FromController, ToController};
use baton_controller::state::{ClusterState, Command, OffsetGrant, SetChange};
use baton_protocol::admin::AdminRequest;
use baton_protocol::batch::{BatchBuilder, ProducerState};
use baton_protocol::client::Acks;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, ProcessId, ProducerId, Tick, TopicId, TopicPartition,
};
use baton_protocol::peer::ReplicaMessage;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::RequestId;
use baton_replication::producers::{ProducerTable, RememberedBatch};
use baton_replication::rules::Rules;
use baton_replication::{Input, LogShape, Replica};
use bytes::Bytes;
use uuid::Uuid;

use crate::disk::Disk;

const PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(Uuid::from_u128(1)),
    partition: PartitionIndex(0),
};

/// Simulated milliseconds with faults, and after everything is healed.
const TROUBLE_MS: u64 = 30_000;
const PEACE_MS: u64 = 20_000;

/// The last part of the peace, without anything new.
const REST_MS: u64 = 5_000;

/// How long the producer waits before it asks again.
const PATIENCE_MS: u64 = 700;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Done {
    pub acknowledged: u64,
    pub elections: u64,
    pub truncations: u64,
    pub trace: u64,
}

enum Event {
    ToBroker {
        broker: u32,
        run: u64,
        message: ReplicaMessage,
        payload: Bytes,
    },
    Flushed {
        broker: u32,
        run: u64,
        work: FlushWork,
    },
    Produce {
        broker: u32,
        run: u64,
        number: u64,
    },
    Reply {
        number: u64,
        base: Option<Offset>,
    },
    ToController {
        reign: u64,
        session: SessionId,
        message: ToController,
    },
    FromController {
        broker: u32,
        run: u64,
        session: SessionId,
        message: FromController,
    },
    Commit {
        reign: u64,
        token: Token,
        command: Command,
    },
    Start {
        broker: u32,
    },
    Thaw {
        broker: u32,
    },
    Tick,
}

#[derive(Default)]
struct Broker {
    disk: Disk,
    /// Counts its processes; events of earlier ones are void.
    run: u64,
    up: bool,
    frozen: bool,
    held: Vec<Event>,
    session: Option<SessionId>,
    life: Option<BrokerEpoch>,
    /// The last life that was written to the disk.
    shown_life: Option<BrokerEpoch>,
    state: Option<ClusterState>,
    driver: Option<Driver>,
    requests: BTreeMap<RequestId, u64>,
}

/// A simulation.
pub struct Sim {
    random: u64,
    now: u64,
    order: u64,
    /// Orders events that waited out a freeze: before all others.
    thawed: u64,
    events: BTreeMap<(u64, u64), Event>,
    brokers: BTreeMap<u32, Broker>,
    controller: ControllerCore,
    reign: u64,
    committed: ClusterState,
    sessions: BTreeMap<SessionId, (u32, u64)>,
    next_session: u64,
    next_request: u64,
    cuts: BTreeSet<(u32, u32)>,
    peace: bool,
    /// The number being sent, since when, and where the acknowledged ones are.
    sending: (u64, u64),
    acknowledged: BTreeMap<u64, Offset>,
    done: Done,
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        let mut committed = ClusterState::default();
        let cluster_id = ClusterId(Uuid::from_u128(1));
        committed.apply(MetadataIndex(1), &Command::FormCluster { cluster_id });
        let controller = ControllerCore::new(
            BrokerId(0),
            1,
            Config::default(),
            committed.clone(),
            Tick(0),
        );
        let mut sim = Sim {
            random: seed,
            now: 0,
            order: 1 << 32,
            thawed: 0,
            events: BTreeMap::new(),
            brokers: BTreeMap::new(),
            controller,
            reign: 0,
            committed,
            sessions: BTreeMap::new(),
            next_session: 0,
            next_request: 0,
            cuts: BTreeSet::new(),
            peace: false,
            sending: (0, 0),
            acknowledged: BTreeMap::new(),
            done: Done::default(),
        };
        for id in 1..=3 + sim.below(3) as u32 {
            sim.brokers.insert(id, Broker::default());
            sim.after(0, Event::Start { broker: id });
        }
        sim.after(1, Event::Tick);
        sim
    }

    /// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + ms, self.order), event);
    }

    pub fn run(mut self) -> Done {
        let end = TROUBLE_MS + PEACE_MS;
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if at >= TROUBLE_MS && !self.peace {
                self.heal();
            }
            if at >= end {
                break;
            }
            self.handle(event);
        }
        self.check_end();
        self.done.acknowledged = self.acknowledged.len() as u64;
        self.done
    }

    fn handle(&mut self, event: Event) {
        let target = match &event {
            Event::ToBroker { broker, run, .. }
            | Event::Flushed { broker, run, .. }
            | Event::Produce { broker, run, .. }
            | Event::FromController { broker, run, .. } => Some((*broker, *run)),
            _ => None,
        };
        if let Some((id, run)) = target {
            let broker = self.brokers.get_mut(&id).expect("a broker");
            if !broker.up || broker.run != run {
                return;
            }
            if broker.frozen {
                return broker.held.push(event);
            }
        }
        match event {
            Event::ToBroker {
                broker,
                message,
                payload,
                ..
            } => {
                self.drive(broker, |driver, now, out| {
                    driver.receive(now, message, &payload, out)
                });
            }
            Event::Flushed { broker, work, .. } => {
                self.drive(broker, |driver, now, out| driver.flushed(now, work(), out));
            }
            Event::Produce { broker, number, .. } => self.produce(broker, number),
            Event::Reply { number, base } => self.on_reply(number, base),
            Event::ToController {
                reign,
                session,
                message,
            } => {
                if reign == self.reign && self.sessions.contains_key(&session) {
                    self.control(ControllerInput::Message(session, message));
                }
            }
            Event::FromController {
                broker,
                session,
                message,
                ..
            } => {
                // What an earlier connection carried is gone with it.
                if self.brokers[&broker].session == Some(session) {
                    self.on_word(broker, message);
                }
            }
            Event::Commit {
                reign,
                token,
                command,
            } => {
                let index = MetadataIndex(self.committed.index.0 + 1);
                let outcome = self.committed.apply(index, &command);
                self.control(ControllerInput::Applied(index, command));
                if reign == self.reign {
                    self.control(ControllerInput::Outcome(token, outcome));
                }
            }
            Event::Start { broker } => self.start(broker),
            Event::Thaw { broker } => self.thaw(broker),
            Event::Tick => self.tick(),
        }
    }

    // ---- brokers ----------------------------------------------------------------------------

    fn start(&mut self, id: u32) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        if broker.up {
            return;
        }
        broker.up = true;
        broker.run += 1;
        // What a process finds it makes durable before anything else.
        let mut disk = broker.disk.lock();
        disk.flushed = disk.entries.len();
        drop(disk);
        self.open_session(id);
        for other in self.others(id) {
            self.drive(other, |driver, now, out| {
                driver.input(now, Input::LinkUp(BrokerId(id)), out)
            });
        }
    }

    fn stop(&mut self, id: u32) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let disk = broker.disk.clone();
        let run = broker.run;
        let session = broker.session;
        *broker = Broker {
            disk,
            run,
            ..Broker::default()
        };
        if let Some(session) = session {
            self.sessions.remove(&session);
            self.control(ControllerInput::Closed(session));
        }
        for other in self.others(id) {
            self.drive(other, |driver, now, out| {
                driver.input(now, Input::LinkDown(BrokerId(id)), out)
            });
            let life = self.committed.life_of(BrokerId(id));
            if let Some(epoch) = life {
                let life = BrokerLife {
                    broker: BrokerId(id),
                    epoch,
                };
                self.tell_controller(other, ToController::ConnectionRefused { life });
            }
        }
    }

    fn others(&self, id: u32) -> Vec<u32> {
        self.brokers
            .keys()
            .copied()
            .filter(|other| *other != id && self.brokers[other].up)
            .collect()
    }

    fn open_session(&mut self, id: u32) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        broker.session = Some(session);
        let life = broker.life;
        let (shown_life, run) = (broker.shown_life, broker.run);
        self.sessions.insert(session, (id, broker.run));
        self.tell_controller(
            id,
            ToController::Hello {
                broker: BrokerId(id),
                life,
            },
        );
        if life.is_none() {
            self.tell_controller(
                id,
                ToController::Register {
                    directory: DirectoryId(Uuid::from_u128(u128::from(id))),
                    client_address: String::new(),
                    peer_address: String::new(),
                    log_lost: false,
                    shown_life,
                    process: ProcessId(Uuid::from_u128(u128::from(run) << 8 | u128::from(id))),
                    unclean_restart: false,
                },
            );
        }
    }

    fn tell_controller(&mut self, id: u32, message: ToController) {
        // In order, as a connection is: the delay is always the same.
        if let Some(session) = self.brokers[&id].session {
            let reign = self.reign;
            self.after(
                2,
                Event::ToController {
                    reign,
                    session,
                    message,
                },
            );
        }
    }

    fn on_word(&mut self, id: u32, message: FromController) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        match message {
            FromController::Registered { epoch } => {
                broker.life = Some(epoch);
                broker.shown_life = Some(epoch);
            }
            FromController::Snapshot(state) => {
                if broker
                    .state
                    .as_ref()
                    .is_some_and(|own| own.index > state.index)
                {
                    return;
                }
                broker.state = Some(state);
                self.follow(id);
            }
            FromController::Commands(commands) => {
                if let Some(state) = &mut broker.state {
                    for (index, command) in commands {
                        if index > state.index {
                            state.apply(index, &command);
                        }
                    }
                    self.follow(id);
                }
            }
            FromController::Fence(fences) => {
                for (_, epoch) in fences {
                    self.drive(id, |driver, now, out| {
                        driver.input(now, Input::Fence(epoch), out)
                    });
                }
            }
            FromController::SetChangesRefused(refused) => {
                for (_, version) in refused {
                    let input = Input::SetChangeRefused { version };
                    self.drive(id, |driver, now, out| driver.input(now, input, out));
                }
            }
            _ => {}
        }
    }

    /// As the router does: the replica lives once its broker has a life, and is told every view.
    fn follow(&mut self, id: u32) {
        let links: Vec<BrokerId> = self.others(id).into_iter().map(BrokerId).collect();
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let (Some(state), Some(epoch)) = (&broker.state, broker.life) else {
            return;
        };
        let Some((topic, record)) = state
            .topics
            .get(&PARTITION.topic)
            .and_then(|topic| Some((topic, topic.partition(PARTITION.partition)?)))
        else {
            return;
        };
        if !record.replicas.contains(&BrokerId(id)) {
            return;
        }
        let view = view_of(state, topic, record);
        if broker.driver.is_none() {
            let me = BrokerLife {
                broker: BrokerId(id),
                epoch,
            };
            let shape = shape_on(&broker.disk);
            let config = baton_replication::Config::default();
            let replica = Replica::new(me, config, Rules::default(), shape, view.clone(), links);
            broker.driver = Some(Driver::new(replica, Box::new(broker.disk.clone())));
        }
        self.drive(id, |driver, now, out| {
            driver.input(now, Input::Metadata(view), out)
        });
    }

    fn drive(&mut self, id: u32, act: impl FnOnce(&mut Driver, Tick, &mut Vec<Output>)) {
        let now = Tick(self.now);
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(driver) = &mut broker.driver else {
            return;
        };
        let before = driver.replica().log().high_watermark;
        let mut outputs = Vec::new();
        act(driver, now, &mut outputs);
        assert!(
            driver.replica().log().high_watermark >= before,
            "a watermark moved back"
        );
        for output in outputs {
            self.dispatch(id, output);
        }
    }

    fn dispatch(&mut self, id: u32, output: Output) {
        match output {
            Output::Send {
                to,
                message,
                payload,
            } => self.send(id, to.0, &message, &payload),
            Output::Reply { request, result } => {
                let broker = self.brokers.get_mut(&id).expect("a broker");
                if let Some(number) = broker.requests.remove(&request) {
                    let base = result.ok().and_then(|acknowledged| acknowledged.base);
                    let delay = 1 + self.below(5);
                    self.after(delay, Event::Reply { number, base });
                }
            }
            Output::Flush(work) => {
                let run = self.brokers[&id].run;
                let delay = 1 + self.below(20);
                self.after(
                    delay,
                    Event::Flushed {
                        broker: id,
                        run,
                        work,
                    },
                );
            }
            Output::FenceAnswer(answer) => {
                let answer = FenceAnswer {
                    partition: PARTITION,
                    epoch: answer.epoch,
                    last_epoch: answer.last_epoch,
                    durable_end: answer.durable_end,
                    log_start: answer.log_start,
                    life: answer.life,
                    suspect: answer.suspect,
                };
                self.tell_controller(id, ToController::FenceAnswers(vec![answer]));
            }
            Output::ProposeInSync(proposal) => {
                let change = SetChange {
                    partition: PARTITION,
                    epoch: proposal.epoch,
                    version: proposal.version,
                    new_set: proposal.new_set,
                    verified: proposal.verified,
                    sync_followers_elect: proposal.sync_followers_elect,
                };
                self.tell_controller(id, ToController::ProposeInSync(vec![change]));
            }
            Output::RoleChanged {
                leading: Some(epoch),
            } => {
                self.done.elections += 1;
                // One that was frozen may take up an office that has passed already. It leads
                // nobody then, and need not hold what was committed in later epochs.
                let current = self
                    .committed
                    .partition(&PARTITION)
                    .map(|found| found.epoch);
                if current == Some(epoch) {
                    self.check_log(id);
                }
            }
            Output::Truncated { .. } => self.done.truncations += 1,
            Output::Broken(reason) => panic!("broker {id} broke: {reason:?}"),
            Output::BadPeer { why } => panic!("broker {id} got nonsense: {why}"),
            Output::AskOffsets { epoch, limit } => {
                let grant = OffsetGrant {
                    partition: PARTITION,
                    epoch,
                    limit,
                };
                self.tell_controller(id, ToController::AskOffsets(vec![grant]));
            }
            Output::ProposeHandover(_)
            | Output::RoleChanged { leading: None }
            | Output::HighWatermark(_) => {}
        }
    }

    fn send(&mut self, from: u32, to: u32, message: &ReplicaMessage, payload: &Bytes) {
        let cut = self.cuts.contains(&(from, to));
        let copies = match self.below(100) {
            _ if cut => 0,
            0..=2 if !self.peace => 0,
            3..=5 if !self.peace => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let run = self.brokers[&to].run;
            let delay = if self.below(20) == 0 {
                1 + self.below(300)
            } else {
                1 + self.below(4)
            };
            let (message, payload) = (message.clone(), payload.clone());
            self.after(
                delay,
                Event::ToBroker {
                    broker: to,
                    run,
                    message,
                    payload,
                },
            );
        }
    }

    // ---- controller -------------------------------------------------------------------------

    fn control(&mut self, input: ControllerInput) {
        let mut effects = Vec::new();
        self.controller.step(Tick(self.now), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Propose(token, command) => {
                    let reign = self.reign;
                    self.after(
                        3,
                        Event::Commit {
                            reign,
                            token,
                            command,
                        },
                    );
                }
                Effect::Send(session, message) => {
                    if let Some((broker, run)) = self.sessions.get(&session).copied() {
                        self.after(
                            2,
                            Event::FromController {
                                broker,
                                run,
                                session,
                                message,
                            },
                        );
                    }
                }
                Effect::Close(session) => drop(self.sessions.remove(&session)),
            }
        }
    }

    /// Another controller takes over, with all that is committed.
    fn move_controller(&mut self) {
        self.reign += 1;
        let term = self.reign + 1;
        self.controller = ControllerCore::new(
            BrokerId(0),
            term,
            Config::default(),
            self.committed.clone(),
            Tick(self.now),
        );
        self.sessions.clear();
        let up: Vec<u32> = self
            .brokers
            .iter()
            .filter(|(_, b)| b.up)
            .map(|(id, _)| *id)
            .collect();
        for id in up {
            self.open_session(id);
        }
    }

    // ---- producer ---------------------------------------------------------------------------

    fn produce(&mut self, id: u32, number: u64) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        broker.requests.insert(request, number);
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(&number.to_be_bytes()), &[]);
        let batch = builder.build(Some(ProducerState {
            id: ProducerId(1),
            epoch: 0,
            sequence: number as u32,
        }));
        let batch = CheckedBatch::check(batch, 1 << 20).expect("sound");
        self.drive(id, |driver, now, out| {
            driver.produce(now, request, &batch, Acks::Committed, 600, out)
        });
    }

    fn on_reply(&mut self, number: u64, base: Option<Offset>) {
        let Some(base) = base else {
            return;
        };
        if let Some(before) = self.acknowledged.insert(number, base) {
            assert_eq!(before, base, "number {number} was told two offsets");
        }
        if number == self.sending.0 {
            self.sending = (number + 1, 0);
        }
    }

    /// Sends the number that is due to whom the metadata names.
    fn send_number(&mut self) {
        let (number, sent_at) = self.sending;
        if sent_at != 0 && self.now - sent_at < PATIENCE_MS {
            return;
        }
        let leader = self
            .committed
            .partition(&PARTITION)
            .and_then(|partition| partition.leader);
        if let Some(leader) = leader {
            self.sending.1 = self.now;
            let broker = leader.broker.0;
            let run = self.brokers[&broker].run;
            let delay = 1 + self.below(5);
            self.after(
                delay,
                Event::Produce {
                    broker,
                    run,
                    number,
                },
            );
        }
    }

    // ---- time and faults --------------------------------------------------------------------

    fn tick(&mut self) {
        self.after(25, Event::Tick);
        self.control(ControllerInput::Tick);
        let running: Vec<u32> = self
            .brokers
            .iter()
            .filter(|(_, b)| b.up && !b.frozen)
            .map(|(id, _)| *id)
            .collect();
        for id in running {
            let disk_progress = self.now;
            if self.now % 100 < 25 {
                self.tell_controller(id, ToController::Heartbeat { disk_progress });
            }
            self.drive(id, |driver, now, out| driver.input(now, Input::Tick, out));
        }
        if self.now == 501 {
            let request = AdminRequest::CreateTopic {
                name: "t".into(),
                partitions: Some(1),
                replicas: Some(3),
                sync_followers: Some(1),
                flush: None,
                unclean_election: None,
            };
            let fresh_topic_id = PARTITION.topic;
            self.tell_controller(
                1,
                ToController::Admin {
                    id: 1,
                    request,
                    fresh_topic_id,
                },
            );
        }
        // At the end all is to come to rest.
        if self.now < TROUBLE_MS + PEACE_MS - REST_MS {
            self.send_number();
        }
        if !self.peace && self.now > 1_000 && self.below(20) == 0 {
            self.fault();
        }
        let trace = (
            self.now,
            self.acknowledged.len() as u64,
            self.committed.index.0,
            self.random,
        );
        for part in [trace.0, trace.1, trace.2, trace.3] {
            self.done.trace = (self.done.trace ^ part).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn fault(&mut self) {
        let count = self.brokers.len() as u64;
        let id = 1 + self.below(count) as u32;
        let back = 100 + self.below(3_000);
        match self.below(10) {
            0..=2 if self.brokers[&id].up => {
                self.stop(id);
                self.after(back, Event::Start { broker: id });
            }
            3..=4 if self.brokers[&id].up => {
                self.stop(id);
                let kept = self.below(3) as usize;
                self.brokers[&id].disk.lock().lose_power(kept);
                self.after(back, Event::Start { broker: id });
            }
            5..=6 => {
                self.brokers.get_mut(&id).expect("a broker").frozen = true;
                self.after(back, Event::Thaw { broker: id });
            }
            7 => {
                let other = 1 + self.below(count) as u32;
                self.cuts.insert((id, other));
            }
            8 => self.cuts.clear(),
            _ => self.move_controller(),
        }
    }

    fn thaw(&mut self, id: u32) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        broker.frozen = false;
        // Before all else that is due now: a connection keeps its order through a freeze.
        for event in std::mem::take(&mut broker.held) {
            self.thawed += 1;
            self.events.insert((self.now, self.thawed), event);
        }
    }

    fn heal(&mut self) {
        self.peace = true;
        self.cuts.clear();
        let ids: Vec<u32> = self.brokers.keys().copied().collect();
        for id in ids {
            self.thaw(id);
            self.start(id);
        }
    }

    // ---- what must hold ---------------------------------------------------------------------

    /// Whoever leads holds everything that was acknowledged, where it was said to be.
    fn check_log(&self, id: u32) {
        let content = self.brokers[&id].disk.lock();
        let mut found: BTreeMap<u64, Offset> = BTreeMap::new();
        for (header, entry) in content.entries.iter().filter(|entry| !entry.0.is_control()) {
            let value = entry[entry.len() - 9..entry.len() - 1]
                .try_into()
                .expect("eight bytes");
            let before = found.insert(u64::from_be_bytes(value), header.base_offset());
            assert_eq!(before, None, "a number is in the log twice");
        }
        for (number, base) in &self.acknowledged {
            assert_eq!(
                found.get(number),
                Some(base),
                "broker {id} lacks number {number}"
            );
        }
    }

    fn check_end(&self) {
        let partition = self.committed.partition(&PARTITION).expect("made");
        assert!(
            self.acknowledged.len() > 20,
            "too little was produced: {}",
            self.acknowledged.len()
        );
        let replicas = self.brokers.iter().map(|(id, broker)| {
            let heard = broker
                .driver
                .as_ref()
                .map(|driver| driver.replica().acknowledged());
            let fenced = self.committed.is_fenced(BrokerId(*id));
            format!(
                "{id}: life {:?} fenced {fenced} hears {heard:?}; ",
                broker.life
            )
        });
        let replicas: String = replicas.collect();
        assert_eq!(
            partition.in_sync.len(),
            3,
            "the set is not whole: {partition:?} {replicas}"
        );
        let leader = partition.leader.expect("led").broker.0;
        self.check_log(leader);
        let log = |id: u32| -> Vec<(LeaderEpoch, Offset)> {
            let content = self.brokers[&id].disk.lock();
            content
                .entries
                .iter()
                .map(|entry| (entry.0.leader_epoch(), entry.0.base_offset()))
                .collect()
        };
        for replica in &partition.replicas {
            let differs = log(replica.0) != log(leader);
            assert!(!differs, "broker {replica} differs from the leader");
        }
    }
}

/// What a process finds on its disk.
fn shape_on(disk: &Disk) -> LogShape {
    let content = disk.lock();
    let mut epochs = EpochHistory::default();
    let mut producers = ProducerTable::default();
    let mut before = Offset::ZERO;
    for (header, _) in &content.entries {
        let shape = shape_of(header);
        epochs.append(shape.epoch, before);
        before = shape.end;
        if let Some(stamp) = shape.producer {
            let batch = RememberedBatch {
                stamp,
                base: shape.base,
                end: shape.end,
                leader_epoch: shape.epoch,
            };
            producers.append(batch, Offset::ZERO);
        }
    }
    LogShape {
        start: Offset::ZERO,
        end: content.end(),
        durable_end: content.flushed_end(),
        high_watermark: Offset::ZERO,
        epochs,
        producers,
        lossy: false,
    }
}
