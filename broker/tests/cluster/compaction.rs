//! A topic of which the newest record of each key is kept, while producers go on, a follower is away, and
//! leaders change.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use baton_client::{
    Cleanup, Client, Compression, ErrorKind, Record, Start, TopicPolicy, TopicSettings, Until,
};
use baton_protocol::ids::{BrokerId, PartitionIndex};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE, free_ports, whole};

const TOPIC: &str = "accounts";
const KEYS: u32 = 10;

fn key(number: u32) -> String {
    format!("key {}", number % KEYS)
}

/// Sends these numbers, each as the newest of its key.
async fn produce(client: &Client, codec: Compression, numbers: std::ops::Range<u32>) {
    let producer = client.producer().compression(codec).batch_bytes(8 << 10);
    let producer = producer.build().await.expect("a producer");
    let records = numbers.map(|number| {
        // Nothing that a codec makes much smaller: segments are to be filled.
        let mut state = u64::from(number) + 1;
        let noise: String = (0..400)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(b'!' + ((state >> 33) % 90) as u8)
            })
            .collect();
        let value = format!("{number:06} {noise}");
        Record::to(TOPIC).key(key(number)).value(value)
    });
    let placed = timeout(PATIENCE, producer.send_all(records)).await;
    placed.expect("in time").expect("acknowledged");
}

/// The numbers of all records that are there, in order, by key.
async fn read(client: &Client) -> BTreeMap<String, Vec<u32>> {
    let reader = client.reader(TOPIC).from(Start::Earliest).until(Until::End);
    let mut reader = reader.build().await.expect("a reader");
    let mut read: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut last = None;
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        let message = message.expect("readable");
        assert!(last < Some(message.offset), "offsets rise");
        last = Some(message.offset);
        let text = |bytes: Option<bytes::Bytes>| {
            String::from_utf8(bytes.expect("some").to_vec()).expect("text")
        };
        let number = text(message.value)[..6].parse().expect("a number");
        read.entry(text(message.key)).or_default().push(number);
    }
    read
}

/// Every key has its newest number, and what is left of it rises.
fn assert_newest(read: &BTreeMap<String, Vec<u32>>, sent: u32) {
    assert_eq!(read.len(), KEYS as usize, "{read:?}");
    for (of, numbers) in read {
        let newest = (0..sent).rev().find(|number| key(*number) == *of);
        assert_eq!(numbers.last().copied(), newest, "{of}: {numbers:?}");
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

/// Waits until so few records are left.
async fn compacted(client: &Client, sent: u32, at_most: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = read(client).await;
        assert_newest(&read, sent);
        let count: usize = read.values().map(Vec::len).sum();
        if count <= at_most {
            return;
        }
        assert!(Instant::now() < deadline, "{count} records are left");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_each_key_the_newest_record_stays_whoever_leads() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let settings = TopicSettings {
        partitions: Some(1),
        replicas: Some(3),
        sync_followers: Some(1),
        policy: TopicPolicy {
            cleanup: Some(Cleanup::Compact),
            segment_bytes: Some(64 << 10),
            ..TopicPolicy::default()
        },
        ..TopicSettings::default()
    };
    let admin = client.admin();
    admin.create_topic(TOPIC, settings).await.expect("made");
    produce(&client, Compression::None, 0..1_000).await;
    // What is still added to stays, and about as much may have come since the last pass.
    compacted(&client, 1_000, 500).await;

    let producer = client.producer().build().await.expect("a producer");
    let ack = producer.send(Record::to(TOPIC).value("whose?")).await;
    let error = ack.expect("taken").await.expect_err("it has no key");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("no key"), "{error}");

    let (leader, _) = whole(&client, TOPIC, 0).await;
    let away = (1..=3).find(|broker| *broker != leader).expect("another");
    cluster.signal(away, Signal::STOP);
    produce(&client, Compression::Zstd, 1_000..4_000).await;
    compacted(&client, 4_000, 1_500).await;
    cluster.signal(away, Signal::CONT);
    produce(&client, Compression::Lz4, 4_000..4_100).await;
    whole(&client, TOPIC, 0).await;
    let p0 = PartitionIndex(0);
    admin
        .hand_over(TOPIC, p0, BrokerId(away))
        .await
        .expect("it leads");
    assert_newest(&read(&client).await, 4_100);
    produce(&client, Compression::None, 4_100..4_200).await;
    assert_newest(&read(&client).await, 4_200);
    let set = cluster.run(&[
        "topic",
        "set",
        TOPIC,
        "--cleanup",
        "compact,delete",
        "--retention",
        "1d",
    ]);
    assert!(set.status.success(), "{set:?}");
    drop((admin, client, producer));
    cluster.end();
}
