//! `baton topic`.

mod shown;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use baton_client::{Client, PolicyChanges, TopicPolicy, TopicSettings};
use baton_protocol::admin::is_internal_topic;
use baton_protocol::client::PartitionStatus;
use baton_protocol::ids::{Offset, PartitionIndex};
use baton_protocol::metadata::{Flush, TopicRecord};
use clap::Subcommand;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::output::{count, list, named, note, print_json, print_table, say};
use crate::cli::policy::{self, PolicyArgs, kept};
use crate::cli::{Global, UsageError, block_on, bootstrap, confirm, quantity};

/// How long the leaders may take to tell their offsets, and the controller what is wrong.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// Leaders asked at a time.
const ASKED_MAX: usize = 256;

/// Subcommands of `baton topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Make a topic.
    Create {
        /// Its name: letters, digits, `.`, `_` and `-`, up to 249.
        name: String,
        /// Partitions, 1 to 10000 [default: 1].
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        partitions: Option<u32>,
        /// Copies of each partition [default: 3, or as many as there are brokers].
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        replicas: Option<u32>,
        /// Followers that must hold a record before it is acknowledged: 0 (asynchronous) to
        /// replicas - 1 (synchronous) [default: 1, where there is a second replica].
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        sync_followers: Option<u32>,
        /// When records are made durable: before they are acknowledged, or now and then (a power
        /// cut of more than sync-followers machines at once then loses the last second).
        #[arg(long, value_enum, default_value = "ack")]
        flush: FlushArg,
        /// Whether a leader may be elected by itself although that may lose records, where too few
        /// replicas answer for 10 s [default: only with --sync-followers 0].
        #[arg(long)]
        unclean_election: Option<bool>,
        /// What becomes of old records.
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Change a topic.
    #[command(visible_alias = "alter")]
    Set {
        /// Its name.
        name: String,
        /// Followers that must hold a record before it is acknowledged. Each partition must have more
        /// in-sync replicas than that at the moment, its leader counted (`baton topic describe`).
        #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
        sync_followers: Option<u32>,
        /// What becomes of old records.
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// List the topics.
    List {
        /// Those of Baton's own, too: `__groups` keeps consumer groups.
        #[arg(long)]
        internal: bool,
    },
    /// Show a topic's partitions: leaders, in-sync sets, offsets, and the id under which a
    /// partition stands in log lines and in a broker's data directory (topics/ID). A leader that
    /// does not answer within 3 s leaves its offsets open; why is said on standard error.
    Describe {
        /// Its name.
        name: String,
        /// Show its settings instead, and of each whether the topic says so or it is the default.
        #[arg(long)]
        settings: bool,
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
        let client = bootstrap::connect(global).await?;
        match command {
            TopicCommand::Create {
                name,
                partitions,
                replicas,
                sync_followers,
                flush,
                unclean_election,
                policy,
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
                    policy: TopicPolicy::default().with(&policy.changes()),
                };
                let topic = client.admin().create_topic(name, settings).await?;
                if global.json {
                    return print_json(&shown::topic(&topic));
                }
                let config = &topic.config;
                say!(
                    "topic {name} made: {}, {}, {}, {}",
                    count(topic.partitions.len(), "partition", "partitions"),
                    count(config.replicas, "replica", "replicas"),
                    followers(config.sync_followers),
                    kept(&config.policy)
                )
            }
            TopicCommand::Set {
                name,
                sync_followers,
                policy,
            } => {
                let changes = policy.changes();
                if sync_followers.is_none() && changes == PolicyChanges::default() {
                    let text = "say what is to be changed; see `baton topic set --help`";
                    return Err(UsageError(text.to_owned()).into());
                }
                if let Some(sync_followers) = sync_followers {
                    client
                        .admin()
                        .set_sync_followers(name, *sync_followers)
                        .await?;
                }
                if changes != PolicyChanges::default() {
                    client.admin().set_policy(name, changes).await?;
                }
                let topic = client.topic(name).await?;
                if global.json {
                    return print_json(&shown::topic(&topic));
                }
                let config = &topic.config;
                say!(
                    "topic {name} has {}, {}",
                    followers(config.sync_followers),
                    kept(&config.policy)
                )
            }
            TopicCommand::List { internal } => list_topics(&client, *internal, global.json),
            TopicCommand::Describe {
                name,
                settings: true,
            } => {
                let topic = client.topic(name).await?;
                policy::show(&topic.config, global.json)
            }
            TopicCommand::Describe { name, .. } => describe(&client, name, global.json).await,
            TopicCommand::Delete { name, yes } => {
                if !yes {
                    // Nobody is asked about one that does not exist.
                    client.topic(name).await?;
                    confirm(
                        &format!("Delete topic {name} and all its data? Type its name"),
                        name,
                        "deleting a topic destroys its data; say --yes where nobody can be asked",
                        "not deleted",
                    )?;
                }
                client.admin().delete_topic(name).await?;
                if global.json {
                    return print_json(&json!({"deleted": name}));
                }
                say!("topic {name} deleted")
            }
        }
    })
}

fn followers(number: u32) -> String {
    count(number, "synchronous follower", "synchronous followers")
}

fn list_topics(client: &Client, internal: bool, as_json: bool) -> anyhow::Result<()> {
    let view = client.view();
    let topics = view.topics.iter();
    let shown = topics.filter(|(name, _)| internal || !is_internal_topic(name));
    let topics: BTreeMap<&String, &TopicRecord> = shown.collect();
    if as_json {
        let topics = topics.into_iter();
        let topics: BTreeMap<_, _> = topics.map(|(name, it)| (name, shown::topic(it))).collect();
        return print_json(&topics);
    }
    let rows: Vec<Vec<String>> = topics
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
                topic.id.to_string(),
            ]
        })
        .collect();
    print_table(
        &[
            "topic",
            "partitions",
            "replicas",
            "sync followers",
            "flush",
            "id",
        ],
        &rows,
    )
}

/// What the leader of each partition says, in their order. All are asked at the same time: one that
/// is frozen holds up none of the others.
async fn statuses(
    client: &Client,
    topic: &TopicRecord,
) -> anyhow::Result<Vec<Result<PartitionStatus, String>>> {
    let topic = std::sync::Arc::new(topic.clone());
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(ASKED_MAX));
    let mut asking = JoinSet::new();
    for index in 0..topic.partitions.len() {
        let (client, topic, turns) = (client.clone(), topic.clone(), turns.clone());
        asking.spawn(async move {
            let _turn = turns.acquire().await;
            let partition = PartitionIndex(index as u32);
            let leader = topic.partitions[index].leader;
            let status = match leader {
                Some(_) => client
                    .admin()
                    .partition_status_within(&topic, partition, false, STATUS_LIMIT)
                    .await
                    .map_err(|error| error.to_string()),
                None => Err("it has no leader; see `baton cluster status`".to_owned()),
            };
            (index, status)
        });
    }
    let mut told = Vec::new();
    while let Some(answer) = asking.join_next().await {
        told.push(answer.context("asking a leader failed")?);
    }
    told.sort_by_key(|(index, _)| *index);
    Ok(told.into_iter().map(|(_, status)| status).collect())
}

/// What is wrong with partitions of this topic, and why, as the controller says.
async fn troubles(client: &Client, name: &str) -> BTreeMap<usize, String> {
    let why = match timeout(STATUS_LIMIT, client.admin().cluster_status()).await {
        Ok(Ok(status)) => {
            let troubles = status.troubles.into_iter();
            return troubles
                .filter(|trouble| trouble.topic == name)
                .map(|trouble| (trouble.partition.0 as usize, trouble.reason))
                .collect();
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the controller does not answer".to_owned(),
    };
    note!("whether something is wrong with {name} is not known: {why}");
    BTreeMap::new()
}

/// Partitions of which the same is to be said, in few words, and what: a broker that does not answer may
/// be the trouble of thousands.
fn by_reason<'a>(all: impl Iterator<Item = (usize, &'a str)>) -> Vec<(String, &'a str)> {
    let mut partitions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (index, why) in all {
        partitions.entry(why).or_default().push(index.to_string());
    }
    let alike = partitions.into_iter();
    alike.map(|(why, indexes)| (named(&indexes), why)).collect()
}

async fn describe(client: &Client, name: &str, as_json: bool) -> anyhow::Result<()> {
    let topic = client.topic(name).await?;
    let (statuses, troubles) = tokio::join!(statuses(client, &topic), troubles(client, name));
    let statuses = statuses?;
    let told = troubles.iter().map(|(index, why)| (*index, why.as_str()));
    for (partitions, why) in by_reason(told) {
        note!("{name}/{partitions}: {why}");
    }
    let unknown = statuses.iter().enumerate();
    let unknown =
        unknown.filter_map(|(index, status)| Some((index, status.as_ref().err()?.as_str())));
    for (partitions, why) in by_reason(unknown) {
        note!("the offsets of {name}/{partitions} are not known: {why}");
    }
    let partitions = topic.partitions.iter().zip(&statuses).enumerate();
    if as_json {
        let values: Vec<_> = partitions
            .map(|(index, (partition, status))| {
                json!({
                    "partition": index, "metadata": shown::partition(partition),
                    "status": status.as_ref().ok(), "error": status.as_ref().err(),
                    "trouble": troubles.get(&index),
                })
            })
            .collect();
        let config = shown::config(&topic.config);
        let value =
            json!({"name": topic.name, "id": topic.id, "config": config, "partitions": values});
        return print_json(&value);
    }
    if topic.config.policy != TopicPolicy::default() {
        note!("{name}: {}", kept(&topic.config.policy));
    }
    let rows: Vec<Vec<String>> = partitions
        .map(|(index, (partition, status))| {
            let leader = partition
                .leader
                .map_or("none".to_owned(), |leader| leader.broker.to_string());
            let offset = |of: fn(&PartitionStatus) -> Offset| {
                let offset = status.as_ref().ok().map(of);
                offset.map_or("?".to_owned(), |offset| offset.to_string())
            };
            vec![
                index.to_string(),
                leader,
                partition.epoch.to_string(),
                list(&partition.replicas),
                list(&partition.in_sync),
                offset(|status| status.log_start),
                offset(|status| status.log_end),
                offset(|status| status.high_watermark),
                format!("{}/{index}", topic.id),
            ]
        })
        .collect();
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
            "id",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_with_many_partitions_is_said_once() {
        let many = (0..10).map(|index| (index, "broker 2 does not answer"));
        let told = by_reason(many.chain([(11, "its disk is full")]));
        let told: Vec<_> = told.iter().map(|(of, why)| (of.as_str(), *why)).collect();
        let expected = [
            ("0,1,2,3,4,5,6,7 and 2 more", "broker 2 does not answer"),
            ("11", "its disk is full"),
        ];
        assert_eq!(told, expected);
    }
}
