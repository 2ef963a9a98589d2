//! Consumer groups against real brokers: their coordinators are killed, frozen and restarted; no
//! member is forgotten, and no committed offset moves back.

mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_client::{Client, Record, Start, TopicSettings, Until};
use baton_protocol::batch::BatchBuilder;
use baton_protocol::client::{Acks, RequestBody};
use baton_protocol::error::ErrorCode;
use baton_protocol::groups::{Commit, GROUPS_TOPIC, GroupPhase, GroupRequest, GroupResponse};
use baton_protocol::ids::{BrokerId, Offset, PartitionIndex, TopicId, TopicPartition};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use self::wire::{Member, Wire, ask, ask_at, balance, commit_of, coordinator_of, offsets};
use crate::harness::{Cluster, PATIENCE, free_ports, passed_on, whole};

const TOPIC: &str = "work";
const GROUP: &str = "workers";
const PARTITIONS: usize = 6;

async fn make_topic(client: &Client, name: &str) -> TopicId {
    let settings = TopicSettings {
        partitions: Some(PARTITIONS as u32),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(name, settings).await;
    made.expect("made").id
}

/// What was acknowledged, and the least that may therefore be told.
type Acknowledged = Arc<Mutex<BTreeMap<TopicPartition, Offset>>>;

/// Commits rising offsets for all that a member has, until told to stop.
async fn commit_on(member: Member, acknowledged: Acknowledged, stop: Arc<AtomicBool>) -> u64 {
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        offset += 1;
        let refused = member.commit(|_| Offset(offset)).await.expect("taken");
        assert!(refused.is_empty(), "{refused:?}");
        let committed = member.owns.iter().map(|at| (*at, Offset(offset)));
        acknowledged.lock().expect("a map").extend(committed);
        sleep(Duration::from_millis(5)).await;
    }
    offset
}

/// Looks whether all that was acknowledged before is there.
async fn check(client: &Client, acknowledged: &Acknowledged) {
    let least = acknowledged.lock().expect("a map").clone();
    let told = offsets(client, GROUP).await;
    for (at, least) in least {
        let found = told
            .iter()
            .find(|one| one.topic == at.topic && one.partition == at.partition);
        let found = found.map(|one| one.offset);
        assert!(
            found >= Some(least),
            "{at}: {found:?}, but {least} was acknowledged"
        );
    }
}

async fn watch(client: Client, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        check(&client, &acknowledged).await;
        sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    HandOver,
}

async fn survive(faults: &[Fault]) {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, TOPIC).await;
    let mut members = Vec::new();
    for _ in 0..2 {
        members.push(Member::join(&client, GROUP, TOPIC).await);
    }
    balance(&mut members, PARTITIONS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Acknowledged::default();
    let commits = members.iter().map(|member| {
        tokio::spawn(commit_on(
            member.clone(),
            acknowledged.clone(),
            stop.clone(),
        ))
    });
    let commits: Vec<_> = commits.collect();
    let watching = tokio::spawn(watch(client.clone(), acknowledged.clone(), stop.clone()));
    for fault in faults {
        let (partition, _) = coordinator_of(&client, GROUP);
        let (leader, epoch) = whole(&client, GROUPS_TOPIC, partition.0).await;
        sleep(Duration::from_millis(300)).await;
        match fault {
            Fault::Kill => {
                cluster.signal(leader, Signal::KILL);
                passed_on(&client, GROUPS_TOPIC, partition.0, epoch).await;
            }
            Fault::Freeze => {
                cluster.signal(leader, Signal::STOP);
                passed_on(&client, GROUPS_TOPIC, partition.0, epoch).await;
                sleep(Duration::from_millis(500)).await;
                cluster.signal(leader, Signal::CONT);
            }
            Fault::HandOver => {
                let to = BrokerId(leader % 3 + 1);
                let admin = client.admin();
                let handed = admin.hand_over(GROUPS_TOPIC, partition, to).await;
                handed.expect("begun");
                passed_on(&client, GROUPS_TOPIC, partition.0, epoch).await;
            }
        }
        // The members are known, with what they have: nobody has to join anew.
        for member in &mut members {
            let (had, epoch) = (member.owns.clone(), member.epoch);
            member.beat().await.expect("known");
            assert_eq!((&member.owns, member.epoch), (&had, epoch));
        }
    }
    let (partition, _) = coordinator_of(&client, GROUP);
    whole(&client, GROUPS_TOPIC, partition.0).await;
    stop.store(true, Ordering::Relaxed);
    for commit in commits {
        let commits = timeout(PATIENCE, commit).await.expect("in time");
        assert!(commits.expect("committed") > 20, "no load");
    }
    let watching = timeout(PATIENCE, watching).await.expect("in time");
    watching.expect("nothing moved back");
    check(&client, &acknowledged).await;
    drop((client, members));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_forgets_nothing() {
    survive(&[Fault::Kill, Fault::Kill]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_frozen_or_relieved_forgets_nothing() {
    survive(&[Fault::Freeze, Fault::HandOver, Fault::Kill]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_begin_though_a_broker_is_down() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, TOPIC).await;
    let (down, _) = whole(&client, TOPIC, 0).await;
    cluster.signal(down, Signal::STOP);
    while !client.view().brokers.values().any(|broker| broker.fenced) {
        sleep(Duration::from_millis(20)).await;
    }
    let member = Member::join(&client, GROUP, TOPIC).await;
    assert_eq!(member.owns.len(), PARTITIONS);
    let refused = member.commit(|_| Offset(1)).await.expect("taken");
    assert!(refused.is_empty());
    cluster.signal(down, Signal::CONT);
    for partition in 0..16 {
        whole(&client, GROUPS_TOPIC, partition).await;
    }
    drop((client, member));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_survive_a_restart_of_all_brokers_and_the_deletion_of_a_topic() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    let client = cluster.client().await;
    let topic = make_topic(&client, TOPIC).await;
    let mut member = Member::join(&client, GROUP, TOPIC).await;
    let committed = |at: TopicPartition| Offset(100 + u64::from(at.partition.0));
    let refused = member.commit(committed).await.expect("taken");
    assert!(refused.is_empty());
    let epoch = member.epoch;
    cluster.end();

    let cluster = Cluster::start(dir.path(), port);
    member.beat().await.expect("known");
    assert_eq!((member.epoch, member.owns.len()), (epoch, PARTITIONS));
    let told = offsets(&client, GROUP).await;
    let told: Vec<_> = told.iter().map(|one| (one.topic, one.offset.0)).collect();
    assert_eq!(
        told,
        (100..106).map(|offset| (topic, offset)).collect::<Vec<_>>()
    );

    client.admin().delete_topic(TOPIC).await.expect("deleted");
    while !offsets(&client, GROUP).await.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    while !member.owns.is_empty() {
        member.beat().await.expect("known");
    }
    // Under the same name it is another topic, which is consumed from its beginning.
    let anew = make_topic(&client, TOPIC).await;
    while member.owns.len() < PARTITIONS {
        member.beat().await.expect("known");
    }
    assert!(member.owns.iter().all(|at| at.topic == anew));
    assert!(offsets(&client, GROUP).await.is_empty());

    let group = GROUP.to_owned();
    let leave = GroupRequest::Leave {
        group: group.clone(),
        member: member.id,
        keep_seat: false,
    };
    assert_eq!(ask(&client, GROUP, leave).await, Ok(GroupResponse::Done));
    let describe = GroupRequest::Describe { group };
    match ask(&client, GROUP, describe).await {
        Ok(GroupResponse::Group(described)) => assert_eq!(described.phase, GroupPhase::Empty),
        other => panic!("{other:?}"),
    }
    drop((client, member));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_topic_is_made_on_demand_and_left_to_the_brokers() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let topic = make_topic(&client, TOPIC).await;
    assert!(!client.view().topics.contains_key(GROUPS_TOPIC));
    let commit = GroupRequest::Commit(Commit {
        group: GROUP.to_owned(),
        member: None,
        offsets: vec![commit_of(topic, PartitionIndex(3), Offset(7))],
    });
    let done = GroupResponse::Committed {
        refused: Vec::new(),
    };
    assert_eq!(ask(&client, GROUP, commit).await, Ok(done));

    let made = client.topic(GROUPS_TOPIC).await.expect("made");
    assert_eq!((made.partitions.len(), made.config.replicas), (16, 3));
    assert_eq!(made.config.sync_followers, 1);
    let (partition, address) = coordinator_of(&client, GROUP);
    let list = GroupRequest::List;
    let brokers = client.view().brokers.clone();
    for broker in brokers.values() {
        let answer = ask_at(&broker.client_address, partition, list.clone()).await;
        match answer.expect("answered") {
            Ok(GroupResponse::Groups(groups)) => {
                assert_eq!((&broker.client_address, groups.len()), (&address, 1));
            }
            Err(error) => assert_eq!(error.code, ErrorCode::NotCoordinator),
            other => panic!("{other:?}"),
        }
    }
    let beyond = ask_at(&address, PartitionIndex(16), list)
        .await
        .expect("answered");
    assert_eq!(
        beyond.expect_err("beyond").code,
        ErrorCode::UnknownPartition
    );

    // Users read it, and that is all.
    let mut batch = BatchBuilder::default();
    // It has no key either, but that is not what is wrong.
    batch.push(0, None, Some(b"value"), &[]);
    let produce = RequestBody::Produce {
        topic: made.id,
        partition,
        acks: Acks::Committed,
        timeout_ms: 1_000,
    };
    let mut wire = Wire::connect(&address).await.expect("connects");
    let refused = wire.ask_with(produce, batch.build(None)).await;
    let refused = refused.expect("answered").expect_err("refused");
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    let admin = client.admin();
    assert!(admin.delete_topic(GROUPS_TOPIC).await.is_err());
    let settings = TopicSettings::default();
    assert!(admin.create_topic("__mine", settings).await.is_err());
    let producer = client.producer().build().await.expect("a producer");
    let sent = producer.send(Record::to(GROUPS_TOPIC).value("x")).await;
    if let Ok(ack) = sent {
        assert!(timeout(PATIENCE, ack).await.expect("in time").is_err());
    }
    let reader = client.reader(GROUPS_TOPIC).from(Start::Earliest);
    let mut reader = reader.until(Until::End).build().await.expect("a reader");
    let mut read = 0;
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        message.expect("readable");
        read += 1;
    }
    assert_eq!(read, 2, "a group and an offset");
    for (args, shown) in [
        (&["topic", "list"][..], false),
        (&["topic", "list", "--internal"][..], true),
    ] {
        let listed = cluster.run(args).stdout;
        let listed = String::from_utf8(listed).expect("text");
        assert!(listed.contains(TOPIC) && listed.contains(GROUPS_TOPIC) == shown);
    }
    drop((producer, reader, client));
    cluster.end();
}
