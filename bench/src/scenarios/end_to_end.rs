//! From a producer to a consumer, at a fixed rate: how old a record is when it is received.

use std::time::{Duration, Instant};

use anyhow::Context;
use baton_client::{Reader, Start};
use clap::Args;
use hdrhistogram::Histogram;

use super::{Bench, THROUGHPUT, Target, add_usage, prompt_producer};
use crate::args::{self, FlushArg, TopicArgs, count};
use crate::load::{OpenLoad, Until, at_a_rate, next, stamp_of};
use crate::report::{Case, Report, Run, Unit, unit};

/// Flags of `end-to-end`.
#[derive(Clone, Debug, Args)]
pub struct EndToEndArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable.
    #[arg(long, default_value = "ack")]
    flush: FlushArg,
    /// Records a second; several are compared.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000", value_parser = args::rate)]
    rates: Vec<f64>,
    /// Size of a record's value; at least 8 bytes, which tell when it was meant to be sent.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// How long each is measured.
    #[arg(long, default_value = "10", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures at each rate.
pub async fn run(bench: &Bench, args: &EndToEndArgs) -> anyhow::Result<Report> {
    let target = bench.target().await?;
    let mut cases = Vec::new();
    for rate in &args.rates {
        let name = format!("{rate} records/s");
        let mut runs = Vec::new();
        for _ in bench.repeats("end-to-end", &name) {
            runs.push(measure(&target, args, *rate).await?);
        }
        cases.push(Case { name, runs });
    }
    let mut settings = args.topic.settings();
    settings.extend([
        (
            "topic",
            format!("{}, {}", count(args.partitions, "partition"), args.flush),
        ),
        ("records of", unit::bytes(args.size)),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "end-to-end",
        about: "Records are sent evenly in time, each at once, and received by one consumer; latencies are from the intended time of each record.".into(),
        settings,
        cases,
        notes: Vec::new(),
    })
}

async fn measure(target: &Target, args: &EndToEndArgs, rate: f64) -> anyhow::Result<Run> {
    let size = args.size.max(8) as usize;
    let topic = target
        .make_topic(&args.topic, args.flush, args.partitions)
        .await?;
    let reader = target.client.reader(&*topic.name).from(Start::Latest);
    let reader = reader.build().await?;
    let producer = prompt_producer(&target.client, &topic.name).await?;
    let records = (rate * args.seconds.as_secs_f64()).ceil().max(1.0) as u64;
    let epoch = Instant::now();
    let load = OpenLoad {
        rate,
        size,
        until: Until::Records(records),
        stamped_from: Some(epoch),
    };
    let meter = target.meter()?;
    let receiving = tokio::spawn(receive(reader, records, epoch));
    let outcome = at_a_rate(producer, load).await?;
    let received = receiving.await??;
    let (usages, _) = meter.stop()?;
    target.client.admin().delete_topic(&topic.name).await?;
    let mut run = Run::default();
    run.add(THROUGHPUT, "records", Unit::PerSecond, outcome.rate());
    run.add_latency("until received", received);
    let samples = &outcome.samples;
    run.add_latency("until acknowledged", samples.latencies(&samples.all()));
    add_usage(&mut run, &usages, outcome.records, outcome.bytes);
    Ok(run)
}

/// How old each record was when it came, in nanoseconds.
async fn receive(
    mut reader: Reader,
    records: u64,
    epoch: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut nanos = Histogram::new(3)?;
    while nanos.len() < records {
        let messages = next(&mut reader).await?.context("the reader ended")?;
        let now = Instant::now();
        for value in messages.iter().filter_map(|m| m.value.as_ref()) {
            if let Some(intended) = stamp_of(value, epoch) {
                nanos.record((now.duration_since(intended).as_nanos() as u64).max(1))?;
            }
        }
    }
    Ok(nanos)
}
