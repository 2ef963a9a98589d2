//! The life of a broker's process: start, end, connections, heartbeats.

use baton_controller::session::ToController;
use baton_protocol::admin::is_internal_topic;
use baton_protocol::ids::{
    BrokerId, BrokerLife, DirectoryId, LeaderEpoch, ProcessId, TopicPartition,
};
use baton_protocol::metadata::Flush;
use baton_replication::Input;
use uuid::Uuid;

use crate::broker::Process;
use crate::cluster::{QUIET_FROM, World};
use crate::disk::Content;
use crate::log_file::LogFile;
use crate::observation::Observation;
use crate::schedule::{BrokerEvent, Event, Run};
use crate::switches::HostRule;

/// How often a leader finds at a tick that entries have expired, where they do.
const EXPIRING_PER_MILLE: u64 = 5;

/// Between two looks of a broker at its connections and replicas, in milliseconds.
const TICK_MS: u64 = 100;

/// A replica at rest is looked at once in so many rounds.
const REST_TICKS: u64 = 10;

/// Silence after which a broker looks for another controller, in milliseconds.
const SILENCE_MS: u64 = 600;

impl World {
    pub fn start(&mut self, id: BrokerId) {
        let now = self.clock_of(id);
        let broker = self.brokers.get_mut(&id).expect("a broker");
        if broker.process.is_some() {
            return;
        }
        broker.run = Run(broker.run.0 + 1);
        broker.disk.lock().flush_fails = false;
        broker.process = Some(Process {
            heard_at: now,
            ..Process::default()
        });
        if !self.rules.hold(HostRule::MetadataFirst) {
            // It goes on with what the last process knew, as if it were that one.
            let life = broker.disk.lock().shown_life;
            let state = broker.last_state.clone();
            if let Some(process) = &mut broker.process {
                (process.life, process.state) = (life, state);
            }
            self.follow(id);
        }
        let delay = self.random.between(0, 40);
        self.later(id, delay, BrokerEvent::Tick);
    }

    /// The process ends. Its connections break, so that others see it.
    pub fn stop(&mut self, id: BrokerId) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(process) = broker.process.take() else {
            return;
        };
        broker.last_state = process.state.or(broker.last_state.take());
        broker.run = Run(broker.run.0 + 1);
        broker.frozen_until = self.schedule.now();
        if let Some(session) = process.session {
            self.close_session(session, 5);
        }
        let refused: Vec<BrokerId> = self.peers_of(id);
        for other in refused {
            if self.network.carries(other, id)
                && let Some(epoch) = self.controller.committed.life_of(id)
            {
                let life = BrokerLife { broker: id, epoch };
                self.tell_controller(other, ToController::ConnectionRefused { life });
            }
        }
    }

    /// The machine loses power: nothing says so, and what no flush has reached may be gone.
    pub fn cut_power(&mut self, id: BrokerId, kept_per_mille: u64) {
        let now = self.schedule.now();
        let broker = self.brokers.get_mut(&id).expect("a broker");
        broker.run = Run(broker.run.0 + 1);
        broker.frozen_until = now;
        let process = broker.process.take();
        let known = process.as_ref().and_then(|process| process.state.clone());
        broker.last_state = known.or(broker.last_state.take());
        let mut content = broker.disk.lock();
        let mut gone = false;
        for file in content.logs.values_mut() {
            gone |= file.lose_power(&mut self.random, kept_per_mille);
        }
        content.unclean_restart = true;
        drop(content);
        broker.lost_unflushed |= gone;
        self.observed.push(Observation::DiskChanged);
        if let Some(session) = process.and_then(|process| process.session) {
            self.close_session(session, 3_000);
        }
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&mut self, id: BrokerId) {
        self.stop(id);
        self.next_directory += 1;
        let directory = DirectoryId(Uuid::from_u128(self.next_directory));
        let mut disk = self.brokers[&id].disk.lock();
        let chance = disk.chance.clone();
        *disk = Content {
            directory,
            chance,
            ..Content::default()
        };
        drop(disk);
        self.lose(id);
    }

    /// What a broker held does not count, until the metadata says so too.
    pub fn lose(&mut self, id: BrokerId) {
        self.brokers.get_mut(&id).expect("a broker").lost = true;
        self.observed.push(Observation::DiskChanged);
    }

    /// Whether every promise survives it if this broker loses its disk now. One disk at a time is in
    /// a state that the metadata does not show, so that a topic made meanwhile is safe too.
    pub fn may_lose(&self, id: BrokerId) -> bool {
        let mut others = self.brokers.iter().filter(|(other, _)| **other != id);
        if others.any(|(_, broker)| broker.is_unreliable()) {
            return false;
        }
        let placed = self.controller.committed.partitions();
        let mut placed = placed.filter(|(_, record)| record.replicas.contains(&id));
        placed.all(|(partition, record)| {
            let replicas = record.replicas.iter();
            let lost = replicas.filter(|other| **other != id && self.has_lost(**other, &partition));
            // An asynchronous partition promises nothing; one whose set was begun anew keeps its
            // promise once the set is large enough again.
            let tolerated = record.sync_followers_elect as usize;
            tolerated == 0 || (record.in_sync.len() > tolerated && lost.count() < tolerated)
        })
    }

    /// Whether a replica may lack what it acknowledged.
    pub fn has_lost(&self, id: BrokerId, partition: &TopicPartition) -> bool {
        let broker = &self.brokers[&id];
        let suspect = self
            .controller
            .committed
            .partition(partition)
            .is_some_and(|record| record.suspects.contains(&id));
        let disk = broker.disk.lock();
        let damaged = disk.logs.get(partition).is_some_and(|log| !log.is_sound())
            || disk.damage_notes.contains(partition)
            || disk.lost_logs.contains(partition);
        let unflushed = broker.lost_unflushed && self.flushes_at_intervals(partition);
        suspect || broker.lost || unflushed || damaged
    }

    /// Whether what is in memory counts as held in this partition.
    pub fn flushes_at_intervals(&self, partition: &TopicPartition) -> bool {
        let topic = self.controller.committed.topics.get(&partition.topic);
        topic.is_some_and(|topic| topic.config.flush == Flush::Interval)
    }

    /// Whether what a leader of this epoch commits is a promise. It is none where an election that
    /// may lose entries has begun a later epoch: that leader is cut off, and its word given up.
    pub fn is_promised_in(&self, partition: &TopicPartition, epoch: LeaderEpoch) -> bool {
        let record = self.controller.committed.partition(partition);
        record.is_none_or(|record| {
            let asynchronous = record.sync_followers_elect == 0 && epoch < record.epoch;
            record.lossy_epoch <= epoch && !asynchronous
        })
    }

    pub fn on_broker_tick(&mut self, id: BrokerId) {
        self.later(id, TICK_MS, BrokerEvent::Tick);
        self.keep_links(id);
        self.keep_session(id);
        let partitions: Vec<TopicPartition> = self.process(id).replicas.keys().copied().collect();
        let mut suspects = Vec::new();
        let heard = self.process(id).controller_heard;
        let round = self.schedule.now().0 / TICK_MS;
        for partition in partitions {
            let driver = self.brokers[&id].driver(&partition);
            let at_rest = driver.is_some_and(|driver| driver.is_at_rest());
            if at_rest && !(round + u64::from(partition.partition.0)).is_multiple_of(REST_TICKS) {
                continue;
            }
            if let Some(at) = heard {
                self.input(id, partition, Input::ControllerHeard(at));
            }
            self.expire(id, partition);
            self.compact(id, partition);
            self.input(id, partition, Input::Tick);
            let driver = self.brokers[&id].driver(&partition);
            if driver.is_some_and(|driver| driver.replica().log().lossy) {
                suspects.push(partition);
            }
        }
        if !suspects.is_empty() {
            self.tell_controller(id, ToController::ReportSuspect(suspects));
        }
        if self.brokers[&id].process.is_some() {
            self.tick_coordinators(id);
        }
    }

    /// Now and then, what a leader has up to some entry has expired.
    fn expire(&mut self, id: BrokerId, partition: TopicPartition) {
        let driver = self.brokers[&id].driver(&partition);
        let leads = driver.is_some_and(|driver| driver.replica().leading().is_some());
        let quiet = self.schedule.now() >= QUIET_FROM;
        let topic = self.controller.committed.topics.get(&partition.topic);
        // Of what groups have to know nothing expires.
        let internal = topic.is_some_and(|topic| is_internal_topic(&topic.name));
        if !self.expires || internal || !leads || quiet || !self.random.chance(EXPIRING_PER_MILLE) {
            return;
        }
        let mut disk = self.brokers[&id].disk.lock();
        let file = disk.logs.get(&partition);
        let ends: Vec<_> = file
            .map_or([].as_slice(), LogFile::log)
            .iter()
            .map(|e| e.end)
            .collect();
        if ends.is_empty() {
            return;
        }
        let to = ends[self.random.below(ends.len() as u64) as usize];
        disk.expired.insert(partition, to);
        drop(disk);
        self.stats.count("expiries");
        self.drive(id, partition, |driver, now, out| driver.expire(now, out));
    }

    /// Other brokers that are known to this one.
    fn peers_of(&self, id: BrokerId) -> Vec<BrokerId> {
        let peers = self.brokers.iter();
        let running = peers.filter(|(peer, broker)| **peer != id && broker.process.is_some());
        running.map(|(peer, _)| *peer).collect()
    }

    fn keep_links(&mut self, id: BrokerId) {
        let now = self.schedule.now();
        let mut changes = Vec::new();
        let mut refused = Vec::new();
        let links = &self.brokers[&id].process.as_ref().expect("it runs").links;
        for (peer, broker) in self.brokers.iter().filter(|(peer, _)| **peer != id) {
            let known = links.get(peer);
            let there = broker.process.is_some() && self.network.carries(id, *peer);
            let same = known == Some(&broker.run);
            // A way that is cut shows as a broken connection only after a while.
            let stuck = known.is_some() && !there && self.random.chance(100);
            if known.is_some() && ((there && !same) || stuck) {
                changes.push((*peer, None));
            }
            if there && !same && broker.frozen_until <= now {
                changes.push((*peer, Some(broker.run)));
            }
            if !there && known.is_none() && broker.process.is_none() {
                refused.push(*peer);
            }
        }
        for (peer, run) in changes {
            self.set_link(id, peer, run);
        }
        for peer in refused {
            if self.network.carries(id, peer)
                && let Some(epoch) = self.controller.committed.life_of(peer)
                && !self.powerless.contains(&peer)
            {
                let life = BrokerLife {
                    broker: peer,
                    epoch,
                };
                self.tell_controller(id, ToController::ConnectionRefused { life });
            }
        }
    }

    pub fn set_link(&mut self, id: BrokerId, peer: BrokerId, run: Option<Run>) {
        let Some(process) = self.brokers.get_mut(&id).and_then(|b| b.process.as_mut()) else {
            return;
        };
        let input = match run {
            Some(run) => {
                process.links.insert(peer, run);
                Input::LinkUp(peer)
            }
            None => {
                process.links.remove(&peer);
                Input::LinkDown(peer)
            }
        };
        let partitions: Vec<TopicPartition> = process.replicas.keys().copied().collect();
        for partition in partitions {
            self.input(id, partition, input.clone());
        }
    }

    fn keep_session(&mut self, id: BrokerId) {
        let now = self.clock_of(id);
        let disk_hangs = self.brokers[&id].disk_hangs_until > self.schedule.now();
        let process = self.process(id);
        if let Some(session) = process.session
            && now.since_ms(process.heard_at) > SILENCE_MS
        {
            process.session = None;
            self.close_session(session, 500);
        }
        if self.process(id).session.is_none() {
            self.open_session(id);
        }
        // A disk that hangs ends no operation; the count of those that ended stands still.
        let progress = &mut self.disk_progress;
        let count = progress.entry(id).or_insert(0);
        *count += u64::from(!disk_hangs);
        let disk_progress = *count;
        self.process(id).unanswered.push_back(now);
        self.tell_controller(id, ToController::Heartbeat { disk_progress });
    }

    fn open_session(&mut self, id: BrokerId) {
        let Some(session) = self.new_session(id) else {
            return;
        };
        let now = self.clock_of(id);
        let directory = self.brokers[&id].disk.lock().directory;
        let disk = self.brokers[&id].disk.lock();
        let (log_lost, shown_life) = (disk.failed, disk.shown_life);
        let unclean_restart = disk.unclean_restart;
        drop(disk);
        let run = self.brokers[&id].run;
        let own_process = ProcessId(Uuid::from_u128(u128::from(id.0) << 64 | u128::from(run.0)));
        let process = self.process(id);
        process.session = Some(session);
        process.unanswered.clear();
        process.heard_at = now;
        let life = process.life;
        self.tell_controller(id, ToController::Hello { broker: id, life });
        if life.is_none() {
            self.tell_controller(
                id,
                ToController::Register {
                    directory,
                    client_address: String::new(),
                    peer_address: String::new(),
                    log_lost,
                    shown_life,
                    process: own_process,
                    unclean_restart,
                },
            );
        }
    }

    pub fn start_later(&mut self, id: BrokerId, ms: u64) {
        self.schedule.after(ms, Event::Start(id));
    }
}
