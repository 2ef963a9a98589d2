//! A bit that flips in what no start looks at: it is found while the broker runs, and made good.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_client::{Record, TopicSettings};

use crate::harness::{Cluster, PATIENCE, baton, free_ports, whole};

const TOPIC: &str = "old";

/// The directory of the topic's only partition at this broker.
fn partition_of(data_dir: &Path, broker: u32) -> PathBuf {
    let topics = data_dir.join(format!("broker-{broker}/topics"));
    let mut topics = std::fs::read_dir(topics).expect("topics");
    let topic = topics.next().expect("one").expect("readable");
    topic.path().join("0")
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn has_set_aside(partition: &Path) -> bool {
    let events = std::fs::read_dir(partition.join("quarantine"));
    let mut events = events.into_iter().flatten().flatten();
    events.any(|event| event.path().extension() == Some("damaged".as_ref()))
}

fn dump(partition: &Path) -> Vec<u8> {
    let dump = baton()
        .args(["log", "dump", "--records", "--json"])
        .arg(partition)
        .output()
        .expect("runs");
    let error = String::from_utf8_lossy(&dump.stderr);
    assert!(dump.status.success(), "{error}");
    dump.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_no_start_looks_for_is_found_and_made_good() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    let client = cluster.client().await;
    let settings = TopicSettings {
        partitions: Some(1),
        replicas: Some(3),
        sync_followers: Some(2),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(TOPIC, settings).await;
    made.expect("made");
    let producer = client.producer().build().await.expect("a producer");
    for number in 0..200u32 {
        let value = format!("{number} {}", "x".repeat(500));
        let ack = producer.send(Record::to(TOPIC).value(value)).await;
        ack.expect("sent").await.expect("acknowledged");
    }
    whole(&client, TOPIC, 0).await;
    drop((producer, client));
    cluster.end();
    let before = dump(&partition_of(dir.path(), 1));

    let hit = partition_of(dir.path(), 2);
    let segment = hit.join(format!("{:020}.log", 0));
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[20_000] ^= 1;
    std::fs::write(&segment, bytes).expect("flipped");
    let cluster = Cluster::start(dir.path(), port);
    wait_until("it is found, and set aside", || has_set_aside(&hit));
    wait_until("the cluster knows of it", || !hit.join("damaged").exists());
    assert!(!hit.join("recheck").exists());
    // One that all three hold: with all that is before it.
    let client = cluster.client().await;
    let producer = client.producer().build().await.expect("a producer");
    let ack = producer.send(Record::to(TOPIC).value("after")).await;
    ack.expect("sent").await.expect("acknowledged");
    whole(&client, TOPIC, 0).await;
    drop((producer, client));
    cluster.end();
    let after: Vec<_> = (1..=3)
        .map(|broker| dump(&partition_of(dir.path(), broker)))
        .collect();
    assert!(after[0] == after[1] && after[1] == after[2]);
    assert!(after[0].starts_with(&before));
}
