//! Each rule is needed: with it switched off, some seed fails.

use baton_controller::rules::Rule as ControllerRule;
use baton_groups::rules::Rule as GroupsRule;
use baton_replication::rules::Rule as ReplicaRule;

use crate::runner::run_many;
use crate::switches::{HostRule, Rule, Switches};

/// Seeds tried before a rule is held for unguarded.
const SEEDS_MAX: u64 = 5_000;

/// How many seeds are tried first, from the one in the table on.
const NEAR: u64 = 20;

/// Every rule that can be switched off, each with a seed near which one is known to fail without it, so
/// that the test is quick; when the simulation changes, the search finds another one.
/// `DeletionsAwaitTheStart` is not among them: it takes a power cut in a moment that thousands of seeds do
/// not hit, and tests of the storage guard it.
const RULES: &[(Rule, u64)] = &[
    (Rule::Replica(ReplicaRule::JointCommit), 50),
    (Rule::Replica(ReplicaRule::RemovalCheck), 0),
    (Rule::Replica(ReplicaRule::FenceRefusesLower), 30),
    (Rule::Replica(ReplicaRule::SuspectsDoNotCount), 0),
    (Rule::Replica(ReplicaRule::AckAfterFlush), 0),
    (Rule::Replica(ReplicaRule::EqualEntriesAreSkipped), 0),
    (Rule::Replica(ReplicaRule::WatermarkOnlyOncePrefix), 2),
    (Rule::Replica(ReplicaRule::OwnEpochCommits), 900),
    (Rule::Replica(ReplicaRule::AckBoundToLife), 80),
    (Rule::Replica(ReplicaRule::GrantBoundToLife), 0),
    (Rule::Replica(ReplicaRule::TimeoutIsNotRejection), 0),
    (Rule::Replica(ReplicaRule::LeaderAckTellsNoOffset), 0),
    (Rule::Replica(ReplicaRule::LossyElectionsStartAtTheLimit), 0),
    (Rule::Replica(ReplicaRule::LateEntriesAreDropped), 0),
    (Rule::Replica(ReplicaRule::PausedUntilTheOutcome), 780),
    (Rule::Replica(ReplicaRule::DedupeSurvivesFailover), 0),
    (Rule::Replica(ReplicaRule::SupersededTailsAreCut), 410),
    (Rule::Replica(ReplicaRule::StartBelowTheWatermark), 0),
    (Rule::Replica(ReplicaRule::ResetOnlyWhatDiffers), 60),
    (Rule::Replica(ReplicaRule::ResetBringsProducers), 2_925),
    (Rule::Replica(ReplicaRule::GapsCutNothing), 80),
    (
        Rule::Replica(ReplicaRule::LostSupersedersAreMadeGood),
        1_300,
    ),
    (Rule::Replica(ReplicaRule::CompactionAwaitsTheSet), 40),
    (Rule::Replica(ReplicaRule::MembersDiscardNothing), 30),
    (Rule::Replica(ReplicaRule::LeaseWithoutFollowers), 50),
    (Rule::Controller(ControllerRule::ElectionNeedsAnswers), 0),
    (Rule::Controller(ControllerRule::SuspectsHaveNoVote), 0),
    (Rule::Controller(ControllerRule::OnlyTheLeaderRemoves), 0),
    (Rule::Controller(ControllerRule::ElectionsShrinkNoSet), 0),
    (
        Rule::Controller(ControllerRule::FailuresAreRaisedWhenProven),
        12,
    ),
    (Rule::Controller(ControllerRule::AdditionBoundToLife), 600),
    (Rule::Controller(ControllerRule::CompareOnVersion), 20),
    (Rule::Controller(ControllerRule::OtherDiskIsSuspect), 0),
    (
        Rule::Controller(ControllerRule::HeartbeatsAwaitTheMajority),
        40,
    ),
    (
        Rule::Controller(ControllerRule::LossyElectionsAreRecorded),
        0,
    ),
    (Rule::Groups(GroupsRule::AnsweredOnceCommitted), 0),
    (Rule::Groups(GroupsRule::CommitsDoNotGoBack), 0),
    (Rule::Host(HostRule::MetadataFirst), 0),
    (Rule::Host(HostRule::TopicIds), 36),
    (Rule::Host(HostRule::LossIsReported), 8),
    (Rule::Host(HostRule::FailedFlushIsFinal), 48),
];

#[test]
fn without_any_one_rule_some_seed_fails() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let only = std::env::var("BATON_SIM_RULE").ok();
    let wanted = |(rule, _): &&(Rule, u64)| {
        let name = format!("{rule:?}");
        only.as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    let mut unguarded = Vec::new();
    for (rule, near) in RULES.iter().filter(wanted) {
        let failed = |seeds| run_many(seeds, Switches::without(*rule), threads, |_| true).failed;
        match failed(*near..*near + NEAR).or_else(|| failed(0..SEEDS_MAX)) {
            Some((seed, message)) => {
                let message = message.lines().nth(1).unwrap_or(&message).to_owned();
                println!("without {rule:?}, seed {seed}: {message}");
            }
            None => unguarded.push(rule),
        }
    }
    assert!(unguarded.is_empty(), "nothing fails without {unguarded:?}");
}
