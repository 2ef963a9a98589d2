//! Leaders are killed and frozen under load; nothing that was acknowledged is lost, doubled or out of
//! order, and all replicas end up equal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_client::{Ack, Client, Compression, Record, Start, TopicSettings, Until};
use baton_protocol::ids::{Offset, PartitionIndex};
use baton_protocol::metadata::Flush;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::harness::{Cluster, PATIENCE, baton, free_ports, passed_on, whole};

const TOPIC: &str = "numbers";

/// Sends numbers, paced, until told to stop; then waits for every acknowledgement. How many.
async fn produce(client: Client, mut stop: mpsc::Receiver<()>) -> u64 {
    let settings = client.producer().compression(Compression::Lz4);
    let producer = settings.build().await.expect("producer");
    let mut acks: Vec<Ack> = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let mut number = 0u64;
    while stop.try_recv().is_err() {
        pace.tick().await;
        for _ in 0..10 {
            let record = Record::to(TOPIC).value(number.to_string());
            acks.push(producer.send(record).await.expect("sent"));
            number += 1;
        }
    }
    for ack in acks {
        ack.await.expect("acknowledged");
    }
    number
}

/// Reads everything: each number once, in rising order within its partition.
async fn check(client: &Client, sent: u64) {
    let reader = client.reader(TOPIC).from(Start::Earliest);
    let mut reader = reader.until(Until::End).build().await.expect("reader");
    let mut seen = vec![0u32; sent as usize];
    let mut last: BTreeMap<PartitionIndex, (Offset, u64)> = BTreeMap::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, reader.next()).await;
        let Some(message) = message.expect("in time") else {
            break;
        };
        let message = message.expect("readable");
        let text = String::from_utf8(message.value.expect("a value").to_vec()).expect("text");
        let number: u64 = text.parse().expect("a number");
        seen[number as usize] += 1;
        let here = (message.offset, number);
        if let Some(before) = last.insert(message.partition, here) {
            assert!(
                before.0 < here.0 && before.1 < here.1,
                "{before:?} before {here:?}"
            );
        }
    }
    for (number, times) in seen.iter().enumerate() {
        assert_eq!(*times, 1, "number {number} was read {times} times");
    }
}

/// Compares the replicas' logs entry by entry, offline.
fn compare_replicas(data_dir: &Path, partitions: u32) {
    for partition in 0..partitions {
        let mut logs = Vec::new();
        for broker in 1..=3 {
            let topics = data_dir.join(format!("broker-{broker}/topics"));
            let topic = std::fs::read_dir(topics)
                .expect("topics")
                .next()
                .expect("one")
                .expect("readable");
            let dir = topic.path().join(partition.to_string());
            let dump = baton()
                .args(["log", "dump", "--records", "--json"])
                .arg(&dir)
                .output()
                .expect("runs");
            assert!(
                dump.status.success(),
                "{}",
                String::from_utf8_lossy(&dump.stderr)
            );
            logs.push(dump.stdout);
        }
        assert!(logs[0].len() > 1_000, "partition {partition} has entries");
        assert!(
            logs[0] == logs[1] && logs[1] == logs[2],
            "partition {partition} differs"
        );
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    /// It ends as one does whose flush failed.
    FailedDisk,
}

/// Entries that a broker keeps aside.
fn quarantined(data_dir: &Path, broker: u32) -> usize {
    let topics = data_dir.join(format!("broker-{broker}/topics"));
    let listed = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries
            .map(|entry| entry.expect("readable").path())
            .collect()
    };
    let partitions = listed(&topics).into_iter().flat_map(|topic| listed(&topic));
    partitions
        .map(|partition| listed(&partition.join("quarantine")).len())
        .sum()
}

async fn survive(flush: Flush, faults: &[Fault]) {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    client
        .admin()
        .create_topic(
            TOPIC,
            TopicSettings {
                partitions: Some(3),
                replicas: Some(3),
                sync_followers: Some(1),
                flush: Some(flush),
                ..TopicSettings::default()
            },
        )
        .await
        .expect("made");
    let (stop, stopped) = mpsc::channel(1);
    let producing = tokio::spawn(produce(client.clone(), stopped));
    for (i, fault) in faults.iter().enumerate() {
        let partition = i as u32 % 3;
        let (leader, epoch) = whole(&client, TOPIC, partition).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        match fault {
            Fault::Kill => {
                cluster.signal(leader, Signal::KILL);
                passed_on(&client, TOPIC, partition, epoch).await;
            }
            Fault::Freeze => {
                cluster.signal(leader, Signal::STOP);
                passed_on(&client, TOPIC, partition, epoch).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                cluster.signal(leader, Signal::CONT);
            }
            Fault::FailedDisk => {
                let broker = dir.path().join(format!("broker-{leader}"));
                std::fs::write(broker.join("failed"), b"").expect("noted");
                cluster.signal(leader, Signal::KILL);
                passed_on(&client, TOPIC, partition, epoch).await;
                whole(&client, TOPIC, partition).await;
                assert!(
                    quarantined(dir.path(), leader) > 0,
                    "nothing was distrusted"
                );
                assert!(!broker.join("failed").exists(), "it is known");
            }
        }
    }
    for partition in 0..3 {
        whole(&client, TOPIC, partition).await;
    }
    stop.send(()).await.expect("the producer runs");
    let sent = tokio::time::timeout(PATIENCE, producing)
        .await
        .expect("in time")
        .expect("produced");
    assert!(sent > 1_000, "{sent} records are no load");
    check(&client, sent).await;
    drop(client);
    cluster.end();
    compare_replicas(dir.path(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_lose_nothing() {
    survive(Flush::Ack, &[Fault::Kill, Fault::Kill, Fault::Kill]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_leaders_lose_nothing() {
    survive(Flush::Ack, &[Fault::Freeze, Fault::Kill, Fault::Freeze]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_cannot_trust_their_disks_lose_nothing() {
    survive(Flush::Interval, &[Fault::FailedDisk, Fault::FailedDisk]).await;
}
