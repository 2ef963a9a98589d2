//! Sessions, deaths, elections that lose nothing, set changes: one rule a test.

use std::collections::BTreeMap;

use baton_controller::command::{Command, SetChangeResult};
use baton_controller::core::{Config, ControllerCore, Effect, Input, SessionId};
use baton_controller::session::{FromController, ToController};
use baton_controller::state::ClusterState;
use baton_protocol::admin::{AdminRequest, AdminResponse};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::GROUPS_TOPIC;
use baton_protocol::ids::{BrokerEpoch, BrokerId, LeaderEpoch, MetadataIndex, Tick, TopicId};
use baton_protocol::policy::TopicPolicy;
use uuid::Uuid;

use crate::stage::{PARTITION, Stage, apply, change};

#[test]
fn two_refused_connections_depose_a_leader_whose_session_broke_at_once() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    assert!(stage.log.is_fenced(BrokerId(1)));
    assert_eq!(stage.partition().epoch, LeaderEpoch(2));
    assert_eq!(stage.partition().leader, None);
}

#[test]
fn one_report_is_not_enough_and_none_counts_while_the_session_stands() {
    let mut stage = Stage::new(1);
    let life = stage.life(1);
    for reporter in [2, 3] {
        stage.say(reporter, ToController::ConnectionRefused { life });
    }
    assert!(!stage.log.is_fenced(BrokerId(1)), "its session stands");
    let mut stage = Stage::new(1);
    stage.step(Input::Closed(SessionId(1)));
    stage.say(2, ToController::ConnectionRefused { life });
    stage.say(2, ToController::ConnectionRefused { life });
    assert!(!stage.log.is_fenced(BrokerId(1)), "one reporter");
}

#[test]
fn a_report_about_an_earlier_life_counts_for_nothing() {
    let mut stage = Stage::new(1);
    let old = stage.life(1);
    stage.step(Input::Closed(SessionId(1)));
    stage.register(1, 1, 1);
    stage.step(Input::Closed(SessionId(1)));
    for reporter in [2, 3] {
        stage.say(reporter, ToController::ConnectionRefused { life: old });
    }
    assert!(!stage.log.is_fenced(BrokerId(1)));
}

#[test]
fn silence_for_the_session_timeout_is_death() {
    let mut stage = Stage::new(1);
    stage.silent.insert(1);
    stage.pass(900);
    assert!(!stage.log.is_fenced(BrokerId(1)));
    stage.pass(300);
    assert!(stage.log.is_fenced(BrokerId(1)));
}

#[test]
fn a_broker_that_is_held_for_dead_is_not_told_that_it_is_alive() {
    let mut stage = Stage::new(0);
    let told = |stage: &mut Stage| {
        stage.say(1, ToController::Heartbeat { disk_progress: 1 });
        stage.surely_led(stage.now + 1);
        let sent = stage.sent[&SessionId(1)].iter().rev();
        let mut acks = sent.filter_map(|message| match message {
            FromController::HeartbeatAck { alive } => Some(*alive),
            _ => None,
        });
        acks.next().expect("answered")
    };
    assert!(told(&mut stage));
    stage.silent.insert(1);
    // Its death is proposed, and not committed yet.
    stage.hold = true;
    stage.pass(1_300);
    assert!(!stage.log.is_fenced(BrokerId(1)));
    assert!(!told(&mut stage));
    let mut stage = Stage::new(0);
    stage.silent.insert(1);
    stage.pass(1_300);
    assert!(stage.log.is_fenced(BrokerId(1)));
    assert!(!told(&mut stage));
    stage.silent.remove(&1);
    stage.pass(1_000);
    assert!(!stage.log.is_fenced(BrokerId(1)));
    assert!(told(&mut stage), "it was alive after all");
}

#[test]
fn a_disk_that_makes_no_progress_is_death_though_the_broker_talks() {
    let mut stage = Stage::new(1);
    stage.pass(500);
    stage.silent.insert(1);
    for _ in 0..60 {
        stage.say(1, ToController::Heartbeat { disk_progress: 500 });
        stage.pass(25);
    }
    assert!(stage.log.is_fenced(BrokerId(1)));
    assert!(!stage.log.is_fenced(BrokerId(2)));
}

#[test]
fn a_controller_that_stood_still_declares_nobody_dead_for_it() {
    let life = |broker: u32| Stage::new(1).life(broker);
    let refused = ToController::ConnectionRefused { life: life(3) };
    for first in [
        Input::Tick,
        Input::Closed(SessionId(3)),
        Input::Message(SessionId(2), refused),
    ] {
        let mut stage = Stage::new(1);
        stage.pass(200);
        stage.now += 10_000;
        stage.step(first);
        stage.step(Input::Tick);
        for broker in 1..=3 {
            assert!(!stage.log.is_fenced(BrokerId(broker)));
        }
    }
}

#[test]
fn a_new_controller_gives_everybody_a_full_session() {
    let mut stage = Stage::new(1);
    stage.pass(100);
    let now = Tick(50_000);
    stage.core = ControllerCore::new(BrokerId(2), 2, Config::default(), stage.log.clone(), now);
    stage.now = now.0;
    stage.silent.extend([1, 2, 3]);
    stage.pass(900);
    assert!(!stage.log.is_fenced(BrokerId(1)));
    stage.pass(300);
    assert!(stage.log.is_fenced(BrokerId(1)));
}

#[test]
fn the_longest_log_of_the_newest_epoch_wins_once_enough_have_answered() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    assert_eq!(
        stage.partition().leader,
        None,
        "one of the two answers that are needed"
    );
    stage.answer(3, 2, 1, 12);
    assert_eq!(stage.partition().leader, Some(stage.life(3)));
    assert_eq!(
        stage.partition().in_sync.len(),
        3,
        "an election never shrinks the set"
    );
}

#[test]
fn a_newer_epoch_beats_a_longer_log() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    stage.answer(3, 2, 0, 99);
    assert_eq!(stage.partition().leader, Some(stage.life(2)));
}

#[test]
fn answers_to_another_fence_or_of_an_earlier_life_do_not_count() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.answer(3, 1, 1, 50);
    stage.answer(2, 2, 1, 10);
    assert_eq!(
        stage.partition().leader,
        None,
        "an answer to an older fence"
    );
    let old = stage.life(3);
    stage.answer_as(old, 2, 1, 50);
    assert_eq!(stage.partition().leader, Some(old));
    let mut stage = Stage::new(1);
    stage.kill_leader();
    let old = stage.life(3);
    stage.answer_as(old, 2, 1, 50);
    stage.register(3, 30, 3);
    stage.answer(2, 2, 1, 60);
    assert_eq!(
        stage.partition().leader,
        None,
        "the life that answered is over"
    );
}

#[test]
fn a_wiped_disk_is_suspect_and_has_no_vote() {
    let mut stage = Stage::new(1);
    stage.register(2, 20, 222);
    assert!(stage.partition().suspects.contains(&BrokerId(2)));
    stage.kill_leader();
    stage.answer(2, 2, 1, 99);
    stage.answer(3, 2, 1, 10);
    assert_eq!(stage.partition().leader, None);
}

#[test]
fn a_restarted_leader_does_not_resume_its_office() {
    let mut stage = Stage::new(1);
    let old = stage.life(1);
    stage.register(1, 10, 1);
    assert_ne!(stage.life(1), old);
    assert_eq!(stage.partition().epoch, LeaderEpoch(2));
    assert_eq!(stage.partition().leader, None);
}

#[test]
fn a_process_whose_life_has_passed_is_told_so() {
    let mut stage = Stage::new(1);
    let old = stage.life(1);
    stage.register(1, 21, 1);
    assert!(!stage.was_sent(1, &FromController::Obsolete));
    stage.say(1, ToController::Heartbeat { disk_progress: 1 });
    assert!(stage.was_sent(1, &FromController::Obsolete));
    let hello = ToController::Hello {
        broker: old.broker,
        life: Some(old.epoch),
    };
    stage.say(31, hello);
    assert!(stage.was_sent(31, &FromController::Obsolete));
}

#[test]
fn what_is_said_of_an_earlier_life_too_late_is_void() {
    let mut stage = Stage::new(1);
    let old = stage.life(2);
    stage.register(2, 2, 2);
    let mut commit = |command| {
        let index = MetadataIndex(stage.log.index.0 + 1);
        stage.log.apply(index, &command);
    };
    commit(Command::SetFenced {
        fence: vec![old],
        unfence: Vec::new(),
    });
    commit(Command::ReportSuspect {
        life: old,
        partitions: vec![PARTITION],
    });
    assert!(!stage.log.is_fenced(BrokerId(2)));
    assert!(stage.partition().suspects.is_empty());
}

#[test]
fn an_asynchronous_partition_waits_for_the_living_only() {
    let mut stage = Stage::new(0);
    stage.kill_leader();
    stage.answer(2, 2, 1, 10);
    assert_eq!(
        stage.partition().leader,
        None,
        "broker 3 lives and may hold more"
    );
    stage.pass(300);
    assert_eq!(stage.partition().leader, Some(stage.life(2)));
}

#[test]
fn an_unanswered_fence_is_repeated_and_sent_to_whoever_comes_back() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    let first = stage.fences_sent_to(2);
    stage.pass(500);
    assert!(stage.fences_sent_to(2) > first);
    stage.silent.remove(&1);
    stage.register(1, 1, 1);
    assert!(stage.fences_sent_to(1) > 0);
}

#[test]
fn a_new_controller_begins_unfinished_elections_anew() {
    let mut stage = Stage::new(1);
    stage.kill_leader();
    stage.core = ControllerCore::new(
        BrokerId(2),
        2,
        Config::default(),
        stage.log.clone(),
        Tick(stage.now),
    );
    stage.step(Input::Tick);
    assert_eq!(stage.partition().epoch, LeaderEpoch(3));
}

#[test]
fn a_broker_that_was_frozen_is_taken_back_after_regular_heartbeats() {
    let mut stage = Stage::new(1);
    stage.silent.insert(3);
    stage.pass(1_300);
    assert!(stage.log.is_fenced(BrokerId(3)));
    stage.silent.remove(&3);
    stage.pass(100);
    assert!(
        stage.log.is_fenced(BrokerId(3)),
        "not at the first sign of life"
    );
    stage.pass(600);
    assert!(!stage.log.is_fenced(BrokerId(3)));
}

#[test]
fn a_set_change_is_compared_and_set_on_leader_epoch_version_and_lives() {
    let mut stage = Stage::new(1);
    let leader = stage.life(1);
    let late = change(&stage, &[1, 3], &[]);
    let good = change(&stage, &[1, 2], &[]);
    assert_eq!(apply(&mut stage, leader, good), SetChangeResult::Accepted);
    assert_eq!(
        apply(&mut stage, leader, late),
        SetChangeResult::Refused,
        "version"
    );
    let impostor = stage.life(2);
    let by_another = change(&stage, &[1, 2], &[]);
    assert_eq!(
        apply(&mut stage, impostor, by_another),
        SetChangeResult::Refused
    );
    let too_small = change(&stage, &[1], &[]);
    assert_eq!(
        apply(&mut stage, leader, too_small),
        SetChangeResult::Refused
    );
    let unverified = change(&stage, &[1, 2, 3], &[]);
    assert_eq!(
        apply(&mut stage, leader, unverified),
        SetChangeResult::Refused
    );
    let mut earlier_life = stage.life(3);
    earlier_life.epoch = BrokerEpoch(0);
    let outlived = change(&stage, &[1, 2, 3], &[earlier_life]);
    assert_eq!(
        apply(&mut stage, leader, outlived),
        SetChangeResult::Refused
    );
    let back = change(&stage, &[1, 2, 3], &[stage.life(3)]);
    assert_eq!(apply(&mut stage, leader, back), SetChangeResult::Accepted);
}

#[test]
fn a_refusal_for_a_passing_reason_outlives_the_reason() {
    let mut stage = Stage::new(1);
    let leader = stage.life(1);
    let smaller = change(&stage, &[1, 2], &[]);
    assert_eq!(
        apply(&mut stage, leader, smaller),
        SetChangeResult::Accepted
    );
    let third = stage.life(3);
    let index = MetadataIndex(stage.log.index.0 + 1);
    let (fence, unfence) = (vec![third], Vec::new());
    stage
        .log
        .apply(index, &Command::SetFenced { fence, unfence });
    let add = change(&stage, &[1, 2, 3], &[third]);
    assert_eq!(
        apply(&mut stage, leader, add.clone()),
        SetChangeResult::Refused
    );
    let index = MetadataIndex(stage.log.index.0 + 1);
    let (fence, unfence) = (Vec::new(), vec![third]);
    stage
        .log
        .apply(index, &Command::SetFenced { fence, unfence });
    assert_eq!(
        apply(&mut stage, leader, add),
        SetChangeResult::Refused,
        "a late copy"
    );
}

#[test]
fn leaders_are_spread_evenly_and_bad_requests_refused() {
    let mut stage = Stage::new(1);
    let ask = |stage: &mut Stage, name: &str, partitions, replicas, sync_followers, id: u128| {
        let request = AdminRequest::CreateTopic {
            name: name.into(),
            partitions,
            replicas,
            sync_followers,
            flush: None,
            unclean_election: None,
            policy: TopicPolicy::default(),
        };
        stage.say(
            1,
            ToController::Admin {
                id: 1,
                request,
                fresh_topic_id: TopicId(Uuid::from_u128(id)),
            },
        );
        let last = stage.sent[&SessionId(1)]
            .iter()
            .rev()
            .find_map(|message| match message {
                FromController::AdminResult { result, .. } => Some(result.clone()),
                _ => None,
            });
        last.expect("answered")
    };
    let made = ask(&mut stage, "many", Some(9), None, None, 100).expect("made");
    assert!(matches!(
        made,
        AdminResponse::TopicCreated {
            partitions: 9,
            replicas: 3,
            sync_followers: 1,
            ..
        }
    ));
    let mut leads = BTreeMap::new();
    for (_, partition) in stage.log.partitions() {
        *leads
            .entry(partition.leader.expect("led").broker)
            .or_insert(0) += 1;
    }
    assert!(
        leads.values().all(|count| (3..=4).contains(count)),
        "{leads:?}"
    );
    for (name, partitions, replicas, followers) in [
        ("many", None, None, None),
        ("a b", None, None, None),
        ("none", Some(0), None, None),
        ("four", None, Some(4), None),
        ("sync", None, Some(2), Some(2)),
    ] {
        assert!(
            ask(&mut stage, name, partitions, replicas, followers, 200).is_err(),
            "{name}"
        );
    }
}

#[test]
fn the_topic_of_groups_is_made_once_though_a_broker_is_down_and_stays() {
    let mut stage = Stage::new(1);
    let ask = |stage: &mut Stage, request, id: u128| {
        let admin = ToController::Admin {
            id: 8,
            request,
            fresh_topic_id: TopicId(Uuid::from_u128(id)),
        };
        stage.say(2, admin);
        stage.last_answer(2)
    };
    let make = |replicas| AdminRequest::MakeGroupsTopic {
        partitions: 4,
        replicas,
    };
    stage.kill_leader();
    let refused = |result: Result<AdminResponse, WireError>| result.expect_err("refused").code;
    assert_eq!(
        refused(ask(&mut stage, make(0), 50)),
        ErrorCode::InvalidRequest
    );
    // The fourth broker has not come yet.
    assert_eq!(
        refused(ask(&mut stage, make(4), 51)),
        ErrorCode::Unavailable
    );
    ask(&mut stage, make(3), 52).expect("made");
    assert_eq!(
        refused(ask(&mut stage, make(3), 53)),
        ErrorCode::TopicExists
    );
    let topic = stage.log.topic_named(GROUPS_TOPIC).expect("made");
    assert_eq!(
        (topic.config.sync_followers, topic.config.unclean_election),
        (1, false)
    );
    for partition in &topic.partitions {
        // The one that is down holds a replica all the same, and leads none.
        assert_eq!(partition.replicas[2], BrokerId(1));
    }
    let name = GROUPS_TOPIC.to_owned();
    let delete = AdminRequest::DeleteTopic { name: name.clone() };
    assert_eq!(
        refused(ask(&mut stage, delete, 54)),
        ErrorCode::InvalidRequest
    );
    let create = AdminRequest::CreateTopic {
        name,
        partitions: None,
        replicas: None,
        sync_followers: None,
        flush: None,
        unclean_election: None,
        policy: TopicPolicy::default(),
    };
    assert_eq!(
        refused(ask(&mut stage, create, 55)),
        ErrorCode::InvalidTopicName
    );
}

#[test]
fn no_session_begins_before_the_cluster_has_an_identity() {
    let mut core = ControllerCore::new(
        BrokerId(1),
        1,
        Config::default(),
        ClusterState::default(),
        Tick(0),
    );
    let mut out = Vec::new();
    let hello = ToController::Hello {
        broker: BrokerId(1),
        life: None,
    };
    core.step(Tick(0), Input::Message(SessionId(1), hello), &mut out);
    let refusal = Effect::Send(SessionId(1), FromController::NotController { leader: None });
    assert!(out.contains(&refusal), "{out:?}");
}
