//! Elections that may lose entries, suspects, offset limits, planned handovers, k changed live.

use baton_controller::command::{Command, Handover, OffsetGrant, SetChangeResult};
use baton_controller::core::{Input, SessionId};
use baton_controller::session::{FromController, ToController};
use baton_controller::state::OFFSET_QUANTUM;
use baton_protocol::admin::{AdminRequest, AdminResponse, ElectionStatus};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::{
    BrokerId, BrokerLife, LeaderEpoch, MetadataIndex, Offset, PartitionIndex, TopicId,
};

use crate::stage::{PARTITION, Stage, apply, change};

const P0: PartitionIndex = PartitionIndex(0);

fn ask(stage: &mut Stage, request: AdminRequest) -> Result<AdminResponse, WireError> {
    let admin = ToController::Admin {
        id: 1,
        request,
        fresh_topic_id: TopicId::default(),
    };
    stage.say(3, admin);
    stage.last_answer(3)
}

fn describe(stage: &mut Stage) -> Result<ElectionStatus, WireError> {
    let request = AdminRequest::DescribeElection {
        topic: "t".into(),
        partition: P0,
    };
    match ask(stage, request)? {
        AdminResponse::Election(status) => Ok(status),
        other => panic!("{other:?}"),
    }
}

fn limit(quanta: u64) -> Offset {
    Offset(quanta * OFFSET_QUANTUM)
}

/// Of three members with k = 1, two answers are needed; one has come.
fn stuck() -> Stage {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer(3, 2, 1, 10);
    stage.pass(15_000);
    assert_eq!(stage.partition().leader, None);
    stage
}

#[test]
fn a_clean_election_moves_no_floor_and_leaves_room() {
    let mut stage = Stage::new(1);
    assert_eq!(stage.partition().offset_limit, limit(1));
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.answer(3, 2, 1, 12);
    let partition = stage.partition();
    assert_eq!(partition.offset_floor, Offset::ZERO);
    assert_eq!(partition.lossy_epoch, LeaderEpoch::NONE);
    assert!(partition.offset_limit > limit(1));
}

#[test]
fn an_operator_ends_an_election_that_waits_for_good() {
    let mut stage = stuck();
    stage.silent.insert(2);
    stage.pass(1_300);
    let status = describe(&mut stage).expect("an election is on");
    assert_eq!((status.epoch, status.needed), (LeaderEpoch(2), 2));
    assert_eq!(status.candidate, Some(BrokerId(3)));
    let logs: Vec<bool> = status.members.iter().map(|m| m.log.is_some()).collect();
    assert_eq!(logs, [false, false, true]);
    let elect = |epoch| AdminRequest::ElectUnclean {
        topic: "t".into(),
        partition: P0,
        epoch: LeaderEpoch(epoch),
    };
    let other = ask(&mut stage, elect(1)).expect_err("another election is meant");
    assert_eq!(other.code, ErrorCode::InvalidState);
    assert_eq!(stage.partition().leader, None);
    ask(&mut stage, elect(2)).expect("taken");
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(stage.life(3)));
    assert_eq!(partition.in_sync, [BrokerId(3)].into());
    assert_eq!(partition.lossy_epoch, LeaderEpoch(2));
    assert_eq!(partition.offset_floor, limit(1));
    assert_eq!(partition.offset_limit, limit(2));
    assert!(describe(&mut stage).is_err(), "it is over");
}

#[test]
fn the_floor_stays_for_leaders_that_come_before_anything_is_stored_there() {
    let mut stage = stuck();
    let epoch = LeaderEpoch(2);
    let topic = "t".into();
    let partition = P0;
    let elect = AdminRequest::ElectUnclean {
        topic,
        partition,
        epoch,
    };
    ask(&mut stage, elect).expect("taken");
    let leader = stage.life(3);
    let second = stage.life(2);
    let add = change(&stage, &[2, 3], &[second]);
    assert_eq!(apply(&mut stage, leader, add), SetChangeResult::Accepted);
    stage.adopt_log();
    stage.hand_over(leader, second);
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(second));
    assert_eq!(partition.epoch, LeaderEpoch(3));
    assert_eq!(partition.offset_floor, limit(1));
    assert_eq!(partition.lossy_epoch, LeaderEpoch(2));
}

#[test]
fn suspects_are_elected_only_when_every_member_has_answered() {
    let mut stage = Stage::new(1);
    for broker in [2, 3] {
        let life = stage.life(broker);
        stage.say(
            u64::from(broker),
            ToController::ReportSuspect(vec![PARTITION]),
        );
        assert!(stage.partition().suspects.contains(&life.broker));
    }
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.answer(3, 2, 1, 12);
    stage.pass(20_000);
    assert_eq!(stage.partition().leader, None, "1 may hold more");
    stage.silent.remove(&1);
    stage.register(1, 1, 1);
    stage.answer(1, 2, 1, 11);
    stage.pass(1_000);
    let partition = stage.partition();
    assert_eq!(
        partition.leader,
        Some(stage.life(3)),
        "nothing better exists"
    );
    assert_eq!(partition.in_sync, [BrokerId(3)].into());
    assert!(!partition.suspects.contains(&BrokerId(3)));
    assert_eq!(partition.offset_floor, limit(1));
}

#[test]
fn an_answer_that_calls_itself_suspect_is_no_vote() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer_suspect(2, 2, 0, 0);
    stage.answer(3, 2, 1, 12);
    assert_eq!(stage.partition().leader, None);
}

#[test]
fn an_asynchronous_partition_fails_over_above_the_limit_unless_all_have_answered() {
    let mut stage = Stage::new(0);
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.answer(3, 2, 1, 12);
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(stage.life(3)));
    assert_eq!(partition.offset_floor, limit(1));
    assert_eq!(partition.in_sync.len(), 3);
    let mut stage = Stage::new(0);
    stage.hold = false;
    let old = stage.life(1);
    let second = stage.life(2);
    stage.hand_over(old, second);
    assert_eq!(stage.partition().offset_floor, Offset::ZERO, "as planned");
}

#[test]
fn of_equal_logs_that_of_a_member_free_of_suspicion_wins() {
    let mut stage = Stage::new(0);
    stage.say(2, ToController::ReportSuspect(vec![PARTITION]));
    stage.kill_leader();
    stage.answer_suspect(2, 2, 1, 10);
    stage.answer(3, 2, 1, 10);
    assert_eq!(stage.partition().leader, Some(stage.life(3)));
    assert_eq!(stage.partition().suspects, [BrokerId(2)].into());
}

#[test]
fn a_suspect_that_is_elected_is_suspect_no_more() {
    let mut stage = Stage::new(0);
    stage.say(2, ToController::ReportSuspect(vec![PARTITION]));
    stage.kill_leader();
    stage.answer_suspect(2, 2, 1, 12);
    stage.answer(3, 2, 1, 10);
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(stage.life(2)));
    assert_eq!(partition.offset_floor, limit(1));
    assert!(partition.suspects.is_empty(), "its losses are given up");
}

#[test]
fn a_late_report_of_what_a_leader_had_lost_is_void() {
    let mut stage = Stage::new(0);
    stage.kill_leader();
    stage.answer_suspect(2, 2, 1, 12);
    stage.answer(3, 2, 1, 10);
    assert_eq!(stage.partition().leader, Some(stage.life(2)));
    stage.say(2, ToController::ReportSuspect(vec![PARTITION]));
    stage.say(3, ToController::ReportSuspect(vec![PARTITION]));
    assert_eq!(stage.partition().suspects, [BrokerId(3)].into());
}

#[test]
fn a_wiped_asynchronous_member_alone_elects_nobody() {
    let mut stage = Stage::new(0);
    stage.silent.extend([2, 3]);
    stage.pass(1_300);
    stage.register(1, 10, 111);
    stage.answer(1, 2, 0, 0);
    stage.pass(5_000);
    assert_eq!(stage.partition().leader, None);
}

#[test]
fn a_disk_that_shows_an_older_life_is_suspect() {
    let mut stage = Stage::new(1);
    let first = stage.shown[&2];
    stage.register(2, 20, 2);
    assert!(stage.partition().suspects.is_empty(), "an ordinary restart");
    stage.shown.insert(2, first);
    stage.register(2, 21, 2);
    assert!(stage.partition().suspects.contains(&BrokerId(2)));
}

#[test]
fn a_process_that_registers_once_more_is_not_suspected_for_it() {
    let mut stage = Stage::new(1);
    let shown = stage.shown[&2];
    stage.register(2, 20, 2);
    // It never heard of that life: the disk shows the one before.
    stage.shown.insert(2, shown);
    stage.register(2, 20, 2);
    assert!(stage.partition().suspects.is_empty());
}

#[test]
fn offsets_are_granted_to_the_leader_of_the_epoch_and_never_taken_back() {
    let mut stage = Stage::new(1);
    let version = stage.partition().version;
    let grant = |epoch, limit| OffsetGrant {
        partition: PARTITION,
        epoch: LeaderEpoch(epoch),
        limit: Offset(limit),
    };
    stage.say(1, ToController::AskOffsets(vec![grant(1, 5_000_000)]));
    assert_eq!(stage.partition().offset_limit, Offset(5_000_000));
    stage.say(1, ToController::AskOffsets(vec![grant(1, 4_000_000)]));
    stage.say(1, ToController::AskOffsets(vec![grant(2, 9_000_000)]));
    stage.say(2, ToController::AskOffsets(vec![grant(1, 9_000_000)]));
    assert_eq!(stage.partition().offset_limit, Offset(5_000_000));
    assert_eq!(stage.partition().version, version, "no change is disturbed");
}

#[test]
fn a_lossy_leader_keeps_what_no_later_leader_superseded() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.answer(3, 2, 1, 12);
    assert_eq!(stage.partition().leader, Some(stage.life(3)));
    // 1, with more of epoch 1 than 3 began with, is all that comes back.
    stage.silent.extend([2, 3]);
    stage.pass(1_300);
    stage.silent.remove(&1);
    stage.register(1, 1, 1);
    stage.answer(1, 3, 1, 20);
    let epoch = LeaderEpoch(3);
    let elect = AdminRequest::ElectUnclean {
        topic: "t".into(),
        partition: P0,
        epoch,
    };
    stage.say(
        1,
        ToController::Admin {
            id: 1,
            request: elect,
            fresh_topic_id: TopicId::default(),
        },
    );
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(stage.life(1)));
    assert_eq!(partition.leader_keeps, Offset(12));
    let began_at = partition.begins.last().expect("noted").start;
    assert_eq!(began_at, partition.offset_floor);
    // It ends before it has stored anything of its reign: the next time it is the same.
    stage.step(Input::Closed(SessionId(1)));
    stage.register(1, 1, 1);
    stage.answer(1, 4, 1, 20);
    let partition = stage.partition();
    assert_eq!(partition.leader, Some(stage.life(1)));
    assert_eq!(partition.lossy_epoch, LeaderEpoch(3));
    assert_eq!(partition.leader_keeps, Offset(12));
}

#[test]
fn a_handover_is_compared_and_set_and_a_refusal_shows_in_the_version() {
    let mut stage = Stage::new(1);
    let (first, second) = (stage.life(1), stage.life(2));
    let handover = |stage: &Stage, to: BrokerLife| Handover {
        partition: PARTITION,
        epoch: stage.partition().epoch,
        version: stage.partition().version,
        to,
        log_end: Offset(7),
    };
    let late = handover(&stage, second);
    let outlived = BrokerLife {
        broker: BrokerId(2),
        epoch: first.epoch,
    };
    let refused = handover(&stage, outlived);
    stage.say(1, ToController::ProposeHandovers(vec![refused]));
    assert_eq!(stage.partition().leader, Some(first));
    assert_ne!(stage.partition().version, late.version);
    stage.say(1, ToController::ProposeHandovers(vec![late]));
    assert_eq!(stage.partition().leader, Some(first), "a late copy");
    let good = handover(&stage, second);
    let limit = stage.partition().offset_limit;
    stage.say(3, ToController::ProposeHandovers(vec![good]));
    assert_eq!(stage.partition().leader, Some(first), "3 does not lead");
    stage.say(1, ToController::ProposeHandovers(vec![good]));
    assert_eq!(stage.partition().leader, Some(second));
    assert_eq!(stage.partition().epoch, LeaderEpoch(2));
    let begin = stage.partition().begins.last().expect("noted");
    assert_eq!((begin.epoch, begin.start), (LeaderEpoch(2), Offset(7)));
    assert_eq!(
        (begin.parent, begin.parent_end),
        (LeaderEpoch(1), Offset(7))
    );
    assert!(
        stage.partition().offset_limit > limit,
        "room for its first entry"
    );
}

#[test]
fn a_handover_is_begun_with_the_leader_and_only_to_a_member_that_can_lead() {
    let mut stage = Stage::new(1);
    let to = |to| AdminRequest::HandOver {
        topic: "t".into(),
        partition: P0,
        to: BrokerId(to),
    };
    for broker in [1, 4] {
        let error = ask(&mut stage, to(broker)).expect_err("refused");
        assert_eq!(error.code, ErrorCode::InvalidState);
    }
    ask(&mut stage, to(2)).expect("begun");
    let told = FromController::HandOver(PARTITION, LeaderEpoch(1), BrokerId(2));
    assert!(stage.was_sent(1, &told));
}

#[test]
fn more_synchronous_followers_count_for_elections_once_that_is_proven() {
    let mut stage = Stage::new(1);
    let set = |k| AdminRequest::SetSyncFollowers {
        name: "t".into(),
        sync_followers: k,
    };
    assert!(ask(&mut stage, set(3)).is_err(), "there are three replicas");
    ask(&mut stage, set(2)).expect("set");
    let partition = stage.partition();
    assert_eq!(partition.sync_followers_commit, 2);
    assert_eq!(partition.sync_followers_elect, 1);
    let mut proof = change(&stage, &[1, 2, 3], &[]);
    proof.sync_followers_elect = Some(2);
    let leader = stage.life(1);
    assert_eq!(apply(&mut stage, leader, proof), SetChangeResult::Accepted);
    assert_eq!(stage.partition().sync_followers_elect, 2);
    stage.adopt_log();
    ask(&mut stage, set(0)).expect("set");
    assert_eq!(stage.partition().sync_followers_commit, 0);
    assert_eq!(stage.partition().sync_followers_elect, 0);
}

#[test]
fn an_asynchronous_partition_fails_over_as_before_until_more_is_proven() {
    let mut stage = Stage::new(0);
    let set = AdminRequest::SetSyncFollowers {
        name: "t".into(),
        sync_followers: 1,
    };
    ask(&mut stage, set).expect("set");
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.pass(250);
    assert_eq!(stage.partition().leader, Some(stage.life(2)));
}

#[test]
fn what_was_proposed_under_another_number_of_followers_is_void() {
    let mut stage = Stage::new(1);
    let late = change(&stage, &[1, 2], &[]);
    let set = AdminRequest::SetSyncFollowers {
        name: "t".into(),
        sync_followers: 0,
    };
    ask(&mut stage, set).expect("set");
    let leader = stage.life(1);
    assert_eq!(apply(&mut stage, leader, late), SetChangeResult::Refused);
}

#[test]
fn more_synchronous_followers_than_the_set_has_are_refused() {
    let mut stage = Stage::new(1);
    let smaller = change(&stage, &[1, 2], &[]);
    let leader = stage.life(1);
    assert_eq!(
        apply(&mut stage, leader, smaller),
        SetChangeResult::Accepted
    );
    stage.adopt_log();
    let error = ask(
        &mut stage,
        AdminRequest::SetSyncFollowers {
            name: "t".into(),
            sync_followers: 2,
        },
    );
    assert_eq!(error.expect_err("refused").code, ErrorCode::InvalidState);
    assert_eq!(stage.partition().sync_followers_commit, 1);
}

#[test]
fn a_command_that_comes_twice_is_applied_once() {
    let mut stage = Stage::new(1);
    let mut state = stage.log.clone();
    let epoch = stage.partition().epoch;
    let begin = Command::BeginElections(vec![(PARTITION, epoch)]);
    let next = MetadataIndex(state.index.0 + 1);
    let ids = Command::AllocateProducerIds { count: 10 };
    let commands = [(next, begin), (MetadataIndex(next.0 + 1), ids)];
    state.catch_up(&commands);
    let once = state.clone();
    state.catch_up(&commands);
    assert_eq!(state, once);
    assert_eq!(state.next_producer_id, stage.log.next_producer_id + 10);
    stage.log = state;
    assert_eq!(stage.partition().epoch, epoch.next());
}
