//! `baton cluster`.

use std::time::Duration;

use anyhow::bail;
use baton_protocol::admin::PartitionTrouble;
use baton_protocol::ids::{BrokerId, ClusterId};
use baton_raft::{CallError, Identity};
use clap::Subcommand;
use serde_json::json;

use crate::cli::output::{count, print_json, print_table, say};
use crate::cli::{Global, block_on, bootstrap, inspect};

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
        #[arg(long, required = true, value_delimiter = ',')]
        voters: Vec<String>,
    },
    /// Show brokers, controller, and partitions that something is wrong with. Ends with 0 although
    /// something is: with --json, `troubles` says what.
    Status,
    /// Show what has happened: brokers, leaders, in-sync sets, topics. What a broker has seen since it
    /// was started, the last 10,000 events at most.
    Events {
        /// Whom to ask, by its number; otherwise one that is up.
        #[arg(long)]
        broker: Option<u32>,
        /// Go on with what happens from now on, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the configuration that a broker runs with, and where each value comes from.
    Config {
        /// The broker's number.
        broker: u32,
    },
    /// Show what brokers keep of entries that were discarded and of files that were damaged.
    Quarantine {
        /// Of this one only, by its number; otherwise of all that are up.
        #[arg(long)]
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
    /// A voter does not answer, or refuses.
    #[error("all voters must run to form a cluster: {0}")]
    Voter(#[from] CallError),
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
            ClusterCommand::Status => status(global).await,
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

async fn status(global: &Global) -> anyhow::Result<()> {
    let client = bootstrap::connect(global).await?;
    let mut status = client.admin().cluster_status().await?;
    // The controller orders them by the topics' ids, which nobody knows by heart.
    let order = |trouble: &PartitionTrouble| (trouble.topic.clone(), trouble.partition);
    status.troubles.sort_by_key(order);
    let view = client.view();
    let leads = |id| {
        let partitions = view.topics.values().flat_map(|topic| &topic.partitions);
        partitions
            .filter(|partition| partition.leader.is_some_and(|l| l.broker == id))
            .count()
    };
    if global.json {
        return print_json(&json!({
            "cluster_id": view.cluster_id, "controller": status.controller, "term": status.term,
            "metadata_index": status.index, "partitions": status.partitions,
            "brokers": view.brokers.values().map(|broker| json!({
                "id": broker.id, "epoch": broker.epoch, "alive": !broker.fenced,
                "client_address": broker.client_address, "peer_address": broker.peer_address,
                "leads": leads(broker.id),
            })).collect::<Vec<_>>(),
            "troubles": status.troubles,
        }));
    }
    say!("cluster     {}", view.cluster_id)?;
    say!(
        "controller  broker {} (term {}, metadata at {})\n",
        status.controller,
        status.term,
        status.index
    )?;
    let rows: Vec<Vec<String>> = view
        .brokers
        .values()
        .map(|broker| {
            vec![
                broker.id.to_string(),
                if broker.fenced { "down" } else { "up" }.to_owned(),
                leads(broker.id).to_string(),
                broker.client_address.clone(),
                broker.peer_address.clone(),
                broker.epoch.to_string(),
            ]
        })
        .collect();
    print_table(
        &["broker", "state", "leads", "clients", "brokers", "life"],
        &rows,
    )?;
    say!("")?;
    if status.troubles.is_empty() {
        return match status.partitions {
            0 => say!("there are no topics yet (make one: baton topic create NAME)"),
            1 => say!("the one partition is led and fully replicated"),
            number => say!("all {number} partitions are led and fully replicated"),
        };
    }
    let rows: Vec<Vec<String>> = status
        .troubles
        .iter()
        .map(|trouble| {
            vec![
                trouble.topic.clone(),
                trouble.partition.to_string(),
                if trouble.leaderless {
                    "no leader"
                } else {
                    "degraded"
                }
                .to_owned(),
                trouble.reason.clone(),
            ]
        })
        .collect();
    print_table(&["topic", "partition", "trouble", "reason"], &rows)?;
    if status.partitions == 0 {
        bail!("the controller reports troubles of partitions it does not know");
    }
    Ok(())
}
