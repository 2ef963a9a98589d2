//! Reading a topic from its start: when the page cache has it, and when it comes from the disk.

use std::time::Duration;

use baton_protocol::metadata::TopicRecord;
use clap::Args;

use super::{Bench, ROOFLINE, THROUGHPUT, Target, add_memory};
use crate::args::{self, FlushArg, TopicArgs, count};
use crate::load::{TopicProducer, Until, all_there_is, as_fast_as_it_goes, check_all};
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::loopback;
use crate::usage::Usage;

/// How long loopback is measured, to compare with.
const LOOPBACK_DURATION: Duration = Duration::from_secs(2);

/// About what a broker sends at once.
const SENT_BYTES: usize = 256 << 10;

/// Flags of `consume`.
#[derive(Clone, Debug, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Sizes of a record's value.
    #[arg(long, value_delimiter = ',', default_value = "100,1KiB", value_parser = args::size)]
    sizes: Vec<u64>,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Bytes of values that are written first, and then read.
    #[arg(long, default_value = "1GiB", value_parser = args::size)]
    bytes: u64,
}

/// Measures both, with each size.
pub async fn run(bench: &Bench, args: &ConsumeArgs) -> anyhow::Result<Report> {
    let mut target = bench.target().await?;
    let mut cases = Vec::new();
    for size in &args.sizes {
        let (topic, written) = fill(&target, args, *size as usize).await?;
        let warm_up = all_there_is(&target.client, &topic, None).await?;
        check_all(&warm_up, written)?;
        let name = format!("{}, from cache", unit::bytes(*size));
        let mut runs = Vec::new();
        for _ in bench.repeats("consume", &name) {
            let mut run = measure(&target, &topic, written).await?;
            if !bench.common.no_roofline {
                add_roofline(&mut run).await?;
            }
            runs.push(run);
        }
        cases.push(Case { name, runs });
        if target.is_own() {
            let name = format!("{}, cold", unit::bytes(*size));
            let mut runs = Vec::new();
            for _ in bench.repeats("consume", &name) {
                let topic = target.make_cold(&topic.name).await?;
                runs.push(measure(&target, &topic, written).await?);
            }
            cases.push(Case { name, runs });
        }
        target.client.admin().delete_topic(&topic.name).await?;
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("of", unit::bytes(args.bytes)),
        ("in", count(args.partitions, "partition")),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    let mut notes = vec![
        "One client reads and decodes every record; \"of the client\" is what that costs.".into(),
        "\"cold\": all brokers were restarted, and the page cache of their files dropped.".into(),
    ];
    if !target.is_own() {
        notes[1] = "A cluster that runs already is not made cold.".into();
    }
    Ok(Report {
        scenario: "consume",
        about: "A topic is read from its start to its end.".into(),
        settings,
        cases,
        notes,
    })
}

async fn fill(
    target: &Target,
    args: &ConsumeArgs,
    size: usize,
) -> anyhow::Result<(TopicRecord, u64)> {
    let topic = target
        .make_topic(&args.topic, FlushArg::Ack, args.partitions)
        .await?;
    let producer = TopicProducer::new(&target.client, &topic.name, |plain| plain).await?;
    let records = args.bytes.div_ceil(size as u64);
    let outcome = as_fast_as_it_goes(&producer, size, &Until::Records(records)).await?;
    Ok((topic, outcome.records))
}

async fn measure(target: &Target, topic: &TopicRecord, written: u64) -> anyhow::Result<Run> {
    let meter = target.meter()?;
    let read = all_there_is(&target.client, topic, None).await?;
    let (usages, _) = meter.stop()?;
    check_all(&read, written)?;
    let mut run = Run::default();
    let rate = read.records as f64 / read.seconds;
    run.add(THROUGHPUT, "records", Unit::PerSecond, rate);
    run.add(
        THROUGHPUT,
        "bytes",
        Unit::MegabytesPerSecond,
        read.mb_per_s(),
    );
    let (client, brokers): (Vec<Usage>, Vec<Usage>) = usages
        .iter()
        .cloned()
        .partition(|usage| usage.name == "client");
    for (name, usages) in [("of the client", &client), ("of all brokers", &brokers)] {
        let cpu: f64 = usages.iter().map(|usage| usage.cpu_seconds).sum();
        if cpu > 0.0 {
            let group = "per core that is busy";
            let mb = read.bytes as f64 / 1e6 / cpu;
            run.add(group, name, Unit::MegabytesPerSecond, mb);
        }
    }
    for usage in &usages {
        let cpu = usage.cpu_seconds / (read.records as f64 / 1e6);
        run.add(
            "CPU, per million records",
            &usage.name,
            Unit::CpuSeconds,
            cpu,
        );
    }
    for usage in &brokers {
        let bytes = usage.read_bytes as f64;
        run.add("read from the disk", &usage.name, Unit::Bytes, bytes);
    }
    add_memory(&mut run, &usages);
    Ok(run)
}

async fn add_roofline(run: &mut Run) -> anyhow::Result<()> {
    let limit = || loopback(SENT_BYTES, LOOPBACK_DURATION);
    let limit = tokio::task::spawn_blocking(limit).await??;
    let reached = run.get(THROUGHPUT, "bytes").unwrap_or_default();
    run.add(ROOFLINE, "loopback TCP", Unit::MegabytesPerSecond, limit);
    run.add(
        ROOFLINE,
        "throughput / loopback TCP",
        Unit::Ratio,
        reached / limit,
    );
    Ok(())
}
