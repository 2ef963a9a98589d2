//! `baton-bench`: how fast a cluster is. Starts a cluster of three brokers of its own, or takes one
//! that runs; prints a table, or JSON.

mod cluster;
mod failover;
mod produce;
mod report;
mod roofline;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use baton_client::{Client, ClientConfig};
use clap::{Parser, Subcommand};

use crate::cluster::Cluster;

#[derive(Debug, Parser)]
#[command(name = "baton-bench", version, about)]
struct Cli {
    /// A cluster that runs already, as host:port, separated by commas; without it, one is started.
    #[arg(long, global = true, value_delimiter = ',')]
    bootstrap: Vec<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    #[command(flatten)]
    OfCluster(OfCluster),
    /// The machine's limit at this moment: a bare pipeline of three processes with the same bytes,
    /// batches and flushes, and no broker; next to it loopback TCP and the disk alone.
    Roofline {
        /// Bytes of a batch.
        #[arg(long, default_value_t = 128 << 10)]
        batch_bytes: usize,
        /// Batches that may be unacknowledged.
        #[arg(long, value_delimiter = ',', default_value = "5,15")]
        in_flight: Vec<usize>,
        /// How long each is measured.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Acknowledge before the bytes are on the disk.
        #[arg(long)]
        no_flush: bool,
    },
    #[command(hide = true)]
    RooflineNode(roofline::NodeArgs),
}

/// What is asked of a cluster.
#[derive(Debug, Subcommand)]
enum OfCluster {
    /// Throughput and acknowledgement latency: 3 replicas, 1 synchronous follower, one client.
    Produce {
        /// Sizes of a record's value, in bytes.
        #[arg(long, value_delimiter = ',', default_value = "100,1024")]
        sizes: Vec<usize>,
        /// Partitions of the topic.
        #[arg(long, value_delimiter = ',', default_value = "1,3")]
        partitions: Vec<u32>,
        /// How long each combination is measured.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Bytes of a batch.
        #[arg(long, default_value_t = 128 << 10)]
        batch_bytes: usize,
        /// Leave out the bare pipeline that is measured after each, for as long, to compare with.
        #[arg(long)]
        no_roofline: bool,
    },
    /// Latency of one record after the other.
    OneInFlight {
        /// Size of a record's value, in bytes.
        #[arg(long, default_value_t = 1024)]
        size: usize,
        /// How long it is measured.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Time from `kill -9` of a partition's leader to the next acknowledged record on it.
    Failover {
        /// How often.
        #[arg(long, default_value_t = 5)]
        kills: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.scenario {
        Scenario::RooflineNode(args) => roofline::run_node(args),
        Scenario::Roofline {
            batch_bytes,
            in_flight,
            seconds,
            no_flush,
        } => {
            let rows = in_flight.iter().map(|in_flight| {
                roofline::measure(&roofline::Load {
                    batch_bytes: *batch_bytes,
                    in_flight: *in_flight,
                    flush: !no_flush,
                    duration: Duration::from_secs(*seconds),
                })
            });
            let rows = rows.collect::<anyhow::Result<Vec<_>>>();
            rows.and_then(|rows| report::print(&rows, cli.json))
        }
        Scenario::OfCluster(scenario) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(run(&cli, scenario))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli, scenario: &OfCluster) -> anyhow::Result<()> {
    let own = match cli.bootstrap.is_empty() {
        true => Some(Cluster::start().await?),
        false => None,
    };
    let bootstrap = match &own {
        Some(cluster) => cluster.bootstrap(),
        None => cli.bootstrap.clone(),
    };
    let client = Client::connect(ClientConfig::new(bootstrap)).await?;
    let rows = match scenario {
        OfCluster::Produce {
            sizes,
            partitions,
            seconds,
            batch_bytes,
            no_roofline,
        } => {
            let mut rows = Vec::new();
            for size in sizes {
                for count in partitions {
                    let run = produce::Run {
                        size: *size,
                        partitions: *count,
                        duration: Duration::from_secs(*seconds),
                        batch_bytes: *batch_bytes,
                        with_roofline: !no_roofline,
                    };
                    rows.push(produce::throughput(&client, &run).await?);
                }
            }
            rows
        }
        OfCluster::OneInFlight { size, seconds } => {
            vec![produce::one_in_flight(&client, *size, Duration::from_secs(*seconds)).await?]
        }
        OfCluster::Failover { kills } => {
            let cluster = own.as_ref().context(
                "failover kills brokers, so it starts its own cluster; leave --bootstrap out",
            )?;
            failover::measure(&client, cluster, *kills).await?
        }
    };
    report::print(&rows, cli.json)
}
