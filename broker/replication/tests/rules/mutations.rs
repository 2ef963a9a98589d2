//! Each rule is needed: with it switched off, every script that guards it yields something else,
//! or breaks an invariant.
//!
//! A script names its rules in its head: `# guards: JointCommit`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use baton_replication::rules::{Rule, Rules};

use crate::script::Runner;
use crate::scripts;

/// Rules about logs that lack entries. Neither scripts nor histories have such; `compaction.rs` has tests of
/// these, and the simulator compacts.
pub const ABOUT_GAPS: [Rule; 4] = [
    Rule::GapsCutNothing,
    Rule::LostSupersedersAreMadeGood,
    Rule::CompactionAwaitsTheSet,
    Rule::MembersDiscardNothing,
];

/// Every rule that can be switched off.
pub fn rules() -> impl Iterator<Item = Rule> {
    std::iter::successors(Some(Rule::JointCommit), |rule| next(*rule))
}

/// The rule after this one. The match is exhaustive, so that a new rule cannot be left out.
fn next(rule: Rule) -> Option<Rule> {
    match rule {
        Rule::JointCommit => Some(Rule::RemovalCheck),
        Rule::RemovalCheck => Some(Rule::FenceRefusesLower),
        Rule::FenceRefusesLower => Some(Rule::SuspectsDoNotCount),
        Rule::SuspectsDoNotCount => Some(Rule::AckAfterFlush),
        Rule::AckAfterFlush => Some(Rule::EqualEntriesAreSkipped),
        Rule::EqualEntriesAreSkipped => Some(Rule::WatermarkOnlyOncePrefix),
        Rule::WatermarkOnlyOncePrefix => Some(Rule::OwnEpochCommits),
        Rule::OwnEpochCommits => Some(Rule::AckBoundToLife),
        Rule::AckBoundToLife => Some(Rule::GrantBoundToLife),
        Rule::GrantBoundToLife => Some(Rule::TimeoutIsNotRejection),
        Rule::TimeoutIsNotRejection => Some(Rule::LeaderAckTellsNoOffset),
        Rule::LeaderAckTellsNoOffset => Some(Rule::LossyElectionsStartAtTheLimit),
        Rule::LossyElectionsStartAtTheLimit => Some(Rule::SupersededTailsAreCut),
        Rule::SupersededTailsAreCut => Some(Rule::LateEntriesAreDropped),
        Rule::LateEntriesAreDropped => Some(Rule::PausedUntilTheOutcome),
        Rule::PausedUntilTheOutcome => Some(Rule::LeaseWithoutFollowers),
        Rule::LeaseWithoutFollowers => Some(Rule::DedupeSurvivesFailover),
        Rule::DedupeSurvivesFailover => Some(Rule::StartBelowTheWatermark),
        Rule::StartBelowTheWatermark => Some(Rule::ResetOnlyWhatDiffers),
        Rule::ResetOnlyWhatDiffers => Some(Rule::ResetBringsProducers),
        Rule::ResetBringsProducers => Some(Rule::GapsCutNothing),
        Rule::GapsCutNothing => Some(Rule::LostSupersedersAreMadeGood),
        Rule::LostSupersedersAreMadeGood => Some(Rule::CompactionAwaitsTheSet),
        Rule::CompactionAwaitsTheSet => Some(Rule::MembersDiscardNothing),
        Rule::MembersDiscardNothing => None,
    }
}

/// Whether a script's head names the rule.
fn guards(script: &str, rule: Rule) -> bool {
    let head = script.lines().take_while(|line| line.starts_with('#'));
    let mut names = head
        .filter_map(|line| line.strip_prefix("# guards:"))
        .flat_map(|names| names.split(','));
    names.any(|name| name.trim() == format!("{rule:?}"))
}

/// Whether the script yields without the rule what it tells.
fn passes_without(rule: Rule, path: &Path, script: &str) -> bool {
    let mut runner = Runner::new(Rules::without(rule));
    let run = || goldenscript::generate(&mut runner, script);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(yielded)) => yielded == script,
        Ok(Err(error)) => {
            println!("without {rule:?}, {}: {error}", path.display());
            false
        }
        Err(_) => false,
    }
}

#[test]
fn every_rule_has_scripts_and_they_fail_without_it() {
    let scripts: Vec<_> = scripts::paths()
        .into_iter()
        .map(|path| {
            let script = fs::read_to_string(&path).expect("a script can be read");
            (path, script)
        })
        .collect();
    let mut unguarded = Vec::new();
    for rule in rules().filter(|rule| !ABOUT_GAPS.contains(rule)) {
        let guards = || scripts.iter().filter(|(_, text)| guards(text, rule));
        if guards().next().is_none() {
            unguarded.push(format!("{rule:?} has no script"));
        }
        for (path, text) in guards() {
            if passes_without(rule, path, text) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                unguarded.push(format!("{name} does not need {rule:?}"));
            }
        }
    }
    assert!(unguarded.is_empty(), "{}", unguarded.join("\n"));
}
