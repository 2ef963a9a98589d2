//! Topics that come and go while they are used.

use std::path::Path;
use std::time::{Duration, Instant};

use baton_client::{Reader, Record, Start, TopicSettings};

use crate::harness::{Cluster, PATIENCE, free_ports};

const PARTITIONS: u32 = 6;

/// Waits until no broker has files of the topic any more.
async fn wait_until_removed(data_dir: &Path, topic: &str) {
    let deadline = Instant::now() + PATIENCE;
    for id in 1..=3 {
        let dir = data_dir.join(format!("broker-{id}/topics")).join(topic);
        while dir.exists() {
            assert!(Instant::now() < deadline, "{} stays", dir.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let aside = data_dir.join(format!("broker-{id}/set-aside"));
        assert!(!aside.exists(), "a deleted topic is removed for good");
    }
}

async fn count(reader: &mut Reader, wanted: usize) {
    for _ in 0..wanted {
        let message = tokio::time::timeout(PATIENCE, reader.next()).await;
        message.expect("in time").expect("goes on").expect("read");
    }
    assert!(reader.try_next().is_none(), "there are no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_can_be_used_as_soon_as_it_is_made_whatever_is_being_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let mut removed = Vec::new();
    for round in 0..4 {
        let name = format!("round-{round}");
        let settings = TopicSettings {
            partitions: Some(PARTITIONS),
            ..TopicSettings::default()
        };
        let made = client.admin().create_topic(&name, settings).await;
        let made = made.expect("made");
        let producer = client.producer().build().await.expect("a producer");
        let reader = client.reader(&*name).from(Start::Earliest).build();
        let first = async {
            let mut acks = Vec::new();
            for partition in 0..PARTITIONS {
                let small = Record::to(&*name).value("at once").partition(partition);
                acks.push(producer.send(small).await.expect("taken"));
            }
            acks
        };
        let (mut acks, reader) = tokio::join!(first, reader);
        let mut reader = reader.expect("a reader");
        // Enough that its removal takes a while.
        for i in 0..300 {
            let large = Record::to(&*name).value(vec![7; 64 << 10]);
            let large = large.partition(i % PARTITIONS);
            acks.push(producer.send(large).await.expect("taken"));
        }
        let sent = acks.len();
        for ack in acks {
            ack.await.expect("acknowledged");
        }
        count(&mut reader, sent).await;
        client.admin().delete_topic(&name).await.expect("deleted");
        removed.push(made.id.to_string());
    }
    for topic in removed {
        wait_until_removed(dir.path(), &topic).await;
    }
    cluster.end();
}
