//! What the client library costs by itself: processor time of this process by record, for sending and for
//! each way of reading.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use baton_client::{Client, Message, Record, Start, Until};
use bytes::Bytes;
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use super::{Bench, THROUGHPUT, Target};
use crate::args::{self, FlushArg, TopicArgs, count};
use crate::report::{Case, Report, Run, Unit, unit};

/// Records that are taken from a reader or consumer at a time, where several are.
const AT_ONCE: usize = 1_024;

/// The group of what a record costs.
const PER_CORE: &str = "per core that is busy";

/// Flags of `client`.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// Size of a record's value.
    #[arg(long, default_value = "100", value_parser = args::size)]
    size: u64,
    /// Records that are sent, and read, each time.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 3)]
    partitions: u32,
}

/// A way of reading.
#[derive(Clone, Copy)]
enum Way {
    Reader { batches: bool },
    Group { batches: bool },
}

const WAYS: [(&str, Way); 4] = [
    ("reader, next", Way::Reader { batches: false }),
    ("reader, next_batch", Way::Reader { batches: true }),
    ("group, next_record", Way::Group { batches: false }),
    ("group, next_batch", Way::Group { batches: true }),
];

/// Measures each.
pub async fn run(bench: &Bench, args: &ClientArgs) -> anyhow::Result<Report> {
    let mut target = bench.target().await?;
    // The brokers are not what is measured.
    let topic = TopicArgs {
        replicas: 1,
        sync_followers: 0,
    };
    let topic = target
        .make_topic(&topic, FlushArg::Interval, args.partitions)
        .await?;
    let name: Arc<str> = topic.name.as_str().into();
    let mut cases = Vec::new();
    let mut runs = Vec::new();
    for _ in bench.repeats("client", "producer, send") {
        let sending = send(target.client.clone(), name.clone(), args.clone());
        // All of it on one thread, whose time is told apart from that of what delivers.
        let task = move || Handle::current().block_on(sending);
        runs.push(tokio::task::spawn_blocking(task).await??);
    }
    cases.push(Case {
        name: "producer, send".into(),
        runs,
    });
    let written = args.records * u64::from(bench.common.repeats);
    for (case, way) in WAYS {
        let mut runs = Vec::new();
        for _ in bench.repeats("client", case) {
            runs.push(read(&mut target, &name, way, written).await?);
        }
        cases.push(Case {
            name: case.into(),
            runs,
        });
    }
    target.client.admin().delete_topic(&name).await?;
    Ok(Report {
        scenario: "client",
        about: "Records go through the client library to and from a topic without followers or flushes.".into(),
        settings: vec![
            ("records of", unit::bytes(args.size)),
            ("in", count(args.partitions, "partition")),
            ("records each", args.records.to_string()),
            ("repeats", bench.common.repeats.to_string()),
        ],
        cases,
        notes: vec![
            "\"sending thread\": `send` alone, a record at a time, its acknowledgement dropped. \"client\": all of this process, sockets too.".into(),
        ],
    })
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn send(client: Client, topic: Arc<str>, args: ClientArgs) -> anyhow::Result<Run> {
    let producer = client.producer().build().await?;
    let value = Bytes::from(vec![b'x'; args.size as usize]);
    // Partitions are known, and their lanes run.
    let first = Record::to(topic.clone()).value(value.clone());
    producer.send(first).await?.await?;
    let begun = Instant::now();
    let thread = seconds(ClockId::ThreadCPUTime);
    let process = seconds(ClockId::ProcessCPUTime);
    for _ in 1..args.records {
        let record = Record::to(topic.clone()).value(value.clone());
        // `flush` tells of it, too.
        drop(producer.send(record).await?);
    }
    let thread = seconds(ClockId::ThreadCPUTime) - thread;
    producer.close().await?;
    let mut run = Run::default();
    add(&mut run, args.records, begun, process);
    let rate = args.records as f64 / thread;
    run.add(PER_CORE, "sending thread", Unit::PerSecond, rate);
    Ok(run)
}

async fn read(target: &mut Target, topic: &str, way: Way, written: u64) -> anyhow::Result<Run> {
    let begun = Instant::now();
    let process = seconds(ClockId::ProcessCPUTime);
    let records = match way {
        Way::Reader { batches } => {
            let reader = target.client.reader(topic).from(Start::Earliest);
            let mut reader = reader.until(Until::End).build().await?;
            let mut records = 0;
            while records < written {
                records += match batches {
                    true => len(reader.next_batch(AT_ONCE).await)?,
                    false => one(reader.next().await)?,
                };
            }
            records
        }
        Way::Group { batches } => {
            let group = format!("bench-{}", uuid::Uuid::new_v4());
            let consumer = target.client.consumer(&group).subscribe([topic]);
            let mut consumer = consumer.build().await?;
            let mut records = 0;
            while records < written {
                records += match batches {
                    true => len(consumer.next_batch(AT_ONCE).await)?,
                    false => one(consumer.next_record().await)?,
                };
            }
            consumer.close().await?;
            target.client.admin().delete_group(&group).await?;
            records
        }
    };
    ensure!(
        records == written,
        "{written} records were written and {records} read"
    );
    let mut run = Run::default();
    add(&mut run, records, begun, process);
    Ok(run)
}

fn one(message: Option<baton_client::Result<Message>>) -> anyhow::Result<u64> {
    message.context("it ended")??;
    Ok(1)
}

fn len(messages: Option<baton_client::Result<Vec<Message>>>) -> anyhow::Result<u64> {
    Ok(messages.context("it ended")??.len() as u64)
}

fn add(run: &mut Run, records: u64, begun: Instant, process: f64) {
    let records = records as f64;
    let rate = records / begun.elapsed().as_secs_f64();
    run.add(THROUGHPUT, "records", Unit::PerSecond, rate);
    let rate = records / (seconds(ClockId::ProcessCPUTime) - process);
    run.add(PER_CORE, "client", Unit::PerSecond, rate);
}
