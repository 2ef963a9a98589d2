//! How long nothing is acknowledged when a partition's leader is killed or frozen; and when it is the
//! controller too, so that Raft has to elect first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use baton_protocol::ids::{BrokerId, PartitionIndex};
use baton_protocol::metadata::TopicRecord;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use super::{Bench, Target, WARM_UP, prompt_producer, settle};
use crate::args::{self, FlushArg, TopicArgs};
use crate::load::{OpenLoad, Until, at_a_rate};
use crate::report::{Case, Report, Run, Timeline, unit};

/// How long the load goes on under the new leader.
const AFTERMATH: Duration = Duration::from_secs(1);

/// After a broker came back: it has its links and its session by then.
const CALM: Duration = Duration::from_millis(500);

/// Flags of `failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// When the topic's records are made durable.
    #[arg(long, default_value = "ack")]
    flush: FlushArg,
    /// What is done to the leader.
    #[arg(long, value_delimiter = ',', default_value = "kill,freeze")]
    faults: Vec<Fault>,
    /// How often, in each repeat.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Records a second.
    #[arg(long, default_value = "1000", value_parser = args::rate)]
    rate: f64,
    /// Size of a record's value.
    #[arg(long, default_value = "100", value_parser = args::size)]
    size: u64,
}

/// What is done to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// `kill -9`: its connections break at once, and its ports are closed.
    Kill,
    /// `kill -STOP`: nothing is heard of it any more.
    Freeze,
}

impl Fault {
    fn name(self, of_controller: bool) -> &'static str {
        match (self, of_controller) {
            (Fault::Kill, false) => "killed, the leader",
            (Fault::Kill, true) => "killed, leader and controller",
            (Fault::Freeze, false) => "frozen, the leader",
            (Fault::Freeze, true) => "frozen, leader and controller",
        }
    }
}

/// What one fault came to.
struct Outage {
    /// From the fault to the first acknowledgement of a record that was sent after it.
    until_acknowledged: Duration,
    /// The longest time without any.
    gap: Duration,
    timeline: Timeline,
}

/// Measures each fault.
pub async fn run(bench: &Bench, args: &FailoverArgs) -> anyhow::Result<Report> {
    let mut target = bench.own_target(3, "kills and freezes brokers").await?;
    let topic = target.make_topic(&args.topic, args.flush, 1).await?.name;
    let mut cases = Vec::new();
    for fault in &args.faults {
        for of_controller in [false, true] {
            let name = fault.name(of_controller).to_owned();
            let mut runs = Vec::new();
            for _ in bench.repeats("failover", &name) {
                runs.push(measure(&mut target, args, &topic, *fault, of_controller).await?);
            }
            cases.push(Case { name, runs });
        }
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", format!("1 partition, {}", args.flush)),
        ("records of", unit::bytes(args.size)),
        ("records/s", args.rate.to_string()),
        ("faults in each repeat", args.times.to_string()),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "failover",
        about: "Records are sent evenly in time to one partition, and its leader is killed or frozen. Each fault comes when all replicas are in sync.".into(),
        settings,
        cases,
        notes: vec![
            "\"until acknowledged\" is from the fault to the first acknowledgement of a record that was sent after it; the percentiles are over the faults.".into(),
        ],
    })
}

async fn measure(
    target: &mut Target,
    args: &FailoverArgs,
    topic: &str,
    fault: Fault,
    of_controller: bool,
) -> anyhow::Result<Run> {
    let (mut outages, mut gaps) = (Histogram::new(3)?, Histogram::new(3)?);
    let mut run = Run::default();
    for _ in 0..args.times {
        let leader = prepare(target, topic, of_controller).await?;
        let outage = break_leader(target, args, topic, fault, leader).await?;
        outages.record(outage.until_acknowledged.as_nanos() as u64)?;
        gaps.record(outage.gap.as_nanos() as u64)?;
        run.timeline.get_or_insert(outage.timeline);
    }
    run.add_latency("until acknowledged", outages);
    run.add_latency("longest gap between acks", gaps);
    Ok(run)
}

/// Waits until all is well, and has the controller lead the partition, or not. Who leads.
async fn prepare(target: &Target, topic: &str, of_controller: bool) -> anyhow::Result<BrokerId> {
    let partition = PartitionIndex(0);
    for _ in 0..5 {
        let record = target.whole(topic).await?;
        tokio::time::sleep(CALM).await;
        let controller = target.client.admin().cluster_status().await?.controller;
        let leader = leader_of(&record)?;
        if (leader == controller) == of_controller {
            return Ok(leader);
        }
        let fits = |id: &&BrokerId| (**id == controller) == of_controller;
        let replicas = &record.partitions[0].replicas;
        let to = *replicas.iter().find(fits).context("no replica fits")?;
        target
            .client
            .admin()
            .hand_over(topic, partition, to)
            .await?;
    }
    anyhow::bail!("leadership does not stay where it is put")
}

fn leader_of(record: &TopicRecord) -> anyhow::Result<BrokerId> {
    let partition = record.partitions.first().context("it has a partition")?;
    Ok(partition.leader.context("it has a leader")?.broker)
}

async fn break_leader(
    target: &mut Target,
    args: &FailoverArgs,
    topic: &str,
    fault: Fault,
    leader: BrokerId,
) -> anyhow::Result<Outage> {
    let over = Arc::new(AtomicBool::new(false));
    let load = OpenLoad {
        rate: args.rate,
        size: args.size as usize,
        until: Until::Told(over.clone()),
        stamped_from: None,
    };
    let producer = prompt_producer(&target.client, topic).await?;
    let sending = tokio::spawn(at_a_rate(producer, load));
    tokio::time::sleep(WARM_UP * 2).await;
    let broken_at = match fault {
        Fault::Kill => target.cluster()?.kill(leader.0)?,
        Fault::Freeze => target.cluster()?.freeze(leader.0)?,
    };
    let passed_on = settle("the partition has another leader", || async {
        let partition = target.client.topic(topic).await?;
        let now = partition.partitions.first().and_then(|p| p.leader);
        Ok(now.is_some_and(|now| now.broker != leader))
    });
    let passed_on = passed_on.await;
    tokio::time::sleep(AFTERMATH).await;
    over.store(true, Ordering::Relaxed);
    let outcome = sending.await?;
    // It has to go on, whatever came of it.
    match fault {
        Fault::Kill => target.cluster()?.start_broker(leader.0)?,
        Fault::Freeze => target.cluster()?.thaw(leader.0)?,
    }
    passed_on?;
    let samples = outcome?.samples;
    let first = samples.first_acknowledged(broken_at);
    let first: Instant = first.context("nothing was acknowledged after the fault")?;
    let mut timeline = samples.timeline(args.size as usize, Duration::from_millis(20));
    let what = match fault {
        Fault::Kill => "killed",
        Fault::Freeze => "frozen",
    };
    let at = samples.seconds_to(broken_at);
    timeline.faults.push((at, what.into()));
    Ok(Outage {
        until_acknowledged: first.duration_since(broken_at),
        gap: samples.longest_gap(&samples.all()),
        timeline,
    })
}
