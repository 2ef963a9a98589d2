//! Each rule is needed: with it switched off, some seed fails.

use baton_controller::rules::Rule as ControllerRule;
use baton_replication::rules::Rule as ReplicaRule;

use crate::runner::run_many;
use crate::switches::{HostRule, Rule, Switches};

/// Seeds tried before a rule is held for unguarded.
const SEEDS_MAX: u64 = 2_000;

/// Where to begin to look: a seed that is known to fail without the rule, so that the test is quick.
/// When the simulation changes, the search finds another one.
const KNOWN: &[(Rule, u64)] = &[];

/// Every rule that can be switched off.
const RULES: &[Rule] = &[
    Rule::Replica(ReplicaRule::JointCommit),
    Rule::Replica(ReplicaRule::RemovalCheck),
    Rule::Replica(ReplicaRule::FenceRefusesLower),
    Rule::Replica(ReplicaRule::SuspectsDoNotCount),
    Rule::Replica(ReplicaRule::AckAfterFlush),
    Rule::Replica(ReplicaRule::EqualEntriesAreSkipped),
    Rule::Replica(ReplicaRule::WatermarkOnlyOncePrefix),
    Rule::Replica(ReplicaRule::OwnEpochCommits),
    Rule::Replica(ReplicaRule::AckBoundToLife),
    Rule::Replica(ReplicaRule::GrantBoundToLife),
    Rule::Replica(ReplicaRule::TimeoutIsNotRejection),
    Rule::Replica(ReplicaRule::LeaderAckTellsNoOffset),
    Rule::Replica(ReplicaRule::LossyElectionsStartAtTheLimit),
    Rule::Replica(ReplicaRule::PausedUntilTheOutcome),
    Rule::Replica(ReplicaRule::DedupeSurvivesFailover),
    Rule::Controller(ControllerRule::ElectionNeedsAnswers),
    Rule::Controller(ControllerRule::SuspectsHaveNoVote),
    Rule::Controller(ControllerRule::GrantBoundToLife),
    Rule::Controller(ControllerRule::OnlyTheLeaderRemoves),
    Rule::Controller(ControllerRule::ElectionsShrinkNoSet),
    Rule::Controller(ControllerRule::FailuresAreRaisedWhenProven),
    Rule::Controller(ControllerRule::AdditionBoundToLife),
    Rule::Controller(ControllerRule::CompareOnVersion),
    Rule::Controller(ControllerRule::OtherDiskIsSuspect),
    Rule::Controller(ControllerRule::LossyElectionsAreRecorded),
    Rule::Host(HostRule::MetadataFirst),
    Rule::Host(HostRule::TopicIds),
    Rule::Host(HostRule::LossIsReported),
    Rule::Host(HostRule::FailedFlushIsFinal),
];

#[test]
fn without_any_one_rule_some_seed_fails() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let only = std::env::var("BATON_SIM_RULE").ok();
    let wanted = |rule: &&Rule| {
        let name = format!("{rule:?}");
        only.as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    let mut unguarded = Vec::new();
    for rule in RULES.iter().filter(wanted) {
        let known = KNOWN.iter().find(|(known, _)| known == rule);
        let known = known.map(|(_, seed)| *seed..*seed + 1);
        let ranges = known.into_iter().chain([0..SEEDS_MAX]);
        let mut failures = ranges.filter_map(|seeds| {
            run_many(seeds, Switches::without(*rule), threads, |_| true).failed
        });
        match failures.next() {
            Some((seed, message)) => {
                let message = message.lines().nth(1).unwrap_or(&message).to_owned();
                println!("without {rule:?}, seed {seed}: {message}");
            }
            None => unguarded.push(rule),
        }
    }
    assert!(unguarded.is_empty(), "nothing fails without {unguarded:?}");
}
