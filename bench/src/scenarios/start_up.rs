//! From the start of a broker's process to its first answer, after an orderly end and after none, with
//! logs of several sizes.

use std::time::{Duration, Instant};

use baton_client::Client;
use baton_protocol::ids::PartitionIndex;
use clap::Args;

use super::{Bench, Target};
use crate::args::{self, FlushArg, TopicArgs};
use crate::cluster::forget_cached;
use crate::load::{TopicProducer, Until, as_fast_as_it_goes};
use crate::report::{Case, Report, Run, Unit, unit};

/// The only broker.
const BROKER: u32 = 1;

/// How long a broker is looked at again and again whether it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes that are written just before each end.
const LAST_BYTES: u64 = 4 << 20;

/// Flags of `start-up`.
#[derive(Clone, Debug, Args)]
pub struct StartUpArgs {
    /// Sizes of the log; each stays on the disk until it is measured.
    #[arg(long, value_delimiter = ',', default_value = "256MiB,1GiB", value_parser = args::size)]
    log_bytes: Vec<u64>,
    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// Drop the page cache of the broker's files before each start, as if the machine had been off.
    #[arg(long)]
    cold: bool,
}

/// Measures with each size.
pub async fn run(bench: &Bench, args: &StartUpArgs) -> anyhow::Result<Report> {
    let mut cases = Vec::new();
    for log_bytes in &args.log_bytes {
        let mut target = bench.own_target(1, "kills brokers").await?;
        let topic = fill(&target, args, *log_bytes).await?;
        for killed in [false, true] {
            let end = if killed { "kill -9" } else { "orderly end" };
            let name = format!("{} log, {end}", unit::bytes(*log_bytes));
            let mut runs = Vec::new();
            for _ in bench.repeats("start-up", &name) {
                runs.push(restart(&mut target, args, &topic, killed).await?);
            }
            cases.push(Case { name, runs });
        }
    }
    Ok(Report {
        scenario: "start-up",
        about: "One broker with one partition is ended and started again; times are from the start of its process.".into(),
        settings: vec![
            ("replicas", "1".into()),
            ("records of", unit::bytes(args.size)),
            ("page cache", if args.cold { "dropped" } else { "kept" }.into()),
            ("repeats", bench.common.repeats.to_string()),
        ],
        cases,
        notes: vec![
            "\"registered\": /health says so, which takes the election of a controller; \"answers\": the partition's leader tells its offsets, and its watermark covers all that was acknowledged.".into(),
        ],
    })
}

async fn write(target: &Target, args: &StartUpArgs, topic: &str, bytes: u64) -> anyhow::Result<()> {
    let producer = TopicProducer::new(&target.client, topic, |plain| plain).await?;
    let records = Until::Records(bytes.div_ceil(args.size));
    as_fast_as_it_goes(&producer, args.size as usize, &records).await?;
    Ok(producer.close().await?)
}

async fn fill(target: &Target, args: &StartUpArgs, bytes: u64) -> anyhow::Result<String> {
    let alone = TopicArgs {
        replicas: 1,
        sync_followers: 0,
    };
    let topic = target.make_topic(&alone, FlushArg::Ack, 1).await?.name;
    write(target, args, &topic, bytes).await?;
    Ok(topic)
}

async fn restart(
    target: &mut Target,
    args: &StartUpArgs,
    topic: &str,
    killed: bool,
) -> anyhow::Result<Run> {
    write(target, args, topic, LAST_BYTES).await?;
    let cluster = target.cluster()?;
    match killed {
        true => drop(cluster.kill(BROKER)?),
        false => cluster.stop(BROKER)?,
    }
    if args.cold {
        forget_cached(&cluster.data_dir(BROKER))?;
    }
    let begun = Instant::now();
    cluster.start_broker(BROKER)?;
    cluster.wait_until_ready()?;
    let registered = begun.elapsed();
    let bootstrap = cluster.bootstrap();
    // A client that has not been waiting: it would measure its own patience.
    let client = Client::builder(bootstrap).connect().await?;
    let record = client.topic(topic).await?;
    let partition = PartitionIndex(0);
    client
        .admin()
        .partition_status_within(&record, partition, true, ANSWER_TIMEOUT)
        .await?;
    let answers = begun.elapsed();
    let mut run = Run::default();
    let group = "from the start of the process";
    run.add(
        group,
        "until registered",
        Unit::Seconds,
        registered.as_secs_f64(),
    );
    run.add(
        group,
        "until it answers",
        Unit::Seconds,
        answers.as_secs_f64(),
    );
    target.client = client;
    Ok(run)
}
