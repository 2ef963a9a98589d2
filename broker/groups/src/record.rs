//! What a coordinator keeps: the records of the internal topic.
//!
//! Each has a key and, unless it takes back what was kept under that key, a value. The state of a
//! coordinator is the last value of every key, so that the topic can be compacted by key.
//!
//! # Format, version 1
//!
//! The key of a record is, with numbers in big-endian order,
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | kind: 1 group, 2 member, 3 committed offset |
//! | 2 | length of the group's name |
//! | n | the group's name |
//! | 16 | kind 2: member id; kind 3: topic id |
//! | 4 | kind 3: partition |
//!
//! and its value one byte, the version, and a MessagePack map with the fields of [`GroupState`],
//! [`MemberState`] or [`OffsetState`] by name. Readers skip fields that they do not know. A kind or
//! version that is not known is an error: whoever meets it cannot coordinate.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::groups::Subscription;
use baton_protocol::ids::{
    GroupEpoch, LeaderEpoch, MemberId, Offset, PartitionIndex, TopicId, TopicPartition,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

const VERSION: u8 = 1;
const KIND_GROUP: u8 = 1;
const KIND_MEMBER: u8 = 2;
const KIND_OFFSET: u8 = 3;

/// A change of one key: its new value, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A group.
    Group {
        /// Its name.
        group: String,
        /// What is kept of it.
        value: Option<GroupState>,
    },
    /// A member of a group.
    Member {
        /// The group.
        group: String,
        /// The member.
        member: MemberId,
        /// What is kept of it.
        value: Option<MemberState>,
    },
    /// A committed offset.
    Offset {
        /// The group.
        group: String,
        /// Of which partition.
        at: TopicPartition,
        /// What is kept of it.
        value: Option<OffsetState>,
    },
}

/// What is kept of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// The last epoch that anything in the group was changed in.
    pub epoch: GroupEpoch,
    /// Since when it has no members, in milliseconds since 1970.
    #[serde(default)]
    pub idle_since_ms: Option<u64>,
}

/// What is kept of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// A static member's instance id.
    #[serde(default)]
    pub instance: Option<String>,
    /// What it wants; topics in order, each once.
    pub subscription: Subscription,
    /// The epoch of its present assignment.
    pub epoch: GroupEpoch,
    /// It left, and its partitions are kept for its instance.
    #[serde(default)]
    pub away: bool,
    /// What it consumes, or may still consume as far as is known.
    #[serde(with = "held")]
    pub held: BTreeMap<TopicPartition, Holding>,
    /// What it shall have once others have given it up.
    #[serde(with = "awaited")]
    pub awaited: BTreeSet<TopicPartition>,
}

/// A partition in the hands of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The epoch that it was given in.
    pub since: GroupEpoch,
    /// The epoch that it was taken back in; the member holds it until it has applied that one.
    pub revoked: Option<GroupEpoch>,
}

/// What is kept of a committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetState {
    /// The next offset to consume.
    pub offset: Offset,
    /// The leader epoch that came with it.
    pub leader_epoch: LeaderEpoch,
    /// What the consumer keeps with it.
    #[serde(default)]
    pub metadata: String,
    /// When it was committed, in milliseconds since 1970.
    pub committed_at_ms: u64,
}

impl MemberState {
    /// What it may consume.
    pub fn assigned(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        let held = self.held.iter();
        held.filter(|(_, holding)| holding.revoked.is_none())
            .map(|(at, _)| *at)
    }

    /// What it has to give up.
    pub fn revoking(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        let held = self.held.iter();
        held.filter(|(_, holding)| holding.revoked.is_some())
            .map(|(at, _)| *at)
    }

    /// Whether it waits for others, or others may wait for it.
    pub fn in_flux(&self) -> bool {
        !self.awaited.is_empty() || self.revoking().next().is_some()
    }
}

/// The most that a member's record takes in bytes, key and all, if it comes to have all of
/// `partitions`: the numbers at their longest, and whatever it waits for besides.
pub fn member_bytes_max(subscription: &Subscription, partitions: usize) -> usize {
    const FIELDS: usize = 1_024;
    const OF_A_TOPIC: usize = 64;
    const OF_A_PARTITION: usize = 32;
    let names = subscription.topics.iter();
    let names: usize = names.map(|name| name.len() + OF_A_TOPIC).sum();
    FIELDS + subscription.client.len() + names + partitions * OF_A_PARTITION
}

/// A record that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is no key.
    #[error("the key of a record of consumer groups is malformed")]
    Key,
    /// A newer version of Baton wrote it.
    #[error("a record of consumer groups has kind {kind}, which this version does not know")]
    Kind {
        /// Its kind.
        kind: u8,
    },
    /// A newer version of Baton wrote it.
    #[error(
        "a record of consumer groups has version {version}; this version understands {VERSION}"
    )]
    Version {
        /// Its version.
        version: u8,
    },
    /// The value is no value.
    #[error("the value of a record of consumer groups is malformed: {0}")]
    Value(String),
}

impl Record {
    /// The group that it is about.
    pub fn group(&self) -> &str {
        match self {
            Record::Group { group, .. }
            | Record::Member { group, .. }
            | Record::Offset { group, .. } => group,
        }
    }

    /// Its key, as it is stored.
    pub fn key(&self) -> Vec<u8> {
        let (kind, id, partition) = match self {
            Record::Group { .. } => (KIND_GROUP, None, None),
            Record::Member { member, .. } => (KIND_MEMBER, Some(member.0), None),
            Record::Offset { at, .. } => (KIND_OFFSET, Some(at.topic.0), Some(at.partition)),
        };
        let group = self.group().as_bytes();
        let length = u16::try_from(group.len()).expect("names of groups are bounded");
        let mut key = vec![kind];
        key.extend(length.to_be_bytes());
        key.extend(group);
        key.extend(id.iter().flat_map(Uuid::as_bytes));
        key.extend(partition.iter().flat_map(|index| index.0.to_be_bytes()));
        key
    }

    /// Its value, as it is stored.
    pub fn value(&self) -> Option<Vec<u8>> {
        match self {
            Record::Group { value, .. } => value.as_ref().map(encode),
            Record::Member { value, .. } => value.as_ref().map(encode),
            Record::Offset { value, .. } => value.as_ref().map(encode),
        }
    }

    /// The record of this key and value.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Record, RecordError> {
        let (&kind, rest) = key.split_first().ok_or(RecordError::Key)?;
        let (length, rest) = rest.split_first_chunk().ok_or(RecordError::Key)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (group, rest) = rest.split_at_checked(length).ok_or(RecordError::Key)?;
        let group = str::from_utf8(group)
            .map_err(|_| RecordError::Key)?
            .to_owned();
        match kind {
            KIND_GROUP if rest.is_empty() => {
                let value = decode(value)?;
                Ok(Record::Group { group, value })
            }
            KIND_MEMBER => {
                let id = rest.try_into().map_err(|_| RecordError::Key)?;
                Ok(Record::Member {
                    group,
                    member: MemberId(Uuid::from_bytes(id)),
                    value: decode(value)?,
                })
            }
            KIND_OFFSET => {
                let (id, rest) = rest.split_first_chunk().ok_or(RecordError::Key)?;
                let partition = rest.try_into().map_err(|_| RecordError::Key)?;
                let at = TopicPartition {
                    topic: TopicId(Uuid::from_bytes(*id)),
                    partition: PartitionIndex(u32::from_be_bytes(partition)),
                };
                let value = decode(value)?;
                Ok(Record::Offset { group, at, value })
            }
            KIND_GROUP => Err(RecordError::Key),
            kind => Err(RecordError::Kind { kind }),
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write_named(&mut bytes, value).expect("own records can be encoded");
    bytes
}

fn decode<T: DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<T>, RecordError> {
    let Some(value) = value else { return Ok(None) };
    match value.split_first() {
        Some((&VERSION, rest)) => rmp_serde::from_slice(rest)
            .map(Some)
            .map_err(|error| RecordError::Value(error.to_string())),
        Some((&version, _)) => Err(RecordError::Version { version }),
        None => Err(RecordError::Value("it is empty".to_owned())),
    }
}

/// Holdings by topic, so that a topic's id stands there once.
mod held {
    use super::*;

    type Entry = (PartitionIndex, GroupEpoch, Option<GroupEpoch>);

    pub fn serialize<S: Serializer>(
        held: &BTreeMap<TopicPartition, Holding>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut topics: BTreeMap<TopicId, Vec<Entry>> = BTreeMap::new();
        for (at, holding) in held {
            let entry = (at.partition, holding.since, holding.revoked);
            topics.entry(at.topic).or_default().push(entry);
        }
        topics.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<TopicPartition, Holding>, D::Error> {
        let topics = BTreeMap::<TopicId, Vec<Entry>>::deserialize(deserializer)?;
        let of_topic = |(topic, entries): (TopicId, Vec<Entry>)| {
            let one = move |(partition, since, revoked)| {
                let at = TopicPartition { topic, partition };
                (at, Holding { since, revoked })
            };
            entries.into_iter().map(one)
        };
        Ok(topics.into_iter().flat_map(of_topic).collect())
    }
}

/// Partitions by topic.
mod awaited {
    use super::*;

    pub fn serialize<S: Serializer>(
        awaited: &BTreeSet<TopicPartition>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut topics: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
        for at in awaited {
            topics.entry(at.topic).or_default().push(at.partition);
        }
        topics.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<TopicPartition>, D::Error> {
        let topics = BTreeMap::<TopicId, Vec<PartitionIndex>>::deserialize(deserializer)?;
        let of_topic = |(topic, indexes): (TopicId, Vec<PartitionIndex>)| {
            let one = move |partition| TopicPartition { topic, partition };
            indexes.into_iter().map(one)
        };
        Ok(topics.into_iter().flat_map(of_topic).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: TopicId(Uuid::from_u128(7)),
            partition: PartitionIndex(partition),
        }
    }

    fn member() -> MemberState {
        let holding = |since, revoked: Option<u64>| Holding {
            since: GroupEpoch(since),
            revoked: revoked.map(GroupEpoch),
        };
        MemberState {
            instance: Some("a".to_owned()),
            subscription: Subscription {
                version: 1,
                topics: vec!["t".to_owned()],
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 60_000,
                client: "here".to_owned(),
            },
            epoch: GroupEpoch(4),
            away: false,
            held: [(at(0), holding(1, None)), (at(9), holding(2, Some(4)))].into(),
            awaited: [at(5)].into(),
        }
    }

    fn samples() -> Vec<Record> {
        let group = "g".to_owned();
        let offset = OffsetState {
            offset: Offset(42),
            leader_epoch: LeaderEpoch(3),
            metadata: "m".to_owned(),
            committed_at_ms: 1_000,
        };
        let mut all = vec![
            Record::Group {
                group: group.clone(),
                value: Some(GroupState {
                    epoch: GroupEpoch(9),
                    idle_since_ms: Some(5),
                }),
            },
            Record::Member {
                group: group.clone(),
                member: MemberId(Uuid::from_u128(1)),
                value: Some(member()),
            },
            Record::Offset {
                group: group.clone(),
                at: at(300),
                value: Some(offset),
            },
        ];
        all.push(Record::Offset {
            group,
            at: at(1),
            value: None,
        });
        all
    }

    #[test]
    fn what_is_written_is_read() {
        for record in samples() {
            let (key, value) = (record.key(), record.value());
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
        }
    }

    #[test]
    fn what_is_cut_short_or_newer_is_refused() {
        for record in samples() {
            let (mut key, value) = (record.key(), record.value());
            for end in 0..key.len() {
                assert!(Record::decode(&key[..end], value.as_deref()).is_err());
            }
            let Some(mut value) = value else { continue };
            for end in 0..value.len() {
                assert!(Record::decode(&key, Some(&value[..end])).is_err());
            }
            value[0] = 2;
            let newer = Record::decode(&key, Some(&value));
            assert_eq!(newer, Err(RecordError::Version { version: 2 }));
            key[0] = 9;
            let other = Record::decode(&key, Some(&value));
            assert_eq!(other, Err(RecordError::Kind { kind: 9 }));
        }
    }

    #[test]
    fn no_member_takes_more_than_is_reckoned_with() {
        let name = |i: u32| format!("{i:0>249}");
        let holding = |since, revoked| Holding {
            since: GroupEpoch(since),
            revoked: Some(GroupEpoch(revoked)),
        };
        let mut member = member();
        member.instance = Some("i".repeat(249));
        member.subscription.topics = (0..10).map(name).collect();
        member.subscription.client = "c".repeat(4_096);
        for topic in 0..10 {
            for partition in 0..2_000 {
                let at = TopicPartition {
                    topic: TopicId(Uuid::from_u128(u128::MAX - topic)),
                    partition: PartitionIndex(u32::MAX - partition),
                };
                member.held.insert(at, holding(u64::MAX, u64::MAX));
                member.awaited.insert(at);
            }
        }
        let most = member_bytes_max(&member.subscription, 20_000);
        let record = Record::Member {
            group: "g".repeat(249),
            member: MemberId(Uuid::from_u128(1)),
            value: Some(member),
        };
        let bytes = record.key().len() + record.value().map_or(0, |value| value.len());
        assert!(bytes <= most, "{bytes} of {most}");
    }

    /// Offsets are found by these bytes for as long as the topic lives.
    #[test]
    fn the_key_of_an_offset_stays_as_it_is() {
        let record = Record::Offset {
            group: "ab".to_owned(),
            at: at(300),
            value: None,
        };
        let mut key = vec![3, 0, 2, b'a', b'b'];
        key.extend([0; 15]);
        key.extend([7, 0, 0, 1, 44]);
        assert_eq!(record.key(), key);
    }
}
