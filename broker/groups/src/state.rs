//! The groups of a coordinator, as its records make them. [`State::apply`] is the one way to change
//! them: in office, at a replay, and when an append that failed is taken back.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{GroupEpoch, MemberId, TopicPartition};

use crate::record::{GroupState, MemberState, OffsetState, Record};

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its own record.
    pub meta: Option<GroupState>,
    /// Its members.
    pub members: BTreeMap<MemberId, MemberState>,
    /// Its committed offsets.
    pub offsets: BTreeMap<TopicPartition, OffsetState>,
}

impl Group {
    /// The last epoch that anything was changed in.
    pub fn epoch(&self) -> GroupEpoch {
        self.meta.as_ref().map_or(GroupEpoch::NONE, |m| m.epoch)
    }

    /// Whether a member subscribes to one of these topics.
    pub fn wants_any(&self, names: &BTreeSet<String>) -> bool {
        let mut wanted = self.members.values().flat_map(|m| &m.subscription.topics);
        wanted.any(|name| names.contains(name))
    }

    fn is_nothing(&self) -> bool {
        self.meta.is_none() && self.members.is_empty() && self.offsets.is_empty()
    }
}

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    groups: BTreeMap<String, Group>,
}

impl State {
    /// A group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// All of them, by name.
    pub fn groups(&self) -> &BTreeMap<String, Group> {
        &self.groups
    }

    /// A member of a group.
    pub fn member(&self, group: &str, member: MemberId) -> Option<&MemberState> {
        self.groups.get(group)?.members.get(&member)
    }

    /// Sets what the record sets; the record that takes it back.
    pub fn apply(&mut self, record: Record) -> Record {
        let name = record.group().to_owned();
        let group = self.groups.entry(name.clone()).or_default();
        let before = match record {
            Record::Group { group: name, value } => {
                let value = std::mem::replace(&mut group.meta, value);
                Record::Group { group: name, value }
            }
            Record::Member {
                group: name,
                member,
                value,
            } => Record::Member {
                group: name,
                member,
                value: replace(&mut group.members, member, value),
            },
            Record::Offset {
                group: name,
                at,
                value,
            } => Record::Offset {
                group: name,
                at,
                value: replace(&mut group.offsets, at, value),
            },
        };
        if group.is_nothing() {
            self.groups.remove(&name);
        }
        before
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}
