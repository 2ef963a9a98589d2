//! What producers notice when a follower stands still: acknowledgements before and while it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use baton_protocol::metadata::TopicRecord;
use clap::Args;

use super::{ACK_LATENCY, Bench, Target, WARM_UP, acked_within, prompt_producer};
use crate::args::{self, FlushArg, TopicArgs};
use crate::load::{OpenLoad, Outcome, Until, at_a_rate};
use crate::report::{Case, Report, Run, Unit, unit};

/// Flags of `frozen-follower`.
#[derive(Clone, Debug, Args)]
pub struct FrozenFollowerArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable.
    #[arg(long, default_value = "ack")]
    flush: FlushArg,
    /// Records a second.
    #[arg(long, default_value = "2000", value_parser = args::rate)]
    rate: f64,
    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// How long each of both is measured. The session time-out (1 s by default) and the lag that an
    /// in-sync set allows (3 s) fall into it.
    #[arg(long, default_value = "10", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures both.
pub async fn run(bench: &Bench, args: &FrozenFollowerArgs) -> anyhow::Result<Report> {
    let mut target = bench.own_target(3, "freezes a broker").await?;
    let (mut well, mut frozen) = (Vec::new(), Vec::new());
    for _ in bench.repeats("frozen-follower", "all well, then one frozen") {
        let (before, during) = measure(&mut target, args).await?;
        well.push(before);
        frozen.push(during);
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", format!("1 partition, {}", args.flush)),
        ("records of", unit::bytes(args.size)),
        ("records/s", args.rate.to_string()),
        ("seconds each", args.seconds.as_secs_f64().to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "frozen-follower",
        about: "Records are sent evenly in time; halfway a follower is frozen (SIGSTOP). Latencies are from the intended time of each record.".into(),
        settings,
        cases: vec![
            Case { name: "all well".into(), runs: well },
            Case { name: "a follower, frozen".into(), runs: frozen },
        ],
        notes: Vec::new(),
    })
}

async fn measure(target: &mut Target, args: &FrozenFollowerArgs) -> anyhow::Result<(Run, Run)> {
    let topic = target.make_topic(&args.topic, args.flush, 1).await?;
    let controller = target.client.admin().cluster_status().await?.controller;
    let follower = follower_of(&topic, controller.0)?;
    let producer = prompt_producer(&target.client, &topic.name).await?;
    let over = Arc::new(AtomicBool::new(false));
    let load = OpenLoad {
        rate: args.rate,
        size: args.size as usize,
        until: Until::Told(over.clone()),
        stamped_from: None,
    };
    let sending = tokio::spawn(at_a_rate(producer, load));
    tokio::time::sleep(WARM_UP + args.seconds).await;
    let frozen_at = target.cluster()?.freeze(follower)?;
    tokio::time::sleep(args.seconds).await;
    over.store(true, Ordering::Relaxed);
    let outcome = sending.await;
    // Whatever came of it, the broker has to go on.
    target.cluster()?.thaw(follower)?;
    let outcome = outcome??;
    target.whole(&topic.name).await?;
    target.client.admin().delete_topic(&topic.name).await?;
    Ok(split(args, &outcome, frozen_at))
}

/// A follower of the only partition that is not the controller: an election there is another matter.
fn follower_of(topic: &TopicRecord, controller: u32) -> anyhow::Result<u32> {
    let partition = topic.partitions.first().context("it has a partition")?;
    let leader = partition.leader.context("it has a leader")?.broker;
    let followers = partition.replicas.iter().filter(|id| **id != leader);
    let followers: Vec<u32> = followers.map(|id| id.0).collect();
    let quiet = followers.iter().find(|id| **id != controller);
    let found = quiet.or(followers.first()).copied();
    found.context("the topic has no follower; ask for more replicas")
}

/// The time before the follower was frozen, and the time after.
fn split(args: &FrozenFollowerArgs, outcome: &Outcome, frozen_at: Instant) -> (Run, Run) {
    let samples = &outcome.samples;
    let before = samples.begun + WARM_UP..frozen_at;
    let during = frozen_at..frozen_at + args.seconds;
    let mut well = acked_within(samples, &before);
    let mut frozen = acked_within(samples, &during);
    let p99 = |run: &Run| run.get(ACK_LATENCY, "p99");
    if let (Some(well), Some(with)) = (p99(&well), p99(&frozen)) {
        frozen.add(
            "compared",
            "p99, frozen / all well",
            Unit::Ratio,
            with / well,
        );
    }
    let mut line = samples.timeline(args.size as usize, Duration::from_millis(100));
    let at = samples.seconds_to(frozen_at);
    line.faults.push((at, "a follower frozen".into()));
    well.timeline = Some(line);
    (well, frozen)
}
