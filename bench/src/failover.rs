//! How long a partition is without a leader that acknowledges, when its leader is killed. Every
//! other kill takes a leader that is the controller too, if that leads a partition: then Raft has to
//! elect first.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use baton_client::{Client, ProducerConfig, Record, TopicSettings};
use baton_protocol::ids::BrokerId;
use baton_protocol::metadata::{PartitionRecord, TopicRecord};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Row;

/// How long the in-sync set may take to be whole again.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Partitions of the topic, so that several brokers lead.
const PARTITIONS: u32 = 3;

/// Kills the leader `kills` times, each once the set is whole again.
pub async fn measure(client: &Client, cluster: &Cluster, kills: u32) -> anyhow::Result<Vec<Row>> {
    let topic = "failover";
    client
        .create_topic(
            topic,
            TopicSettings {
                partitions: Some(PARTITIONS),
                replicas: Some(3),
                sync_followers: Some(1),
                ..TopicSettings::default()
            },
        )
        .await?;
    let config = ProducerConfig {
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    };
    let producer = client.producer(topic, config).await?;
    let (mut all, mut of_controller) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    for kill in 0..kills {
        let record = wait_until_whole(client, topic).await?;
        let controller = client.cluster_status().await?.controller;
        let wanted = (kill % 2 == 1).then_some(controller);
        let (partition, leader) = choose(&record, wanted)?;
        let here = |value: &'static str| Record::value(value).partition(partition);
        producer.send(here("before")).await?.wait().await?;
        let killed = Instant::now();
        cluster.kill(leader.0)?;
        // Sent after the kill, so only the next leader can acknowledge it.
        producer.send(here("after")).await?.wait().await?;
        let took = killed.elapsed().as_millis() as u64;
        all.record(took)?;
        if leader == controller {
            of_controller.record(took)?;
        }
    }
    Ok(vec![
        row("all", &all),
        row("of the controller too", &of_controller),
    ])
}

fn row(kills: &str, millis: &Histogram<u64>) -> Row {
    vec![
        ("kills", json!(kills)),
        ("number", json!(millis.len())),
        ("min ms", json!(millis.min())),
        ("p50 ms", json!(millis.value_at_quantile(0.5))),
        ("max ms", json!(millis.max())),
    ]
}

/// A partition with its leader: one that the wanted broker leads, if there is one.
fn choose(record: &TopicRecord, wanted: Option<BrokerId>) -> anyhow::Result<(u32, BrokerId)> {
    let partitions = record.partitions.iter().enumerate();
    let led: Vec<(u32, BrokerId)> = partitions
        .filter_map(|(index, partition)| Some((index as u32, partition.leader?.broker)))
        .collect();
    let fitting = led
        .iter()
        .find(|(_, leader)| wanted.is_none_or(|wanted| wanted == *leader));
    fitting
        .or(led.first())
        .copied()
        .context("no partition has a leader")
}

/// Waits until every partition has a leader and all its replicas in its set.
async fn wait_until_whole(client: &Client, topic: &str) -> anyhow::Result<TopicRecord> {
    let deadline = Instant::now() + WHOLE_TIMEOUT;
    while Instant::now() < deadline {
        let record = client.topic(topic).await?;
        let view = client.view();
        let alive = view.brokers.values().all(|broker| !broker.fenced);
        let whole = |partition: &PartitionRecord| {
            partition.leader.is_some() && partition.in_sync.len() == partition.replicas.len()
        };
        if alive && record.partitions.iter().all(whole) {
            // The broker that came back last has its links and its session by now.
            tokio::time::sleep(Duration::from_millis(500)).await;
            return client.topic(topic).await.context("the topic");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the in-sync sets are not whole after {WHOLE_TIMEOUT:?}")
}
