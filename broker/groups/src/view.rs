//! What is shown of groups.

use std::collections::BTreeMap;

use baton_protocol::groups::{
    AssignedTopic, CommittedOffset, GroupDescription, GroupPhase, GroupResponse, GroupSummary,
    MemberDescription,
};
use baton_protocol::ids::{MemberId, PartitionIndex, TopicId, TopicPartition};

use crate::coordinator::Coordinator;
use crate::record::MemberState;
use crate::refusal::Refusal;
use crate::state::Group;
use crate::topics::Topics;

impl Coordinator {
    pub(crate) fn list(&self) -> GroupResponse {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let groups = self.state.groups().iter();
        let summaries = groups.map(|(name, group)| GroupSummary {
            group: name.clone(),
            phase: phase(group),
            members: count(group.members.len()),
            offsets: count(group.offsets.len()),
        });
        GroupResponse::Groups(summaries.collect())
    }

    pub(crate) fn describe(&self, name: &str) -> Result<GroupResponse, Refusal> {
        let group = self.state.group(name);
        let group = group.ok_or_else(|| Refusal::UnknownGroup(name.to_owned()))?;
        let members = group.members.iter();
        Ok(GroupResponse::Group(GroupDescription {
            group: name.to_owned(),
            phase: phase(group),
            epoch: group.epoch(),
            members: members
                .map(|(id, member)| self.describe_member(*id, member))
                .collect(),
            offsets: offsets(group),
        }))
    }

    pub(crate) fn fetch_offsets(&self, name: &str) -> GroupResponse {
        let group = self.state.group(name);
        GroupResponse::Offsets(group.map(offsets).unwrap_or_default())
    }

    fn describe_member(&self, id: MemberId, member: &MemberState) -> MemberDescription {
        MemberDescription {
            member: id,
            instance: member.instance.clone(),
            client: member.subscription.client.clone(),
            topics: member.subscription.topics.clone(),
            epoch: member.epoch,
            away: member.away,
            assigned: by_topic(member.assigned(), &self.topics),
            revoking: by_topic(member.revoking(), &self.topics),
            awaited: by_topic(member.awaited.iter().copied(), &self.topics),
        }
    }
}

fn phase(group: &Group) -> GroupPhase {
    if group.members.is_empty() {
        GroupPhase::Empty
    } else if group.members.values().any(MemberState::in_flux) {
        GroupPhase::Rebalancing
    } else {
        GroupPhase::Stable
    }
}

fn offsets(group: &Group) -> Vec<CommittedOffset> {
    let offsets = group.offsets.iter();
    offsets
        .map(|(at, state)| CommittedOffset {
            topic: at.topic,
            partition: at.partition,
            offset: state.offset,
            leader_epoch: state.leader_epoch,
            metadata: state.metadata.clone(),
            committed_at_ms: state.committed_at_ms,
        })
        .collect()
}

/// Partitions by topic.
pub(crate) fn by_topic(
    partitions: impl Iterator<Item = TopicPartition>,
    topics: &Topics,
) -> Vec<AssignedTopic> {
    let mut of_topic: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
    for at in partitions {
        of_topic.entry(at.topic).or_default().push(at.partition);
    }
    of_topic
        .into_iter()
        .map(|(topic, partitions)| AssignedTopic {
            topic,
            name: topics.name(topic).unwrap_or_default().to_owned(),
            partitions,
        })
        .collect()
}
