//! How long a partition is without a leader that acknowledges, when its leader is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use baton_client::{Client, ProducerConfig, Record};
use baton_protocol::ids::BrokerId;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Row;

/// How long the in-sync set may take to be whole again.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Kills the leader `kills` times, each once the set is whole again.
pub async fn measure(client: &Client, cluster: &Cluster, kills: u32) -> anyhow::Result<Vec<Row>> {
    let topic = "failover";
    client
        .create_topic(topic, Some(1), Some(3), Some(1))
        .await?;
    let config = ProducerConfig {
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    };
    let producer = client.producer(topic, config).await?;
    let mut millis = Histogram::<u64>::new(3)?;
    let mut controllers = 0;
    for _ in 0..kills {
        let leader = wait_until_whole(client, topic).await?;
        producer.send(Record::value("before")).await?.wait().await?;
        if client.cluster_status().await?.controller == leader {
            controllers += 1;
        }
        let killed = Instant::now();
        cluster.kill(leader.0)?;
        // Sent after the kill, so only the next leader can acknowledge it.
        producer.send(Record::value("after")).await?.wait().await?;
        millis.record(killed.elapsed().as_millis() as u64)?;
    }
    Ok(vec![vec![
        ("kills", json!(kills)),
        ("of the controller too", json!(controllers)),
        ("min ms", json!(millis.min())),
        ("p50 ms", json!(millis.value_at_quantile(0.5))),
        ("max ms", json!(millis.max())),
    ]])
}

async fn wait_until_whole(client: &Client, topic: &str) -> anyhow::Result<BrokerId> {
    let deadline = Instant::now() + WHOLE_TIMEOUT;
    while Instant::now() < deadline {
        let record = client.topic(topic).await?;
        let partition = record
            .partitions
            .first()
            .context("the topic has no partition")?;
        let view = client.view();
        let alive = view.brokers.values().all(|broker| !broker.fenced);
        if let Some(leader) = partition.leader
            && partition.in_sync.len() == 3
            && alive
        {
            // The broker that came back last has its links and its session by now.
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Ok(leader.broker);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the in-sync set is not whole after {WHOLE_TIMEOUT:?}")
}
