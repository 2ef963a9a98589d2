//! Producing: as much as goes, or one record after the other.

use std::time::{Duration, Instant};

use anyhow::Context;
use baton_client::{Ack, Client, ProducerConfig, Record, TopicSettings};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::sync::mpsc;

use crate::report::Row;
use crate::roofline::{Load, pipeline};

/// One in this many acknowledgements is timed; timing each would measure the timing.
const TIMED_ONE_IN: u64 = 64;

/// What is measured.
pub struct Run {
    /// Bytes of a record's value.
    pub size: usize,
    /// Partitions of the topic.
    pub partitions: u32,
    /// For how long.
    pub duration: Duration,
    /// Bytes of a batch.
    pub batch_bytes: usize,
    /// Whether the bare pipeline is measured after it.
    pub with_roofline: bool,
}

/// Batches that the client has unacknowledged in a partition.
const IN_FLIGHT: usize = 5;

async fn fresh_topic(client: &Client, partitions: u32) -> anyhow::Result<String> {
    let name = format!("bench-{}", uuid::Uuid::new_v4());
    client
        .create_topic(
            &name,
            TopicSettings {
                partitions: Some(partitions),
                replicas: Some(3),
                sync_followers: Some(1),
                ..TopicSettings::default()
            },
        )
        .await
        .context("the topic")?;
    Ok(name)
}

/// As many records as go, for a while. The clock stops when the last one is acknowledged.
pub async fn throughput(client: &Client, run: &Run) -> anyhow::Result<Row> {
    let topic = fresh_topic(client, run.partitions).await?;
    let config = ProducerConfig {
        batch_bytes: run.batch_bytes,
        ..ProducerConfig::default()
    };
    let producer = client.producer(&topic, config).await?;
    let (timed, times) = mpsc::unbounded_channel::<(Ack, Instant)>();
    let timing = tokio::spawn(time(times));
    let value = Bytes::from(vec![b'x'; run.size]);
    let started = Instant::now();
    let mut sent = 0u64;
    while !sent.is_multiple_of(256) || started.elapsed() < run.duration {
        let began = Instant::now();
        let ack = producer.send(Record::value(value.clone())).await?;
        if sent.is_multiple_of(TIMED_ONE_IN) {
            timed.send((ack, began)).context("the timing task ended")?;
        }
        sent += 1;
    }
    producer.flush().await?;
    let seconds = started.elapsed().as_secs_f64();
    drop(timed);
    let latency = timing.await??;
    client.delete_topic(&topic).await?;
    let rate = sent as f64 * run.size as f64 / 1e6 / seconds;
    let mut row = vec![
        ("bytes", json!(run.size)),
        ("partitions", json!(run.partitions)),
        ("records", json!(sent)),
        ("records/s", json!((sent as f64 / seconds).round() as u64)),
        ("MB/s", json!(rate)),
        (
            "ack p50 ms",
            json!(latency.value_at_quantile(0.5) as f64 / 1e3),
        ),
        (
            "ack p99 ms",
            json!(latency.value_at_quantile(0.99) as f64 / 1e3),
        ),
    ];
    if run.with_roofline {
        let load = Load {
            batch_bytes: run.batch_bytes,
            in_flight: IN_FLIGHT * run.partitions as usize,
            flush: true,
            duration: run.duration,
        };
        let limit = tokio::task::spawn_blocking(move || pipeline(&load)).await??;
        row.push(("roofline MB/s", json!(limit)));
        row.push(("of it", json!(format!("{:.2}", rate / limit))));
    }
    Ok(row)
}

async fn time(mut acks: mpsc::UnboundedReceiver<(Ack, Instant)>) -> anyhow::Result<Histogram<u64>> {
    let mut micros = Histogram::new(3)?;
    while let Some((ack, began)) = acks.recv().await {
        ack.wait().await?;
        micros.record(began.elapsed().as_micros() as u64)?;
    }
    Ok(micros)
}

/// One record after the other, each when the one before is acknowledged.
pub async fn one_in_flight(
    client: &Client,
    size: usize,
    duration: Duration,
) -> anyhow::Result<Row> {
    let topic = fresh_topic(client, 1).await?;
    let config = ProducerConfig {
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    };
    let producer = client.producer(&topic, config).await?;
    let value = Bytes::from(vec![b'x'; size]);
    let mut micros = Histogram::<u64>::new(3)?;
    let started = Instant::now();
    while started.elapsed() < duration {
        let began = Instant::now();
        producer
            .send(Record::value(value.clone()))
            .await?
            .wait()
            .await?;
        micros.record(began.elapsed().as_micros() as u64)?;
    }
    client.delete_topic(&topic).await?;
    Ok(vec![
        ("bytes", json!(size)),
        ("records", json!(micros.len())),
        ("p50 us", json!(micros.value_at_quantile(0.5))),
        ("p99 us", json!(micros.value_at_quantile(0.99))),
        ("max us", json!(micros.max())),
    ])
}
