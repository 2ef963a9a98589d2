//! The way from what members have to what they shall have, one step at a time: what a member loses
//! is taken back first, and given to its next owner once the member has applied that.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{GroupEpoch, MemberId, TopicId, TopicPartition};

use crate::assign::{self, Wish};
use crate::record::{Holding, MemberState};
use crate::rules::{Rule, Rules};
use crate::state::Group;
use crate::topics::Topics;

/// What changes in a group.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The epoch that it changes in.
    pub epoch: GroupEpoch,
    /// The members that change. Whoever gives something up at once comes before whoever may get it,
    /// so that any first part of these leaves no partition with two.
    pub members: Vec<(MemberId, MemberState)>,
}

/// What has to change, given the members and the topics that there are.
pub fn changes(group: &Group, topics: &Topics, rules: &Rules) -> Option<Changes> {
    let targets = assign::assign(&wishes(group, topics), &subscribed(group, topics));
    let epoch = group.epoch().next();
    let mut next = group.members.clone();
    for (id, member) in &mut next {
        take_back(member, &targets[id], topics, epoch);
    }
    let mut taken: BTreeSet<TopicPartition> = next
        .values()
        .flat_map(|member| member.held.iter())
        .filter(|(_, holding)| rules.hold(Rule::GivenUpFirst) || holding.revoked.is_none())
        .map(|(at, _)| *at)
        .collect();
    for member in next.values_mut() {
        grant(member, &mut taken, epoch);
    }
    let mut members: Vec<_> = next
        .into_iter()
        .filter_map(|(id, mut member)| {
            let before = &group.members[&id];
            let told = before.epoch != GroupEpoch::NONE && before.assigned().eq(member.assigned());
            if !told {
                member.epoch = epoch;
            }
            (member != *before).then_some((id, member))
        })
        .collect();
    members.sort_by_key(|(id, member)| (!member.away, *id));
    (!members.is_empty()).then_some(Changes { epoch, members })
}

/// The topics that somebody subscribes to, with their numbers of partitions.
fn subscribed(group: &Group, topics: &Topics) -> BTreeMap<TopicId, u32> {
    let names = group.members.values().flat_map(|m| &m.subscription.topics);
    names
        .filter_map(|name| topics.named(name))
        .map(|topic| (topic.id, topic.partitions))
        .collect()
}

/// What each member wants, and has or was promised. A promise may stand with two members after part
/// of an append was lost: whoever holds the partition has it, or else the first.
fn wishes(group: &Group, topics: &Topics) -> BTreeMap<MemberId, Wish> {
    let mut spoken_for: BTreeSet<TopicPartition> = BTreeSet::new();
    let mut wishes = BTreeMap::new();
    for (id, member) in &group.members {
        let names = member.subscription.topics.iter();
        let wish = Wish {
            topics: names
                .filter_map(|name| topics.named(name))
                .map(|topic| topic.id)
                .collect(),
            has: member.assigned().collect(),
        };
        spoken_for.extend(&wish.has);
        wishes.insert(*id, wish);
    }
    for (id, member) in &group.members {
        let wish = wishes.entry(*id).or_default();
        for at in &member.awaited {
            if spoken_for.insert(*at) {
                wish.has.insert(*at);
            }
        }
    }
    wishes
}

/// Takes back what is not in the target. Nobody consumes what a member has that is away, nor a
/// partition that does not exist any more: these are given up at once.
fn take_back(
    member: &mut MemberState,
    target: &BTreeSet<TopicPartition>,
    topics: &Topics,
    epoch: GroupEpoch,
) {
    let away = member.away;
    member.held.retain(|at, holding| {
        if topics.has(*at) && (target.contains(at) && holding.revoked.is_none()) {
            return true;
        }
        holding.revoked.get_or_insert(epoch);
        topics.has(*at) && !away
    });
    let assigned: BTreeSet<TopicPartition> = member.assigned().collect();
    member.awaited = target.difference(&assigned).copied().collect();
}

/// Gives a member what it waits for and nobody holds.
fn grant(member: &mut MemberState, taken: &mut BTreeSet<TopicPartition>, epoch: GroupEpoch) {
    let holding = Holding {
        since: epoch,
        revoked: None,
    };
    let held = &mut member.held;
    member.awaited.retain(|at| {
        let free = taken.insert(*at);
        if free {
            held.insert(*at, holding);
        }
        !free
    });
}
