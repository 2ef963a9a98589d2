//! `baton-bench`: how fast a cluster is, and what it costs. Starts a cluster of its own, or takes one
//! that runs; prints a table, or JSON, and writes a page with charts. This file is the command line.

mod args;
mod cluster;
mod load;
mod machine;
mod peers;
mod program;
mod report;
mod roofline;
mod scenarios;
mod usage;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Common;
use crate::report::{Report, html, json, table};
use crate::scenarios::{
    Bench, catch_up, client, cold_reader, consume, end_to_end, failover, frozen_follower,
    one_in_flight, partitions, produce, start_up,
};

#[derive(Debug, Parser)]
#[command(
    name = "baton-bench",
    version,
    about = "How fast a Baton cluster is, and what it costs",
    after_help = "Run by cargo, as in `cargo run --release -p baton-bench -- produce`, it builds the broker first; \
                  else it takes the `baton` beside itself. What BATON__... variables say about its \
                  configuration is passed on to the brokers that it starts."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// As much as goes, and what an acknowledgement takes at a share of that.
    Produce(produce::ProduceArgs),
    /// Reading a topic from its start, from the page cache and from the disk.
    Consume(consume::ConsumeArgs),
    /// How old records are when a consumer gets them, at a fixed rate.
    EndToEnd(end_to_end::EndToEndArgs),
    /// What an acknowledgement takes of one record after the other.
    OneInFlight(one_in_flight::OneInFlightArgs),
    /// What producers notice of a follower that stands still.
    FrozenFollower(frozen_follower::FrozenFollowerArgs),
    /// What producers notice of a consumer that reads from the disk.
    ColdReader(cold_reader::ColdReaderArgs),
    /// How long nothing is acknowledged when a leader is killed or frozen.
    Failover(failover::FailoverArgs),
    /// How fast a follower that was away closes its gap, and what producers notice.
    CatchUp(catch_up::CatchUpArgs),
    /// From the start of a process to its first answer, with logs of several sizes.
    StartUp(start_up::StartUpArgs),
    /// What many partitions cost, idle and by message.
    Partitions(partitions::PartitionsArgs),
    /// What the client library costs by itself: a record sent, and read in each way.
    Client(client::ClientArgs),
    /// The machine's limit at this moment: a bare pipeline of three processes with the same bytes,
    /// batches and flushes, and no broker; next to it loopback TCP and the disk alone.
    Roofline(scenarios::roofline::RooflineArgs),
    /// All of them, each with its defaults. Takes most of an hour.
    All,
    #[command(hide = true)]
    RooflineNode(roofline::NodeArgs),
    #[command(hide = true)]
    PeerNode(peers::NodeArgs),
}

/// How long what is under way may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What `all` runs, in this order.
const ALL: [&str; 12] = [
    "roofline",
    "produce",
    "one-in-flight",
    "consume",
    "end-to-end",
    "frozen-follower",
    "cold-reader",
    "failover",
    "catch-up",
    "start-up",
    "partitions",
    "client",
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.scenario {
        Scenario::RooflineNode(args) => roofline::run_node(args),
        Scenario::PeerNode(args) => peers::run_node(args),
        _ => until_interrupted(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, until it is done or somebody has had enough: then brokers and files are cleared away, as
/// at any end.
fn until_interrupted(cli: &Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // The brokers end with the thread that starts them: this one.
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            done = measure(cli) => done,
            _ = terminate.recv() => bail!("interrupted"),
            _ = interrupt.recv() => bail!("interrupted"),
        }
    });
    runtime.shutdown_timeout(END_TIMEOUT);
    done
}

async fn measure(cli: &Cli) -> anyhow::Result<()> {
    check_peers(cli)?;
    let starts_brokers = !matches!(cli.scenario, Scenario::Roofline(_));
    let bench = Bench::new(cli.common.clone(), starts_brokers)?;
    for doubt in machine::doubts(&bench.dir()) {
        eprintln!("baton-bench: {doubt}");
    }
    let mut output = Output {
        common: &cli.common,
        machine: machine::describe(&bench.dir()),
        reports: Vec::new(),
    };
    if !matches!(cli.scenario, Scenario::All) {
        output.add(run(&bench, &cli.scenario).await?)?;
        return output.end();
    }
    let mut failed = Vec::new();
    for name in ALL {
        let scenario = Cli::try_parse_from(["baton-bench", name])?.scenario;
        match run(&bench, &scenario).await {
            Ok(report) => output.add(report)?,
            Err(error) => {
                eprintln!("baton-bench: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    output.end()?;
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// Refuses peers where none are measured, or where they are not installed, before anything is started.
fn check_peers(cli: &Cli) -> anyhow::Result<()> {
    let has_peers = matches!(
        cli.scenario,
        Scenario::Produce(_) | Scenario::OneInFlight(_) | Scenario::All
    );
    if !has_peers && !cli.common.peer.is_empty() {
        bail!(
            "only produce and one-in-flight (and all, which has both) measure peers; leave --peer out"
        );
    }
    peers::check_installed(&cli.common.peer)
}

async fn run(bench: &Bench, scenario: &Scenario) -> anyhow::Result<Report> {
    match scenario {
        Scenario::Produce(args) => produce::run(bench, args).await,
        Scenario::Consume(args) => consume::run(bench, args).await,
        Scenario::EndToEnd(args) => end_to_end::run(bench, args).await,
        Scenario::OneInFlight(args) => one_in_flight::run(bench, args).await,
        Scenario::FrozenFollower(args) => frozen_follower::run(bench, args).await,
        Scenario::ColdReader(args) => cold_reader::run(bench, args).await,
        Scenario::Failover(args) => failover::run(bench, args).await,
        Scenario::CatchUp(args) => catch_up::run(bench, args).await,
        Scenario::StartUp(args) => start_up::run(bench, args).await,
        Scenario::Partitions(args) => partitions::run(bench, args).await,
        Scenario::Client(args) => client::run(bench, args).await,
        Scenario::Roofline(args) => scenarios::roofline::run(bench, args).await,
        Scenario::All | Scenario::RooflineNode(_) | Scenario::PeerNode(_) => {
            bail!("it is no scenario by itself")
        }
    }
}

/// Where reports go.
struct Output<'a> {
    common: &'a Common,
    machine: Vec<(&'static str, String)>,
    reports: Vec<Report>,
}

impl Output<'_> {
    /// Prints a table at once. JSON is one value, and waits for the end.
    fn add(&mut self, report: Report) -> anyhow::Result<()> {
        if !self.common.json {
            let text = table::render(&report, table::terminal_width());
            print(&format!("\n{text}"))?;
        }
        self.reports.push(report);
        self.write_page()
    }

    /// Written anew with each report, so that an interrupted run leaves what it had.
    fn write_page(&self) -> anyhow::Result<()> {
        let Some(path) = &self.common.html else {
            return Ok(());
        };
        let page = html::render(&self.machine, &self.reports);
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
    }

    fn end(self) -> anyhow::Result<()> {
        if self.common.json {
            let json = json::render(&self.machine, &self.reports);
            return print(&format!("{json:#}\n"));
        }
        Ok(())
    }
}

/// To standard output; whoever reads it may have had enough.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_default_is_taken() {
        Cli::command().debug_assert();
        for name in ALL {
            let parsed = Cli::try_parse_from(["baton-bench", name]);
            assert!(parsed.is_ok(), "{name}: {:?}", parsed.err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong: [&[&str]; 7] = [
            &["produce", "--seconds", "0"],
            &["produce", "--sizes", "1kb"],
            &["produce", "--load", "2"],
            &["produce", "--repeats", "0"],
            &["end-to-end", "--rates", "-5"],
            &["partitions", "--partitions", "10001"],
            &["produce", "--peer", "postgres"],
        ];
        for args in wrong {
            let args = ["baton-bench"].iter().chain(args);
            assert!(Cli::try_parse_from(args.clone()).is_err(), "{args:?}");
        }
    }

    #[test]
    fn flags_for_all_stand_on_either_side_of_the_scenario() {
        for args in [
            ["baton-bench", "--repeats", "1", "produce"],
            ["baton-bench", "produce", "--repeats", "1"],
        ] {
            let cli = Cli::try_parse_from(args).expect("parsed");
            assert_eq!(cli.common.repeats, 1);
        }
    }
}
