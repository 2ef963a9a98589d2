//! `baton topic`.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;
use baton_client::{Client, ClientConfig, TopicSettings};
use baton_protocol::ids::PartitionIndex;
use baton_protocol::metadata::Flush;
use clap::Subcommand;
use serde_json::json;

use crate::cli::output::{list, print_json, print_table};
use crate::cli::{Global, block_on};

/// Subcommands of `baton topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Make a topic.
    Create {
        /// Its name: letters, digits, `.`, `_` and `-`, up to 249.
        name: String,
        /// Partitions, 1 to 10000 [default: 1].
        #[arg(long)]
        partitions: Option<u32>,
        /// Copies of each partition [default: 3, or as many as there are brokers].
        #[arg(long)]
        replicas: Option<u32>,
        /// Followers that must hold a record before it is acknowledged: 0 (asynchronous) to
        /// replicas - 1 (synchronous) [default: 1, where there is a second replica].
        #[arg(long)]
        sync_followers: Option<u32>,
        /// When records are made durable: before they are acknowledged, or now and then (a power
        /// cut of more than sync-followers machines at once then loses the last second).
        #[arg(long, value_enum, default_value = "ack")]
        flush: FlushArg,
        /// Whether a leader may be elected by itself although that may lose records, where too few
        /// replicas answer for 10 s [default: only with --sync-followers 0].
        #[arg(long)]
        unclean_election: Option<bool>,
    },
    /// Change a topic.
    Set {
        /// Its name.
        name: String,
        /// Followers that must hold a record before it is acknowledged: fewer than every
        /// partition's in-sync set has members.
        #[arg(long)]
        sync_followers: u32,
    },
    /// List the topics.
    List,
    /// Show a topic's partitions: leaders, in-sync sets, offsets.
    Describe {
        /// Its name.
        name: String,
    },
    /// Delete a topic and its data.
    Delete {
        /// Its name.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// When records are made durable.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum FlushArg {
    /// Before they are acknowledged.
    Ack,
    /// Now and then.
    Interval,
}

/// Runs a subcommand.
pub fn run(command: &TopicCommand, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        if let TopicCommand::Delete { name, yes } = command {
            confirm_deletion(name, *yes)?;
        }
        let client = Client::connect(ClientConfig::new(global.bootstrap.clone())).await?;
        match command {
            TopicCommand::Create {
                name,
                partitions,
                replicas,
                sync_followers,
                flush,
                unclean_election,
            } => {
                let settings = TopicSettings {
                    partitions: *partitions,
                    replicas: *replicas,
                    sync_followers: *sync_followers,
                    flush: Some(match flush {
                        FlushArg::Ack => Flush::Ack,
                        FlushArg::Interval => Flush::Interval,
                    }),
                    unclean_election: *unclean_election,
                };
                let topic = client.create_topic(name, settings).await?;
                if global.json {
                    return print_json(&topic);
                }
                println!(
                    "topic {name} made: {} partitions, {} replicas, {} synchronous followers",
                    topic.partitions.len(),
                    topic.config.replicas,
                    topic.config.sync_followers
                );
                Ok(())
            }
            TopicCommand::Set {
                name,
                sync_followers,
            } => {
                client.set_sync_followers(name, *sync_followers).await?;
                if global.json {
                    return print_json(&client.topic(name).await?);
                }
                println!("topic {name} has {sync_followers} synchronous followers");
                Ok(())
            }
            TopicCommand::List => list_topics(&client, global.json),
            TopicCommand::Describe { name } => describe(&client, name, global.json).await,
            TopicCommand::Delete { name, .. } => {
                client.delete_topic(name).await?;
                if global.json {
                    return print_json(&json!({"deleted": name}));
                }
                println!("topic {name} deleted");
                Ok(())
            }
        }
    })
}

fn confirm_deletion(name: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("deleting a topic destroys its data; say --yes where nobody can be asked");
    }
    eprint!("Delete topic {name} and all its data? Type its name: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != name {
        bail!("not deleted");
    }
    Ok(())
}

fn list_topics(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let view = client.view();
    if as_json {
        return print_json(&view.topics);
    }
    let rows: Vec<Vec<String>> = view
        .topics
        .values()
        .map(|topic| {
            vec![
                topic.name.clone(),
                topic.partitions.len().to_string(),
                topic.config.replicas.to_string(),
                topic.config.sync_followers.to_string(),
                match topic.config.flush {
                    Flush::Ack => "ack".to_owned(),
                    Flush::Interval => "interval".to_owned(),
                },
            ]
        })
        .collect();
    print_table(
        &["topic", "partitions", "replicas", "sync followers", "flush"],
        &rows,
    )?;
    Ok(())
}

async fn describe(client: &Client, name: &str, as_json: bool) -> anyhow::Result<()> {
    let topic = client.topic(name).await?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (index, partition) in topic.partitions.iter().enumerate() {
        let index = PartitionIndex(index as u32);
        // A partition without a leader is described too, without its offsets.
        let status = match partition.leader {
            Some(_) => client.partition_status(&topic, index, false).await.ok(),
            None => None,
        };
        values.push(json!({"partition": index, "metadata": partition, "status": status}));
        let leader = partition
            .leader
            .map_or("none".to_owned(), |leader| leader.broker.to_string());
        let offset = |offset: Option<baton_protocol::ids::Offset>| {
            offset.map_or("?".to_owned(), |offset| offset.to_string())
        };
        rows.push(vec![
            index.to_string(),
            leader,
            partition.epoch.to_string(),
            list(&partition.replicas),
            list(&partition.in_sync),
            offset(status.as_ref().map(|status| status.log_start)),
            offset(status.as_ref().map(|status| status.log_end)),
            offset(status.as_ref().map(|status| status.high_watermark)),
        ]);
    }
    if as_json {
        let value = json!({"name": topic.name, "id": topic.id, "config": topic.config, "partitions": values});
        return print_json(&value);
    }
    print_table(
        &[
            "partition",
            "leader",
            "epoch",
            "replicas",
            "in-sync",
            "log start",
            "log end",
            "high watermark",
        ],
        &rows,
    )?;
    Ok(())
}
