//! The world: everything that a simulation consists of, and its loop.

use std::collections::{BTreeMap, BTreeSet};

use baton::driver::Output;
use baton_protocol::ids::{BrokerId, DirectoryId, Tick};
use uuid::Uuid;

use crate::broker::Broker;
use crate::compaction::Compacting;
use crate::consumers::{self, Consumer};
use crate::controller::Controller;
use crate::convergence;
use crate::disk::Content;
use crate::faults::{self, Scheduled};
use crate::groups::Groups;
use crate::invariants::Invariants;
use crate::keyed::Keyed;
use crate::network::{Network, Noise};
use crate::observation::Observation;
use crate::oracle::Oracle;
use crate::producers::{self, Producer};
use crate::random::Random;
use crate::schedule::{BrokerEvent, ClientIndex, ControllerEvent, Event, FaultIndex, Schedule};
use crate::stats::{Stats, Trace};
use crate::switches::Switches;
use crate::topics::Topics;

/// Before this nothing goes wrong, so that there is something to go wrong.
const TROUBLE_FROM: Tick = Tick(1_500);

/// From here on everything is well.
const PEACE_FROM: Tick = Tick(42_000);

/// From here on nothing new is produced.
pub const QUIET_FROM: Tick = Tick(55_000);

/// Then everything must be at rest.
pub const END: Tick = Tick(60_000);

/// In so many simulations of a thousand leaders have little room for offsets: they reach the limit
/// and wait for more. In the others no limit is ever reached, as in life.
const SCARCE_OFFSETS: u64 = 300;

/// By how many offsets limits are raised then, at least.
const OFFSET_QUANTUM: u64 = 48;

/// In so many simulations of a thousand entries expire.
const EXPIRING: u64 = 400;

/// What a simulation came to.
pub struct Report {
    pub stats: Stats,
    pub trace: Trace,
}

pub struct World {
    pub schedule: Schedule,
    /// Decides delays and whatever else is no fault and no plan.
    pub random: Random,
    pub rules: Switches,
    pub brokers: BTreeMap<BrokerId, Broker>,
    pub controller: Controller,
    pub network: Network,
    pub topics: Topics,
    pub producers: Vec<Producer>,
    pub consumers: Vec<Consumer>,
    pub groups: Groups,
    pub faults: Vec<Scheduled>,
    /// Leaders of whom only one follower hears, and who does not, by the fault that made it so.
    pub muted: BTreeMap<FaultIndex, (BrokerId, Vec<BrokerId>)>,
    /// Machines without power: they do not even refuse a connection.
    pub powerless: BTreeSet<BrokerId>,
    pub peace: bool,
    /// Entries expire: leaders find at random that some have.
    pub expires: bool,
    /// Whether topics are compacted, so that records have keys.
    pub compacting: Compacting,
    pub keyed: Keyed,
    pub oracle: Oracle,
    pub observed: Vec<Observation>,
    pub stats: Stats,
    pub trace: Trace,
    pub disk_progress: BTreeMap<BrokerId, u64>,
    pub copies_of_disks: BTreeMap<BrokerId, Content>,
    pub next_directory: u128,
    pub next_producer_id: u64,
    pub next_record: u64,
    pub outputs: Vec<Output>,
    /// Prints what happens.
    told: bool,
    invariants: Option<Box<Invariants>>,
}

/// The brokers of a seed.
fn brokers_of(seed: u64) -> Vec<BrokerId> {
    let count = Random::new(seed, 0xb0).weighted(&[(3, 3), (1, 4), (2, 5)]);
    (1..=count).map(BrokerId).collect()
}

/// The faults of a seed.
pub fn faults_of(seed: u64) -> Vec<Scheduled> {
    let lags = Compacting::new(seed).lags();
    faults::generate(seed, &brokers_of(seed), TROUBLE_FROM, PEACE_FROM, lags)
}

/// Runs a seed with these faults. Panics where an invariant does not hold.
pub fn run(seed: u64, rules: Switches, faults: Vec<Scheduled>) -> Report {
    World::new(seed, rules, faults).run()
}

impl World {
    fn new(seed: u64, rules: Switches, faults: Vec<Scheduled>) -> World {
        let ids = brokers_of(seed);
        let compacting = Compacting::new(seed);
        let rules = match Random::new(seed, 0x0f).chance(SCARCE_OFFSETS) {
            true => rules.with_offset_quantum(OFFSET_QUANTUM),
            false => rules,
        };
        let mut world = World {
            schedule: Schedule::new(),
            random: Random::new(seed, 0x0d),
            rules,
            brokers: BTreeMap::new(),
            controller: Controller::new(rules.controller),
            network: Network::default(),
            topics: Topics::new(seed, ids.len() as u32, PEACE_FROM, compacting.lags()),
            producers: producers::all(),
            consumers: consumers::all(),
            groups: Groups::new(seed),
            faults,
            muted: BTreeMap::new(),
            powerless: BTreeSet::new(),
            peace: false,
            expires: Random::new(seed, 0x5e).chance(EXPIRING),
            compacting,
            keyed: Keyed::default(),
            oracle: Oracle::default(),
            observed: Vec::new(),
            stats: Stats::default(),
            trace: Trace::default(),
            disk_progress: BTreeMap::new(),
            copies_of_disks: BTreeMap::new(),
            next_directory: 1 << 32,
            next_producer_id: 0,
            next_record: 1,
            outputs: Vec::new(),
            told: std::env::var_os("BATON_SIM_TELL").is_some(),
            invariants: Some(Box::default()),
        };
        world.network.noise = Noise::USUAL;
        for id in ids {
            let clock_ahead_ms = u64::from(id.0) * 1_000_000;
            let broker = Broker {
                clock_ahead_ms,
                ..Broker::default()
            };
            let mut disk = broker.disk.lock();
            disk.directory = DirectoryId(Uuid::from_u128(id.0.into()));
            disk.chance = Random::new(seed, 0xd15c_0000 + u64::from(id.0));
            drop(disk);
            world.brokers.insert(id, broker);
            world.start(id);
        }
        world.control_after(0, ControllerEvent::Begins);
        world.schedule.after(300, Event::AdminTick);
        for i in 0..world.producers.len() {
            let event = Event::ProducerTick(ClientIndex(i));
            world.schedule.after(400, event);
        }
        for i in 0..world.consumers.len() {
            let event = Event::ConsumerTick(ClientIndex(i));
            world.schedule.after(400, event);
        }
        for i in 0..world.groups.members.len() {
            let event = Event::MemberTick(ClientIndex(i));
            world.schedule.after(400, event);
        }
        for (i, scheduled) in world.faults.iter().enumerate() {
            let event = Event::Fault(FaultIndex(i));
            world.schedule.at(scheduled.at, event);
        }
        world
    }

    fn run(mut self) -> Report {
        while let Some(event) = self.schedule.pop() {
            let now = self.schedule.now();
            if now >= END {
                break;
            }
            if now >= PEACE_FROM && !self.peace {
                self.peace = true;
                self.heal();
            }
            self.handle(event);
            self.check();
        }
        convergence::check(&self);
        self.check_groups_at_rest();
        self.stats.add("faults", self.faults.len() as u64);
        Report {
            stats: self.stats,
            trace: self.trace,
        }
    }

    /// Tells what happens, to whoever looks for the reason of a failure.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:>6} ms  {}", self.schedule.now().0, what());
        }
    }

    fn check(&mut self) {
        if self.observed.is_empty() {
            return;
        }
        let observed = std::mem::take(&mut self.observed);
        let mut invariants = self.invariants.take().expect("put back after each check");
        invariants.check(self, &observed);
        self.invariants = Some(invariants);
        self.observed = observed;
        self.observed.clear();
    }

    fn handle(&mut self, event: Event) {
        self.trace.add(self.schedule.now().0);
        let now = self.schedule.now();
        match event {
            Event::Broker(id, run, event) => {
                let broker = &self.brokers[&id];
                if broker.run != run || broker.process.is_none() {
                    return;
                }
                let waits_for_disk =
                    matches!(event, BrokerEvent::Flushed(..) | BrokerEvent::Opened(_));
                let mut until = broker.frozen_until;
                if waits_for_disk {
                    until = until.max(broker.disk_hangs_until);
                }
                if until > now {
                    return self.schedule.defer(until, Event::Broker(id, run, event));
                }
                self.trace.add(id.0.into());
                self.on_broker_event(id, event);
            }
            Event::Controller(reign, event) => {
                if !self.controller.acts_in(reign) {
                    return;
                }
                let until = self.controller.stalled_until;
                if until > now {
                    return self.schedule.defer(until, Event::Controller(reign, event));
                }
                self.on_controller_event(reign, event);
            }
            Event::Start(id) => self.start(id),
            Event::Answer(attempt, base) => self.on_answer(attempt, base),
            Event::ProducerTick(index) => self.on_producer_tick(index),
            Event::ConsumerTick(index) => self.on_consumer_tick(index),
            Event::MemberTick(index) => self.on_member_tick(index),
            Event::GroupAnswer(request, answer) => self.on_group_answer(request, answer),
            Event::AdminTick => self.on_admin_tick(),
            Event::Fault(index) => {
                self.tell(|| format!("{:?}", self.faults[index.0].fault));
                self.begin_fault(index);
            }
            Event::FaultEnds(index) => self.end_fault(index),
        }
    }
}
