//! Producing as much as goes; then at a share of that, for what an acknowledgement takes when the
//! cluster is not overrun.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use baton_client::ProducerConfig;
use clap::Args;

use super::{Bench, ROOFLINE, THROUGHPUT, Target, add_usage};
use crate::args::{self, AcksArg, FlushArg, TopicArgs, count};
use crate::load::{OpenLoad, Outcome, Until, as_fast_as_it_goes, at_a_rate};
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::{Load, pipeline};
use crate::usage::Usage;

/// Batches that the client has unacknowledged in a partition.
const IN_FLIGHT: usize = 5;

/// Flags of `produce`.
#[derive(Clone, Debug, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable; several are compared.
    #[arg(long, value_delimiter = ',', default_value = "ack")]
    flush: Vec<FlushArg>,
    /// How firmly a record must be stored before it is acknowledged.
    #[arg(long, default_value = "committed")]
    acks: AcksArg,
    /// Sizes of a record's value.
    #[arg(long, value_delimiter = ',', default_value = "100,1KiB", value_parser = args::size)]
    sizes: Vec<u64>,
    /// Partitions of the topic.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    partitions: Vec<u32>,
    /// Bytes of a batch.
    #[arg(long, default_value = "128KiB", value_parser = args::size)]
    batch_bytes: u64,
    /// How long each is measured. The disk must have room for as much as is written in that time,
    /// times the replicas.
    #[arg(long, default_value = "5", value_parser = args::seconds)]
    seconds: Duration,
    /// The share of the throughput at which latency is measured, as long again; 0 leaves it out.
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    load: f64,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1".to_owned()),
    }
}

/// One column.
struct Setup<'a> {
    args: &'a ProduceArgs,
    flush: FlushArg,
    size: usize,
    partitions: u32,
}

impl Setup<'_> {
    fn name(&self) -> String {
        let size = unit::bytes(self.size as u64);
        let partitions = count(self.partitions, "partition");
        match self.args.flush.len() {
            1 => format!("{size}, {partitions}"),
            _ => format!("{size}, {partitions}, {}", self.flush),
        }
    }
}

/// Measures all combinations.
pub async fn run(bench: &Bench, args: &ProduceArgs) -> anyhow::Result<Report> {
    let target = bench.target().await?;
    let mut cases = Vec::new();
    for flush in &args.flush {
        for size in &args.sizes {
            for partitions in &args.partitions {
                let setup = Setup {
                    args,
                    flush: *flush,
                    size: *size as usize,
                    partitions: *partitions,
                };
                let name = setup.name();
                let mut runs = Vec::new();
                for _ in bench.repeats("produce", &name) {
                    runs.push(measure(bench, &target, &setup).await?);
                }
                cases.push(Case { name, runs });
            }
        }
    }
    let flushes: Vec<String> = args.flush.iter().map(FlushArg::to_string).collect();
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", flushes.join(" and ")),
        ("acks", args.acks.to_string()),
        ("batches of", unit::bytes(args.batch_bytes)),
        ("fixed rate", format!("{} of the throughput", args.load)),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "produce",
        about: "One client sends as much as goes; then a share of that, evenly in time, for the latency from the intended time of each record.".into(),
        settings,
        cases,
        notes: vec![
            "Partitions are led by brokers 1, 2, 3 in turn: of a single one, broker 1 is the leader.".into(),
        ],
    })
}

async fn measure(bench: &Bench, target: &Target, setup: &Setup<'_>) -> anyhow::Result<Run> {
    let mut run = Run::default();
    let full = full_speed(target, setup, &mut run).await;
    let (outcome, usages) = full.context("as fast as it goes")?;
    if !bench.common.no_roofline {
        add_roofline(bench, setup, &mut run).await?;
    }
    let samples = &outcome.samples;
    run.add_latency(
        "ack latency, buffer full",
        samples.latencies(&samples.all()),
    );
    if setup.args.load > 0.0 {
        let rate = outcome.rate() * setup.args.load;
        let paced = paced(target, setup, rate, &mut run).await;
        paced.with_context(|| format!("at {rate:.0} records/s"))?;
    }
    add_usage(&mut run, &usages, outcome.records, outcome.bytes);
    run.timeline = Some(samples.timeline(setup.size, Duration::from_millis(100)));
    Ok(run)
}

async fn add_roofline(bench: &Bench, setup: &Setup<'_>, run: &mut Run) -> anyhow::Result<()> {
    let reached = run.get(THROUGHPUT, "bytes").unwrap_or_default();
    let load = Load {
        dir: bench.dir(),
        batch_bytes: setup.args.batch_bytes as usize,
        in_flight: IN_FLIGHT * setup.partitions as usize,
        flush: setup.flush.waits(),
        duration: setup.args.seconds,
    };
    let limit = tokio::task::spawn_blocking(move || pipeline(&load)).await??;
    let unit = Unit::MegabytesPerSecond;
    run.add(ROOFLINE, "bare pipeline", unit, limit.mb_per_s);
    let ratio = reached / limit.mb_per_s;
    run.add(ROOFLINE, "throughput / bare pipeline", Unit::Ratio, ratio);
    Ok(())
}

fn producer_config(args: &ProduceArgs) -> ProducerConfig {
    ProducerConfig {
        batch_bytes: args.batch_bytes as usize,
        acks: args.acks.acks(),
        ..ProducerConfig::default()
    }
}

async fn full_speed(
    target: &Target,
    setup: &Setup<'_>,
    run: &mut Run,
) -> anyhow::Result<(Outcome, Vec<Usage>)> {
    let Setup {
        args,
        flush,
        size,
        partitions,
    } = setup;
    let topic = target
        .make_topic(&args.topic, *flush, *partitions)
        .await?
        .name;
    let producer = target
        .client
        .producer(&topic, producer_config(args))
        .await?;
    let meter = target.meter()?;
    let outcome = as_fast_as_it_goes(&producer, *size, &Until::After(args.seconds)).await?;
    let (usages, _) = meter.stop()?;
    target.client.delete_topic(&topic).await?;
    run.add(THROUGHPUT, "records", Unit::PerSecond, outcome.rate());
    run.add(
        THROUGHPUT,
        "bytes",
        Unit::MegabytesPerSecond,
        outcome.mb_per_s(),
    );
    Ok((outcome, usages))
}

async fn paced(target: &Target, setup: &Setup<'_>, rate: f64, run: &mut Run) -> anyhow::Result<()> {
    let Setup {
        args,
        flush,
        size,
        partitions,
    } = setup;
    let topic = target
        .make_topic(&args.topic, *flush, *partitions)
        .await?
        .name;
    let producer = target
        .client
        .producer(&topic, producer_config(args))
        .await?;
    let load = OpenLoad {
        rate,
        size: *size,
        until: Until::After(args.seconds),
        stamped_from: None,
    };
    let outcome = at_a_rate(Arc::new(producer), load).await?;
    target.client.delete_topic(&topic).await?;
    let samples = &outcome.samples;
    run.add_latency(
        "ack latency, at a fixed rate",
        samples.latencies(&samples.all()),
    );
    Ok(())
}
