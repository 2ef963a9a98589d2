//! The command line: arguments, dispatch, exit codes.
//!
//! Data goes to stdout, everything else to stderr. 0: done; 1: failed; 2: the command was not
//! understood. A reader that closes the pipe is no failure.

pub mod cluster;
pub mod config;
pub mod consume;
pub mod dev;
pub mod log;
pub mod output;
pub mod partition;
pub mod produce;
pub mod start;
pub mod topic;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A replicated message log that loses nothing it has acknowledged.
#[derive(Debug, Parser)]
#[command(name = "baton", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command that talks to a cluster takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Brokers to begin with, as host:port, separated by commas.
    #[arg(
        long,
        global = true,
        env = "BATON_BOOTSTRAP",
        default_value = "127.0.0.1:7401",
        value_delimiter = ','
    )]
    pub bootstrap: Vec<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster of several brokers on this machine, to try things out.
    Dev(dev::DevArgs),
    /// Run one broker.
    Broker {
        #[command(subcommand)]
        command: BrokerCommand,
    },
    /// Form a cluster, or look at it.
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterCommand,
    },
    /// Make, list, describe and delete topics.
    Topic {
        #[command(subcommand)]
        command: topic::TopicCommand,
    },
    /// Look after single partitions: hand their lead over, end their elections.
    Partition {
        #[command(subcommand)]
        command: partition::PartitionCommand,
    },
    /// Send lines from standard input to a topic, a record a line.
    Produce(produce::ProduceArgs),
    /// Print a topic's records, a line each.
    Consume(consume::ConsumeArgs),
    /// Check and show the configuration.
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Look at the log of one partition, offline.
    Log {
        #[command(subcommand)]
        command: log::LogCommand,
    },
}

#[derive(Debug, Subcommand)]
enum BrokerCommand {
    /// Run a broker in the foreground, until SIGINT or SIGTERM.
    Start(start::StartArgs),
}

/// Runs the command that was given.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to stdout.
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    let global = cli.global;
    let result = match cli.command {
        Command::Dev(args) => dev::run(&args),
        Command::Broker {
            command: BrokerCommand::Start(args),
        } => start::run(&args),
        Command::Cluster { command } => cluster::run(&command, &global),
        Command::Topic { command } => topic::run(&command, &global),
        Command::Partition { command } => partition::run(&command, &global),
        Command::Produce(args) => produce::run(&args, &global),
        Command::Consume(args) => consume::run(&args, &global),
        Command::Config { command } => config::run(&command),
        Command::Log { command } => log::run(&command, &global),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command's future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}
