//! A cluster under simulation: the real driver and core on logs in memory, the real controller core,
//! a network that delays, loses, repeats and reorders, brokers that are killed, lose power, freeze.
//! One seed decides everything.
//!
//! `BATON_SIM_SEED=7 cargo test -p baton --test sim` repeats one seed, `BATON_SIM_SEEDS=1000` runs
//! that many.

mod cluster;
mod disk;

use cluster::Sim;

/// Seeds that a plain test run takes.
const SEEDS: u64 = 60;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_that_was_acknowledged_is_lost_doubled_or_changed() {
    let seeds = match from_environment("BATON_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("BATON_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut acknowledged, mut elections, mut truncations) = (0, 0, 0);
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| Sim::new(seed).run());
        let Ok(done) = run else {
            panic!(
                "seed {seed} failed; repeat it: BATON_SIM_SEED={seed} cargo test -p baton --test sim"
            );
        };
        acknowledged += done.acknowledged;
        elections += done.elections;
        truncations += done.truncations;
    }
    println!(
        "{seeds:?}: {acknowledged} batches acknowledged, {elections} reigns, {truncations} truncations"
    );
    if seeds.end - seeds.start >= SEEDS {
        assert!(
            elections > 2 * SEEDS && truncations > 0,
            "the rare paths are reached"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(Sim::new(5).run().trace, Sim::new(5).run().trace);
    assert_ne!(Sim::new(5).run().trace, Sim::new(6).run().trace);
}
