//! What people are told has happened.

use baton_controller::command::Command;
use baton_controller::events::between;
use baton_protocol::ids::{BrokerId, LeaderEpoch, MetadataIndex, PartitionIndex};
use baton_protocol::inspect::Happening;
use baton_protocol::policy::TopicPolicy;

use crate::stage::{PARTITION, Stage, TOPIC};

fn told(stage: &mut Stage, what: impl FnOnce(&mut Stage)) -> Vec<String> {
    let before = stage.log.clone();
    what(stage);
    let events = between(&before, &stage.log);
    events.iter().map(ToString::to_string).collect()
}

#[test]
fn a_failover_is_told_as_it_went() {
    let mut stage = Stage::new(1);
    let events = told(&mut stage, Stage::kill_leader);
    let expected = [
        "broker 1 is down",
        "t/0: election of epoch 2, broker 1 does not lead any more",
    ];
    assert_eq!(events, expected);
    let events = told(&mut stage, |stage| {
        stage.answer(2, 2, 1, 10);
        stage.answer(3, 2, 1, 10);
    });
    assert_eq!(events, ["t/0: broker 2 leads in epoch 2"]);
    let events = told(&mut stage, |stage| {
        stage.silent.remove(&1);
        // Another disk than before.
        stage.register(1, 1, 77);
    });
    let life = stage.lives[&1];
    let expected = [
        format!("broker 1 has started (life {life})"),
        "t/0: broker 1 may have lost what it acknowledged".to_owned(),
    ];
    assert_eq!(events, expected);
}

#[test]
fn topics_come_change_and_go() {
    let mut stage = Stage::new(1);
    let now = stage.log.clone();
    assert!(between(&now, &now).is_empty());
    let mut empty = now.clone();
    empty.topics.clear();
    let created = Happening::TopicCreated {
        topic: "t".into(),
        partitions: 1,
    };
    assert_eq!(between(&empty, &now), [created]);
    let deleted = Happening::TopicDeleted { topic: "t".into() };
    assert_eq!(between(&now, &empty), [deleted]);
    let policy = TopicPolicy {
        retention_ms: Some(5),
        ..TopicPolicy::default()
    };
    let set = Command::SetPolicy { id: TOPIC, policy };
    let topic = || "t".to_owned();
    let index = MetadataIndex(now.index.0 + 1);
    stage.log.apply(index, &set);
    let expected = Happening::PolicySet {
        topic: topic(),
        policy,
    };
    assert_eq!(between(&now, &stage.log), [expected]);
    let mut later = now.clone();
    let sync_followers = 2;
    let id = TOPIC;
    later.apply(index, &Command::SetSyncFollowers { id, sync_followers });
    let expected = Happening::SyncFollowersSet {
        topic: topic(),
        sync_followers,
    };
    assert_eq!(between(&now, &later), [expected]);
}

#[test]
fn what_has_no_effect_is_not_told() {
    let mut stage = Stage::new(1);
    let now = stage.log.clone();
    let late = Command::BeginElections(vec![(PARTITION, LeaderEpoch(7))]);
    stage.log.apply(MetadataIndex(now.index.0 + 1), &late);
    assert!(between(&now, &stage.log).is_empty());
    let begun = Command::BeginElections(vec![(PARTITION, LeaderEpoch(1))]);
    stage.log.apply(MetadataIndex(now.index.0 + 2), &begun);
    let lost = Happening::LeaderLost {
        topic: "t".into(),
        partition: PartitionIndex(0),
        leader: Some(BrokerId(1)),
        epoch: LeaderEpoch(2),
    };
    assert_eq!(between(&now, &stage.log), [lost]);
}
