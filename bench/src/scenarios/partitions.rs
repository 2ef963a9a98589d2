//! What many partitions cost: idle, and by message.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use rustix::process::{Resource, getrlimit};

use super::{Bench, THROUGHPUT, Target, add_usage};
use crate::args::{self, FlushArg, TopicArgs, count};
use crate::load::{TopicProducer, Until, as_fast_as_it_goes};
use crate::report::{Case, Report, Run, Spread, Unit, unit};

/// After the topic was made, before it counts as idle.
const CALM: Duration = Duration::from_secs(2);

/// Files that a broker has open of a partition: its newest segment.
const FILES_EACH: u64 = 1;

/// Files that a broker has open besides: the marks of some partitions, and directories of new ones until
/// they are flushed.
const FILES_BESIDE: u64 = 2_048;

const IDLE_MEMORY: &str = "idle, anonymous memory";

const ALL: &str = "all brokers";

/// Partitions that are waited for together while they are opened: a producer asks for each ten times a
/// second.
const FILLED_AT_A_TIME: usize = 250;

const PER_MILLION: &str = "CPU, per million records";

/// Flags of `partitions`.
#[derive(Clone, Debug, Args)]
pub struct PartitionsArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable.
    #[arg(long, default_value = "ack")]
    flush: FlushArg,
    /// How many partitions; several are compared, with the first. A topic has 10000 at most.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: Vec<u32>,
    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// How long each is measured idle, and again with as many records as go.
    #[arg(long, default_value = "5", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures with each number.
pub async fn run(bench: &Bench, args: &PartitionsArgs) -> anyhow::Result<Report> {
    let (mut cases, mut counts) = (Vec::new(), Vec::new());
    let mut notes = vec![limits()];
    for partitions in &args.partitions {
        let name = count(*partitions, "partition");
        if let Some(missing) = missing_files(bench, args, *partitions) {
            let note = format!("{name}: left out, {missing}.");
            eprintln!("partitions: {note}");
            notes.push(note);
            continue;
        }
        let mut runs = Vec::new();
        for _ in bench.repeats("partitions", &name) {
            // Its memory tells nothing if it has had other topics.
            let target = bench.target().await?;
            runs.push(measure(&target, args, *partitions).await?);
        }
        cases.push(Case { name, runs });
        counts.push(*partitions);
    }
    compare(&mut cases);
    let replicas: Vec<u32> = counts.iter().map(|n| n * args.topic.replicas).collect();
    compare_memory(&mut cases, &replicas);
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", args.flush.to_string()),
        ("records of", unit::bytes(args.size)),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "partitions",
        about: "A topic of many partitions with a record in each, idle and then with as many records as go, batch by batch to the next partition.".into(),
        settings,
        cases,
        notes,
    })
}

/// What this system lacks for so many partitions on a cluster of its own: a broker that cannot open a
/// file ends.
fn missing_files(bench: &Bench, args: &PartitionsArgs, partitions: u32) -> Option<String> {
    if !bench.common.bootstrap.is_empty() {
        return None;
    }
    let on_each = u64::from(partitions * args.topic.replicas).div_ceil(3);
    let needed = on_each * FILES_EACH + FILES_BESIDE;
    let allowed = getrlimit(Resource::Nofile).maximum?;
    (needed > allowed).then(|| {
        format!("a broker needs {needed} open files and may have {allowed}; raise it with `ulimit -n {needed}`")
    })
}

/// What the system allows.
fn limits() -> String {
    let files = getrlimit(Resource::Nofile).maximum;
    let files = files.map_or("any number of".to_owned(), |files| files.to_string());
    let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let maps = maps.map_or("an unknown number of".to_owned(), |text| {
        text.trim().to_owned()
    });
    format!(
        "Records have no key, so batches are as large with many partitions as with one; but of one partition several are flushed at once, and of many each by itself. Every partition takes an open file and a memory map, at least, of each broker that has it. A process on this system may have {files} open files (ulimit -n) and {maps} memory maps (vm.max_map_count)."
    )
}

async fn measure(target: &Target, args: &PartitionsArgs, partitions: u32) -> anyhow::Result<Run> {
    let mut run = Run::default();
    let topic = make_topic(target, args, partitions, &mut run).await?;
    let producer = TopicProducer::new(&target.client, &topic, |plain| plain).await?;
    fill(&producer, args, partitions, &mut run).await?;
    tokio::time::sleep(CALM).await;
    idle(target, args, &mut run).await?;
    let meter = target.meter()?;
    let size = args.size as usize;
    let outcome = as_fast_as_it_goes(&producer, size, &Until::After(args.seconds)).await?;
    let (usages, _) = meter.stop()?;
    target.client.admin().delete_topic(&topic).await?;
    run.add(THROUGHPUT, "records", Unit::PerSecond, outcome.rate());
    run.add(
        THROUGHPUT,
        "bytes",
        Unit::MegabytesPerSecond,
        outcome.mb_per_s(),
    );
    add_usage(&mut run, &usages, outcome.records, outcome.bytes);
    let brokers = usages.iter().filter(|usage| usage.name != super::CLIENT);
    let cpu: f64 = brokers.map(|usage| usage.cpu_seconds).sum();
    if cpu > 0.0 {
        let cost = cpu / (outcome.records as f64 / 1e6);
        run.add(PER_MILLION, ALL, Unit::CpuSeconds, cost);
    }
    Ok(run)
}

async fn make_topic(
    target: &Target,
    args: &PartitionsArgs,
    partitions: u32,
    run: &mut Run,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let topic = target
        .make_topic(&args.topic, args.flush, partitions)
        .await?
        .name;
    let took = begun.elapsed().as_secs_f64();
    run.add("topic", "made, all in sync after", Unit::Seconds, took);
    Ok(topic)
}

/// Sends a record to each partition, to some at a time: what a log takes when it is first written is not
/// part of what a record costs.
async fn fill(
    producer: &TopicProducer,
    args: &PartitionsArgs,
    partitions: u32,
    run: &mut Run,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let value = Bytes::from(vec![b'x'; args.size as usize]);
    let all: Vec<u32> = (0..partitions).collect();
    for some in all.chunks(FILLED_AT_A_TIME) {
        let mut acks = Vec::new();
        for index in some {
            acks.push(producer.send_to(*index, value.clone()).await?);
        }
        for ack in acks {
            ack.await?;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    run.add("topic", "then a record in each after", Unit::Seconds, took);
    Ok(())
}

async fn idle(target: &Target, args: &PartitionsArgs, run: &mut Run) -> anyhow::Result<()> {
    let meter = target.meter()?;
    tokio::time::sleep(args.seconds).await;
    let (usages, took) = meter.stop()?;
    let mut all = 0.0;
    for usage in usages.iter().filter(|usage| usage.name != super::CLIENT) {
        let percent = usage.cpu_seconds / took.as_secs_f64() * 100.0;
        run.add("idle, of a core", &usage.name, Unit::Percent, percent);
        let bytes = usage.rss_anon_bytes as f64;
        run.add(IDLE_MEMORY, &usage.name, Unit::Bytes, bytes);
        all += bytes;
    }
    run.add(IDLE_MEMORY, ALL, Unit::Bytes, all);
    Ok(())
}

/// Cost by message, compared with the first number of partitions.
fn compare(cases: &mut [Case]) {
    let cost = |run: &Run| run.get(PER_MILLION, ALL);
    let first: Vec<f64> = match cases.first() {
        Some(case) => case.runs.iter().filter_map(cost).collect(),
        None => return,
    };
    let Some(first) = Spread::of(&first) else {
        return;
    };
    for run in cases.iter_mut().flat_map(|case| &mut case.runs) {
        if let Some(cost) = cost(run) {
            let ratio = cost / first.median;
            run.add(
                "compared",
                "CPU per record / first column",
                Unit::Ratio,
                ratio,
            );
        }
    }
}

/// Memory by further replica, compared with the first number of partitions.
fn compare_memory(cases: &mut [Case], replicas: &[u32]) {
    let memory = |run: &Run| run.get(IDLE_MEMORY, ALL);
    let (Some(first), Some(fewest)) = (cases.first(), replicas.first()) else {
        return;
    };
    let first: Vec<f64> = first.runs.iter().filter_map(memory).collect();
    let Some(first) = Spread::of(&first) else {
        return;
    };
    for (case, count) in cases.iter_mut().zip(replicas) {
        for run in case.runs.iter_mut().filter(|_| count > fewest) {
            if let Some(memory) = memory(run) {
                let each = (memory - first.median) / f64::from(count - fewest);
                run.add(
                    "compared",
                    "idle memory of a further replica",
                    Unit::Bytes,
                    each,
                );
            }
        }
    }
}
