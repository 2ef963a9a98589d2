//! Identifiers and positions.
//!
//! Every number that names something has its own type, so that an offset can never be passed
//! where an epoch is meant. All of them order as their numbers do and serialise as the bare value.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

number! {
    /// Position of a record in a partition's log. Counts records from 0; at most `i64::MAX`,
    /// because the record batch stores it as a signed 64-bit number.
    Offset(u64)
}
number! {
    /// The reign of one leader over one partition. Raised by the controller at every change of
    /// leader. 0 means "before the first leader".
    LeaderEpoch(u32)
}
number! {
    /// A broker, as its operator named it. Stable over restarts and new disks.
    BrokerId(u32)
}
number! {
    /// One life of one process of one broker: given at registration, larger at each, and unique in
    /// the cluster (it is the index of the registration in the metadata log).
    BrokerEpoch(u64)
}
number! {
    /// Counts the changes of one partition's metadata; the controller compares and sets on it.
    PartitionVersion(u64)
}
number! {
    /// Number of a partition within its topic, from 0.
    PartitionIndex(u32)
}
number! {
    /// Position in the metadata log.
    MetadataIndex(u64)
}
number! {
    /// A moment: milliseconds of a monotonic clock whose start means nothing. Pure code is handed
    /// the time as one of these; it never reads a clock.
    Tick(u64)
}
number! {
    /// An idempotent producer, unique in the cluster.
    ProducerId(u64)
}
number! {
    /// Counts the changes of one consumer group. What a member is told to consume bears the epoch
    /// of the change that made it so. 0 means "nothing told yet".
    GroupEpoch(u64)
}

impl From<u32> for PartitionIndex {
    fn from(index: u32) -> Self {
        PartitionIndex(index)
    }
}

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Offset = Offset(0);
    /// The greatest offset a record batch can carry.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// The offset `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> Offset {
        Offset(self.0 + records)
    }

    /// How many offsets lie between `earlier` and this one; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl LeaderEpoch {
    /// Before the first leader.
    pub const NONE: LeaderEpoch = LeaderEpoch(0);

    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> LeaderEpoch {
        LeaderEpoch(self.0 + 1)
    }
}

impl GroupEpoch {
    /// Before anything was told.
    pub const NONE: GroupEpoch = GroupEpoch(0);

    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> GroupEpoch {
        GroupEpoch(self.0 + 1)
    }
}

impl Tick {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` until this moment; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since_ms(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl PartitionVersion {
    /// The version that follows.
    #[must_use]
    pub fn next(self) -> PartitionVersion {
        PartitionVersion(self.0 + 1)
    }
}

macro_rules! unique {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

unique! {
    /// A topic's identity. A topic deleted and created again under the same name has another one,
    /// so that nothing of the first can come back as the second.
    TopicId
}
unique! {
    /// A cluster's identity, chosen once when it is formed.
    ClusterId
}
unique! {
    /// A data directory's identity, chosen when it is made: an empty disk under an old broker id
    /// shows itself by it.
    DirectoryId
}

unique! {
    /// One run of a broker's process, chosen when it starts.
    ProcessId
}

unique! {
    /// One membership of a consumer in a group, chosen by the client when it joins and never used
    /// again once that membership has ended.
    MemberId
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A leader is a broker in one of its lives, never a broker as such: a restarted process does not
/// resume what its predecessor led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BrokerLife {
    /// The broker.
    pub broker: BrokerId,
    /// Which life of it.
    pub epoch: BrokerEpoch,
}

impl fmt::Display for BrokerLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.broker, self.epoch)
    }
}
