//! Records and answers as a line of a script.

use std::collections::BTreeMap;

use baton_groups::Refusal;
use baton_groups::Topics;
use baton_groups::record::{MemberState, Record};
use baton_protocol::groups::{
    AssignedTopic, CommittedOffset, GroupDescription, GroupResponse, HeartbeatAnswer,
};
use baton_protocol::ids::{MemberId, PartitionIndex, TopicId, TopicPartition};

/// Names of topics, also of those that are gone.
pub struct Names<'a> {
    pub topics: &'a Topics,
    pub gone: &'a BTreeMap<TopicId, String>,
}

impl Names<'_> {
    fn topic(&self, id: TopicId) -> String {
        match (self.topics.name(id), self.gone.get(&id)) {
            (Some(name), _) => name.to_owned(),
            (None, Some(name)) => format!("former-{name}"),
            (None, None) => id.to_string(),
        }
    }

    fn partition(&self, at: TopicPartition) -> String {
        format!("{}/{}", self.topic(at.topic), at.partition)
    }
}

/// Members of scripts are called m1, m2 and so on.
pub fn member(id: MemberId) -> String {
    format!("m{}", id.0.as_u128())
}

pub fn record(names: &Names<'_>, record: &Record) -> String {
    match record {
        Record::Group { group, value: None } => format!("group {group} is forgotten"),
        Record::Group {
            group,
            value: Some(value),
        } => {
            let idle = if value.idle_since_ms.is_some() {
                ", empty"
            } else {
                ""
            };
            format!("group {group}: epoch {}{idle}", value.epoch)
        }
        Record::Member {
            member: id, value, ..
        } => match value {
            None => format!("{} is out", member(*id)),
            Some(value) => member_state(names, *id, value),
        },
        Record::Offset { at, value, .. } => {
            let at = names.partition(*at);
            match value {
                None => format!("{at} has no offset"),
                Some(value) => format!("{at} is at {}:{}", value.leader_epoch, value.offset),
            }
        }
    }
}

fn member_state(names: &Names<'_>, id: MemberId, state: &MemberState) -> String {
    let held = state.held.iter().map(|(at, holding)| {
        let revoked = holding.revoked.map(|epoch| format!("-{epoch}"));
        let revoked = revoked.unwrap_or_default();
        format!("{}@{}{revoked}", names.partition(*at), holding.since)
    });
    let held: Vec<String> = held.collect();
    let awaited: Vec<String> = state
        .awaited
        .iter()
        .map(|at| names.partition(*at))
        .collect();
    let mut line = format!("{} e{} [{}]", member(id), state.epoch, held.join(" "));
    if !awaited.is_empty() {
        line += &format!(" awaits {}", awaited.join(" "));
    }
    if let Some(instance) = &state.instance {
        line += &format!(" as {instance}");
    }
    if state.away {
        line += ", away";
    }
    line
}

pub fn answer(names: &Names<'_>, answer: &Result<GroupResponse, Refusal>) -> Vec<String> {
    let response = match answer {
        Ok(response) => response,
        Err(refusal) => return vec![format!("{:?}: {refusal}", refusal.code())],
    };
    match response {
        GroupResponse::Heartbeat(answer) => vec![heartbeat(answer)],
        GroupResponse::Committed { refused } if refused.is_empty() => vec!["committed".to_owned()],
        GroupResponse::Committed { refused } => {
            let one = |one: &baton_protocol::groups::CommitRefused| {
                let at = TopicPartition {
                    topic: one.topic,
                    partition: one.partition,
                };
                let (code, text) = (one.error.code, &one.error.message);
                format!("{} {code:?}: {text}", names.partition(at))
            };
            refused.iter().map(one).collect()
        }
        GroupResponse::Offsets(offsets) => vec![offset_list(names, offsets)],
        GroupResponse::Groups(groups) => {
            let one = |group: &baton_protocol::groups::GroupSummary| {
                let (members, offsets) = (group.members, group.offsets);
                format!(
                    "{}: {:?}, {members} members, {offsets} offsets",
                    group.group, group.phase
                )
            };
            groups.iter().map(one).collect()
        }
        GroupResponse::Group(group) => describe(names, group),
        GroupResponse::Done => vec!["done".to_owned()],
    }
}

fn heartbeat(answer: &HeartbeatAnswer) -> String {
    let mut line = format!("e{}", answer.epoch);
    match &answer.assignment {
        Some(assignment) => line += &format!(" [{}]", assigned(assignment)),
        None => line += " as it is",
    }
    line += &format!(", next in {}", answer.heartbeat_interval_ms);
    if let Some(within) = answer.revoke_within_ms {
        line += &format!(", to be shown within {within}");
    }
    line
}

fn assigned(topics: &[AssignedTopic]) -> String {
    let one = |topic: &AssignedTopic| {
        let indexes = topic.partitions.iter().map(PartitionIndex::to_string);
        let indexes: Vec<String> = indexes.collect();
        format!("{}/{}", topic.name, indexes.join(","))
    };
    topics.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn offset_list(names: &Names<'_>, offsets: &[CommittedOffset]) -> String {
    let one = |one: &CommittedOffset| {
        let at = TopicPartition {
            topic: one.topic,
            partition: one.partition,
        };
        format!("{}={}", names.partition(at), one.offset)
    };
    let all: Vec<String> = offsets.iter().map(one).collect();
    format!("offsets [{}]", all.join(" "))
}

fn describe(names: &Names<'_>, group: &GroupDescription) -> Vec<String> {
    let mut lines = vec![format!("{:?}, epoch {}", group.phase, group.epoch)];
    for one in &group.members {
        let mut line = format!(
            "{} e{} has [{}]",
            member(one.member),
            one.epoch,
            assigned(&one.assigned)
        );
        if !one.revoking.is_empty() {
            line += &format!(", gives up [{}]", assigned(&one.revoking));
        }
        if !one.awaited.is_empty() {
            line += &format!(", awaits [{}]", assigned(&one.awaited));
        }
        if one.away {
            line += ", away";
        }
        lines.push(line);
    }
    lines.push(offset_list(names, &group.offsets));
    lines
}
