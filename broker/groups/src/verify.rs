//! What always holds of a coordinator in office.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{MemberId, TopicPartition};

use crate::coordinator::Coordinator;
use crate::reconcile;
use crate::rules::Rule;
use crate::state::Group;

impl Coordinator {
    /// Panics if an invariant is broken. Called after every step in debug builds.
    pub fn verify(&self) {
        if !self.in_office() {
            return;
        }
        for (name, group) in self.state.groups() {
            if self.rules.hold(Rule::GivenUpFirst) {
                one_holder_each(name, group);
            }
            if !self.unsettled.contains(name) {
                epochs_in_order(name, group);
            }
            instances_are_unique(name, group);
        }
    }

    /// Panics if something is left to do in a group for which nobody has to be waited for. Too dear
    /// to be called after every step.
    pub fn verify_settled(&self) {
        for (name, group) in self.state.groups() {
            let left = reconcile::changes(group, &self.topics, &self.rules);
            assert!(left.is_none(), "group {name} is not settled: {left:?}");
        }
    }
}

/// A partition is in one pair of hands at most.
fn one_holder_each(name: &str, group: &Group) {
    let mut holders: BTreeMap<TopicPartition, MemberId> = BTreeMap::new();
    for (id, member) in &group.members {
        for at in member.held.keys() {
            let other = holders.insert(*at, *id);
            assert!(
                other.is_none(),
                "group {name}: {at} has two: {id}, {other:?}"
            );
        }
    }
}

/// Nothing is of an epoch that has not come yet.
fn epochs_in_order(name: &str, group: &Group) {
    for (id, member) in &group.members {
        assert!(member.epoch <= group.epoch(), "group {name}: epoch of {id}");
        for (at, holding) in &member.held {
            let latest = holding.revoked.unwrap_or(holding.since);
            let known = latest <= member.epoch && holding.since <= latest;
            assert!(known, "group {name}: {id} has {at} since {holding:?}");
        }
    }
}

/// An instance id is one member's.
fn instances_are_unique(name: &str, group: &Group) {
    let mut seen = BTreeSet::new();
    for instance in group.members.values().filter_map(|m| m.instance.as_ref()) {
        assert!(seen.insert(instance), "group {name}: two of {instance}");
    }
}
