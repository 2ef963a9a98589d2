//! `baton cluster`.

use std::time::Duration;

use baton_protocol::ids::{BrokerId, ClusterId};
use baton_raft::{CallError, Identity};
use clap::Subcommand;
use serde_json::json;

use crate::cli::output::{count, print_json, say};
use crate::cli::{Global, block_on, bootstrap, inspect, quantity, status};

/// How long a voter may take to answer.
const VOTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Subcommands of `baton cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Form a cluster, once: its voters run, and belong to none yet.
    #[command(
        after_help = "Example, with three brokers that run with these as their broker.raft_listen:\n  \
                      baton cluster init --voters 10.0.0.1:7601,10.0.0.2:7601,10.0.0.3:7601"
    )]
    Init {
        /// The Raft addresses (broker.raft_listen, port 7601 by default) of all voters, separated
        /// by commas.
        #[arg(
            long,
            required = true,
            value_delimiter = ',',
            value_parser = bootstrap::parse
        )]
        voters: Vec<String>,
    },
    /// Show brokers, controller, and partitions that something is wrong with. Ends with 0 although
    /// something is (with --json, `troubles` says what), but with 1 where no controller answers, or one
    /// that has lost the other voters: then it shows which brokers do. One that is `silent` is up, as far
    /// as the controller knows, and does not answer this command.
    Status,
    /// Show what has happened: brokers, leaders, in-sync sets, topics. What a broker has seen since it
    /// was started, the last 10,000 events at most.
    Events {
        /// Whom to ask, by its number; otherwise the one that has been up longest.
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        broker: Option<u32>,
        /// Go on with what happens from now on, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the configuration that a broker runs with, and where each value comes from.
    Config {
        /// The broker's number.
        #[arg(value_parser = quantity::index)]
        broker: u32,
    },
    /// Show what brokers keep of entries that were discarded and of files that were damaged. Brokers that
    /// are down are not asked; standard error names them.
    Quarantine {
        /// Of this one only, by its number; otherwise of all that are up.
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        broker: Option<u32>,
    },
}

/// A cluster could not be formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// A voter belongs to one already.
    #[error("the voter at {address} belongs to a cluster already; a cluster is formed once")]
    Formed {
        /// Which.
        address: String,
    },
    /// A voter cannot be reached.
    #[error("all voters must run to form a cluster: {0}")]
    Away(CallError),
    /// What answers is no voter.
    #[error(
        "{0}; that is not where a broker talks Raft: --voters are their broker.raft_listen, port 7601 by default"
    )]
    NoVoter(CallError),
    /// A voter refuses.
    #[error("the cluster is not formed: {0}")]
    Refused(CallError),
}

impl From<CallError> for FormError {
    fn from(error: CallError) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match &error {
            CallError::Refused { .. } => FormError::Refused(error),
            CallError::Io { source, .. }
                if matches!(source.kind(), InvalidData | UnexpectedEof) =>
            {
                FormError::NoVoter(error)
            }
            CallError::Io { .. } | CallError::Timeout { .. } => FormError::Away(error),
        }
    }
}

/// Forms a cluster of the voters at these Raft addresses.
pub async fn form_cluster(voters: &[String], limit: Duration) -> Result<ClusterId, FormError> {
    let mut members: Vec<Identity> = Vec::new();
    for address in voters {
        let mut identity = baton_raft::identify(address, limit).await?;
        if identity.formed {
            let address = address.clone();
            return Err(FormError::Formed { address });
        }
        // The others reach it where it was reached now.
        identity.address = address.clone();
        members.push(identity);
    }
    let cluster_id = ClusterId(uuid::Uuid::new_v4());
    baton_raft::form(cluster_id, members, VOTER_TIMEOUT).await?;
    Ok(cluster_id)
}

/// Runs a subcommand.
pub fn run(command: &ClusterCommand, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        match command {
            ClusterCommand::Init { voters } => {
                let cluster_id = form_cluster(voters, VOTER_TIMEOUT).await?;
                if global.json {
                    return print_json(&json!({"cluster_id": cluster_id}));
                }
                let voters = count(voters.len(), "voter", "voters");
                say!("cluster {cluster_id} formed with {voters}")
            }
            ClusterCommand::Status => status::status(global).await,
            ClusterCommand::Events { broker, follow } => {
                inspect::events(global, broker.map(BrokerId), *follow).await
            }
            ClusterCommand::Config { broker } => {
                inspect::configuration(global, BrokerId(*broker)).await
            }
            ClusterCommand::Quarantine { broker } => {
                inspect::quarantine(global, broker.map(BrokerId)).await
            }
        }
    })
}
