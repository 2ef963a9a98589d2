//! Where the controller's core lives: its sessions, what it has committed, how it moves.
//!
//! The group that replicates its commands is a queue: what was proposed is committed in that order,
//! sometimes late, sometimes after its proposer was told that it failed, sometimes never. With a
//! move of the controller a part of what is under way is committed and the rest is lost, before the
//! next one begins. That one may not know of it for a while (`former.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_controller::command::{Command, Elected, Grade};
use baton_controller::core::{Config, ControllerCore, Effect, Input, SessionId, Token};
use baton_controller::rules::Rules;
use baton_controller::session::{FromController, ToController};
use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerId, ClusterId, MetadataIndex, Offset, Tick, TopicPartition};
use baton_protocol::metadata::PartitionRecord;
use uuid::Uuid;

use crate::cluster::World;
use crate::former::Former;
use crate::log_file::LogFile;
use crate::observation::Observation;
use crate::schedule::{BrokerEvent, ControllerEvent, Event, Reign, Run};

/// Between two ticks of the core, in milliseconds.
const TICK_MS: u64 = 50;

/// How long ago it may be at most that a majority was last heard, in milliseconds.
const MAJORITY_MS: u64 = 60;

/// A connection of a broker's process to a controller: ordered, until it breaks.
pub struct Session {
    pub reign: Reign,
    broker: BrokerId,
    run: Run,
    /// When the last message in each direction arrives: the next one does not overtake it.
    up_at: Tick,
    down_at: Tick,
    broken: bool,
}

struct Proposed {
    token: Token,
    command: Command,
    told_failed: bool,
}

/// The controller, or the time between two.
pub struct Controller {
    pub core: Option<ControllerCore>,
    reign: Reign,
    /// One that does not know that it is no controller any more.
    pub former: Option<Former>,
    pub committed: ClusterState,
    pub sessions: BTreeMap<SessionId, Session>,
    next_session: u64,
    proposed: VecDeque<Proposed>,
    commit_at: Tick,
    /// The clock of the machine that it is on is not that of the simulation.
    pub clock_ahead_ms: u64,
    pub stalled_until: Tick,
    pub slow_until: Tick,
    pub outcomes_lost_until: Tick,
}

impl Controller {
    pub fn new(rules: Rules) -> Controller {
        let mut committed = ClusterState {
            rules,
            ..ClusterState::default()
        };
        let cluster_id = ClusterId(Uuid::from_u128(1));
        committed.apply(MetadataIndex(1), &Command::FormCluster { cluster_id });
        Controller {
            core: None,
            reign: Reign(0),
            former: None,
            committed,
            sessions: BTreeMap::new(),
            next_session: 0,
            proposed: VecDeque::new(),
            commit_at: Tick(0),
            clock_ahead_ms: 0,
            stalled_until: Tick(0),
            slow_until: Tick(0),
            outcomes_lost_until: Tick(0),
        }
    }

    pub fn reign(&self) -> Reign {
        self.reign
    }

    pub fn is_in_office(&self) -> bool {
        self.core.is_some()
    }

    /// Whether there is a controller in this reign, which may be a former one.
    pub fn acts_in(&self, reign: Reign) -> bool {
        self.reign == reign || self.former_in(reign).is_some()
    }

    /// Takes away the sessions of a reign.
    pub fn sessions_of(&mut self, reign: Reign) -> Vec<(SessionId, Session)> {
        let all = std::mem::take(&mut self.sessions).into_iter();
        let (of_reign, others) = all.partition::<Vec<_>, _>(|(_, session)| session.reign == reign);
        self.sessions.extend(others);
        of_reign
    }

    fn former_in(&self, reign: Reign) -> Option<&Former> {
        self.former.as_ref().filter(|former| former.reign == reign)
    }

    /// The core of a reign, and how far its clock is ahead.
    fn core_in(&mut self, reign: Reign) -> Option<(&mut ControllerCore, u64)> {
        if self.reign == reign {
            return Some((self.core.as_mut()?, self.clock_ahead_ms));
        }
        let former = self
            .former
            .as_mut()
            .filter(|former| former.reign == reign)?;
        Some((&mut former.core, former.clock_ahead_ms))
    }
}

impl World {
    pub fn on_controller_event(&mut self, reign: Reign, event: ControllerEvent) {
        match event {
            ControllerEvent::Begins => {
                let term = reign.0;
                let committed = self.controller.committed.clone();
                self.controller.clock_ahead_ms = self.random.between(0, 1_000_000);
                let now = self.controller_clock();
                let config = Config::default();
                let core = ControllerCore::new(BrokerId(0), term, config, committed, now);
                self.controller.core = Some(core);
                self.control_after(0, ControllerEvent::Tick);
            }
            ControllerEvent::Tick => {
                let tick = Event::Controller(reign, ControllerEvent::Tick);
                self.schedule.after(TICK_MS, tick);
                let (term, at) = (reign.0, self.surely_led_at(reign));
                self.control(reign, Input::SurelyLed { term, at });
                self.control(reign, Input::Tick);
            }
            ControllerEvent::Message(session, message) => {
                if self.controller.sessions.contains_key(&session) {
                    self.control(reign, Input::Message(session, message));
                }
            }
            ControllerEvent::Closed(session) => {
                if self.controller.sessions.remove(&session).is_some() {
                    self.control(reign, Input::Closed(session));
                }
            }
            ControllerEvent::Commit if reign == self.controller.reign => {
                if let Some(proposed) = self.controller.proposed.pop_front() {
                    self.commit(proposed);
                }
            }
            // All that the former one had proposed is committed or lost.
            ControllerEvent::Commit => {}
            ControllerEvent::Failed(token) => self.control(reign, Input::ProposalFailed(token)),
        }
    }

    pub fn control_after(&mut self, ms: u64, event: ControllerEvent) {
        let reign = self.controller.reign;
        self.schedule.after(ms, Event::Controller(reign, event));
    }

    /// The time that the controller goes by.
    pub fn controller_clock(&self) -> Tick {
        let ahead_ms = self.controller.clock_ahead_ms;
        self.schedule.now().after_ms(ahead_ms)
    }

    /// When the controller led for sure, last: as long ago as it takes to have something committed.
    pub fn surely_led_at(&mut self, reign: Reign) -> Tick {
        if let Some(former) = self.controller.former_in(reign) {
            return former.led_at;
        }
        let ago_ms = match self.controller.slow_until > self.schedule.now() {
            true => self.random.between(100, 900),
            false => self.random.between(2, MAJORITY_MS),
        };
        Tick(self.controller_clock().0.saturating_sub(ago_ms))
    }

    pub fn control(&mut self, reign: Reign, input: Input) {
        let now = self.schedule.now();
        let is_former = self.controller.former_in(reign).is_some();
        let Some((core, ahead_ms)) = self.controller.core_in(reign) else {
            return;
        };
        let mut effects = Vec::new();
        core.step(now.after_ms(ahead_ms), input, &mut effects);
        for effect in effects {
            match effect {
                // Nobody takes it.
                Effect::Propose(..) if is_former => {}
                Effect::Propose(token, command) => self.propose(token, command),
                Effect::Send(session, message) => self.tell_broker(session, message),
                Effect::Close(id) => self.end_session(id),
            }
        }
    }

    // ---- commands ---------------------------------------------------------------------------

    fn propose(&mut self, token: Token, command: Command) {
        let now = self.schedule.now();
        let mut delay = self.random.between(2, 6);
        if self.controller.slow_until > now {
            delay = self.random.between(100, 900);
        }
        let lost = self.controller.outcomes_lost_until > now && self.random.chance(500);
        if lost {
            self.stats.count("outcomes lost");
            self.tell(|| format!("the outcome is lost of {command:?}"));
            self.control_after(delay, ControllerEvent::Failed(token));
            if self.random.chance(400) {
                return;
            }
            delay += self.random.between(100, 2_500);
        }
        let at = self.controller.commit_at.max(now.after_ms(delay));
        self.controller.commit_at = at;
        self.controller.proposed.push_back(Proposed {
            token,
            command,
            told_failed: lost,
        });
        let reign = self.controller.reign;
        self.schedule
            .at(at, Event::Controller(reign, ControllerEvent::Commit));
    }

    fn commit(&mut self, proposed: Proposed) {
        let Proposed {
            token,
            command,
            told_failed,
        } = proposed;
        let index = MetadataIndex(self.controller.committed.index.0 + 1);
        self.note_elections(&command);
        let sets = self.sets_that_change(&command);
        let reigns = self.reigns_that_end(&command);
        let outcome = self.controller.committed.apply(index, &command);
        self.tell(|| format!("{index}: {command:?}: {outcome:?}"));
        for (partition, before) in sets {
            let record = self.controller.committed.partition(&partition);
            let shrunk = record.filter(|record| !record.in_sync.is_superset(&before));
            if let Some(record) = shrunk.cloned() {
                self.stats.count("members removed");
                self.observed.push(Observation::Shrunk(partition, record));
            }
        }
        self.observed.extend(reigns);
        self.note_committed(&command);
        let reign = self.controller.reign;
        self.control(reign, Input::Applied(index, command));
        if !told_failed {
            self.control(reign, Input::Outcome(token, outcome));
        }
    }

    /// The in-sync sets that a command is about, as they are before it.
    fn sets_that_change(&self, command: &Command) -> Vec<(TopicPartition, BTreeSet<BrokerId>)> {
        let Command::ChangeInSync { changes, .. } = command else {
            return Vec::new();
        };
        let before = changes.iter().filter_map(|change| {
            let record = self.controller.committed.partition(&change.partition)?;
            Some((change.partition, record.in_sync.clone()))
        });
        before.collect()
    }

    /// The reigns of leaders that a command is about to end, since their brokers are held for dead.
    fn reigns_that_end(&self, command: &Command) -> Vec<Observation> {
        let Command::BeginElections(elections) = command else {
            return Vec::new();
        };
        let deposed = elections.iter().filter_map(|(partition, epoch)| {
            let record = self.controller.committed.partition(partition)?;
            Some(Observation::Deposed {
                partition: *partition,
                leader: record.leader.filter(|_| record.epoch == *epoch)?,
                epoch: *epoch,
            })
        });
        deposed.collect()
    }

    fn note_committed(&mut self, command: &Command) {
        match command {
            Command::RegisterBroker {
                id,
                directory,
                log_lost,
                shown_life,
                unclean_restart,
                ..
            } => {
                // From here on the metadata says what is suspect; unless this is a late copy of a
                // registration from before the loss.
                let broker = self.brokers.get_mut(id).expect("a broker");
                let disk = broker.disk.lock();
                let of_this_disk = disk.directory == *directory && disk.shown_life == *shown_life;
                broker.lost &= !of_this_disk || (disk.failed && !log_lost);
                broker.lost_unflushed &= !of_this_disk || !unclean_restart;
            }
            Command::ReportSuspect { .. } => self.stats.count("suspects reported"),
            Command::ElectLeaders(elected) => {
                for elected in elected {
                    self.note_elected(elected);
                }
            }
            Command::HandOver { leader, handovers } => {
                for handover in handovers {
                    let record = self.controller.committed.partition(&handover.partition);
                    let done = record.is_some_and(|record| {
                        record.leader == Some(handover.to) && record.leader != Some(*leader)
                    });
                    self.stats.add("handovers", u64::from(done));
                }
            }
            Command::SetSyncFollowers { .. } => self.stats.count("sync followers set"),
            Command::SetPolicy { .. } => self.stats.count("policies set"),
            Command::GrantOffsets { .. } => self.stats.count("offset limits raised"),
            Command::ChangeInSync { changes, .. } => {
                for _ in changes {
                    self.stats.count("set changes asked for");
                }
            }
            Command::CreateTopic { .. } => self.stats.count("topics created"),
            Command::FormCluster { .. }
            | Command::SetFenced { .. }
            | Command::DeleteTopic { .. }
            | Command::BeginElections(_)
            | Command::AllocateProducerIds { .. } => {}
        }
        self.observed.push(Observation::MetadataChanged);
    }

    /// What the metadata says of partitions until an election ends. Those that fit it no more change
    /// nothing.
    fn note_elections(&mut self, command: &Command) {
        let Command::ElectLeaders(elected) = command else {
            return;
        };
        for elected in elected {
            let before = self.controller.committed.partition(&elected.partition);
            let open = before.filter(|record| {
                record.leader.is_none()
                    && record.epoch == elected.epoch
                    && self.controller.committed.is_current(elected.leader)
            });
            if let Some(before) = open.cloned() {
                let elected = *elected;
                self.observed.push(Observation::Elected { elected, before });
            }
        }
    }

    /// An election that may lose entries gives up what its winner does not hold: the oracle with it.
    fn note_elected(&mut self, elected: &Elected) {
        self.stats.count("elections");
        let partition = elected.partition;
        let took_effect = |record: &&PartitionRecord| {
            record.epoch == elected.epoch && record.leader == Some(elected.leader)
        };
        let record = self.controller.committed.partition(&partition);
        let Some(record) = record.filter(took_effect) else {
            return;
        };
        match elected.grade {
            Grade::Clean => return,
            Grade::Asynchronous => self.stats.count("elections that may lose: asynchronous"),
            Grade::Unclean => self.stats.count("elections that may lose: unclean"),
        }
        let floor = record.offset_floor;
        let at_intervals = self.flushes_at_intervals(&partition);
        let disk = self.brokers[&elected.leader.broker].disk.lock();
        let held = |file: &LogFile| {
            let (_, end) = if at_intervals {
                file.position()
            } else {
                file.durable_position()
            };
            let committed = self.oracle.committed(&partition);
            committed.map_or(Offset::ZERO, |committed| {
                let entries = file.log().iter().take_while(|entry| {
                    entry.end <= end && committed.covers(entry.base, entry.epoch)
                });
                let none = file.start().min(committed.end);
                entries.last().map_or(none, |entry| entry.end)
            })
        };
        let file = disk.logs.get(&partition);
        let kept = file.map_or(Offset::ZERO, held);
        let keeps = record.leader_keeps;
        let cuts_tail = file.is_some_and(|file| keeps < file.end());
        drop(disk);
        let is_whole = !cuts_tail && self.was_whole(elected);
        let lost = self.oracle.give_up(partition, elected.epoch, kept, floor);
        if self.is_compacted(&partition) {
            // What superseded these is among what is lost. What was given up before may be in the winner's log
            // nevertheless, if no later leader had come to write anything.
            let wrong = self.wrong_keys(elected.leader.broker, &partition, keeps);
            assert!(
                wrong.is_empty() || !is_whole,
                "{partition}: {:?} was a whole member of the set, and has other records than count, by key: {wrong:?}",
                elected.leader
            );
            self.excuse_keys(partition, wrong.keys(), floor);
        }
        self.tell(|| format!("{partition}: given up from {kept} on"));
        self.stats.add("acknowledged batches given up", lost);
    }

    /// Whether the winner of an election that has just ended was a member of the in-sync set until then that
    /// had lost nothing.
    fn was_whole(&self, elected: &Elected) -> bool {
        let (id, partition) = (elected.leader.broker, &elected.partition);
        let before = self.observed.iter().rev().find_map(|seen| match seen {
            Observation::Elected {
                elected: other,
                before,
            } if other == elected => Some(before),
            _ => None,
        });
        before.is_some_and(|before| {
            before.in_sync.contains(&id)
                && !before.suspects.contains(&id)
                && !self.has_lost(id, partition)
                && !self.keyed.outrun.contains(&(id, *partition))
                && !self.brokers[&id]
                    .driver(partition)
                    .is_some_and(|driver| driver.replica().is_suspect())
        })
    }

    /// Another controller takes over after a while, with all that is committed by then. Returns the sessions of
    /// the last one.
    pub fn succeed_controller(&mut self, gap_ms: u64) -> Vec<(SessionId, Session)> {
        let under_way = self.controller.proposed.len() as u64;
        let survive = self.random.between(0, under_way);
        let controller = &mut self.controller;
        controller.core = None;
        let last = controller.reign;
        controller.reign = Reign(last.0 + 1);
        let proposed = std::mem::take(&mut controller.proposed);
        for proposed in proposed.into_iter().take(survive as usize) {
            self.commit(proposed);
        }
        self.controller.commit_at = self.schedule.now().after_ms(gap_ms);
        self.control_after(gap_ms, ControllerEvent::Begins);
        self.controller.sessions_of(last)
    }

    pub fn move_controller(&mut self, gap_ms: u64) {
        let sessions = self.succeed_controller(gap_ms);
        self.lose_sessions(sessions);
    }

    /// The controller is gone from these: some of the brokers notice it by the silence only.
    pub fn lose_sessions(&mut self, sessions: Vec<(SessionId, Session)>) {
        for (id, session) in sessions {
            if self.random.chance(500) {
                let event = BrokerEvent::SessionEnded(id);
                let event = Event::Broker(session.broker, session.run, event);
                self.schedule.after(1, event);
            }
        }
    }

    // ---- sessions ---------------------------------------------------------------------------

    pub fn new_session(&mut self, broker: BrokerId) -> Option<SessionId> {
        if !self.controller.is_in_office() || !self.network.reaches_controller(broker) {
            return None;
        }
        let id = SessionId(self.controller.next_session);
        self.controller.next_session += 1;
        let now = self.schedule.now();
        let session = Session {
            reign: self.controller.reign,
            broker,
            run: self.brokers[&broker].run,
            up_at: now,
            down_at: now,
            broken: false,
        };
        self.controller.sessions.insert(id, session);
        Some(id)
    }

    /// The broker's end is closed; the controller learns it sooner or later.
    pub fn close_session(&mut self, id: SessionId, within_ms: u64) {
        let delay = self.random.between(1, within_ms);
        let now = self.schedule.now();
        if let Some(session) = self.controller.sessions.get_mut(&id) {
            session.broken = true;
            let at = session.up_at.max(now.after_ms(delay));
            let event = Event::Controller(session.reign, ControllerEvent::Closed(id));
            self.schedule.at(at, event);
        }
    }

    /// The controller closes the connection; what it sent before arrives first.
    fn end_session(&mut self, id: SessionId) {
        let now = self.schedule.now();
        if let Some(session) = self.controller.sessions.get_mut(&id) {
            session.broken = true;
            let at = session.down_at.max(now.after_ms(1));
            let (broker, run) = (session.broker, session.run);
            let ended = Event::Broker(broker, run, BrokerEvent::SessionEnded(id));
            let closed = Event::Controller(session.reign, ControllerEvent::Closed(id));
            self.schedule.at(at, ended);
            self.schedule.after(1, closed);
        }
    }

    pub fn tell_controller(&mut self, broker: BrokerId, message: ToController) {
        let Some(process) = &self.brokers[&broker].process else {
            return;
        };
        let Some(id) = process.session else {
            return;
        };
        let reaches = self.network.reaches_controller(broker);
        let delay = self.network.controller_delay(&mut self.random, broker);
        let now = self.schedule.now();
        let Some(session) = self.controller.sessions.get_mut(&id) else {
            return;
        };
        session.broken |= !reaches;
        if session.broken {
            return;
        }
        session.up_at = session.up_at.max(now.after_ms(delay));
        let event = ControllerEvent::Message(id, message);
        let event = Event::Controller(session.reign, event);
        self.schedule.at(session.up_at, event);
    }

    fn tell_broker(&mut self, id: SessionId, message: FromController) {
        if let FromController::Fence(fences) = &message {
            self.tell(|| format!("fences to {id:?}: {fences:?}"));
        }
        let now = self.schedule.now();
        let Some(session) = self.controller.sessions.get_mut(&id) else {
            return;
        };
        let delay = self
            .network
            .controller_delay(&mut self.random, session.broker);
        session.broken |= !self.network.reaches_controller(session.broker);
        if session.broken {
            return;
        }
        session.down_at = session.down_at.max(now.after_ms(delay));
        let event = BrokerEvent::Word(id, message);
        let event = Event::Broker(session.broker, session.run, event);
        self.schedule.at(session.down_at, event);
    }

    /// Breaks a broker's connection to the controller. It may connect again at once.
    pub fn break_session(&mut self, broker: BrokerId) {
        let process = self
            .brokers
            .get_mut(&broker)
            .and_then(|b| b.process.as_mut());
        if let Some(session) = process.and_then(|process| process.session.take()) {
            self.close_session(session, 300);
        }
    }
}
