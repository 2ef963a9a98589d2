//! The scenarios, one a file, and what they share: a cluster, a topic, figures that are told of each.

pub mod catch_up;
pub mod client;
pub mod cold_reader;
pub mod consume;
pub mod end_to_end;
pub mod failover;
pub mod frozen_follower;
pub mod one_in_flight;
pub mod partitions;
pub mod produce;
pub mod roofline;
pub mod start_up;
pub mod system;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use baton_client::{Client, ProducerBuilder, TopicSettings};
use baton_protocol::ids::PartitionIndex;
use baton_protocol::metadata::{PartitionRecord, TopicRecord};

use crate::args::{Common, FlushArg, TopicArgs};
use crate::cluster::{Cluster, forget_cached};
use crate::load::{Samples, TopicProducer};
use crate::program;
use crate::report::{Run, Unit};
use crate::usage::{Meter, Usage, Watched, cpu_seconds};

/// How long a cluster may take to be as it should.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Brokers that use less than this part of a core each, for so long, have nothing to do.
const QUIET_CORES: f64 = 0.1;
const QUIET_DURATION: Duration = Duration::from_millis(500);

/// The group of throughput figures.
pub const THROUGHPUT: &str = "throughput";

/// The group of what an acknowledgement takes, where only one such thing is measured.
pub const ACK_LATENCY: &str = "ack latency";

/// Left out at the beginning of a load, while producers and links find each other.
pub const WARM_UP: Duration = Duration::from_millis(500);

/// The group of what is compared with the bare pipeline.
pub const ROOFLINE: &str = "roofline";

/// What all scenarios are given.
pub struct Bench {
    /// From the command line.
    pub common: Common,
    program: Option<PathBuf>,
}

/// A cluster that is measured.
pub struct Target {
    /// A client of it.
    pub client: Client,
    /// Where its brokers are.
    pub bootstrap: Vec<String>,
    own: Option<Cluster>,
    pids: Vec<u32>,
}

impl Bench {
    /// Finds the broker's program, unless a cluster runs already.
    pub fn new(common: Common, starts_brokers: bool) -> anyhow::Result<Bench> {
        let own = starts_brokers && common.bootstrap.is_empty();
        let program = own.then(program::find).transpose()?;
        Ok(Bench { common, program })
    }

    /// Where files are kept.
    pub fn dir(&self) -> PathBuf {
        self.common.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// A cluster of three brokers, or the one that runs already.
    pub async fn target(&self) -> anyhow::Result<Target> {
        if self.common.bootstrap.is_empty() {
            return self.start(3).await;
        }
        let addresses = self.common.bootstrap.clone();
        Ok(Target {
            client: Client::builder(addresses.clone()).connect().await?,
            bootstrap: addresses,
            own: None,
            pids: self.common.pids.clone(),
        })
    }

    /// A cluster of its own; `why` says what it does with one, if another is offered.
    pub async fn own_target(&self, brokers: u32, why: &str) -> anyhow::Result<Target> {
        if !self.common.bootstrap.is_empty() {
            bail!("this scenario {why}, so it starts its own cluster; leave --bootstrap out");
        }
        self.start(brokers).await
    }

    async fn start(&self, brokers: u32) -> anyhow::Result<Target> {
        let program = self.program.as_ref().context("no broker was looked for")?;
        let cluster = Cluster::start(program, brokers, &self.dir())?;
        let client = connect(&cluster).await?;
        Ok(Target {
            client,
            bootstrap: cluster.bootstrap(),
            own: Some(cluster),
            pids: Vec::new(),
        })
    }

    /// The numbers of the repeats; tells how far it has come.
    pub fn repeats(&self, scenario: &'static str, case: &str) -> impl Iterator<Item = u32> {
        let (repeats, case) = (self.common.repeats, case.to_owned());
        (1..=repeats).inspect(move |repeat| {
            eprintln!("{scenario}: {case}, {repeat} of {repeats}");
        })
    }
}

/// A client of an own cluster.
pub async fn connect(cluster: &Cluster) -> anyhow::Result<Client> {
    let client = Client::builder(cluster.bootstrap()).connect().await?;
    // It may know one broker so far.
    let brokers = cluster.watched().len();
    settle("all brokers have registered", || async {
        Ok(client.view().brokers.len() >= brokers)
    })
    .await?;
    Ok(client)
}

/// Waits until something is so.
pub async fn settle(
    what: &str,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("it takes more than {SETTLE_TIMEOUT:?} until {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

impl Target {
    /// The cluster, where it is an own one.
    pub fn cluster(&mut self) -> anyhow::Result<&mut Cluster> {
        self.own
            .as_mut()
            .context("it is not this program's own cluster")
    }

    /// Whether it is this program's own.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Watches the brokers, as far as they are known, and this process.
    pub fn meter(&self) -> anyhow::Result<Meter> {
        let watched = match &self.own {
            Some(cluster) => cluster.watched(),
            None => {
                let pids = self.pids.iter().zip(1..);
                pids.map(|(pid, number)| Watched {
                    name: format!("broker {number}"),
                    pid: *pid,
                })
                .collect()
            }
        };
        meter_of(watched)
    }

    /// A topic of its own for a measurement; partition `i` is led by broker `i % brokers + 1`, as
    /// long as there is no other topic.
    pub async fn make_topic(
        &self,
        args: &TopicArgs,
        flush: FlushArg,
        partitions: u32,
    ) -> anyhow::Result<TopicRecord> {
        let name = format!("bench-{}", uuid::Uuid::new_v4());
        let settings = TopicSettings {
            partitions: Some(partitions),
            replicas: Some(args.replicas),
            sync_followers: Some(args.sync_followers),
            flush: Some(flush.flush()),
            ..TopicSettings::default()
        };
        let made = self.client.admin().create_topic(&name, settings).await;
        made.context("the topic")?;
        let record = self.whole(&name).await?;
        self.leaders_know(&record).await?;
        Ok(record)
    }

    /// Waits until every broker that leads a partition has heard of the topic: one that has not,
    /// refuses records for it.
    async fn leaders_know(&self, record: &TopicRecord) -> anyhow::Result<()> {
        let mut asked = BTreeSet::new();
        for (index, partition) in (0..).zip(&record.partitions) {
            if !asked.insert(partition.leader.map(|leader| leader.broker)) {
                continue;
            }
            let index = PartitionIndex(index);
            settle("the leaders have heard of the topic", || async {
                let status = self
                    .client
                    .admin()
                    .partition_status(record, index, true)
                    .await;
                Ok(status.is_ok())
            })
            .await?;
        }
        Ok(())
    }

    /// Has the system forget what it keeps of the brokers' files in memory, as far as a topic's older
    /// segments go. That takes a restart: pages that a process has mapped are not forgotten. What
    /// the start reads is forgotten once more.
    pub async fn make_cold(&mut self, topic: &str) -> anyhow::Result<TopicRecord> {
        self.cluster()?.restart_cold()?;
        self.whole(topic).await?;
        self.quiet().await?;
        let cluster = self.cluster()?;
        for id in cluster.ids() {
            forget_cached(&cluster.data_dir(id))?;
        }
        self.whole(topic).await
    }

    /// Waits until the brokers have nothing to do.
    async fn quiet(&mut self) -> anyhow::Result<()> {
        let watched = self.cluster()?.watched();
        settle("the brokers have nothing to do", || async {
            let before = cpu_seconds(&watched)?;
            tokio::time::sleep(QUIET_DURATION).await;
            let used = cpu_seconds(&watched)? - before;
            Ok(used < QUIET_CORES * QUIET_DURATION.as_secs_f64() * watched.len() as f64)
        })
        .await
    }

    /// Waits until every partition of a topic has a leader, and all its replicas in its set, and no
    /// broker is held for dead.
    pub async fn whole(&self, topic: &str) -> anyhow::Result<TopicRecord> {
        settle("all replicas are in sync", || async {
            let record = self.client.topic(topic).await?;
            let view = self.client.view();
            let alive = view.brokers.values().all(|broker| !broker.fenced);
            Ok(alive
                && record
                    .partitions
                    .iter()
                    .all(|partition| is_whole(partition)))
        })
        .await?;
        Ok(self.client.topic(topic).await?)
    }
}

fn is_whole(partition: &PartitionRecord) -> bool {
    partition.leader.is_some() && partition.in_sync.len() == partition.replicas.len()
}

/// A producer whose records leave at once, for what measures latency.
pub async fn prompt_producer(client: &Client, topic: &str) -> anyhow::Result<TopicProducer> {
    let prompt = |settings: ProducerBuilder| settings.linger(Duration::ZERO);
    Ok(TopicProducer::new(client, topic, prompt).await?)
}

/// What was acknowledged of a load within a time: latencies, the longest gap, how much.
pub fn acked_within(samples: &Samples, time: &Range<Instant>) -> Run {
    let mut run = Run::default();
    run.add_latency(ACK_LATENCY, samples.latencies(time));
    let gap = samples.longest_gap(time).as_secs_f64();
    run.add(ACK_LATENCY, "longest gap between acks", Unit::Seconds, gap);
    run.add(
        THROUGHPUT,
        "acknowledged",
        Unit::PerSecond,
        samples.rate(time),
    );
    run
}

/// What this process is called among those that are watched.
const CLIENT: &str = "client";

/// Watches brokers and this process.
fn meter_of(mut watched: Vec<Watched>) -> anyhow::Result<Meter> {
    watched.push(Watched {
        name: CLIENT.into(),
        pid: std::process::id(),
    });
    Meter::start(watched)
}

/// Tells what processes used for so many records and bytes of values.
pub fn add_usage(run: &mut Run, usages: &[Usage], records: u64, bytes: u64) {
    let brokers = || usages.iter().filter(|usage| usage.name != CLIENT);
    let millions = records as f64 / 1e6;
    for usage in usages {
        let cpu = usage.cpu_seconds / millions;
        run.add(
            "CPU, per million records",
            &usage.name,
            Unit::CpuSeconds,
            cpu,
        );
    }
    if brokers().next().is_some() {
        let cpu: f64 = brokers().map(|usage| usage.cpu_seconds).sum();
        let per_gb = cpu / (bytes as f64 / 1e9);
        run.add("CPU, per GB", "all brokers", Unit::CpuSeconds, per_gb);
    }
    add_memory(run, usages);
    for usage in brokers() {
        let written = usage.written_bytes as f64;
        run.add("written", &usage.name, Unit::Bytes, written);
    }
    if brokers().next().is_some() {
        let written: u64 = brokers().map(|usage| usage.written_bytes).sum();
        let ratio = written as f64 / bytes as f64;
        run.add("written", "all brokers, per byte sent", Unit::Ratio, ratio);
    }
}

/// Tells the memory of processes, without the page cache.
pub fn add_memory(run: &mut Run, usages: &[Usage]) {
    for usage in usages {
        let bytes = usage.rss_anon_bytes as f64;
        run.add("anonymous memory, most", &usage.name, Unit::Bytes, bytes);
    }
}
