//! `baton group`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use baton_client::{
    AssignedTopic, AutoCommit, Client, Error, ErrorCode, GroupDescription, GroupPhase, Offset,
    Partition, PartitionIndex, ResetPlan, ResetScope, ResetTo,
};
use baton_protocol::client::PartitionStatus;
use baton_protocol::groups::{GROUP_NAME_BYTES_MAX, is_group_name};
use baton_protocol::ids::TopicPartition;
use baton_protocol::metadata::{ClusterView, TopicRecord};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::moment::{self, Moment};
use crate::cli::output::{count, list, note, print_json, print_table, say};
use crate::cli::{Global, block_on, bootstrap, confirm, quantity};

/// How long the leaders may take to tell their offsets.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// How long it may take to sit down in a seat that is kept.
const LEAVE_LIMIT: Duration = Duration::from_secs(8);

/// Leaders asked at a time.
const ASKED_MAX: usize = 256;

/// Subcommands of `baton group`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups: how they are, how many members they have, and how many partitions they have
    /// committed an offset of.
    List,
    /// Show a group's members, what each consumes, and how far the group is behind in each partition.
    /// The lag is in offsets, which are a few more than records: each reign of a leader begins with an
    /// entry of its own.
    Describe {
        /// Its name.
        #[arg(value_parser = group_name)]
        group: String,
    },
    /// Set a group's committed offsets. Shows what would become of them; --execute does it. Refused
    /// while the group has members.
    Reset(ResetArgs),
    /// Forget a group and its offsets. Refused while it has members.
    Delete {
        /// Its name.
        #[arg(value_parser = group_name)]
        group: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Give up the seat that is kept for an instance whose consumer has ended: its partitions go to the
    /// others at once. Otherwise it is kept until its session time-out is over.
    Leave {
        /// The group.
        #[arg(value_parser = group_name)]
        group: String,
        /// The instance id, as `group describe` shows it.
        #[arg(long, value_parser = group_name)]
        instance: String,
    },
}

/// Flags of `baton group reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// The group. With --topic one that is not known is made.
    #[arg(value_parser = group_name)]
    group: String,
    #[command(flatten)]
    to: To,
    /// Only this topic, also partitions that nothing is committed of; or of it these partitions, as
    /// orders:0,3. May be repeated. Without it, all that the group has committed an offset of.
    #[arg(long = "topic", value_name = "TOPIC[:PARTITIONS]", value_parser = parse_scope)]
    topics: Vec<Wanted>,
    /// Do it.
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct To {
    /// To the first record there is.
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record that is committed now.
    #[arg(long)]
    to_latest: bool,
    /// To this offset, in every partition; to the nearest end of the log, where that is outside of it.
    #[arg(
        long,
        value_name = "OFFSET",
        value_parser = quantity::number,
        allow_hyphen_values = true
    )]
    to_offset: Option<u64>,
    /// To the first record with this timestamp or a later one: 2026-11-21T08:30:00Z (or with an offset
    /// such as +01:00), milliseconds since 1970, or as long ago as -10m (ms, s, m, h, d).
    #[arg(
        long,
        value_name = "TIME",
        value_parser = moment::parse,
        allow_hyphen_values = true
    )]
    to_time: Option<Moment>,
    /// So many offsets on, or back with a negative number.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

impl To {
    fn place(&self) -> ResetTo {
        match (self.to_offset, self.to_time, self.shift_by) {
            (Some(offset), _, _) => ResetTo::Offset(Offset(offset)),
            (None, Some(moment), _) => ResetTo::Time(u64::try_from(moment.ms()).unwrap_or(0)),
            (None, None, Some(by)) => ResetTo::Shift(by),
            (None, None, None) if self.to_earliest => ResetTo::Earliest,
            (None, None, None) => ResetTo::Latest,
        }
    }
}

/// A topic, or some of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    topic: String,
    partitions: Option<Vec<PartitionIndex>>,
}

/// Reads the name of a group or of an instance.
pub fn group_name(text: &str) -> Result<String, String> {
    match is_group_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{}` is no name of a group or an instance; one has 1 to {GROUP_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`",
            text.escape_debug()
        )),
    }
}

fn parse_scope(text: &str) -> Result<Wanted, String> {
    let Some((topic, partitions)) = text.split_once(':') else {
        let topic = text.to_owned();
        let partitions = None;
        return Ok(Wanted { topic, partitions });
    };
    let partitions: Result<Vec<PartitionIndex>, _> = partitions
        .split(',')
        .map(|one| one.trim().parse())
        .collect();
    let partitions = partitions.map_err(|_| {
        format!("`{text}` names no partitions; a topic's are numbers after a colon, as orders:0,3")
    })?;
    Ok(Wanted {
        topic: topic.to_owned(),
        partitions: Some(partitions),
    })
}

/// Runs a subcommand.
pub fn run(command: &GroupCommand, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        let client = bootstrap::connect(global).await?;
        match command {
            GroupCommand::List => list_groups(&client, global.json).await,
            GroupCommand::Describe { group } => describe(&client, group, global.json).await,
            GroupCommand::Reset(args) => reset(&client, args, global.json).await,
            GroupCommand::Delete { group, yes } => delete(&client, group, *yes, global.json).await,
            GroupCommand::Leave { group, instance } => {
                leave(&client, group, instance).await?;
                if global.json {
                    return print_json(&json!({"group": group, "left": instance}));
                }
                say!("instance {instance} has left group {group}")
            }
        }
    })
}

async fn delete(client: &Client, group: &str, yes: bool, as_json: bool) -> anyhow::Result<()> {
    let admin = client.admin();
    if !yes {
        // Nobody is asked about one that does not exist.
        admin.describe_group(group).await?;
        confirm(
            &format!("Delete group {group} and its committed offsets? Type its name"),
            group,
            "deleting a group forgets how far it is; say --yes where nobody can be asked",
            "not deleted",
        )?;
    }
    if let Err(error) = admin.delete_group(group).await {
        return Err(explained(client, group, error).await);
    }
    if as_json {
        return print_json(&json!({"deleted": group}));
    }
    say!("group {group} deleted")
}

/// Why a group that has members is not changed, where those are seats that nobody sits in.
async fn explained(client: &Client, group: &str, error: Error) -> anyhow::Error {
    if error.code() != Some(ErrorCode::GroupActive) {
        return error.into();
    }
    let Ok(described) = client.admin().describe_group(group).await else {
        return error.into();
    };
    let (away, here): (Vec<_>, Vec<_>) = described.members.iter().partition(|one| one.away);
    let away: Vec<&str> = away
        .iter()
        .filter_map(|one| one.instance.as_deref())
        .collect();
    let (Some(first), true) = (away.first(), here.is_empty()) else {
        return error.into();
    };
    anyhow!(
        "no consumer of group {group} runs, but the seats of {} are kept for their session time-outs (10 s by default), so this is refused; wait, or give them up: baton group leave {group} --instance {first}",
        list(&away)
    )
}

/// Takes the seat that is kept for an instance, as its next process would, and gives it up.
async fn leave(client: &Client, group: &str, instance: &str) -> anyhow::Result<()> {
    let described = client.admin().describe_group(group).await?;
    let mut members = described.members.into_iter();
    let Some(member) = members.find(|one| one.instance.as_deref() == Some(instance)) else {
        bail!("group {group} has no member with the instance id {instance}");
    };
    if !member.away {
        bail!(
            "instance {instance} of group {group} is at work (client {}); stop its consumer first",
            member.client
        );
    }
    let consumer = client.consumer(group).subscribe(member.topics);
    let consumer = consumer.instance(instance).auto_commit(AutoCommit::Off);
    match timeout(LEAVE_LIMIT, consumer.build()).await {
        Ok(consumer) => Ok(consumer?.leave().await?),
        Err(_) => bail!("instance {instance} has come back to group {group} meanwhile"),
    }
}

fn phase(phase: GroupPhase) -> &'static str {
    match phase {
        GroupPhase::Empty => "empty",
        GroupPhase::Stable => "stable",
        GroupPhase::Rebalancing => "rebalancing",
    }
}

async fn list_groups(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let groups = client.admin().groups().await?;
    if as_json {
        return print_json(&groups);
    }
    let rows = groups.iter().map(|group| {
        vec![
            group.group.clone(),
            phase(group.phase).to_owned(),
            group.members.to_string(),
            group.offsets.to_string(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    print_table(&["group", "phase", "members", "offsets"], &rows)
}

/// A partition that a group has to do with.
struct Row {
    topic: Arc<TopicRecord>,
    partition: PartitionIndex,
    committed: Option<Offset>,
    status: Result<PartitionStatus, String>,
    /// Who consumes it.
    member: Option<usize>,
}

impl Row {
    /// How far the group is behind; from the log's start, where it has committed nothing.
    fn lag(&self) -> Option<u64> {
        let status = self.status.as_ref().ok()?;
        let from = self.committed.unwrap_or(status.log_start);
        Some(status.high_watermark.since(from))
    }
}

async fn describe(client: &Client, group: &str, as_json: bool) -> anyhow::Result<()> {
    let described = client.admin().describe_group(group).await?;
    let rows = rows(client, &described).await;
    for row in &rows {
        if let Err(why) = &row.status {
            note!(
                "how far {}/{} goes is not known: {why}",
                row.topic.name,
                row.partition
            );
        }
    }
    if as_json {
        let partitions = rows.iter().map(|row| {
            let status = row.status.as_ref().ok();
            json!({
                "topic": row.topic.name, "partition": row.partition, "committed": row.committed,
                "log_start": status.map(|status| status.log_start),
                "high_watermark": status.map(|status| status.high_watermark),
                "lag": row.lag(), "error": row.status.as_ref().err(),
                "member": row.member.map(|at| described.members[at].member),
            })
        });
        let partitions: Vec<_> = partitions.collect();
        return print_json(&json!({
            "group": described.group, "phase": described.phase, "epoch": described.epoch,
            "members": described.members, "partitions": partitions,
        }));
    }
    let lag: u64 = rows.iter().filter_map(Row::lag).sum();
    let away = match described.members.iter().filter(|one| one.away).count() {
        0 => String::new(),
        away => format!(" ({away} away)"),
    };
    say!(
        "group {group} is {}: {}{away}, {}, {} behind",
        phase(described.phase),
        count(described.members.len(), "member", "members"),
        count(rows.len(), "partition", "partitions"),
        count(lag, "offset", "offsets")
    )?;
    if !described.members.is_empty() {
        print_members(&described)?;
    }
    let rows: Vec<Vec<String>> = rows.iter().map(|row| cells(row, &described)).collect();
    let headings = [
        "topic",
        "partition",
        "committed",
        "log start",
        "high watermark",
        "lag",
        "member",
    ];
    print_table(&headings, &rows)
}

fn print_members(described: &GroupDescription) -> anyhow::Result<()> {
    let rows = described.members.iter().map(|member| {
        let state = if member.away { "away" } else { "here" };
        vec![
            member.member.to_string(),
            member.instance.clone().unwrap_or_else(|| "-".to_owned()),
            member.client.clone(),
            state.to_owned(),
            member.epoch.to_string(),
            list(&member.topics),
            partitions(&member.assigned),
            partitions(&member.revoking),
            partitions(&member.awaited),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let headings = [
        "member",
        "instance",
        "client",
        "state",
        "epoch",
        "topics",
        "assigned",
        "giving up",
        "awaiting",
    ];
    print_table(&headings, &rows)
}

/// As `orders:0,1 returns:4`.
fn partitions(topics: &[AssignedTopic]) -> String {
    let topics = topics.iter();
    let texts = topics.map(|topic| format!("{}:{}", topic.name, list(&topic.partitions)));
    let texts: Vec<String> = texts.collect();
    match texts.is_empty() {
        true => "-".to_owned(),
        false => texts.join(" "),
    }
}

fn cells(row: &Row, described: &GroupDescription) -> Vec<String> {
    let status = row.status.as_ref().ok();
    let or = |value: Option<String>, otherwise: &str| value.unwrap_or_else(|| otherwise.to_owned());
    let member = row.member.map(|at| {
        let member = &described.members[at];
        let instance = member.instance.clone();
        instance.unwrap_or_else(|| member.member.to_string())
    });
    vec![
        row.topic.name.clone(),
        row.partition.to_string(),
        or(row.committed.map(|at| at.to_string()), "-"),
        or(status.map(|status| status.log_start.to_string()), "?"),
        or(status.map(|status| status.high_watermark.to_string()), "?"),
        or(row.lag().map(|lag| lag.to_string()), "?"),
        or(member, "-"),
    ]
}

/// The partitions that the group has committed of or that a member has, with what their leaders say.
async fn rows(client: &Client, described: &GroupDescription) -> Vec<Row> {
    let view = client.view();
    let mut wanted: BTreeMap<TopicPartition, (Option<Offset>, Option<usize>)> = BTreeMap::new();
    for one in &described.offsets {
        let at = TopicPartition {
            topic: one.topic,
            partition: one.partition,
        };
        wanted.entry(at).or_default().0 = Some(one.offset);
    }
    for (index, member) in described.members.iter().enumerate() {
        for topic in member.assigned.iter().chain(&member.revoking) {
            for partition in &topic.partitions {
                let at = TopicPartition {
                    topic: topic.topic,
                    partition: *partition,
                };
                wanted.entry(at).or_default().1 = Some(index);
            }
        }
    }
    let turns = Arc::new(Semaphore::new(ASKED_MAX));
    let topics = topics(&view);
    let mut asking = JoinSet::new();
    for (at, (committed, member)) in wanted {
        // A topic that was deleted a moment ago.
        let Some(topic) = topics.get(&at.topic).cloned() else {
            continue;
        };
        let (client, turns) = (client.clone(), turns.clone());
        asking.spawn(async move {
            let _turn = turns.acquire().await;
            let admin = client.admin();
            let partition = at.partition;
            let status = admin.partition_status_within(&topic, partition, false, STATUS_LIMIT);
            let status = status.await.map_err(|error| error.to_string());
            Row {
                topic,
                partition,
                committed,
                status,
                member,
            }
        });
    }
    let mut rows = asking.join_all().await;
    rows.sort_by(|a, b| (&a.topic.name, a.partition).cmp(&(&b.topic.name, b.partition)));
    rows
}

fn topics(view: &ClusterView) -> BTreeMap<baton_protocol::ids::TopicId, Arc<TopicRecord>> {
    let topics = view.topics.values();
    topics
        .map(|topic| (topic.id, Arc::new(topic.clone())))
        .collect()
}

async fn scope(client: &Client, wanted: &[Wanted]) -> anyhow::Result<ResetScope> {
    if wanted.is_empty() {
        return Ok(ResetScope::Committed);
    }
    let mut all = Vec::new();
    for one in wanted {
        let name: Arc<str> = one.topic.as_str().into();
        let partitions = match &one.partitions {
            Some(partitions) => partitions.clone(),
            None => {
                let topic = client.topic(&one.topic).await?;
                (0..topic.partitions.len() as u32)
                    .map(PartitionIndex)
                    .collect()
            }
        };
        all.extend(
            partitions
                .into_iter()
                .map(|p| Partition::new(name.clone(), p)),
        );
    }
    all.sort();
    all.dedup();
    Ok(ResetScope::Partitions(all))
}

async fn reset(client: &Client, args: &ResetArgs, as_json: bool) -> anyhow::Result<()> {
    let admin = client.admin();
    if args.topics.is_empty() {
        // Of a group that is not known nothing is committed, which is not what a misspelt name is to hear.
        admin.describe_group(&args.group).await?;
    }
    let scope = scope(client, &args.topics).await?;
    let plan = admin
        .plan_reset(&args.group, args.to.place(), scope)
        .await?;
    for partition in &plan.left_out {
        note!("{partition} stays as it is: nothing is committed that could be shifted");
    }
    for row in plan.rows.iter().filter(|row| row.clamped) {
        note!(
            "{}: what was asked for lies outside the log, which has {} up to {}",
            row.partition,
            row.log_start,
            row.high_watermark
        );
    }
    if args.execute
        && !plan.rows.is_empty()
        && let Err(error) = admin.execute_reset(&plan).await
    {
        return Err(explained(client, &args.group, error).await);
    }
    print_plan(&plan, args.execute, as_json)?;
    match (plan.rows.is_empty(), args.execute) {
        (true, _) => note!(
            "there is nothing to reset in group {}; --topic names partitions that nothing is committed of",
            args.group
        ),
        (false, false) => note!("nothing was changed; --execute does it"),
        (false, true) => {
            let partitions = count(plan.rows.len(), "partition", "partitions");
            note!("{partitions} of group {} reset", args.group);
        }
    }
    Ok(())
}

fn print_plan(plan: &ResetPlan, executed: bool, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows = plan.rows.iter().map(|row| {
            json!({
                "topic": row.partition.topic, "partition": row.partition.index, "from": row.from,
                "to": row.to, "clamped": row.clamped, "log_start": row.log_start,
                "high_watermark": row.high_watermark,
                "lag": row.high_watermark.since(row.to),
            })
        });
        let rows: Vec<_> = rows.collect();
        return print_json(&json!({
            "group": plan.group, "executed": executed, "partitions": rows,
        }));
    }
    let rows = plan.rows.iter().map(|row| {
        vec![
            row.partition.topic.to_string(),
            row.partition.index.to_string(),
            row.from.map_or("-".to_owned(), |at| at.to_string()),
            row.to.to_string(),
            row.high_watermark.since(row.to).to_string(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    print_table(&["topic", "partition", "from", "to", "lag"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_their_partitions_are_understood() {
        let wanted = |topic: &str, partitions: Option<&[u32]>| Wanted {
            topic: topic.to_owned(),
            partitions: partitions.map(|p| p.iter().copied().map(PartitionIndex).collect()),
        };
        assert_eq!(parse_scope("a.b"), Ok(wanted("a.b", None)));
        assert_eq!(parse_scope("a:0, 3"), Ok(wanted("a", Some(&[0, 3]))));
        for bad in ["a:", "a:x", "a:1,", "a:-1"] {
            assert!(parse_scope(bad).is_err(), "{bad}");
        }
    }
}
