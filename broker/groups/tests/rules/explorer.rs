//! A random explorer: thousands of short histories, looked at after every step. With all rules they
//! break nothing, and without any one of them something.

use std::panic::{AssertUnwindSafe, catch_unwind};

use baton_groups::rules::{Rule, Rules};

use crate::history::History;

/// How many things happen in a history, before it is healed.
const STEPS: usize = 300;

/// How many histories are tried with all rules.
const HISTORIES: u64 = 3_000;

/// How many are tried at most to break something without a rule.
const HISTORIES_WITHOUT: u64 = 20_000;

/// Runs the history of a seed: how often a partition was given to somebody, or what it breaks.
fn explore(rules: Rules, seed: u64, tell: bool) -> Result<usize, String> {
    let mut history = History::new(rules, seed);
    history.told = tell.then(Vec::new);
    let run = || history.run(STEPS);
    let outcome = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => "panic".to_owned(),
        }),
    };
    outcome.map_err(|broken| {
        let told = history.told.take().unwrap_or_default().join("\n");
        format!("{told}\nseed {seed}: {broken}")
    })?;
    Ok(history.handovers)
}

/// `BATON_GROUPS_HISTORIES=1000000` tries more of them.
fn histories() -> u64 {
    let given = std::env::var("BATON_GROUPS_HISTORIES").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(HISTORIES)
}

#[test]
fn random_histories_break_nothing() {
    let mut handovers = 0;
    for seed in 0..histories() {
        match explore(Rules::default(), seed, false) {
            Ok(n) => handovers += n,
            Err(_) => {
                let told = explore(Rules::default(), seed, true);
                panic!("{}", told.expect_err("the same seed breaks the same"));
            }
        }
    }
    println!("{} histories, {handovers} handovers", histories());
    assert!(
        handovers > 10_000,
        "histories in which nothing is assigned show nothing"
    );
}

#[test]
fn random_histories_show_that_rules_are_needed() {
    let mut quiet = Vec::new();
    for rule in Rule::ALL {
        let broken = (0..HISTORIES_WITHOUT).find_map(|seed| {
            let broken = explore(Rules::without(rule), seed, false).err()?;
            Some((seed, broken))
        });
        match broken {
            Some((seed, broken)) => println!("without {rule:?}, seed {seed}: {broken}"),
            None => quiet.push(rule),
        }
    }
    assert!(quiet.is_empty(), "nothing breaks without {quiet:?}");
}
