//! A follower that was away returns: how fast it closes its gap, and what producers notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use baton_protocol::ids::BrokerId;
use baton_protocol::metadata::TopicRecord;
use clap::{Args, ValueEnum};

use super::{ACK_LATENCY, Bench, ROOFLINE, Target, acked_within, settle};
use crate::args::{self, FlushArg, TopicArgs};
use crate::load::{OpenLoad, Outcome, TopicProducer, Until, as_fast_as_it_goes, at_a_rate};
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::disk;

/// How long the disk is measured, to compare with.
const DISK_DURATION: Duration = Duration::from_secs(2);

/// Flags of `catch-up`.
#[derive(Clone, Debug, Args)]
pub struct CatchUpArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable.
    #[arg(long, default_value = "ack")]
    flush: FlushArg,
    /// What the follower was away for.
    #[arg(long, default_value = "killed")]
    away: Away,
    /// Bytes of values that are written meanwhile.
    #[arg(long, default_value = "1GiB", value_parser = args::size)]
    gap: u64,
    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// What producers send before and while it catches up, in megabytes a second.
    #[arg(long, default_value = "50", value_parser = args::rate)]
    load: f64,
    /// How long they send before.
    #[arg(long, default_value = "5", value_parser = args::seconds)]
    seconds: Duration,
}

/// Why a follower was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Away {
    /// It was killed, and is started again.
    Killed,
    /// It was frozen for longer than its session lasts, and goes on.
    Frozen,
}

/// Measures.
pub async fn run(bench: &Bench, args: &CatchUpArgs) -> anyhow::Result<Report> {
    let mut target = bench.own_target(3, "kills and freezes brokers").await?;
    let (mut before, mut meanwhile) = (Vec::new(), Vec::new());
    for _ in bench.repeats("catch-up", "before, then meanwhile") {
        let (whole, catching_up) = measure(bench, &mut target, args).await?;
        before.push(whole);
        meanwhile.push(catching_up);
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", format!("1 partition, {}", args.flush)),
        ("records of", unit::bytes(args.size)),
        ("gap", unit::bytes(args.gap)),
        ("producers' MB/s", args.load.to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    let away = match args.away {
        Away::Killed => "is killed, and started again",
        Away::Frozen => "is frozen, and let go on",
    };
    Ok(Report {
        scenario: "catch-up",
        about: format!("A follower {away} when the gap has been written; producers send evenly in time meanwhile. Latencies are from the intended time of each record."),
        settings,
        cases: vec![
            Case { name: "all in sync".into(), runs: before },
            Case { name: "catching up".into(), runs: meanwhile },
        ],
        notes: vec![
            "The follower's rate is the gap and what was written meanwhile, over the time from its return until it is in the in-sync set.".into(),
        ],
    })
}

async fn measure(
    bench: &Bench,
    target: &mut Target,
    args: &CatchUpArgs,
) -> anyhow::Result<(Run, Run)> {
    let topic = target.make_topic(&args.topic, args.flush, 1).await?;
    let follower = last_follower(&topic)?;
    let producer = TopicProducer::new(&target.client, &topic.name, |plain| plain).await?;
    let load = load(args, Until::After(args.seconds));
    let before = at_a_rate(producer.clone(), load).await?;
    match args.away {
        Away::Killed => target.cluster()?.kill(follower.0)?,
        Away::Frozen => target.cluster()?.freeze(follower.0)?,
    };
    let gap = make_gap(target, args, &producer, &topic.name, follower).await?;
    let returned = bring_back(target, args, producer, &topic.name, follower).await?;
    target.client.admin().delete_topic(&topic.name).await?;

    let samples = &before.samples;
    let mut whole = acked_within(samples, &samples.all());
    let mut catching_up = acked_within(&returned.outcome.samples, &(returned.from..returned.to));
    let seconds = returned.to.duration_since(returned.from).as_secs_f64();
    let meanwhile = acknowledged_bytes(args, &catching_up, seconds);
    let rate = (gap as f64 + meanwhile) / 1e6 / seconds;
    catching_up.add("follower", "until in sync", Unit::Seconds, seconds);
    catching_up.add("follower", "caught up", Unit::MegabytesPerSecond, rate);
    compare(&whole, &mut catching_up);
    if !bench.common.no_roofline {
        let dir = bench.dir();
        let disk = tokio::task::spawn_blocking(move || disk(&dir, DISK_DURATION)).await??;
        catching_up.add(
            ROOFLINE,
            "disk, fdatasync per MiB",
            Unit::MegabytesPerSecond,
            disk,
        );
        catching_up.add(ROOFLINE, "caught up / disk", Unit::Ratio, rate / disk);
    }
    let samples = &returned.outcome.samples;
    let mut line = samples.timeline(args.size as usize, Duration::from_millis(100));
    line.faults
        .push((samples.seconds_to(returned.from), "follower returns".into()));
    line.faults
        .push((samples.seconds_to(returned.to), "in sync".into()));
    catching_up.timeline = Some(line);
    whole.timeline = None;
    Ok((whole, catching_up))
}

fn load(args: &CatchUpArgs, until: Until) -> OpenLoad {
    OpenLoad {
        rate: args.load * 1e6 / args.size as f64,
        size: args.size as usize,
        until,
        stamped_from: None,
    }
}

fn acknowledged_bytes(args: &CatchUpArgs, run: &Run, seconds: f64) -> f64 {
    let rate = run
        .get(super::THROUGHPUT, "acknowledged")
        .unwrap_or_default();
    rate * seconds * args.size as f64
}

/// Throughput and latency, while it catches up and before.
fn compare(before: &Run, catching_up: &mut Run) {
    let pairs = [
        (
            super::THROUGHPUT,
            "acknowledged",
            "acknowledged, catching up / in sync",
        ),
        (ACK_LATENCY, "p99", "p99, catching up / in sync"),
    ];
    for (group, figure, name) in pairs {
        let (was, is) = (before.get(group, figure), catching_up.get(group, figure));
        if let (Some(was), Some(is)) = (was, is) {
            catching_up.add("compared", name, Unit::Ratio, is / was);
        }
    }
}

fn last_follower(topic: &TopicRecord) -> anyhow::Result<BrokerId> {
    let partition = topic.partitions.first().context("it has a partition")?;
    let leader = partition.leader.context("it has a leader")?.broker;
    let mut followers = partition.replicas.iter().filter(|id| **id != leader);
    let last = followers.next_back().copied();
    last.context("the topic has no follower; ask for more replicas")
}

async fn is_in_sync(target: &Target, topic: &str, broker: BrokerId) -> anyhow::Result<bool> {
    let record = target.client.topic(topic).await?;
    let fenced = target
        .client
        .view()
        .brokers
        .get(&broker)
        .is_none_or(|b| b.fenced);
    Ok(!fenced && record.partitions[0].in_sync.contains(&broker))
}

/// Writes the gap, and more if need be until the follower is out of the in-sync set; its bytes.
async fn make_gap(
    target: &Target,
    args: &CatchUpArgs,
    producer: &TopicProducer,
    topic: &str,
    follower: BrokerId,
) -> anyhow::Result<u64> {
    let records = Until::Records(args.gap.div_ceil(args.size));
    let gap = as_fast_as_it_goes(producer, args.size as usize, &records).await?;
    settle("the follower is out of the in-sync set", || async {
        Ok(!is_in_sync(target, topic, follower).await?)
    })
    .await?;
    Ok(gap.bytes)
}

struct Returned {
    from: Instant,
    to: Instant,
    outcome: Outcome,
}

async fn bring_back(
    target: &mut Target,
    args: &CatchUpArgs,
    producer: TopicProducer,
    topic: &str,
    follower: BrokerId,
) -> anyhow::Result<Returned> {
    let over = Arc::new(AtomicBool::new(false));
    let load = load(args, Until::Told(over.clone()));
    let sending = tokio::spawn(at_a_rate(producer, load));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let from = Instant::now();
    match args.away {
        Away::Killed => target.cluster()?.start_broker(follower.0)?,
        Away::Frozen => target.cluster()?.thaw(follower.0)?,
    }
    let back = settle("the follower is in sync", || {
        is_in_sync(target, topic, follower)
    })
    .await;
    let to = Instant::now();
    over.store(true, Ordering::Relaxed);
    let outcome = sending.await??;
    back?;
    Ok(Returned { from, to, outcome })
}
