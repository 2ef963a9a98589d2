//! Reads a topic, and prints how it gets on as text that Prometheus understands: records and bytes,
//! in all and a second, and how far each partition lags behind. With a group, how far that one lags, too:
//! whoever asks needs not be a member.
//!
//! `cargo run -p baton-client --example metrics_bridge -- <topic> [broker,...] [rounds] [group]`

use std::time::Duration;

use anyhow::Context;
use baton_client::{Client, Reader, Start};
use tokio::time::{Instant, timeout_at};

/// How often it prints.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Totals {
    records: u64,
    bytes: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "metrics_bridge <topic> [broker,...] [rounds] [group]";
    let topic = args.next().context(usage)?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let rounds: u64 = args.next().map_or(Ok(u64::MAX), |rounds| rounds.parse())?;
    let group = args.next();

    let client = Client::builder(brokers.split(',')).connect().await?;
    let reader = client.reader(topic).from(Start::Earliest);
    let mut reader = reader.build().await?;
    let mut totals = Totals::default();
    for _ in 0..rounds {
        let before = totals.records;
        read_for(EVERY, &mut reader, &mut totals).await?;
        let rate = (totals.records - before) as f64 / EVERY.as_secs_f64();
        print(&reader, &totals, rate);
        if let Some(group) = &group {
            print_group(&client, group).await?;
        }
        println!();
    }
    Ok(())
}

/// Reads for a while. A batch that is on its way when the time is up is not lost: `next_batch` may be
/// dropped.
async fn read_for(
    while_: Duration,
    reader: &mut Reader,
    totals: &mut Totals,
) -> anyhow::Result<()> {
    let until = Instant::now() + while_;
    while let Ok(messages) = timeout_at(until, reader.next_batch(1_000)).await {
        for message in messages.context("the reader ended")?? {
            totals.records += 1;
            totals.bytes += message.value.map_or(0, |value| value.len() as u64);
        }
    }
    Ok(())
}

fn print(reader: &Reader, totals: &Totals, rate: f64) {
    let topic = reader.topic();
    println!(
        "baton_reader_records_total{{topic=\"{topic}\"}} {}",
        totals.records
    );
    println!(
        "baton_reader_bytes_total{{topic=\"{topic}\"}} {}",
        totals.bytes
    );
    println!("baton_reader_records_per_second{{topic=\"{topic}\"}} {rate:.1}");
    for (partition, progress) in reader.progress() {
        let labels = format!("{{topic=\"{topic}\",partition=\"{partition}\"}}");
        println!("baton_reader_position{labels} {}", progress.position);
        println!("baton_reader_lag{labels} {}", progress.lag());
    }
}

async fn print_group(client: &Client, group: &str) -> anyhow::Result<()> {
    for (partition, committed) in client.offsets(group).fetch().await? {
        let topic = client.topic(&partition.topic).await?;
        let admin = client.admin();
        let status = admin
            .partition_status(&topic, partition.index, false)
            .await?;
        let lag = status.high_watermark.since(committed.offset);
        let (topic, index) = (&partition.topic, partition.index);
        println!(
            "baton_group_lag{{group=\"{group}\",topic=\"{topic}\",partition=\"{index}\"}} {lag}"
        );
    }
    Ok(())
}
