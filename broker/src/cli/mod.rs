//! The command line: arguments, dispatch, exit codes.
//!
//! Data goes to stdout, everything else to stderr. 0: done; 1: failed; 2: the command was not
//! understood. A reader that closes the pipe is no failure.

pub mod bootstrap;
pub mod bytes;
pub mod cluster;
pub mod config;
pub mod consume;
pub mod dev;
pub mod format;
pub mod group;
mod inspect;
mod interruption;
pub mod log;
pub mod manual;
mod moment;
pub mod output;
pub mod partition;
mod policy;
pub mod produce;
mod quantity;
pub mod start;
mod status;
pub mod topic;
mod waiting;

use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

/// A replicated message log that loses nothing it has acknowledged.
#[derive(Debug, Parser)]
#[command(
    name = "baton",
    version,
    about,
    propagate_version = true,
    after_help = manual::EXIT_STATUS
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Brokers to begin with, as host:port, separated by commas [env: BATON_BOOTSTRAP] [default:
    /// 127.0.0.1:7401, and if it is down 7402 and 7403].
    // The variable is not read by clap: its usage lines would name the flag as if it were required.
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_delimiter = ',',
        value_parser = bootstrap::parse
    )]
    pub bootstrap: Vec<String>,
    /// Print JSON.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
}

/// The command line was not understood.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

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
    /// List, describe, reset and delete consumer groups.
    Group {
        #[command(subcommand)]
        command: group::GroupCommand,
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
    /// Print what a shell needs to complete command lines.
    Completions(manual::CompletionsArgs),
    /// Print a manual page.
    Man(manual::ManArgs),
}

#[derive(Debug, Subcommand)]
enum BrokerCommand {
    /// Run a broker in the foreground, until SIGINT or SIGTERM.
    Start(start::StartArgs),
}

/// The command line. The help of commands that talk to no cluster does not have `--bootstrap`, and that of
/// commands that answer nothing does not have `--json`.
fn command() -> clap::Command {
    let mut command = Cli::command();
    // Only then each subcommand has what is global.
    command.build();
    for name in ["dev", "broker", "config", "log", "completions", "man"] {
        command = command.mut_subcommand(name, |command| without("bootstrap", command));
    }
    for name in ["dev", "broker", "completions", "man"] {
        command = command.mut_subcommand(name, |command| without("json", command));
    }
    command
}

fn without(flag: &'static str, command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_id() == flag {
        true => arg.hide(true),
        false => arg,
    });
    command.mut_subcommands(|command| without(flag, command))
}

/// Runs the command that was given.
pub fn main() -> ExitCode {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to stdout.
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::from(code),
            };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("{}", output::with_causes(&error));
            match error.is::<UsageError>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match &command {
        Command::Dev(_) | Command::Broker { .. } | Command::Completions(_) | Command::Man(_)
            if global.json =>
        {
            return Err(
                UsageError("this command answers nothing, so it has no --json".into()).into(),
            );
        }
        _ => {}
    }
    match command {
        Command::Dev(args) => dev::run(&args),
        Command::Broker {
            command: BrokerCommand::Start(args),
        } => start::run(&args),
        Command::Cluster { command } => cluster::run(&command, &global),
        Command::Topic { command } => topic::run(&command, &global),
        Command::Partition { command } => partition::run(&command, &global),
        Command::Group { command } => group::run(&command, &global),
        Command::Produce(args) => produce::run(&args, &global),
        Command::Consume(args) => consume::run(&args, &global),
        Command::Config { command } => config::run(&command, &global),
        Command::Log { command } => log::run(&command, &global),
        Command::Completions(args) => manual::completions(&args, self::command()),
        Command::Man(args) => manual::man(&args, self::command()),
    }
}

/// Runs a command's future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A name that is still being looked up would keep the command from ending.
    runtime.shutdown_background();
    result
}

/// Asks a person for a word before something that cannot be undone. `refusal` is said where nobody
/// can be asked.
pub fn confirm(question: &str, word: &str, refusal: &str, otherwise: &str) -> anyhow::Result<()> {
    use std::io::{BufRead, IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{refusal}");
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question}: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != word {
        anyhow::bail!("{otherwise}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_offer_only_what_they_take() {
        for (words, cluster, json) in [
            (&["topic", "create"][..], true, true),
            (&["cluster", "status"], true, true),
            (&["group", "reset"], true, true),
            (&["dev"], false, false),
            (&["log", "verify"], false, true),
        ] {
            let mut command = command();
            let mut found = &mut command;
            for word in words {
                found = found.find_subcommand_mut(word).expect("a command");
            }
            let help = found.render_long_help().to_string();
            assert_eq!(help.contains("--bootstrap"), cluster, "{words:?}");
            assert_eq!(help.contains("--json"), json, "{words:?}");
        }
    }
}
