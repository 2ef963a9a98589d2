//! `baton produce`.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use baton_client::{Ack, Acks, Compression, Producer, Record, RecordMetadata};
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::cli::output::{count, note, print_json, say, with_causes};
use crate::cli::{Global, block_on, bootstrap};

/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 1024;

/// How long nothing may be acknowledged before it is said why, and how often it is said again.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Flags of `baton produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic.
    topic: String,
    /// What separates key and value; without it a line is a value without a key.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
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
    /// How long a record may take to be acknowledged, in seconds, 1 to 86400.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    delivery_timeout: u64,
    /// Go on after a record that was not acknowledged; without it nothing is sent after the first.
    #[arg(long)]
    keep_going: bool,
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

/// What became of the records.
#[derive(Default)]
struct Tally {
    acknowledged: u64,
    failed: u64,
    /// Sent, and not waited for.
    open: u64,
    bytes: u64,
    first_error: Option<baton_client::Error>,
}

/// Why no more is sent before the input's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// A record was not acknowledged.
    Failed,
    /// Ctrl-C.
    Interrupted,
}

/// Sends standard input, a record a line. However it ends, it is said how many were acknowledged.
pub fn run(args: &ProduceArgs, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        let client = bootstrap::connect(global).await?;
        let partitions = client.topic(&args.topic).await?.partitions.len() as u32;
        if let Some(partition) = args.partition.filter(|wanted| *wanted >= partitions) {
            bail!(
                "topic {} has no partition {partition}; it has {partitions}, numbered from 0",
                args.topic
            );
        }
        let ack_log = args.ack_log.as_ref().map(AckLog::open).transpose()?;
        let settings = client
            .producer()
            .delivery_timeout(Duration::from_secs(args.delivery_timeout))
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
        let producer = settings.build().await?;
        let started = Instant::now();
        let (acks, awaited) = mpsc::channel(1 << 16);
        let (stop, stopped) = watch::channel(None);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let counter = Counter {
            acknowledged: acknowledged.clone(),
            stop: stop.clone(),
            keep_going: args.keep_going,
            ack_log,
        };
        let counting = tokio::spawn(counter.count(awaited));
        let work = async {
            let sent = send_lines(args, &producer, acks, stopped.clone()).await;
            (sent, counting.await)
        };
        let (sent, tally) = tokio::select! {
            done = work => done,
            never = watch_over(&producer, &acknowledged, &stop) => match never {},
        };
        let tally = tally.context("counting the acknowledgements failed")?;
        let (tally, logged) = tally;
        let reported = report(&tally, started.elapsed(), global.json);
        outcome(&tally, sent, *stopped.borrow())?;
        logged?;
        reported
    })
}

/// Sends the input; false if it was stopped before the end of it.
async fn send_lines(
    args: &ProduceArgs,
    producer: &Producer,
    acks: mpsc::Sender<(Ack, u64)>,
    mut stopped: watch::Receiver<Option<Stop>>,
) -> anyhow::Result<bool> {
    let (lines, mut read) = mpsc::channel::<std::io::Result<Vec<u8>>>(LINES_AHEAD);
    // Reading blocks, so it has a thread of its own.
    std::thread::spawn(move || read_lines(&lines));
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
            let at = || format!("line {number}, after which nothing is sent");
            let bytes = line.len() as u64;
            let record = record_of(args, &template, line).with_context(at)?;
            let ack = producer.send(record).await.with_context(at)?;
            if acks.send((ack, bytes)).await.is_err() {
                bail!("the acknowledgements are no longer counted");
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
    let record = template.clone();
    Ok(match &args.key_separator {
        None => record.value(line),
        Some(separator) => {
            let separator = separator.as_bytes();
            let found = line
                .windows(separator.len())
                .position(|part| part == separator);
            let Some(at) = found else {
                bail!(
                    "no key: the separator {:?} is not in it",
                    args.key_separator.as_deref().unwrap_or_default()
                );
            };
            let value = line.slice(at + separator.len()..);
            record.value(value).key(line.slice(..at))
        }
    })
}

/// Where acknowledgements are noted down.
struct AckLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl AckLog {
    fn open(path: &PathBuf) -> anyhow::Result<AckLog> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        Ok(AckLog {
            path: path.clone(),
            file: BufWriter::new(file),
        })
    }

    /// Notes it; at once on the disk's side of this process, where nothing follows at once.
    fn note(&mut self, line: u64, at: &RecordMetadata, is_last: bool) -> anyhow::Result<()> {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let offset = number(at.offset.map(|offset| offset.0));
        let epoch = number(at.epoch.map(|epoch| u64::from(epoch.0)));
        let file = &mut self.file;
        let written = writeln!(file, "{line}\t{}\t{offset}\t{epoch}", at.partition);
        let written = written.and_then(|()| if is_last { file.flush() } else { Ok(()) });
        written.with_context(|| format!("{} cannot be written to", self.path.display()))
    }

    fn end(mut self) -> anyhow::Result<()> {
        let flushed = self.file.flush();
        flushed.with_context(|| format!("{} cannot be written to", self.path.display()))
    }
}

/// Waits for the acknowledgements, in order.
struct Counter {
    acknowledged: Arc<AtomicU64>,
    stop: watch::Sender<Option<Stop>>,
    keep_going: bool,
    ack_log: Option<AckLog>,
}

impl Counter {
    /// What became of the records, and of the log of their acknowledgements.
    async fn count(mut self, mut acks: mpsc::Receiver<(Ack, u64)>) -> (Tally, anyhow::Result<()>) {
        let mut line = 0;
        let mut logged = Ok(());
        let progress = progress_bar();
        let mut tally = Tally::default();
        let mut stopped = self.stop.subscribe();
        while let Some((ack, bytes)) = acks.recv().await {
            line += 1;
            let result = tokio::select! {
                biased;
                result = ack => result,
                _ = stopped.wait_for(|stop| *stop == Some(Stop::Interrupted)) => {
                    tally.open += 1;
                    continue;
                }
            };
            match result {
                Ok(at) => {
                    if let (Some(log), Ok(())) = (&mut self.ack_log, &logged) {
                        logged = log.note(line, &at, acks.is_empty());
                        if logged.is_err() {
                            self.stop_for(Stop::Failed);
                        }
                    }
                    tally.acknowledged += 1;
                    tally.bytes += bytes;
                    self.acknowledged
                        .store(tally.acknowledged, Ordering::Relaxed);
                }
                Err(error) => {
                    tally.failed += 1;
                    tally.first_error.get_or_insert(error);
                    if !self.keep_going {
                        self.stop_for(Stop::Failed);
                    }
                }
            }
            if tally.acknowledged % 1024 == 0 {
                progress.set_position(tally.acknowledged);
            }
        }
        progress.finish_and_clear();
        if let (Some(log), Ok(())) = (self.ack_log.take(), &logged) {
            logged = log.end();
        }
        (tally, logged)
    }

    fn stop_for(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(why);
            first
        });
    }
}

/// Says why nothing goes forward, where it does not, and minds Ctrl-C.
async fn watch_over(
    producer: &Producer,
    acknowledged: &AtomicU64,
    stop: &watch::Sender<Option<Stop>>,
) -> Infallible {
    let mut seen = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SILENCE_MAX) => {}
            pressed = tokio::signal::ctrl_c() => {
                if pressed.is_ok() {
                    stop.send_replace(Some(Stop::Interrupted));
                }
                std::future::pending::<()>().await;
            }
        }
        let now = acknowledged.load(Ordering::Relaxed);
        if now == seen
            && let Some(error) = producer.trouble()
        {
            note!("waiting, {now} records acknowledged so far: {error}");
        }
        seen = now;
    }
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
        return print_json(&json!({
            "acknowledged": tally.acknowledged, "failed": tally.failed, "unknown": tally.open,
            "bytes": tally.bytes, "seconds": seconds,
            "megabytes_per_second": megabytes / seconds,
        }));
    }
    say!(
        "{} acknowledged in {seconds:.3} s ({:.0} records/s, {:.1} MB/s)",
        count(tally.acknowledged, "record", "records"),
        tally.acknowledged as f64 / seconds,
        megabytes / seconds
    )
}

/// Whether all went well.
fn outcome(tally: &Tally, sent: anyhow::Result<bool>, stop: Option<Stop>) -> anyhow::Result<()> {
    if let Some(error) = &tally.first_error {
        let failed = count(tally.failed, "record was", "records were");
        let then = match (sent, stop) {
            (Err(error), _) => format!("; {}", with_causes(&error)),
            (Ok(false), Some(Stop::Failed)) => {
                "; nothing more was sent (--keep-going goes on)".to_owned()
            }
            _ => String::new(),
        };
        bail!("{failed} not acknowledged{then}; the first error: {error}");
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
