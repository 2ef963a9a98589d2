//! Entries that expire while producers and a consumer go on: what is left stays readable, and a follower
//! that was away for too long begins anew and counts as any other.

use std::time::Instant;

use baton_client::{
    Client, ErrorKind, Limit, PolicyChanges, Reader, Record, Start, TopicPolicy, TopicSettings,
    Until,
};
use baton_protocol::client::PartitionStatus;
use baton_protocol::ids::{BrokerId, Offset, PartitionIndex};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE, free_ports, whole};

const TOPIC: &str = "short";
const P0: PartitionIndex = PartitionIndex(0);

/// Large enough that a few of them fill a segment.
fn value(number: u32) -> String {
    format!("{number:06} {}", "x".repeat(4_000))
}

/// Sends these numbers, and waits for each to be acknowledged; the offset of the last.
async fn produce(client: &Client, numbers: std::ops::Range<u32>) -> Offset {
    let producer = client.producer().build().await.expect("a producer");
    let records = numbers.map(|number| Record::to(TOPIC).value(value(number)));
    let placed = timeout(PATIENCE, producer.send_all(records)).await;
    let placed = placed.expect("in time").expect("acknowledged");
    placed.last().expect("some").offset.expect("committed")
}

async fn status(client: &Client) -> PartitionStatus {
    let topic = client.topic(TOPIC).await.expect("the topic");
    let status = client.admin().partition_status(&topic, P0, true).await;
    status.expect("the leader answers")
}

/// Waits until the log starts so far up.
async fn started(client: &Client, at_least: Offset) -> PartitionStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(client).await;
        if status.log_start >= at_least {
            return status;
        }
        assert!(Instant::now() < deadline, "nothing expires: {status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

async fn reader(client: &Client, start: Start) -> Reader {
    let reader = client.reader(TOPIC).from(start).until(Until::End);
    reader.build().await.expect("a reader")
}

/// The numbers from there on, up to the watermark.
async fn read(client: &Client, start: Start) -> Vec<u32> {
    let mut reader = reader(client, start).await;
    let mut numbers = Vec::new();
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        let text = message.expect("readable").value.expect("a value");
        let number = std::str::from_utf8(&text[..6]).expect("digits");
        numbers.push(number.parse().expect("a number"));
    }
    numbers
}

/// These are the last ones up to `sent`, none is missing.
fn assert_last(numbers: &[u32], sent: u32) {
    let first = numbers.first().copied().expect("something is left");
    assert!(numbers.iter().copied().eq(first..sent), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_gone_everywhere_and_a_follower_that_was_away_begins_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let settings = TopicSettings {
        partitions: Some(1),
        replicas: Some(3),
        sync_followers: Some(1),
        policy: TopicPolicy {
            retention_bytes: Some(256 << 10),
            segment_bytes: Some(64 << 10),
            ..TopicPolicy::default()
        },
        ..TopicSettings::default()
    };
    let admin = client.admin();
    admin.create_topic(TOPIC, settings).await.expect("made");
    produce(&client, 0..100).await;
    let (leader, _) = whole(&client, TOPIC, 0).await;
    let away = (1..=3).find(|broker| *broker != leader).expect("another");
    cluster.signal(away, Signal::STOP);
    // Far beyond what the one that is away has.
    produce(&client, 100..600).await;
    let left = started(&client, Offset(150)).await;
    assert_last(&read(&client, Start::Earliest).await, 600);
    let mut below = reader(&client, Start::Offset(Offset::ZERO)).await;
    let refused = timeout(PATIENCE, below.next()).await.expect("in time");
    let error = refused.expect("an answer").expect_err("it has expired");
    let ErrorKind::OffsetOutOfRange { start, end } = error.kind() else {
        panic!("{error}");
    };
    assert!(start >= left.log_start && end >= left.high_watermark);
    below.seek(P0, start).expect("read");
    let next = timeout(PATIENCE, below.next()).await.expect("in time");
    next.expect("a record").expect("readable");
    drop(below);

    cluster.signal(away, Signal::CONT);
    produce(&client, 600..620).await;
    whole(&client, TOPIC, 0).await;
    // It leads, and has all that is left.
    admin
        .hand_over(TOPIC, P0, BrokerId(away))
        .await
        .expect("it leads");
    let now = status(&client).await;
    assert!(now.log_start >= Offset(150), "{now:?}");
    assert_last(&read(&client, Start::Earliest).await, 620);
    produce(&client, 620..640).await;
    assert_last(&read(&client, Start::Earliest).await, 640);

    // By time: from this moment on, and then nothing but what is new.
    let topic = client.topic(TOPIC).await.expect("the topic");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = i64::try_from(since.expect("after 1970").as_millis()).expect("a time") + 1;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    produce(&client, 640..660).await;
    let newer = read(&client, Start::Time(since)).await;
    assert_eq!(newer, (640..660).collect::<Vec<_>>());
    assert!(read(&client, Start::Time(i64::MAX)).await.is_empty());
    let now = status(&client).await;
    let never = admin.offset_for_time(&topic, P0, i64::MAX).await;
    assert_eq!(never.expect("answered"), now.high_watermark);
    let changes = PolicyChanges {
        retention_ms: Some(Limit::To(1_000)),
        ..PolicyChanges::default()
    };
    admin.set_policy(TOPIC, changes).await.expect("set");
    let empty = started(&client, now.high_watermark).await;
    assert_eq!(empty.log_start, empty.log_end);
    let last = produce(&client, 660..661).await;
    assert!(last >= now.high_watermark, "no offset comes again");
    let forever = PolicyChanges {
        retention_ms: Some(Limit::None),
        ..PolicyChanges::default()
    };
    admin.set_policy(TOPIC, forever).await.expect("set");
    let settings = cluster.run(&["topic", "describe", TOPIC, "--settings"]);
    let settings = String::from_utf8(settings.stdout).expect("text");
    for line in [
        "retention_ms\tfor ever\tdefault",
        "retention_bytes\t256KiB\ttopic",
        "cleanup\tdelete\tdefault",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    drop((admin, client));
    cluster.end();
}
