//! `baton produce`.

mod counting;
mod lines;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use baton_client::{Acks, Client, Compression, ErrorKind, Producer, Record};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use self::counting::{AckLog, Counter, Fate, Stop, Tally};
use self::lines::Line;
use crate::cli::interruption::Interruption;
use crate::cli::output::{count, note, print_json, say, with_causes};
use crate::cli::{Global, UsageError, block_on, bootstrap, format, quantity};

/// How long nothing may be acknowledged before it is said why, and how often it is said again.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Flags of `baton produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic.
    topic: String,
    /// What separates key and value (\\t stands for a tab, \\0 and \\\\ are understood too); without it a
    /// line is a value without a key.
    #[arg(long, value_name = "TEXT", value_parser = format::separator)]
    key_separator: Option<String>,
    /// A value of this text is none at all. Where a topic is compacted, a record without a value deletes
    /// its key.
    #[arg(long, value_name = "TEXT")]
    null_value: Option<String>,
    /// The partition, for all records.
    #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
    partition: Option<u32>,
    /// Most lines per second.
    #[arg(long, value_parser = quantity::positive, allow_hyphen_values = true)]
    rate: Option<u32>,
    /// How firmly a record must be stored before it is acknowledged.
    #[arg(long, value_enum, default_value = "committed")]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// A header for every record, as name=value. Can be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Write a line to this file for every record that is acknowledged, as soon as it is: the number
    /// of its line in the input, its partition, offset and epoch, separated by tabs; `-` stands for an
    /// offset or epoch that is not told. What the file had is kept.
    #[arg(long, value_name = "FILE")]
    ack_log: Option<PathBuf>,
    /// How long a record may take to be acknowledged, such as 30s or 5m, up to a day; in seconds without a
    /// unit.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "120s",
        value_parser = quantity::second_to_day,
        allow_hyphen_values = true
    )]
    delivery_timeout: Duration,
    /// Go on after a record that cannot be sent or was not acknowledged; without it nothing is sent after
    /// the first.
    #[arg(long)]
    keep_going: bool,
}

/// How firmly a record must be stored before it is acknowledged.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AcksArg {
    /// Sent, no more: nobody says what became of it.
    None,
    /// By the leader alone: the next failover may lose it.
    Leader,
    /// By the leader and the topic's synchronous followers.
    Committed,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CompressionArg {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4: the cheapest.
    Lz4,
    /// Zstandard: mostly the smallest.
    Zstd,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no header; one is name=value")),
    }
}

/// Sends standard input, a record a line. However it ends, it is said how many were acknowledged.
pub fn run(args: &ProduceArgs, global: &Global) -> anyhow::Result<()> {
    if args.ack_log.is_some() && matches!(args.acks, AcksArg::None) {
        let text = "--ack-log has nothing to note down with --acks none: nothing is acknowledged";
        return Err(UsageError(text.to_owned()).into());
    }
    block_on(async {
        let mut interruption = Interruption::watch()?;
        let producer = tokio::select! {
            connected = connect(args, global) => connected?,
            () = interruption.happened() => bail!("interrupted; nothing was sent"),
        };
        let ack_log = args.ack_log.as_ref().map(AckLog::open).transpose()?;
        let started = Instant::now();
        let (fates, awaited) = mpsc::channel(1 << 16);
        let (stop, stopped) = watch::channel(None);
        let done = Arc::new(AtomicU64::new(0));
        let counter = Counter {
            done: done.clone(),
            stop: stop.clone(),
            keep_going: args.keep_going,
            unanswered: matches!(args.acks, AcksArg::None),
            ack_log,
        };
        let counting = tokio::spawn(counter.count(awaited));
        let work = async {
            let sent = send_lines(args, &producer, fates, stopped.clone()).await;
            (sent, counting.await)
        };
        let (sent, tally) = tokio::select! {
            ended = work => ended,
            never = watch_over(&producer, &done, &stop, interruption) => match never {},
        };
        let tally = tally.context("counting the acknowledgements failed")?;
        let (tally, logged) = tally;
        let reported = report(args, &tally, started.elapsed(), global.json);
        outcome(args, &tally, sent, *stopped.borrow())?;
        logged?;
        reported
    })
}

async fn connect(args: &ProduceArgs, global: &Global) -> anyhow::Result<Producer> {
    let client: Client = bootstrap::connect(global).await?;
    let partitions = bootstrap::topic(&client, &args.topic)
        .await?
        .partitions
        .len() as u32;
    if let Some(partition) = args.partition.filter(|wanted| *wanted >= partitions) {
        bail!(
            "topic {} has no partition {partition}; it has {partitions}, numbered from 0",
            args.topic
        );
    }
    let settings = client
        .producer()
        .delivery_timeout(args.delivery_timeout)
        .acks(match args.acks {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::Committed => Acks::Committed,
        })
        .compression(match args.compression {
            CompressionArg::None => Compression::None,
            CompressionArg::Gzip => Compression::Gzip,
            CompressionArg::Snappy => Compression::Snappy,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        });
    Ok(settings.build().await?)
}

/// Sends the input; false if it was stopped before the end of it.
async fn send_lines(
    args: &ProduceArgs,
    producer: &Producer,
    fates: mpsc::Sender<Fate>,
    mut stopped: watch::Receiver<Option<Stop>>,
) -> anyhow::Result<bool> {
    // No longer line can be sent, whatever part of it the separator is.
    let separator = args.key_separator.as_ref().map_or(0, String::len);
    let mut read = lines::of_stdin(producer.message_bytes_max() + separator);
    let sending = async {
        let start = tokio::time::Instant::now();
        let mut number = 0u64;
        let template = template(args);
        while let Some(line) = read.recv().await {
            let line = line.context("standard input cannot be read")?;
            if let Some(rate) = args.rate {
                let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
                tokio::time::sleep_until(start + due).await;
            }
            number += 1;
            let (fate, goes_on) = match send(args, producer, &template, line).await {
                Ok(fate) => (fate, true),
                Err(error) => {
                    let goes_on = args.keep_going && !is_of_all_records(&error);
                    (Fate::Refused(error), goes_on)
                }
            };
            if fates.send(fate).await.is_err() {
                bail!("the acknowledgements are no longer counted");
            }
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    };
    tokio::select! {
        biased;
        _ = stopped.wait_for(Option::is_some) => Ok(false),
        sent = sending => sent,
    }
}

async fn send(
    args: &ProduceArgs,
    producer: &Producer,
    template: &Record,
    line: Line,
) -> anyhow::Result<Fate> {
    let line = match line {
        Line::Whole(line) => line,
        Line::TooLong => {
            let most = producer.message_bytes_max();
            bail!("it is too long: the brokers take records of {most} bytes at most");
        }
    };
    let bytes = line.len() as u64;
    let record = record_of(args, template, line)?;
    Ok(Fate::Taken(producer.send(record).await?, bytes))
}

/// Whether what is wrong with one record is so with all that follow.
fn is_of_all_records(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<baton_client::Error>();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::UnknownTopic | ErrorKind::Closed))
}

/// What all records have in common.
fn template(args: &ProduceArgs) -> Record {
    let mut record = Record::to(args.topic.as_str());
    for (name, value) in &args.headers {
        record = record.header(name.clone(), value.clone());
    }
    match args.partition {
        Some(partition) => record.partition(partition),
        None => record,
    }
}

fn record_of(args: &ProduceArgs, template: &Record, line: Vec<u8>) -> anyhow::Result<Record> {
    let line = Bytes::from(line);
    let Some(separator) = args.key_separator.as_deref() else {
        return Ok(with_value(args, template.clone(), line));
    };
    let bytes = separator.as_bytes();
    let found = line.windows(bytes.len()).position(|part| part == bytes);
    let at = found.ok_or_else(|| anyhow!("no key: the separator {separator:?} is not in it"))?;
    let value = line.slice(at + bytes.len()..);
    let record = template.clone().key(line.slice(..at));
    Ok(with_value(args, record, value))
}

fn with_value(args: &ProduceArgs, record: Record, value: Bytes) -> Record {
    match args.null_value.as_deref() {
        Some(none) if value == none.as_bytes() => record,
        _ => record.value(value),
    }
}

/// Says why nothing goes forward, where it does not, and minds signals.
async fn watch_over(
    producer: &Producer,
    done: &AtomicU64,
    stop: &watch::Sender<Option<Stop>>,
    mut interruption: Interruption,
) -> Infallible {
    let mut seen = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SILENCE_MAX) => {}
            () = interruption.happened() => {
                stop.send_replace(Some(Stop::Interrupted));
                std::future::pending::<()>().await;
            }
        }
        let now = done.load(Ordering::Relaxed);
        if now == seen
            && let Some(error) = producer.trouble()
        {
            let records = count(now, "record", "records");
            note!("waiting, {records} acknowledged so far: {error}");
        }
        seen = now;
    }
}

fn report(args: &ProduceArgs, tally: &Tally, took: Duration, as_json: bool) -> anyhow::Result<()> {
    let seconds = took.as_secs_f64();
    let megabytes = tally.bytes as f64 / 1e6;
    if as_json {
        return print_json(&json!({
            "acknowledged": tally.acknowledged, "failed": tally.failed, "unknown": tally.open,
            "bytes": tally.bytes, "seconds": seconds,
            "megabytes_per_second": megabytes / seconds,
        }));
    }
    let (records, what) = match args.acks {
        AcksArg::None => (
            tally.open,
            "sent (nothing is acknowledged with --acks none)",
        ),
        _ => (tally.acknowledged, "acknowledged"),
    };
    say!(
        "{} {what} in {seconds:.3} s ({:.0} records/s, {:.1} MB/s)",
        count(records, "record", "records"),
        records as f64 / seconds,
        megabytes / seconds
    )
}

/// Whether all went well.
fn outcome(
    args: &ProduceArgs,
    tally: &Tally,
    sent: anyhow::Result<bool>,
    stop: Option<Stop>,
) -> anyhow::Result<()> {
    if let Some((line, error)) = &tally.first_error {
        let failed = count(tally.failed, "record was", "records were");
        let then = match (sent, stop) {
            (Err(error), _) => format!("; {}", with_causes(&error)),
            (Ok(false), Some(Stop::Interrupted)) => "; interrupted".to_owned(),
            (Ok(false), _) if args.keep_going => "; nothing more was sent".to_owned(),
            (Ok(false), _) => "; nothing more was sent (--keep-going goes on)".to_owned(),
            (Ok(true), _) => String::new(),
        };
        let first = if tally.failed == 1 {
            "it is"
        } else {
            "the first is"
        };
        let error = with_causes(error);
        bail!("{failed} not acknowledged{then}; {first} line {line}: {error}");
    }
    sent?;
    match stop {
        // Its log failed: that is said elsewhere.
        Some(Stop::Failed) => Ok(()),
        Some(Stop::Interrupted) if tally.open > 0 => bail!(
            "interrupted; whether {} more that were sent are stored is not known",
            tally.open
        ),
        Some(Stop::Interrupted) => bail!("interrupted; all that was sent is acknowledged"),
        None => Ok(()),
    }
}
