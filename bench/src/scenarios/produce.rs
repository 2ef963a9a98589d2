//! Producing as much as goes; then at a share of that, for what an acknowledgement takes when the
//! cluster is not overrun.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use baton_client::ProducerBuilder;
use clap::Args;

use super::system::{System, Way, beside_each_other, peer_settings};
use super::{Bench, ROOFLINE, THROUGHPUT, Target, add_usage};
use crate::args::{self, AcksArg, FlushArg, TopicArgs, count};
use crate::load::{OpenLoad, Outcome, Sink, TopicProducer, Until, as_fast_as_it_goes, at_a_rate};
use crate::peers;
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::{Load, pipeline};
use crate::usage::{Meter, Usage};

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
    #[arg(long, default_value = "512KiB", value_parser = args::size)]
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
#[derive(Clone, Copy)]
struct Setup<'a> {
    args: &'a ProduceArgs,
    way: Way,
    size: usize,
    partitions: u32,
}

impl Setup<'_> {
    fn name(&self, with_terms: bool) -> String {
        let size = unit::bytes(self.size as u64);
        let partitions = count(self.partitions, "partition");
        match self.way {
            way if with_terms => format!("{}, {size}, {partitions}", way.terms()),
            Way::Baton(flush) if self.args.flush.len() > 1 => {
                format!("{size}, {partitions}, {flush}")
            }
            _ => format!("{size}, {partitions}"),
        }
    }
}

/// Measures all combinations: Baton's, then those of each peer.
pub async fn run(bench: &Bench, args: &ProduceArgs) -> anyhow::Result<Report> {
    peers::check(&bench.common.peer, &args.topic, args.acks)?;
    let mut system = System::Baton(bench.target().await?);
    let ways: Vec<Way> = args.flush.iter().copied().map(Way::Baton).collect();
    let mut cases = measure_all(bench, args, &mut system, &ways).await?;
    drop(system);
    for peer in &bench.common.peer {
        let mut system = System::start_peer(*peer, &bench.dir()).await?;
        let ways: Vec<Way> = peer.batched().iter().copied().map(Way::Peer).collect();
        cases.extend(measure_all(bench, args, &mut system, &ways).await?);
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
    settings.extend(peer_settings(bench)?);
    let mut notes = vec![
        "Partitions are led by brokers 1, 2, 3 in turn: of a single one, broker 1 is the leader."
            .to_owned(),
    ];
    if !bench.common.peer.is_empty() {
        notes.push(
            "Peers: broker 1 leads all streams of Redis; NATS and RabbitMQ choose where each is led. The bare pipeline beside them flushes nothing. A fixed rate is a share of the own throughput.".into(),
        );
    }
    Ok(Report {
        scenario: "produce",
        about: "One client sends as much as goes; then a share of that, evenly in time, for the latency from the intended time of each record.".into(),
        settings,
        cases: beside_each_other(cases),
        notes,
    })
}

/// The columns of a system, each with the number of its load.
async fn measure_all(
    bench: &Bench,
    args: &ProduceArgs,
    system: &mut System,
    ways: &[Way],
) -> anyhow::Result<Vec<(usize, Case)>> {
    let mut cases = Vec::new();
    for way in ways {
        let loads = args
            .sizes
            .iter()
            .flat_map(|size| args.partitions.iter().map(move |count| (*size, *count)));
        for (load, (size, partitions)) in loads.enumerate() {
            let setup = Setup {
                args,
                way: *way,
                size: size as usize,
                partitions,
            };
            let name = setup.name(!bench.common.peer.is_empty());
            let mut runs = Vec::new();
            for _ in bench.repeats("produce", &name) {
                runs.push(measure(bench, system, &setup).await?);
            }
            cases.push((load, Case { name, runs }));
        }
    }
    Ok(cases)
}

async fn measure(bench: &Bench, system: &mut System, setup: &Setup<'_>) -> anyhow::Result<Run> {
    let mut run = Run::default();
    let full = load(system, setup, None).await;
    let (outcome, usages) = full.context("as fast as it goes")?;
    let bytes = Unit::MegabytesPerSecond;
    run.add(THROUGHPUT, "records", Unit::PerSecond, outcome.rate());
    run.add(THROUGHPUT, "bytes", bytes, outcome.mb_per_s());
    if !bench.common.no_roofline {
        add_roofline(bench, setup, &mut run).await?;
    }
    let samples = &outcome.samples;
    // What waits in a full buffer is the client's affair, and those of peers have none.
    if matches!(setup.way, Way::Baton(_)) {
        let latencies = samples.latencies(&samples.all());
        run.add_latency("ack latency, buffer full", latencies);
    }
    if setup.args.load > 0.0 {
        let rate = outcome.rate() * setup.args.load;
        let paced = load(system, setup, Some(rate)).await;
        let (paced, _) = paced.with_context(|| format!("at {rate:.0} records/s"))?;
        let latencies = paced.samples.latencies(&paced.samples.all());
        run.add_latency("ack latency, at a fixed rate", latencies);
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
        flush: setup.way.flushes(),
        duration: setup.args.seconds,
    };
    let limit = tokio::task::spawn_blocking(move || pipeline(&load)).await??;
    let unit = Unit::MegabytesPerSecond;
    run.add(ROOFLINE, "bare pipeline", unit, limit.mb_per_s);
    let ratio = reached / limit.mb_per_s;
    run.add(ROOFLINE, "throughput / bare pipeline", Unit::Ratio, ratio);
    Ok(())
}

async fn producer(
    target: &Target,
    topic: &str,
    args: &ProduceArgs,
) -> anyhow::Result<TopicProducer> {
    let settings = |plain: ProducerBuilder| {
        let bytes = args.batch_bytes as usize;
        plain.batch_bytes(bytes).acks(args.acks.acks())
    };
    Ok(TopicProducer::new(&target.client, topic, settings).await?)
}

/// Puts load on a topic of its own: as much as goes, or at a rate.
async fn load(
    system: &mut System,
    setup: &Setup<'_>,
    rate: Option<f64>,
) -> anyhow::Result<(Outcome, Vec<Usage>)> {
    let Setup {
        args, partitions, ..
    } = *setup;
    match (setup.way, &mut *system) {
        (Way::Baton(flush), System::Baton(target)) => {
            let made = target.make_topic(&args.topic, flush, partitions).await?;
            let producer = producer(target, &made.name, args).await?;
            let meter = target.meter()?;
            let done = drive(producer, setup, rate, meter).await?;
            target.client.admin().delete_topic(&made.name).await?;
            Ok(done)
        }
        (Way::Peer(peer), System::Peer(cluster)) => {
            let topic = uuid::Uuid::new_v4().simple().to_string();
            cluster.make(&topic, partitions)?;
            let mut connections = Vec::new();
            for partition in 0..partitions {
                connections.extend(cluster.connect(peer, &topic, partition, true)?);
            }
            let producer = peers::Producer::new(connections, args.batch_bytes as usize)?;
            let meter = system.meter()?;
            let done = drive(producer, setup, rate, meter).await?;
            if let System::Peer(cluster) = system {
                cluster.delete(&topic, partitions)?;
            }
            Ok(done)
        }
        _ => bail!("another system runs than is to be measured"),
    }
}

async fn drive(
    sink: impl Sink,
    setup: &Setup<'_>,
    rate: Option<f64>,
    meter: Meter,
) -> anyhow::Result<(Outcome, Vec<Usage>)> {
    let (size, until) = (setup.size, Until::After(setup.args.seconds));
    let outcome = match rate {
        None => as_fast_as_it_goes(&sink, size, &until).await?,
        Some(rate) => {
            let load = OpenLoad {
                rate,
                size,
                until,
                stamped_from: None,
            };
            at_a_rate(Arc::new(sink), load).await?
        }
    };
    let (usages, _) = meter.stop()?;
    Ok((outcome, usages))
}
