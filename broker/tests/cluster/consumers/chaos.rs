//! Members come and go, well and badly, while brokers are killed and frozen: every record is consumed,
//! and no committed offset moves back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_client::{
    AutoCommit, Client, Error, ErrorCode, ErrorKind, Event, Partition, Record, TopicSettings,
};
use baton_protocol::groups::{GROUPS_TOPIC, coordinator_partition};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{committed, number};
use crate::harness::{Cluster, PATIENCE, free_ports, passed_on, whole};

const TOPIC: &str = "work";
const GROUP: &str = "workers";
const PARTITIONS: u32 = 6;
const MEMBERS: u64 = 3;

#[derive(Default)]
struct Stage {
    is_over: AtomicBool,
    sent: AtomicU32,
    /// How often each number was consumed.
    consumed: Mutex<BTreeMap<u32, u32>>,
    joined: AtomicU32,
}

impl Stage {
    fn consumed(&self) -> usize {
        self.consumed.lock().expect("numbers").len()
    }
}

/// Sends numbers, paced, until the stage is over.
async fn produce(client: Client, stage: Arc<Stage>, stop: Arc<AtomicBool>) {
    let producer = client.producer().build().await.expect("a producer");
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut acks = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        for _ in 0..5 {
            let record = Record::to(TOPIC).value(number.to_string());
            let record = record.partition(number % PARTITIONS);
            acks.push(producer.send(record).await.expect("taken"));
            number += 1;
        }
    }
    for ack in acks {
        ack.await.expect("stored");
    }
    stage.sent.store(number, Ordering::Relaxed);
}

/// What a consumer may be told when it was put out, or its coordinator is gone.
fn is_tolerable(error: &Error) -> bool {
    let lost = [
        ErrorCode::UnknownMember,
        ErrorCode::FencedMember,
        ErrorCode::NotAssigned,
    ];
    let was_put_out = error.code().is_some_and(|code| lost.contains(&code));
    error.is_retriable() || (error.kind() == ErrorKind::CommitRefused && was_put_out)
}

/// Consumes for a while, over and over: every third time it goes without a word, and commits nothing of
/// what was not committed before.
async fn work(client: Client, stage: Arc<Stage>, seed: u64) {
    let mut turn = seed;
    while !stage.is_over.load(Ordering::Relaxed) {
        turn += 1;
        let consumer = client.consumer(GROUP).subscribe([TOPIC]);
        let consumer = consumer
            .auto_commit(AutoCommit::Every(Duration::from_millis(200)))
            .session_timeout(Duration::from_secs(3));
        let mut consumer = match consumer.build().await {
            Ok(consumer) => consumer,
            Err(error) if error.is_retriable() => continue,
            Err(error) => panic!("{error}"),
        };
        stage.joined.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_millis(1_500 + turn * 397 % 2_500);
        while let Ok(item) = timeout_at(until, consumer.next()).await {
            match item.expect("open") {
                Ok(Event::Record(message)) => {
                    let mut consumed = stage.consumed.lock().expect("numbers");
                    *consumed.entry(number(&message)).or_default() += 1;
                }
                Ok(_) => {}
                Err(error) => assert!(is_tolerable(&error), "{error}"),
            }
        }
        if !turn.is_multiple_of(3)
            && let Err(error) = consumer.close().await
        {
            assert!(is_tolerable(&error), "{error}");
        }
    }
}

/// Looks whether a committed offset moves back.
async fn watch(client: Client, stage: Arc<Stage>) -> u32 {
    let mut before: BTreeMap<Partition, u64> = BTreeMap::new();
    let mut looks = 0;
    while !stage.is_over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(50)).await;
        let now = match client.offsets(GROUP).fetch().await {
            Ok(offsets) => offsets,
            Err(error) if error.is_retriable() => continue,
            Err(error) => panic!("{error}"),
        };
        for (partition, one) in now {
            let at = one.offset.0;
            let last = before.insert(partition.clone(), at);
            assert!(
                last.is_none_or(|last| last <= at),
                "{partition} moved back to {at}: {last:?}"
            );
        }
        looks += 1;
    }
    looks
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_skipped_while_members_and_brokers_come_and_go() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let settings = TopicSettings {
        partitions: Some(PARTITIONS),
        replicas: Some(3),
        sync_followers: Some(1),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(TOPIC, settings).await;
    made.expect("made");
    let stage = Arc::new(Stage::default());
    let stop = Arc::new(AtomicBool::new(false));
    let producing = tokio::spawn(produce(client.clone(), stage.clone(), stop.clone()));
    let members = (0..MEMBERS).map(|seed| tokio::spawn(work(client.clone(), stage.clone(), seed)));
    let members: Vec<_> = members.collect();
    let watching = tokio::spawn(watch(client.clone(), stage.clone()));
    while stage.consumed() == 0 {
        sleep(Duration::from_millis(50)).await;
    }

    let count = client
        .topic(GROUPS_TOPIC)
        .await
        .expect("made")
        .partitions
        .len() as u32;
    let coordinator = coordinator_partition(GROUP, count).0;
    for (topic, partition, signal) in [
        (GROUPS_TOPIC, coordinator, Signal::KILL),
        (TOPIC, 0, Signal::KILL),
        (GROUPS_TOPIC, coordinator, Signal::STOP),
        (TOPIC, 1, Signal::STOP),
    ] {
        let (leader, epoch) = whole(&client, topic, partition).await;
        sleep(Duration::from_millis(1_500)).await;
        cluster.signal(leader, signal);
        passed_on(&client, topic, partition, epoch).await;
        if signal == Signal::STOP {
            sleep(Duration::from_millis(500)).await;
            cluster.signal(leader, Signal::CONT);
        }
    }
    stop.store(true, Ordering::Relaxed);
    timeout(PATIENCE, producing)
        .await
        .expect("in time")
        .expect("stored");
    let sent = stage.sent.load(Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while stage.consumed() < sent as usize {
        let consumed = stage.consumed();
        assert!(
            Instant::now() < deadline,
            "{consumed} of {sent} were consumed"
        );
        sleep(Duration::from_millis(50)).await;
    }
    stage.is_over.store(true, Ordering::Relaxed);
    for member in members {
        timeout(PATIENCE, member)
            .await
            .expect("in time")
            .expect("worked");
    }
    let looks = timeout(PATIENCE, watching).await.expect("in time");
    let joined = stage.joined.load(Ordering::Relaxed);
    let looks = looks.expect("nothing moved back");
    assert!(
        looks > 20 && joined > 6 && sent > 1_000,
        "{looks}, {joined}, {sent}: no load"
    );
    let consumed = stage.consumed.lock().expect("numbers").clone();
    assert_eq!(consumed.len(), sent as usize);
    let twice = consumed.values().filter(|times| **times > 1).count();
    println!("{sent} numbers, {twice} of them more than once, {joined} memberships");
    assert!(!committed(&client, GROUP).await.is_empty());
    drop(client);
    cluster.end();
}
