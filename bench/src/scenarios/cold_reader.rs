//! What producers notice of a consumer that reads what only the disk has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::{ACK_LATENCY, Bench, Target, WARM_UP, acked_within, prompt_producer};
use crate::args::{self, FlushArg, TopicArgs};
use crate::load::{OpenLoad, TopicProducer, Until, all_there_is, as_fast_as_it_goes, at_a_rate};
use crate::report::{Case, Report, Run, Unit, unit};

/// Flags of `cold-reader`.
#[derive(Clone, Debug, Args)]
pub struct ColdReaderArgs {
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
    /// Bytes of values that are written first, and read when they are cold.
    #[arg(long, default_value = "2GiB", value_parser = args::size)]
    bytes: u64,
    /// Megabytes a second that the consumer reads at most. [default: as many as go]
    #[arg(long, value_parser = args::rate)]
    read_rate: Option<f64>,
    /// How long it is measured without the consumer; with it, for as long as it reads.
    #[arg(long, default_value = "10", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures without and with the consumer.
pub async fn run(bench: &Bench, args: &ColdReaderArgs) -> anyhow::Result<Report> {
    let mut target = bench.own_target(3, "restarts brokers").await?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in bench.repeats("cold-reader", "without, then with") {
        let (without, with) = measure(&mut target, args).await?;
        alone.push(without);
        beside.push(with);
    }
    let mut settings = args.topic.settings();
    settings.extend([
        ("topic", format!("1 partition, {}", args.flush)),
        ("records of", unit::bytes(args.size)),
        ("records/s", args.rate.to_string()),
        ("cold bytes", unit::bytes(args.bytes)),
        ("repeats", bench.common.repeats.to_string()),
    ]);
    Ok(Report {
        scenario: "cold-reader",
        about: "Records are sent evenly in time to a partition whose older segments only the disk has; then a consumer reads these. Latencies are from the intended time of each record.".into(),
        settings,
        cases: vec![
            Case { name: "no reader".into(), runs: alone },
            Case { name: "cold reader".into(), runs: beside },
        ],
        notes: vec![
            "The brokers were restarted and the page cache of their files dropped before each repeat; \"read from the disk\" is the leader's and shows that it was cold.".into(),
        ],
    })
}

async fn measure(target: &mut Target, args: &ColdReaderArgs) -> anyhow::Result<(Run, Run)> {
    let topic = target.make_topic(&args.topic, args.flush, 1).await?;
    let size = args.size as usize;
    let filler = TopicProducer::new(&target.client, &topic.name, |plain| plain).await?;
    let records = args.bytes.div_ceil(args.size);
    as_fast_as_it_goes(&filler, size, &Until::Records(records)).await?;
    filler.close().await?;
    let topic = target.make_cold(&topic.name).await?;
    let producer = prompt_producer(&target.client, &topic.name).await?;
    let over = Arc::new(AtomicBool::new(false));
    let load = OpenLoad {
        rate: args.rate,
        size,
        until: Until::Told(over.clone()),
        stamped_from: None,
    };
    let sending = tokio::spawn(at_a_rate(producer, load));
    tokio::time::sleep(WARM_UP + args.seconds).await;
    let meter = target.meter()?;
    let reading_from = Instant::now();
    let read = all_there_is(&target.client, &topic, args.read_rate).await;
    let reading_to = Instant::now();
    over.store(true, Ordering::Relaxed);
    let outcome = sending.await??;
    let (read, (usages, _)) = (read?, meter.stop()?);
    target.client.admin().delete_topic(&topic.name).await?;
    let samples = &outcome.samples;
    let mut alone = acked_within(samples, &(samples.begun + WARM_UP..reading_from));
    let mut beside = acked_within(samples, &(reading_from..reading_to));
    let p99 = |run: &Run| run.get(ACK_LATENCY, "p99");
    if let (Some(alone), Some(with)) = (p99(&alone), p99(&beside)) {
        beside.add(
            "compared",
            "p99, with / without reader",
            Unit::Ratio,
            with / alone,
        );
    }
    beside.add("reader", "bytes", Unit::MegabytesPerSecond, read.mb_per_s());
    let from_disk: u64 = usages
        .iter()
        .map(|usage| usage.read_bytes)
        .max()
        .unwrap_or(0);
    beside.add(
        "reader",
        "read from the disk",
        Unit::Bytes,
        from_disk as f64,
    );
    let mut line = samples.timeline(size, Duration::from_millis(100));
    let at = samples.seconds_to(reading_from);
    line.faults.push((at, "a cold reader".into()));
    alone.timeline = Some(line);
    Ok((alone, beside))
}
