//! Runs seeds: one guarded, many on all cores, and a failed one with fewer and fewer faults.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cluster::{self, Report};
use crate::faults::Scheduled;
use crate::stats::Stats;
use crate::switches::Switches;

/// Most runs that shrinking a schedule takes.
const SHRINK_RUNS_MAX: u32 = 400;

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of simulations are results: they are kept, not printed.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let guarded = LAST_PANIC.with(|last| {
                let mut last = last.borrow_mut();
                let guarded = last.is_some();
                if guarded {
                    *last = Some(info.to_string());
                }
                guarded
            });
            if !guarded {
                usual(info);
            }
        }));
    });
}

/// Runs a seed with these faults; an error says what did not hold.
pub fn run(seed: u64, rules: Switches, faults: Vec<Scheduled>) -> Result<Report, String> {
    catch_panics();
    LAST_PANIC.with(|last| *last.borrow_mut() = Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| cluster::run(seed, rules, faults)));
    let message = LAST_PANIC.with(|last| last.borrow_mut().take());
    result.map_err(|_| message.unwrap_or_default())
}

/// A failure, with the fewest faults found that bring it about.
pub struct Failure {
    pub seed: u64,
    pub message: String,
    /// The faults that remain, by their place in the seed's schedule.
    pub faults: Vec<(usize, Scheduled)>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = self.faults.iter().map(|(place, _)| place.to_string());
        let places: Vec<String> = places.collect();
        writeln!(f, "seed {}: {}", self.seed, self.message)?;
        for (_, fault) in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        write!(
            f,
            "repeat it: BATON_SIM_SEED={} BATON_SIM_FAULTS={} cargo test --release -p baton --test sim hold -- --nocapture",
            self.seed,
            places.join(",")
        )
    }
}

/// Where in the code it failed: the first line of the message.
fn place(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// Leaves out faults as long as the seed still fails at the same place: halves first, then ever smaller pieces.
pub fn shrink(seed: u64, rules: Switches, message: String) -> Failure {
    let mut faults: Vec<(usize, Scheduled)> =
        cluster::faults_of(seed).into_iter().enumerate().collect();
    let mut message = message;
    let mut runs = 0;
    let mut piece = faults.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut progress = false;
        while at < faults.len() && runs < SHRINK_RUNS_MAX {
            let mut fewer = faults.clone();
            fewer.drain(at..(at + piece).min(faults.len()));
            runs += 1;
            let kept = fewer.iter().map(|(_, fault)| *fault).collect();
            match run(seed, rules, kept) {
                Err(other) if place(&other) == place(&message) => {
                    message = other;
                    faults = fewer;
                    progress = true;
                }
                Ok(_) | Err(_) => at += piece,
            }
        }
        if runs >= SHRINK_RUNS_MAX || (piece == 1 && !progress) {
            break;
        }
        piece = piece.div_ceil(2).max(1);
    }
    Failure {
        seed,
        message,
        faults,
    }
}

/// What many seeds came to.
#[derive(Default)]
pub struct Summary {
    pub seeds: u64,
    pub stats: Stats,
    /// The first that failed, by seed.
    pub failed: Option<(u64, String)>,
}

/// Runs seeds on all cores until one fails or `go_on` says no.
pub fn run_many(
    seeds: std::ops::Range<u64>,
    rules: Switches,
    threads: usize,
    go_on: impl Fn(u64) -> bool + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) && go_on(done.load(Ordering::Relaxed)) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let result = run(seed, rules, cluster::faults_of(seed));
            done.fetch_add(1, Ordering::Relaxed);
            let mut summary = summary.lock().expect("nobody panics with it");
            summary.seeds += 1;
            match result {
                Ok(report) => summary.stats.merge(&report.stats),
                Err(message) => {
                    stop.store(true, Ordering::Relaxed);
                    if summary
                        .failed
                        .as_ref()
                        .is_none_or(|(first, _)| seed < *first)
                    {
                        summary.failed = Some((seed, message));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    summary.into_inner().expect("nobody panics with it")
}
