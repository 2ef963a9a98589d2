//! What the machine allows at this moment: the bare pipeline, next to what it is made of.

use std::time::Duration;

use clap::Args;

use super::Bench;
use crate::args::{self, FlushArg};
use crate::report::{Case, Report, Run, Unit, unit};
use crate::roofline::{Load, disk, loopback, pipeline};

/// Flags of `roofline`.
#[derive(Clone, Debug, Args)]
pub struct RooflineArgs {
    /// Bytes of a batch.
    #[arg(long, default_value = "512KiB", value_parser = args::size)]
    batch_bytes: u64,
    /// Batches that may be unacknowledged.
    #[arg(long, value_delimiter = ',', default_value = "5,15")]
    in_flight: Vec<usize>,
    /// Whether the pipeline flushes before it acknowledges (`ack`) or not at all (`interval`).
    #[arg(long, value_delimiter = ',', default_value = "ack,interval")]
    flush: Vec<FlushArg>,
    /// How long each is measured.
    #[arg(long, default_value = "3", value_parser = args::seconds)]
    seconds: Duration,
}

/// Measures.
pub async fn run(bench: &Bench, args: &RooflineArgs) -> anyhow::Result<Report> {
    let mut cases = Vec::new();
    for flush in &args.flush {
        for in_flight in &args.in_flight {
            let name = format!("{in_flight} in flight, {flush}");
            let load = Load {
                dir: bench.dir(),
                batch_bytes: args.batch_bytes as usize,
                in_flight: *in_flight,
                flush: flush.waits(),
                duration: args.seconds,
            };
            let mut runs = Vec::new();
            for _ in bench.repeats("roofline", &name) {
                let load = load.clone();
                runs.push(tokio::task::spawn_blocking(move || measure(&load)).await??);
            }
            cases.push(Case { name, runs });
        }
    }
    Ok(Report {
        scenario: "roofline",
        about: "A bare pipeline of three processes with the same bytes, batches and flushes, and no broker; next to it loopback TCP and the disk alone.".into(),
        settings: vec![
            ("batches of", unit::bytes(args.batch_bytes)),
            ("seconds each", args.seconds.as_secs_f64().to_string()),
            ("repeats", bench.common.repeats.to_string()),
        ],
        cases,
        notes: Vec::new(),
    })
}

fn measure(load: &Load) -> anyhow::Result<Run> {
    let brief = load.duration.min(Duration::from_secs(2));
    let through = pipeline(load)?;
    let network = loopback(load.batch_bytes, brief)?;
    let mut run = Run::default();
    let group = "throughput";
    run.add(
        group,
        "pipeline",
        Unit::MegabytesPerSecond,
        through.mb_per_s,
    );
    run.add(group, "loopback TCP", Unit::MegabytesPerSecond, network);
    let disk = disk(&load.dir, brief)?;
    run.add(
        group,
        "disk, fdatasync per MiB",
        Unit::MegabytesPerSecond,
        disk,
    );
    // Without flushes the disk is no part of it.
    let slower = if load.flush {
        network.min(disk)
    } else {
        network
    };
    run.add(
        group,
        "pipeline / slower of its parts",
        Unit::Ratio,
        through.mb_per_s / slower,
    );
    run.add_latency("latency of a batch", through.latencies);
    Ok(run)
}
