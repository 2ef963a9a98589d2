//! `baton produce`.

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use baton_client::{Acks, Client, ClientConfig, Producer, ProducerConfig, Record};
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::output::print_json;
use crate::cli::{Global, block_on};

/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 1024;

/// Flags of `baton produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic.
    topic: String,
    /// What separates key and value; without it a line is a value without a key.
    #[arg(long)]
    key_separator: Option<String>,
    /// The partition, for all records.
    #[arg(long)]
    partition: Option<u32>,
    /// Most lines per second.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How firmly a record must be stored before it is acknowledged.
    #[arg(long, value_enum, default_value = "committed")]
    acks: AcksArg,
    /// How long a record may take to be acknowledged, in seconds.
    #[arg(long, default_value_t = 120)]
    delivery_timeout: u64,
}

/// How firmly a record must be stored before it is acknowledged.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AcksArg {
    /// Sent, no more.
    None,
    /// By the leader alone: the next failover may lose it.
    Leader,
    /// By the leader and the topic's synchronous followers.
    Committed,
}

#[derive(Default)]
struct Tally {
    acknowledged: u64,
    failed: u64,
    bytes: u64,
    first_error: Option<baton_client::Error>,
}

/// Sends standard input, a record a line.
pub fn run(args: &ProduceArgs, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        let client = Client::connect(ClientConfig::new(global.bootstrap.clone())).await?;
        let config = ProducerConfig {
            delivery_timeout: Duration::from_secs(args.delivery_timeout),
            acks: match args.acks {
                AcksArg::None => Acks::None,
                AcksArg::Leader => Acks::Leader,
                AcksArg::Committed => Acks::Committed,
            },
            ..ProducerConfig::default()
        };
        let producer = client.producer(&args.topic, config).await?;
        let started = Instant::now();
        let (acks, awaited) = mpsc::channel(1 << 16);
        let progress = progress_bar();
        let counting = tokio::spawn(count(awaited, progress.clone()));
        let sent = send_lines(args, &producer, acks).await;
        let tally = counting
            .await
            .context("counting the acknowledgements failed")?;
        progress.finish_and_clear();
        sent?;
        report(&tally, started.elapsed(), global.json)
    })
}

async fn send_lines(
    args: &ProduceArgs,
    producer: &Producer,
    acks: mpsc::Sender<(baton_client::Ack, u64)>,
) -> anyhow::Result<()> {
    let (lines, mut read) = mpsc::channel::<std::io::Result<Vec<u8>>>(LINES_AHEAD);
    // Reading blocks, so it has a thread of its own.
    std::thread::spawn(move || read_lines(&lines));
    let pace = args
        .rate
        .map(|rate| (tokio::time::Instant::now(), f64::from(rate)));
    let mut number = 0u64;
    while let Some(line) = read.recv().await {
        let line = line.context("standard input cannot be read")?;
        if let Some((start, rate)) = pace {
            tokio::time::sleep_until(start + Duration::from_secs_f64(number as f64 / rate)).await;
        }
        number += 1;
        let bytes = line.len() as u64;
        let record = record_of(args, line).with_context(|| format!("line {number}"))?;
        let ack = producer
            .send(record)
            .await
            .with_context(|| format!("line {number}"))?;
        if acks.send((ack, bytes)).await.is_err() {
            bail!("the acknowledgements are no longer counted");
        }
    }
    drop(acks);
    // Every failure is counted, record by record.
    drop(producer.flush().await);
    Ok(())
}

fn read_lines(lines: &mpsc::Sender<std::io::Result<Vec<u8>>>) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let next = match input.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                Ok(line)
            }
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if lines.blocking_send(next).is_err() || failed {
            return;
        }
    }
}

fn record_of(args: &ProduceArgs, line: Vec<u8>) -> anyhow::Result<Record> {
    let line = Bytes::from(line);
    let mut record = match &args.key_separator {
        None => Record::value(line),
        Some(separator) => {
            let separator = separator.as_bytes();
            let found = line
                .windows(separator.len().max(1))
                .position(|part| part == separator);
            let Some(at) = found else {
                bail!(
                    "no key: the separator {:?} is not in it",
                    args.key_separator.as_deref().unwrap_or_default()
                );
            };
            Record::value(line.slice(at + separator.len()..)).key(line.slice(..at))
        }
    };
    if let Some(partition) = args.partition {
        record = record.partition(partition);
    }
    Ok(record)
}

async fn count(mut acks: mpsc::Receiver<(baton_client::Ack, u64)>, progress: ProgressBar) -> Tally {
    let mut tally = Tally::default();
    while let Some((ack, bytes)) = acks.recv().await {
        match ack.wait().await {
            Ok(_) => {
                tally.acknowledged += 1;
                tally.bytes += bytes;
            }
            Err(error) => {
                tally.failed += 1;
                tally.first_error.get_or_insert(error);
            }
        }
        if tally.acknowledged % 1024 == 0 {
            progress.set_position(tally.acknowledged);
        }
    }
    tally
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} acknowledged, {per_sec}, {elapsed}");
    let bar = ProgressBar::new_spinner();
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(tally: &Tally, took: Duration, as_json: bool) -> anyhow::Result<()> {
    let seconds = took.as_secs_f64();
    let megabytes = tally.bytes as f64 / 1e6;
    if as_json {
        print_json(&json!({
            "acknowledged": tally.acknowledged, "failed": tally.failed, "bytes": tally.bytes,
            "seconds": seconds, "megabytes_per_second": megabytes / seconds,
        }))?;
    } else {
        println!(
            "{} records acknowledged in {seconds:.3} s ({:.0} records/s, {:.1} MB/s)",
            tally.acknowledged,
            tally.acknowledged as f64 / seconds,
            megabytes / seconds
        );
    }
    match &tally.first_error {
        Some(error) => bail!(
            "{} records were not acknowledged; the first error: {error}",
            tally.failed
        ),
        None => Ok(()),
    }
}
