//! Whose time records have: their producer's, or that of the leader which stored them.

use std::time::{SystemTime, UNIX_EPOCH};

use baton_client::{
    BrokerId, Client, Compression, Message, Offset, PartitionIndex, PolicyChanges, Record, Start,
    Timestamps, TopicPolicy, TopicSettings, Until,
};
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE, free_ports, passed_on, whole};

const TOPIC: &str = "timed";
const P0: PartitionIndex = PartitionIndex(0);

/// What producers say, long ago.
const SAID_MS: i64 = 1_000;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64
}

/// Sends two records, in one batch.
async fn produce(client: &Client, compression: Compression) {
    let producer = client.producer().compression(compression).build().await;
    let producer = producer.expect("a producer");
    let record = |text: &str| {
        let value = format!("{text} {}", "again ".repeat(100));
        Record::to(TOPIC).value(value).timestamp_ms(SAID_MS)
    };
    let placed = producer.send_all([record("one"), record("two")]);
    let placed = timeout(PATIENCE, placed).await.expect("in time");
    placed.expect("acknowledged");
    producer.close().await.expect("closed");
}

async fn read(client: &Client, start: Start) -> Vec<Message> {
    let reader = client.reader(TOPIC).from(start).until(Until::End);
    let mut reader = reader.build().await.expect("a reader");
    let mut messages = Vec::new();
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        messages.push(message.expect("readable"));
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_says_whose_time_its_records_have_and_can_change_its_mind() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let policy = TopicPolicy {
        timestamps: Some(Timestamps::Append),
        ..TopicPolicy::default()
    };
    let settings = TopicSettings {
        policy,
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(TOPIC, settings).await;
    made.expect("made");

    let before = now_ms();
    for compression in [Compression::None, Compression::Zstd] {
        produce(&client, compression).await;
    }
    let after = now_ms();
    let stamped = read(&client, Start::Earliest).await;
    assert_eq!(stamped.len(), 4);
    for message in &stamped {
        assert_eq!(message.timestamp_type, Timestamps::Append);
        let time = message.timestamp_ms;
        assert!((before..=after).contains(&time), "{time}");
    }

    // The next leader says the same of what this one stored.
    let topic = client.topic(TOPIC).await.expect("the topic");
    let (leader, epoch) = whole(&client, TOPIC, 0).await;
    let next = BrokerId(leader % 3 + 1);
    let handed = client.admin().hand_over(TOPIC, P0, next).await;
    handed.expect("handed over");
    passed_on(&client, TOPIC, 0, epoch).await;
    assert_eq!(read(&client, Start::Earliest).await, stamped);
    let first = client.admin().offset_for_time(&topic, P0, before).await;
    assert_eq!(first.expect("found"), stamped[0].offset);
    assert_eq!(read(&client, Start::Time(before)).await, stamped);
    assert!(read(&client, Start::Time(after + 60_000)).await.is_empty());

    let changes = PolicyChanges {
        timestamps: Some(Timestamps::Create),
        ..PolicyChanges::default()
    };
    let changed = client.admin().set_policy(TOPIC, changes).await;
    changed.expect("changed");
    let end: Offset = stamped[3].offset;
    let mut said = Vec::new();
    // Replicas learn of it one after the other.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while said.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nothing changes");
        produce(&client, Compression::None).await;
        said = read(&client, Start::Offset(end.plus(1))).await;
        said.retain(|message| message.timestamp_type == Timestamps::Create);
    }
    assert!(said.iter().all(|said| said.timestamp_ms == SAID_MS));
    assert_eq!(read(&client, Start::Earliest).await[..4], stamped);
}
