//! What goes wrong, decided up front: so that a part of it can be left out.

use std::fmt;

use baton_protocol::ids::{BrokerId, Tick};

use crate::random::Random;

/// A fault. Where it lasts, it lasts for the milliseconds named last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends at once.
    Kill(BrokerId, u64),
    /// Of what a leader sends only what is for one follower arrives; after a while it ends at once, and
    /// is away for the milliseconds named last. Whose leader, and which follower, the number decides.
    LoseLeader(u64, u64, u64),
    /// The machine loses power; of a thousand unflushed pages so many are kept.
    PowerCut(BrokerId, u64, u64),
    /// All machines lose power at once.
    PowerCutOfAll(u64, u64),
    /// The process stands still.
    Freeze(BrokerId, u64),
    /// One way between two brokers carries nothing.
    CutWay(BrokerId, BrokerId, u64),
    /// A broker reaches no other, nor they it. Perhaps not the controller either.
    Isolate(BrokerId, bool, u64),
    /// A broker's clock leaps ahead.
    ClockJump(BrokerId, u64),
    /// The controller's clock leaps ahead.
    ControllerClockJump(u64),
    /// A broker and the controller do not reach each other.
    CutController(BrokerId, u64),
    /// The connection to the controller breaks.
    BreakSession(BrokerId),
    /// The connections between two brokers break.
    BreakLink(BrokerId, BrokerId),
    /// A broker's network is slow, to other brokers and to the controller.
    SlowNetwork(BrokerId, u64),
    /// Another controller takes over, after a while.
    MoveController(u64),
    /// Another controller takes over, after a while, and the last one does not know of it.
    OutvoteController(u64, u64),
    /// The controller stands still.
    StallController(u64),
    /// Commands take long to be committed.
    SlowCommands(u64),
    /// The outcomes of commands are lost.
    LoseOutcomes(u64),
    SlowDisk(BrokerId, u64),
    HungDisk(BrokerId, u64),
    FullDisk(BrokerId, u64),
    /// The next flush fails.
    FlushError(BrokerId),
    /// The disk is replaced by an empty one.
    Wipe(BrokerId, u64),
    /// The process is killed, and one of its logs is gone when it is back.
    LoseLog(BrokerId, u64),
    /// The disk is replaced by a copy of it that was made this long ago at least, in milliseconds.
    OlderDisk(BrokerId, u64),
    /// The process is killed, and a bit of what is durable turns over meanwhile.
    BitFlip(BrokerId, u64),
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    pub at: Tick,
    pub fault: Fault,
}

impl fmt::Display for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {:?}", self.at.0, self.fault)
    }
}

/// Kinds of faults, by how often they come.
#[derive(Clone, Copy)]
enum Kind {
    Kill,
    LoseLeader,
    PowerCut,
    PowerCutOfAll,
    Freeze,
    CutWay,
    Isolate,
    CutController,
    BreakSession,
    BreakLink,
    SlowNetwork,
    MoveController,
    OutvoteController,
    StallController,
    ClockJump,
    ControllerClockJump,
    SlowCommands,
    LoseOutcomes,
    SlowDisk,
    HungDisk,
    FullDisk,
    FlushError,
    Wipe,
    LoseLog,
    OlderDisk,
    BitFlip,
}

const WEIGHTS: &[(u64, Kind)] = &[
    (14, Kind::Kill),
    (6, Kind::LoseLeader),
    (10, Kind::PowerCut),
    (2, Kind::PowerCutOfAll),
    (12, Kind::Freeze),
    (12, Kind::CutWay),
    (8, Kind::Isolate),
    (8, Kind::CutController),
    (6, Kind::BreakSession),
    (6, Kind::BreakLink),
    (3, Kind::SlowNetwork),
    (8, Kind::MoveController),
    (4, Kind::OutvoteController),
    (2, Kind::StallController),
    (2, Kind::ClockJump),
    (1, Kind::ControllerClockJump),
    (3, Kind::SlowCommands),
    (5, Kind::LoseOutcomes),
    (4, Kind::SlowDisk),
    (2, Kind::HungDisk),
    (2, Kind::FullDisk),
    (2, Kind::FlushError),
    (6, Kind::Wipe),
    (2, Kind::LoseLog),
    (2, Kind::OlderDisk),
    (2, Kind::BitFlip),
];

/// Leaders follow each other closely, each with entries that few others have.
const RESTLESS: &[(u64, Kind)] = &[
    (50, Kind::LoseLeader),
    (10, Kind::Kill),
    (10, Kind::CutWay),
    (6, Kind::Freeze),
    (4, Kind::PowerCut),
    (4, Kind::MoveController),
    (4, Kind::OutvoteController),
];

/// Disks cannot be relied on.
const FORGETFUL: &[(u64, Kind)] = &[
    (20, Kind::LoseLeader),
    (10, Kind::Kill),
    (10, Kind::PowerCut),
    (4, Kind::PowerCutOfAll),
    (10, Kind::Wipe),
    (10, Kind::LoseLog),
    (10, Kind::OlderDisk),
    (5, Kind::BitFlip),
    (5, Kind::FlushError),
    (5, Kind::MoveController),
    (6, Kind::SlowCommands),
    (4, Kind::LoseOutcomes),
];

/// Followers lag, and leaders are lost.
const LAGGING: &[(u64, Kind)] = &[
    (30, Kind::SlowNetwork),
    (20, Kind::LoseLeader),
    (10, Kind::Kill),
    (10, Kind::Freeze),
    (5, Kind::PowerCut),
    (5, Kind::PowerCutOfAll),
    (4, Kind::Wipe),
    (4, Kind::SlowCommands),
    (4, Kind::OutvoteController),
];

/// The faults of a seed, between the two times.
pub fn generate(
    seed: u64,
    brokers: &[BrokerId],
    from: Tick,
    until: Tick,
    lags: bool,
) -> Vec<Scheduled> {
    let mut random = Random::new(seed, 0xfa);
    // Seeds differ in how fast things go wrong: rare faults leave time for long histories.
    let pause_ms = random.pick(&[200, 350, 500]);
    let weights = random.weighted(&[(3, WEIGHTS), (1, RESTLESS), (1, FORGETFUL)]);
    let weights = if lags { LAGGING } else { weights };
    let mut at = from;
    let mut faults = Vec::new();
    while at < until {
        let fault = one(&mut random, weights, brokers);
        faults.push(Scheduled { at, fault });
        at = at.after_ms(random.between(1, 2 * pause_ms));
    }
    faults
}

fn one(random: &mut Random, weights: &[(u64, Kind)], brokers: &[BrokerId]) -> Fault {
    let broker = random.pick(brokers);
    let other = random.pick(brokers);
    let ms = match random.below(3) {
        0 => random.between(20, 300),
        1 => random.between(300, 1_500),
        _ => random.between(1_000, 3_000),
    };
    let kept = random.pick(&[0, 500, 900]);
    match random.weighted(weights) {
        Kind::LoseLeader => Fault::LoseLeader(random.below(1_000), random.between(20, 400), ms),
        Kind::Kill => Fault::Kill(broker, ms),
        Kind::PowerCut => Fault::PowerCut(broker, kept, ms),
        Kind::PowerCutOfAll => Fault::PowerCutOfAll(kept, ms),
        Kind::Freeze => Fault::Freeze(broker, ms),
        Kind::CutWay => Fault::CutWay(broker, other, ms),
        Kind::Isolate => Fault::Isolate(broker, random.chance(500), ms),
        Kind::CutController => Fault::CutController(broker, ms),
        Kind::BreakSession => Fault::BreakSession(broker),
        Kind::BreakLink => Fault::BreakLink(broker, other),
        Kind::SlowNetwork => Fault::SlowNetwork(broker, ms),
        Kind::MoveController => Fault::MoveController(1 + ms / 3),
        Kind::OutvoteController => Fault::OutvoteController(1 + ms / 10, 2 * ms),
        Kind::StallController => Fault::StallController(ms),
        Kind::ClockJump => Fault::ClockJump(broker, ms * 10),
        Kind::ControllerClockJump => Fault::ControllerClockJump(ms * 10),
        Kind::SlowCommands => Fault::SlowCommands(ms),
        Kind::LoseOutcomes => Fault::LoseOutcomes(ms),
        Kind::SlowDisk => Fault::SlowDisk(broker, ms),
        Kind::HungDisk => Fault::HungDisk(broker, ms),
        Kind::FullDisk => Fault::FullDisk(broker, ms),
        Kind::FlushError => Fault::FlushError(broker),
        // A quick change of disks: what the old one acknowledged may still be on its way.
        Kind::Wipe => Fault::Wipe(broker, if random.chance(600) { ms / 20 } else { ms }),
        Kind::LoseLog => Fault::LoseLog(broker, ms),
        Kind::OlderDisk => Fault::OlderDisk(broker, ms),
        Kind::BitFlip => Fault::BitFlip(broker, ms),
    }
}
