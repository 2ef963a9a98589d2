//! The client library against a cluster: every codec, and a restart of all brokers.

use std::collections::BTreeMap;

use baton_client::{Compression, Message, Record, Start, TopicSettings, Until};
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_comes_back_and_is_stored_as_it_was_sent() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let made = client
        .admin()
        .create_topic("c", TopicSettings::default())
        .await;
    let id = made.expect("made").id;
    let mut sent = Vec::new();
    for codec in CODECS {
        let producer = client.producer().compression(codec).build().await;
        let producer = producer.expect("a producer");
        let records = (0..500).map(|number| {
            let value = format!("{codec} {number} {}", "again and ".repeat(10));
            Record::to("c")
                .key("k")
                .header("codec", codec.to_string())
                .value(value)
        });
        let records: Vec<Record> = records.collect();
        sent.extend(records.iter().map(|r| r.value.clone()));
        let placed = timeout(PATIENCE, producer.send_all(records)).await;
        assert_eq!(placed.expect("in time").expect("stored").len(), 500);
    }
    let reader = client.reader("c").from(Start::Earliest).until(Until::End);
    let mut reader = reader.build().await.expect("a reader");
    let mut read = Vec::new();
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        let message: Message = message.expect("readable");
        let codec = message.headers.get("codec").expect("a header");
        let value = message.value.clone().expect("a value");
        assert!(value.starts_with(&codec));
        read.push(message.value);
    }
    assert!(read == sent, "all of it, in order");
    drop((reader, client));
    cluster.end();
    let log = dir.path().join(format!("broker-1/topics/{id}/0"));
    let dump = baton().args(["log", "dump", "--records"]).arg(log).output();
    let dump = String::from_utf8(dump.expect("runs").stdout).expect("text");
    for codec in &CODECS[1..] {
        assert!(
            dump.contains(&format!(", {codec}")),
            "{codec} as it was sent"
        );
        assert!(dump.contains(&format!("{codec} 499 again")), "and readable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_whole_cluster_is_survived() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    let client = cluster.client().await;
    let settings = TopicSettings {
        partitions: Some(3),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic("r", settings).await;
    made.expect("made");
    let producer = client.producer().build().await.expect("a producer");
    let mut reader = client.reader("r").from(Start::Earliest).build().await;
    let reader = reader.as_mut().expect("a reader");
    let record = |number: u32| {
        let record = Record::to("r").value(number.to_string());
        record.partition(number % 3)
    };
    let mut acks = Vec::new();
    for number in 0..300 {
        acks.push(producer.send(record(number)).await.expect("taken"));
    }
    producer.flush().await.expect("stored");
    cluster.end();
    // Taken while there is no cluster, and delivered when there is one again.
    for number in 300..600 {
        acks.push(producer.send(record(number)).await.expect("taken"));
    }
    let cluster = Cluster::start(dir.path(), port);
    for ack in acks {
        let at = timeout(PATIENCE, ack).await.expect("in time");
        at.expect("stored");
    }
    let mut next = BTreeMap::from([(0, 0), (1, 1), (2, 2)]);
    for _ in 0..600 {
        let message = timeout(PATIENCE, reader.next()).await.expect("in time");
        let message = message.expect("goes on").expect("readable");
        let next = next.get_mut(&message.partition.0).expect("a partition");
        assert_eq!(message.value.as_deref(), Some(next.to_string().as_bytes()));
        *next += 3;
    }
    assert!(reader.try_next().is_none(), "nothing is there twice");
    cluster.end();
}
