//! A cluster under simulation: the real driver and core on simulated disks, the real controller core,
//! a network that delays, loses, repeats and reorders, and faults of every kind. One seed decides
//! everything; after every event every invariant is checked, and at the end everything must converge.
//!
//! * `BATON_SIM_SEED=7 cargo test --release -p baton --test sim hold` repeats one seed;
//!   `BATON_SIM_FAULTS=3,14` leaves all but these of its faults out, `BATON_SIM_TELL=1` prints what
//!   the controller and the leaders do.
//! * `BATON_SIM_SEEDS=100000` runs so many, on all cores, from `BATON_SIM_FROM` on.
//! * Without these: a fixed set, then new seeds for `BATON_SIM_FRESH_SECONDS` (10).
//!
//! A seed that fails is run again with fewer and fewer faults; what remains is printed.

mod broker;
mod cluster;
mod compaction;
mod consumers;
mod controller;
mod convergence;
mod disk;
mod faults;
mod former;
mod groups;
mod injection;
mod invariants;
mod keyed;
mod log_file;
mod mutations;
mod network;
mod observation;
mod oracle;
mod outputs;
mod process;
mod producers;
mod random;
mod runner;
mod schedule;
mod stats;
mod switches;
mod topics;

use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use runner::{Summary, run, run_many, shrink};
use switches::Switches;

/// Seeds that every test run takes.
const FIXED_SEEDS: u64 = 200;

/// Seeds that failed once. The schedules that they stand for change with the simulator, so they say less
/// in time.
const FAILED_ONCE: [u64; 9] = [
    1_795_294_320_474,
    101_234,
    151_878,
    1_739,
    4_742,
    4_955,
    5_913,
    8_216,
    8_606,
];

/// For how many seconds a test run takes seeds that no run took before.
const FRESH_SECONDS: u64 = 10;

/// Between two lines that tell how far a long run is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number_from_environment(name: &str) -> Option<u64> {
    from_environment(name)?.parse().ok()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Panics with the shrunken schedule if a seed failed.
fn expect_none_failed(summary: &Summary) {
    if let Some((seed, message)) = summary.failed.clone() {
        println!("seed {seed} failed: {message}\nleaving out faults ...");
        panic!("{}", shrink(seed, Switches::default(), message));
    }
}

fn repeat(seed: u64) {
    let mut faults = cluster::faults_of(seed);
    if let Some(kept) = from_environment("BATON_SIM_FAULTS") {
        let kept: Vec<usize> = kept.split(',').filter_map(|at| at.parse().ok()).collect();
        let all = faults.into_iter().enumerate();
        faults = all
            .filter(|(at, _)| kept.contains(at))
            .map(|f| f.1)
            .collect();
    }
    for fault in &faults {
        println!("{fault}");
    }
    match run(seed, Switches::default(), faults) {
        Ok(report) => println!("{}", report.stats.table(1)),
        Err(message) => panic!("seed {seed}: {message}"),
    }
}

fn long_run(seeds: std::ops::Range<u64>) {
    let begun = Instant::now();
    let total = seeds.end - seeds.start;
    let told = std::sync::Mutex::new(begun);
    let rate = |done: u64| {
        let simulated = done * cluster::END.0 / 1_000;
        simulated as f64 / begun.elapsed().as_secs_f64()
    };
    let style = "{bar:40} {pos} of {len} seeds, {eta} to go, {msg} simulated seconds a second";
    let style = ProgressStyle::with_template(style).expect("a template");
    let bar = ProgressBar::new(total).with_style(style);
    let summary = run_many(seeds, Switches::default(), threads(), |done| {
        let mut told = told.lock().expect("nobody panics with it");
        if told.elapsed() >= PROGRESS_EVERY {
            *told = Instant::now();
            bar.set_message(format!("{:.0}", rate(done)));
            bar.set_position(done);
            if bar.is_hidden() {
                eprintln!(
                    "{done} of {total} seeds, {:.0} simulated seconds a second",
                    rate(done)
                );
            }
        }
        true
    });
    bar.finish_and_clear();
    println!("{}", summary.stats.table(summary.seeds));
    println!(
        "{} seeds, {:.0} simulated seconds a second on {} cores",
        summary.seeds,
        rate(summary.seeds),
        threads()
    );
    expect_none_failed(&summary);
}

#[test]
fn every_promise_holds_under_faults_and_everything_converges() {
    if let Some(seed) = number_from_environment("BATON_SIM_SEED") {
        return repeat(seed);
    }
    if let Some(count) = number_from_environment("BATON_SIM_SEEDS") {
        let from = number_from_environment("BATON_SIM_FROM").unwrap_or(0);
        return long_run(from..from + count);
    }
    let fixed = run_many(0..FIXED_SEEDS, Switches::default(), threads(), |_| true);
    println!("{}", fixed.stats.table(fixed.seeds));
    expect_none_failed(&fixed);
    for rare in [
        "elections",
        "truncations",
        "power cuts",
        "wipes",
        "controller moves",
        "batches acknowledged after retries",
        "batches acknowledged by the leader alone",
        "elections that may lose: asynchronous",
        "elections that may lose: unclean",
        "handovers",
        "sync followers set",
        "suspects reported",
        "damaged or missing logs found",
        "bits flipped",
        "logs lost",
        "disks restored",
        "brokers ended by their disk",
        "clock jumps",
        "reads waited for",
        "coordinators took office",
        "offsets of groups acknowledged",
        "changes of groups not stored",
        "members put out",
        "expiries",
        "logs begun anew",
        "compactions",
        "deletions gone for their age",
    ] {
        assert!(fixed.stats.of(rare) > 0, "never seen: {rare}");
    }
    for seed in FAILED_ONCE {
        let again = run_many(seed..seed + 1, Switches::default(), 1, |_| true);
        expect_none_failed(&again);
    }
    // The only use of a clock here: which seeds are new. It is printed with every failure.
    let fresh = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let fresh = fresh.map_or(0, |since| since.as_millis() as u64);
    let begun = Instant::now();
    let seconds = number_from_environment("BATON_SIM_FRESH_SECONDS").unwrap_or(FRESH_SECONDS);
    let go_on = |_| begun.elapsed() < Duration::from_secs(seconds);
    let fresh = run_many(fresh..u64::MAX, Switches::default(), threads(), go_on);
    println!("{} fresh seeds", fresh.seeds);
    expect_none_failed(&fresh);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let trace = |seed| {
        let report = run(seed, Switches::default(), cluster::faults_of(seed));
        report.map(|report| report.trace)
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}
