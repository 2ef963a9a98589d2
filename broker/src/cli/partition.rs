//! `baton partition`.

use anyhow::bail;
use baton_client::Client;
use baton_protocol::admin::ElectionStatus;
use baton_protocol::ids::{BrokerId, PartitionIndex};
use clap::Subcommand;
use serde_json::json;

use crate::cli::output::{count, print_json, print_table, say};
use crate::cli::{Global, block_on, bootstrap, confirm, quantity};

/// Subcommands of `baton partition`.
#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    /// Move a partition's lead to another member of its in-sync set; nothing is lost or refused.
    HandOver {
        /// The topic.
        topic: String,
        /// The partition.
        #[arg(value_parser = quantity::index)]
        partition: u32,
        /// The broker that shall lead.
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        to: u32,
    },
    /// Show how a partition's election stands: who has answered, with what, who would win.
    Election {
        /// The topic.
        topic: String,
        /// The partition.
        #[arg(value_parser = quantity::index)]
        partition: u32,
    },
    /// End an election that waits for members that do not come back. What only they hold is lost.
    Elect {
        /// The topic.
        topic: String,
        /// The partition.
        #[arg(value_parser = quantity::index)]
        partition: u32,
        /// That acknowledged records may be lost by it is understood.
        #[arg(long, required = true)]
        unclean: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs a subcommand.
pub fn run(command: &PartitionCommand, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        let client = bootstrap::connect(global).await?;
        match command {
            PartitionCommand::HandOver {
                topic,
                partition,
                to,
            } => {
                let index = PartitionIndex(*partition);
                client
                    .admin()
                    .hand_over(topic, index, BrokerId(*to))
                    .await?;
                if global.json {
                    return print_json(&json!({"topic": topic, "partition": index, "leader": to}));
                }
                say!("broker {to} leads {topic}/{partition}")
            }
            PartitionCommand::Election { topic, partition } => {
                let index = PartitionIndex(*partition);
                let status = client.admin().describe_election(topic, index).await?;
                show(&status, global.json)
            }
            PartitionCommand::Elect {
                topic,
                partition,
                yes,
                ..
            } => elect(&client, topic, PartitionIndex(*partition), *yes, global).await,
        }
    })
}

fn show(status: &ElectionStatus, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print_json(status);
    }
    let rows: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|member| {
            let (epoch, end) = member.log.unzip();
            let text = |value: Option<String>| value.unwrap_or_else(|| "no answer".to_owned());
            vec![
                member.broker.to_string(),
                text(epoch.map(|epoch| epoch.to_string())),
                text(end.map(|end| end.to_string())),
                if member.suspect { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    print_table(
        &["member", "last epoch", "log end", "may lack records"],
        &rows,
    )?;
    let winner = status
        .candidate
        .map_or("nobody".to_owned(), |id| format!("broker {id}"));
    say!(
        "epoch {}: {} of members that lack nothing must be there; if it had to end now, {winner} would win",
        status.epoch,
        count(status.needed, "answer", "answers")
    )
}

async fn elect(
    client: &Client,
    topic: &str,
    partition: PartitionIndex,
    yes: bool,
    global: &Global,
) -> anyhow::Result<()> {
    let status = client.admin().describe_election(topic, partition).await?;
    if !global.json {
        show(&status, false)?;
    }
    let Some(candidate) = status.candidate else {
        bail!("no member answers that could lead; start one of them");
    };
    if !yes {
        confirm(
            "Records that only the missing members hold will be lost. Type the topic's name",
            topic,
            "an unclean election may lose records; say --yes where nobody can be asked",
            "not elected",
        )?;
    }
    client
        .admin()
        .elect_unclean(topic, partition, status.epoch)
        .await?;
    if global.json {
        return print_json(&json!({
            "topic": topic, "partition": partition, "epoch": status.epoch, "candidate": candidate,
        }));
    }
    say!(
        "the election of {topic}/{partition} ends with the best log there is; see `baton topic describe {topic}`"
    )
}
