//! One record after the other, each sent when the one before is acknowledged.

use std::time::{Duration, Instant};

use baton_client::Record;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;

use super::{ACK_LATENCY, Bench, ROOFLINE, THROUGHPUT, Target, add_usage, prompt_producer};
use crate::args::{self, FlushArg, TopicArgs};
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::{Load, pipeline};

/// Flags of `one-in-flight`.
#[derive(Clone, Debug, Args)]
pub struct OneInFlightArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable; several are compared.
    #[arg(long, value_delimiter = ',', default_value = "ack,interval")]
    flush: Vec<FlushArg>,
    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// How long each is measured.
    #[arg(long, default_value = "5", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures.
pub async fn run(bench: &Bench, args: &OneInFlightArgs) -> anyhow::Result<Report> {
    let target = bench.target().await?;
    let mut cases = Vec::new();
    for flush in &args.flush {
        let name = flush.to_string();
        let mut runs = Vec::new();
        for _ in bench.repeats("one-in-flight", &name) {
            runs.push(measure(bench, &target, args, *flush).await?);
        }
        cases.push(Case { name, runs });
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("records of", unit::bytes(args.size)),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "one-in-flight",
        about: "One record after the other: what a single acknowledgement takes.".into(),
        settings,
        cases,
        notes: vec![
            "\"corrected\": as a sender would have found it that meant to send one record each median latency.".into(),
        ],
    })
}

async fn measure(
    bench: &Bench,
    target: &Target,
    args: &OneInFlightArgs,
    flush: FlushArg,
) -> anyhow::Result<Run> {
    let topic = target.make_topic(&args.topic, flush, 1).await?.name;
    let producer = prompt_producer(&target.client, &topic).await?;
    let value = Bytes::from(vec![b'x'; args.size as usize]);
    let mut nanos = Histogram::<u64>::new(3)?;
    let meter = target.meter()?;
    let begun = Instant::now();
    while begun.elapsed() < args.seconds {
        let sent = Instant::now();
        let ack = producer.send(Record::value(value.clone())).await?;
        ack.wait().await?;
        nanos.record(sent.elapsed().as_nanos() as u64)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (usages, _) = meter.stop()?;
    target.client.delete_topic(&topic).await?;
    let (records, median) = (nanos.len(), nanos.value_at_quantile(0.5));
    let corrected = nanos.clone_correct(median);
    let mut run = Run::default();
    run.add_latency(ACK_LATENCY, nanos);
    for (name, quantile) in [("p99, corrected", 0.99), ("p99.9, corrected", 0.999)] {
        let value = corrected.value_at_quantile(quantile) as f64 / 1e9;
        run.add(ACK_LATENCY, name, Unit::Seconds, value);
    }
    run.add(
        THROUGHPUT,
        "records",
        Unit::PerSecond,
        records as f64 / seconds,
    );
    if !bench.common.no_roofline {
        add_roofline(bench, args, flush, median, &mut run).await?;
    }
    add_usage(&mut run, &usages, records, records * args.size);
    Ok(run)
}

async fn add_roofline(
    bench: &Bench,
    args: &OneInFlightArgs,
    flush: FlushArg,
    median_nanos: u64,
    run: &mut Run,
) -> anyhow::Result<()> {
    let load = Load {
        dir: bench.dir(),
        batch_bytes: args.size as usize,
        in_flight: 1,
        flush: flush.waits(),
        duration: args.seconds,
    };
    let limit = tokio::task::spawn_blocking(move || pipeline(&load)).await??;
    for (name, quantile) in [("bare pipeline, p50", 0.5), ("bare pipeline, p99", 0.99)] {
        let value = limit.latencies.value_at_quantile(quantile) as f64 / 1e9;
        run.add(ROOFLINE, name, Unit::Seconds, value);
    }
    let ratio = median_nanos as f64 / limit.latencies.value_at_quantile(0.5).max(1) as f64;
    run.add(ROOFLINE, "p50 / bare pipeline", Unit::Ratio, ratio);
    Ok(())
}
