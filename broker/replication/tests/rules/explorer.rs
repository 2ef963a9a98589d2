//! A random explorer: thousands of short histories. After every step the checker looks.

use std::panic::{AssertUnwindSafe, catch_unwind};

use baton_replication::rules::{Rule, Rules};

use crate::history::History;
use crate::mutations::{ABOUT_GAPS, rules};

/// How many things happen in a history, before it is healed.
const STEPS: usize = 400;

/// How many histories are tried with all rules.
const HISTORIES: u64 = 20_000;

/// How many are tried at most without one of them: the first that breaks something ends the search.
const HISTORIES_WITHOUT: u64 = 200_000;

/// Tells the history of a seed that broke something, for whoever looks for the reason.
fn tell(rules: Rules, seed: u64) -> String {
    let mut history = History::new(rules, seed);
    history.cluster.traced = true;
    history.cluster.verbose = true;
    let told = catch_unwind(AssertUnwindSafe(|| history.run(STEPS)));
    drop(told);
    history.cluster.trace.join("\n")
}

/// Runs the history of a seed; what it breaks.
fn explore(rules: Rules, seed: u64) -> Result<usize, String> {
    let mut history = History::new(rules, seed);
    let run = || history.run(STEPS);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => Ok(history.cluster.checker.committed.len()),
        Ok(Err(broken)) => Err(broken),
        Err(panic) => Err(match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => "panic".to_owned(),
        }),
    }
}

#[test]
fn random_histories_break_nothing() {
    let mut committed = 0;
    for seed in 0..HISTORIES {
        match explore(Rules::default(), seed) {
            Ok(entries) => committed += entries,
            Err(broken) => {
                let told = tell(Rules::default(), seed);
                panic!("{told}\nseed {seed}: {broken}");
            }
        }
    }
    assert!(
        committed > 10_000,
        "histories that commit nothing show nothing"
    );
}

#[test]
fn random_histories_show_that_rules_are_needed() {
    let mut quiet = Vec::new();
    // No history holds an election that may lose entries, or ends because a producer may not go on: their
    // scripts have to do.
    let by_scripts_only = [
        Rule::LossyElectionsStartAtTheLimit,
        Rule::SupersededTailsAreCut,
        Rule::LeaseWithoutFollowers,
        Rule::ResetBringsProducers,
    ];
    let tried = |rule: &Rule| !by_scripts_only.contains(rule) && !ABOUT_GAPS.contains(rule);
    for rule in rules().filter(tried) {
        let broken = (0..HISTORIES_WITHOUT).find_map(|seed| {
            let broken = explore(Rules::without(rule), seed).err()?;
            Some((seed, broken))
        });
        match broken {
            Some((seed, broken)) => println!("without {rule:?}, seed {seed}: {broken}"),
            None => quiet.push(rule),
        }
    }
    assert!(quiet.is_empty(), "nothing breaks without {quiet:?}");
}
