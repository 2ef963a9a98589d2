//! Reads a topic, and prints how it gets on as text that Prometheus understands: records and bytes,
//! in all and a second, and how far each partition lags behind.
//!
//! `cargo run -p baton-client --example metrics_bridge -- <topic> [broker,...] [rounds]`

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
    let usage = "metrics_bridge <topic> [broker,...] [rounds]";
    let topic = args.next().context(usage)?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let rounds: u64 = args.next().map_or(Ok(u64::MAX), |rounds| rounds.parse())?;

    let client = Client::builder(brokers.split(',')).connect().await?;
    let reader = client.reader(topic).from(Start::Earliest);
    let mut reader = reader.build().await?;
    let mut totals = Totals::default();
    for _ in 0..rounds {
        let before = totals.records;
        read_for(EVERY, &mut reader, &mut totals).await?;
        let rate = (totals.records - before) as f64 / EVERY.as_secs_f64();
        print(&reader, &totals, rate);
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
    println!();
}
