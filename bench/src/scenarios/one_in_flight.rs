//! One record after the other, each sent when the one before is acknowledged.

use std::time::Duration;

use anyhow::{Context, bail};
use baton_client::Client;
use bytes::Bytes;
use clap::Args;

use super::system::{System, Way, peer_settings};
use super::{ACK_LATENCY, Bench, ROOFLINE, THROUGHPUT, add_usage, prompt_producer};
use crate::args::{self, AcksArg, FlushArg, TopicArgs};
use crate::load::{OneByOne, one_by_one};
use crate::peers;
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::{Load, pipeline};
use crate::usage::Usage;

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

/// Measures Baton, then each peer.
pub async fn run(bench: &Bench, args: &OneInFlightArgs) -> anyhow::Result<Report> {
    peers::check(&bench.common.peer, &args.topic, AcksArg::Committed)?;
    let mut cases = Vec::new();
    let mut system = System::Baton(bench.target().await?);
    for flush in &args.flush {
        cases.push(case(bench, args, &mut system, Way::Baton(*flush)).await?);
    }
    drop(system);
    for peer in &bench.common.peer {
        let mut system = System::start_peer(*peer, &bench.dir()).await?;
        cases.push(case(bench, args, &mut system, Way::Peer(peer.lone())).await?);
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("records of", unit::bytes(args.size)),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    settings.extend(peer_settings(bench)?);
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

/// One column.
async fn case(
    bench: &Bench,
    args: &OneInFlightArgs,
    system: &mut System,
    way: Way,
) -> anyhow::Result<Case> {
    let name = match way {
        Way::Baton(flush) if bench.common.peer.is_empty() => flush.to_string(),
        way => way.terms().to_owned(),
    };
    let mut runs = Vec::new();
    for _ in bench.repeats("one-in-flight", &name) {
        runs.push(measure(bench, system, args, way).await?);
    }
    Ok(Case { name, runs })
}

async fn measure(
    bench: &Bench,
    system: &mut System,
    args: &OneInFlightArgs,
    way: Way,
) -> anyhow::Result<Run> {
    let (done, usages) = load(system, args, way).await?;
    let OneByOne { nanos, seconds } = done;
    let (records, median) = (nanos.len(), nanos.value_at_quantile(0.5));
    let corrected = nanos.clone_correct(median);
    let mut run = Run::default();
    run.add_latency(ACK_LATENCY, nanos);
    for (name, quantile) in [("p99, corrected", 0.99), ("p99.9, corrected", 0.999)] {
        let value = corrected.value_at_quantile(quantile) as f64 / 1e9;
        run.add(ACK_LATENCY, name, Unit::Seconds, value);
    }
    let rate = records as f64 / seconds;
    run.add(THROUGHPUT, "records", Unit::PerSecond, rate);
    if !bench.common.no_roofline {
        add_roofline(bench, args, way.flushes(), median, &mut run).await?;
    }
    add_usage(&mut run, &usages, records, records * args.size);
    Ok(run)
}

/// Sends one record after the other to a topic of its own.
async fn load(
    system: &mut System,
    args: &OneInFlightArgs,
    way: Way,
) -> anyhow::Result<(OneByOne, Vec<Usage>)> {
    let value = Bytes::from(vec![b'x'; args.size as usize]);
    match (way, &mut *system) {
        (Way::Baton(flush), System::Baton(target)) => {
            let topic = target.make_topic(&args.topic, flush, 1).await?.name;
            let meter = target.meter()?;
            let (bootstrap, of, duration) = (target.bootstrap.clone(), topic.clone(), args.seconds);
            let sending = move || on_one_thread(bootstrap, &of, value, duration);
            let done = tokio::task::spawn_blocking(sending).await??;
            let (usages, _) = meter.stop()?;
            target.client.admin().delete_topic(&topic).await?;
            Ok((done, usages))
        }
        (Way::Peer(peer), System::Peer(cluster)) => {
            let topic = uuid::Uuid::new_v4().simple().to_string();
            cluster.make(&topic, 1)?;
            let mut connections = cluster.connect(peer, &topic, 0, false)?;
            let connection = connections.first_mut().context("no connection")?;
            let meter = system.meter()?;
            let done = one_by_one(args.seconds, async || connection.send_one(&value)).await?;
            let (usages, _) = meter.stop()?;
            if let System::Peer(cluster) = system {
                cluster.delete(&topic, 1)?;
            }
            Ok((done, usages))
        }
        _ => bail!("another system runs than is to be measured"),
    }
}

/// With a client that does all of its work on this thread, as the clients of peers do.
fn on_one_thread(
    bootstrap: Vec<String>,
    topic: &str,
    value: Bytes,
    duration: Duration,
) -> anyhow::Result<OneByOne> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::builder(bootstrap).connect().await?;
        let producer = prompt_producer(&client, topic).await?;
        let sending = one_by_one(duration, async || {
            producer.send(value.clone()).await?.await?;
            Ok(())
        });
        sending.await
    })
}

async fn add_roofline(
    bench: &Bench,
    args: &OneInFlightArgs,
    flush: bool,
    median_nanos: u64,
    run: &mut Run,
) -> anyhow::Result<()> {
    let load = Load {
        dir: bench.dir(),
        batch_bytes: args.size as usize,
        in_flight: 1,
        flush,
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
