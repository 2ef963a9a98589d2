//! One broker: what its process knows, and how it carries the real driver.
//!
//! It does what the actors do around a driver: opens logs that the metadata places here, tells every
//! replica what concerns it, hands on what comes out. No decision about replication is taken here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton::actors::router::view_of;
use baton::driver::{Driver, Output};
use baton_controller::core::SessionId;
use baton_controller::session::FromController;
use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, Tick, TopicId, TopicPartition};
use baton_replication::event::{PartitionView, RequestId};
use baton_replication::{Input, Replica};

use crate::cluster::World;
use crate::disk::{Content, Disk, News};
use crate::groups::Coordinators;
use crate::keyed::Appended;
use crate::log_file::LogFile;
use crate::observation::Observation;
use crate::schedule::{Attempt, BrokerEvent, Event, Run};
use crate::switches::HostRule;

/// A broker, whether it runs or not.
#[derive(Default)]
pub struct Broker {
    pub disk: Disk,
    pub run: Run,
    /// Its clock is not that of the simulation, nor any other's.
    pub clock_ahead_ms: u64,
    pub process: Option<Process>,
    pub frozen_until: Tick,
    pub disk_hangs_until: Tick,
    pub disk_slow_until: Tick,
    /// Its disk lost what was durable, and the metadata does not show that yet.
    pub lost: bool,
    /// Its machine lost what was not durable, and the metadata does not show that yet.
    pub lost_unflushed: bool,
    /// What its last process knew of the cluster.
    pub last_state: Option<ClusterState>,
}

/// A running process.
#[derive(Default)]
pub struct Process {
    pub session: Option<SessionId>,
    pub heard_at: Tick,
    /// When those heartbeats were sent that are not answered yet, and the last of those that are.
    pub unanswered: VecDeque<Tick>,
    pub controller_heard: Option<Tick>,
    pub life: Option<BrokerEpoch>,
    pub state: Option<ClusterState>,
    pub replicas: BTreeMap<TopicPartition, Hosted>,
    /// Connections that stand, each to a process of the other broker.
    pub links: BTreeMap<BrokerId, Run>,
    pub requests: BTreeMap<RequestId, (TopicPartition, Attempt)>,
    pub next_request: u64,
    /// Replicas that earlier lives had: those that the metadata showed first.
    pub inherited: Option<BTreeSet<TopicPartition>>,
    pub coordinators: Coordinators,
}

/// A replica that the metadata places here.
pub enum Hosted {
    Opening,
    Running(Box<Running>),
}

pub struct Running {
    pub driver: Driver,
    view: PartitionView,
}

impl Broker {
    /// Whether its disk lost something, or may be about to, that the metadata does not show.
    pub fn is_unreliable(&self) -> bool {
        let disk = self.disk.lock();
        self.lost || disk.flush_fails || disk.failed
    }

    pub fn driver(&self, partition: &TopicPartition) -> Option<&Driver> {
        match self.process.as_ref()?.replicas.get(partition)? {
            Hosted::Running(running) => Some(&running.driver),
            Hosted::Opening => None,
        }
    }
}

impl World {
    pub fn on_broker_event(&mut self, id: BrokerId, event: BrokerEvent) {
        match event {
            BrokerEvent::Tick => self.on_broker_tick(id),
            BrokerEvent::Peer {
                from,
                partition,
                message,
                payload,
            } => {
                if self.process(id).life.is_some() {
                    self.trace.add(from.0.into());
                    self.drive(id, partition, |driver, now, out| {
                        driver.receive(now, message, &payload, out);
                    });
                }
            }
            BrokerEvent::Opened(partition) => self.on_opened(id, partition),
            BrokerEvent::Flushed(partition, work) => {
                self.drive(id, partition, |driver, now, out| {
                    driver.flushed(now, work(), out);
                });
            }
            BrokerEvent::WasRead(partition, push, work) => {
                self.drive(id, partition, |driver, now, out| {
                    driver.read(now, push, work(), out);
                });
            }
            BrokerEvent::Word(session, message) => {
                // What an earlier connection carried is gone with it.
                if self.process(id).session == Some(session) {
                    self.on_word(id, message);
                }
            }
            BrokerEvent::SessionEnded(session) => {
                let process = self.process(id);
                if process.session == Some(session) {
                    process.session = None;
                }
            }
            BrokerEvent::Produce(partition, attempt) => self.on_produce(id, partition, attempt),
            BrokerEvent::AskGroup(request) => self.on_ask_group(id, request),
            BrokerEvent::GroupsRead {
                partition,
                reign,
                from,
                up_to,
            } => self.on_groups_read(id, partition, reign, from, up_to),
            BrokerEvent::AppendGroups {
                partition,
                number,
                reign,
                batch,
            } => self.on_append_groups(id, partition, number, reign, batch),
            BrokerEvent::GroupsAppended {
                partition,
                number,
                fate,
            } => self.act_on_host(id, partition, |host, now, out| {
                host.appended(now, number, fate, out);
            }),
        }
    }

    /// The process of a broker that runs.
    pub fn process(&mut self, id: BrokerId) -> &mut Process {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        broker.process.as_mut().expect("it runs")
    }

    /// What its clock shows.
    pub fn clock_of(&self, id: BrokerId) -> Tick {
        self.schedule
            .now()
            .after_ms(self.brokers[&id].clock_ahead_ms)
    }

    // ---- metadata ---------------------------------------------------------------------------

    fn on_word(&mut self, id: BrokerId, message: FromController) {
        let now = self.clock_of(id);
        let process = self.process(id);
        process.heard_at = now;
        match message {
            FromController::Registered { epoch } => {
                process.life = Some(epoch);
                let mut disk = self.brokers[&id].disk.lock();
                disk.shown_life = Some(epoch);
                disk.unclean_restart = false;
                drop(disk);
                self.follow(id);
            }
            FromController::HandOver(partition, epoch, to) => {
                let leading = self.brokers[&id].driver(&partition);
                if leading.and_then(|driver| driver.replica().leading()) == Some(epoch) {
                    self.stats.count("handovers begun");
                    let timeout_ms = 1_000;
                    self.input(id, partition, Input::HandOver { to, timeout_ms });
                }
            }
            FromController::Snapshot(state) => {
                if process
                    .state
                    .as_ref()
                    .is_none_or(|own| own.index <= state.index)
                {
                    process.state = Some(state);
                    self.follow(id);
                }
            }
            FromController::Commands(commands) => {
                if let Some(state) = &mut process.state {
                    state.catch_up(&commands);
                    self.follow(id);
                }
            }
            FromController::Fence(fences) => {
                for (partition, epoch) in fences {
                    self.input(id, partition, Input::Fence(epoch));
                }
            }
            FromController::SetChangesRefused(refused) => {
                for (partition, version) in refused {
                    self.input(id, partition, Input::SetChangeRefused { version });
                }
            }
            FromController::Obsolete => {
                // Two processes of one broker: the older one ends.
                self.stop(id);
                self.schedule.after(100, Event::Start(id));
            }
            FromController::NotController { .. } => process.session = None,
            FromController::HeartbeatAck { alive } => {
                let sent_at = process.unanswered.pop_front().filter(|_| alive);
                process.controller_heard = process.controller_heard.max(sent_at);
            }
            FromController::Welcome { .. } | FromController::AdminResult { .. } => {}
        }
    }

    /// As the router does: every replica is told every view that differs from the last.
    pub fn follow(&mut self, id: BrokerId) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let process = broker.process.as_mut().expect("it runs");
        let Some(state) = process.state.take() else {
            return;
        };
        if process.life.is_none() {
            process.state = Some(state);
            return;
        }
        let mut views = BTreeMap::new();
        for (partition, record) in state.partitions() {
            if record.replicas.contains(&id) {
                let topic = &state.topics[&partition.topic];
                views.insert(partition, view_of(&state, topic, record));
            }
        }
        if process.inherited.is_none() {
            let logs = &mut broker.disk.lock().logs;
            if !self.rules.hold(HostRule::TopicIds) {
                find_by_name(logs, &views, &self.topics.names);
            }
            logs.retain(|partition, _| state.topics.contains_key(&partition.topic));
            process.inherited = Some(views.keys().copied().collect());
        }
        process.state = Some(state);
        let gone: Vec<TopicPartition> = process.replicas.keys().copied().collect();
        for partition in gone.into_iter().filter(|known| !views.contains_key(known)) {
            process.replicas.remove(&partition);
            process.requests.retain(|_, (of, _)| *of != partition);
            broker.disk.lock().logs.remove(&partition);
        }
        for (partition, view) in views {
            self.follow_partition(id, partition, view);
        }
    }

    fn follow_partition(&mut self, id: BrokerId, partition: TopicPartition, view: PartitionView) {
        // What one replica was told can end the process.
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(process) = &mut broker.process else {
            return;
        };
        match process.replicas.get_mut(&partition) {
            Some(Hosted::Running(running)) => {
                if running.view != view {
                    running.view = view.clone();
                    self.input(id, partition, Input::Metadata(view.into()));
                }
            }
            Some(Hosted::Opening) => {}
            None => {
                process.replicas.insert(partition, Hosted::Opening);
                let delay = self.random.between(1, 60);
                self.later(id, delay, BrokerEvent::Opened(partition));
            }
        }
    }

    fn on_opened(&mut self, id: BrokerId, partition: TopicPartition) {
        let rules = self.rules;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let process = broker.process.as_mut().expect("it runs");
        let (Some(state), Some(epoch)) = (&process.state, process.life) else {
            return;
        };
        let Some(record) = state.partition(&partition) else {
            return;
        };
        let inherited = process.inherited.as_ref();
        let expected = inherited.is_some_and(|inherited| inherited.contains(&partition));
        let (log, shape) = broker.disk.open(partition, expected, rules);
        if shape.lossy {
            self.stats.count("damaged or missing logs found");
        }
        let me = BrokerLife { broker: id, epoch };
        let config = match self.compacting.lags() {
            true => baton_replication::Config {
                append_bytes_max: 1,
                window_bytes: 1,
                ..baton_replication::Config::default()
            },
            false => baton_replication::Config::default(),
        };
        let links: Vec<BrokerId> = process.links.keys().copied().collect();
        let topic = &state.topics[&partition.topic];
        let view = view_of(state, topic, record);
        let replica = Replica::new(me, config, rules.replica, shape, view.clone(), links);
        let driver = Driver::new(replica, Box::new(log));
        let told = view.clone();
        let running = Hosted::Running(Box::new(Running { driver, view }));
        process.replicas.insert(partition, running);
        let mut replicas = process.replicas.values();
        if !replicas.any(|replica| matches!(replica, Hosted::Opening)) {
            // The metadata knows of the failure, and no log was left as it made it.
            broker.disk.lock().failed = false;
        }
        self.observed.push(Observation::Opened(id, partition));
        self.host_groups(id, partition);
        self.input(id, partition, Input::Metadata(told.into()));
    }

    // ---- replicas ---------------------------------------------------------------------------

    /// Schedules something that happens in the present process of a broker.
    pub fn later(&mut self, id: BrokerId, delay_ms: u64, event: BrokerEvent) {
        let run = self.brokers[&id].run;
        self.schedule.after(delay_ms, Event::Broker(id, run, event));
    }

    pub fn input(&mut self, id: BrokerId, partition: TopicPartition, input: Input) {
        self.drive(id, partition, |driver, now, out| {
            driver.input(now, input, out)
        });
    }

    /// Hands something to a replica's driver and carries out what comes of it.
    pub fn drive(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        act: impl FnOnce(&mut Driver, Tick, &mut Vec<Output>),
    ) {
        let now = self.clock_of(id);
        let is_compacted = self.is_compacted(&partition);
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(process) = broker.process.as_mut() else {
            return;
        };
        let Some(Hosted::Running(running)) = process.replicas.get_mut(&partition) else {
            return;
        };
        let mut outputs = std::mem::take(&mut self.outputs);
        broker.disk.lock().now = self.schedule.now();
        act(&mut running.driver, now, &mut outputs);
        self.observed.push(Observation::Stepped(id, partition));
        let mut disk = broker.disk.lock();
        let Content { logs, news, .. } = &mut *disk;
        for news in news.drain(..) {
            if matches!(news, News::Truncated { .. }) {
                self.stats.count("truncations");
            }
            if is_compacted && let News::Appended(_, stored) = &news {
                let appended = Appended {
                    now: self.schedule.now(),
                    partition,
                    stored,
                    file: &logs[&partition],
                    delete_retention_ms: self.compacting.delete_retention_ms,
                };
                if self.keyed.appended(&appended, &self.oracle) {
                    self.stats.count("deletions that came too late");
                }
            }
            self.observed.push(Observation::Disk(id, news));
        }
        drop(disk);
        let run = broker.run;
        for output in outputs.drain(..) {
            if self.brokers[&id].run == run {
                self.dispatch(id, partition, output);
            }
        }
        self.outputs = outputs;
        // What changes about the lead is known at once.
        self.act_on_host(id, partition, |_, _, _| ());
    }
}

/// What a broker would do that knew partitions by the names of their topics: takes the log of a topic
/// that was deleted for that of a later one of the same name.
fn find_by_name(
    logs: &mut BTreeMap<TopicPartition, LogFile>,
    wanted: &BTreeMap<TopicPartition, PartitionView>,
    names: &BTreeMap<TopicId, String>,
) {
    for partition in wanted.keys() {
        let same = |known: &TopicPartition| {
            known.partition == partition.partition
                && names.get(&known.topic) == names.get(&partition.topic)
        };
        let found = logs.keys().copied().find(same);
        if let Some(log) = found.and_then(|found| logs.remove(&found)) {
            logs.insert(*partition, log);
        }
    }
}
