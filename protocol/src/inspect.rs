//! What operators ask one broker about itself, or of what it has seen. Any broker answers for itself only.

use serde::{Deserialize, Serialize};

use crate::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, MetadataIndex, Offset, PartitionIndex, TopicId,
};
use crate::policy::TopicPolicy;

/// Most events of one answer, about: those of one change of the metadata are not parted.
pub const EVENTS_TOGETHER: usize = 1_000;

/// A question to one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InspectRequest {
    /// Asks for the configuration that is in force. Answered by [`InspectResponse::Configuration`].
    Configuration,
    /// Asks for what the broker keeps of entries that were discarded. Answered by
    /// [`InspectResponse::Quarantine`].
    Quarantine,
    /// Asks for what has happened in the cluster, as this broker has seen it. Answered by
    /// [`InspectResponse::Events`], at once.
    Events {
        /// Only what came after this position of the metadata log; none: all that is remembered.
        after: Option<MetadataIndex>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InspectResponse {
    /// To `Configuration`: every key, in the order of `config.toml`.
    Configuration(Vec<Setting>),
    /// To `Quarantine`.
    Quarantine(Vec<Quarantined>),
    /// To `Events`: the oldest of them, [`EVENTS_TOGETHER`] or a few more.
    Events {
        /// What has happened, oldest first.
        events: Vec<ClusterEvent>,
        /// Ask for what came after this one next.
        up_to: MetadataIndex,
        /// Nothing is known of what came before: the broker has started since, or forgotten it.
        known_from: MetadataIndex,
    },
}

/// A key of a broker's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// Its value, as it stands in a TOML file.
    pub value: String,
    /// Where it comes from.
    pub source: SettingSource,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SettingSource {
    /// Nobody set it.
    Default,
    /// This file.
    File(String),
    /// This environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
}

impl std::fmt::Display for SettingSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SettingSource::Default => write!(f, "default"),
            SettingSource::File(path) => write!(f, "{path}"),
            SettingSource::Environment(name) => write!(f, "environment variable {name}"),
            SettingSource::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Entries that were discarded, or files that were damaged, and are kept for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The topic.
    pub topic: TopicId,
    /// Its name, as long as there is such a topic.
    pub name: Option<String>,
    /// The partition.
    pub partition: PartitionIndex,
    /// The file or directory, below the broker's data directory.
    pub path: String,
    /// Its size on the disk.
    pub bytes: u64,
    /// Since when it is there, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// What it is, where it says so itself; damaged files do not.
    pub entries: Option<DiscardedEntries>,
}

/// Entries that were cut off a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardedEntries {
    /// Where they began.
    pub from: Offset,
    /// Where they ended (exclusive).
    pub to: Offset,
    /// The leader epoch of the last one.
    pub last_epoch: LeaderEpoch,
    /// Why they were cut.
    pub reason: String,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// The change of the metadata that it was.
    pub index: MetadataIndex,
    /// When the broker heard of it, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub what: Happening,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Happening {
    /// A broker's process has started.
    BrokerRegistered {
        /// Which.
        broker: BrokerId,
        /// The life that it begins.
        life: BrokerEpoch,
    },
    /// A broker is held for dead.
    BrokerDown {
        /// Which.
        broker: BrokerId,
    },
    /// It is alive after all.
    BrokerUp {
        /// Which.
        broker: BrokerId,
    },
    /// There is a new topic.
    TopicCreated {
        /// Its name.
        topic: String,
        /// Its partitions.
        partitions: u32,
    },
    /// A topic is gone.
    TopicDeleted {
        /// Its name.
        topic: String,
    },
    /// Another number of followers must hold an entry before it is acknowledged.
    SyncFollowersSet {
        /// The topic.
        topic: String,
        /// The number.
        sync_followers: u32,
    },
    /// Something else becomes of old entries.
    PolicySet {
        /// The topic.
        topic: String,
        /// What holds from now on.
        policy: TopicPolicy,
    },
    /// A partition has no leader; one is being elected.
    LeaderLost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// Who has led.
        leader: Option<BrokerId>,
        /// The epoch that begins.
        epoch: LeaderEpoch,
    },
    /// A partition has another leader.
    LeaderNamed {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// Who leads.
        leader: BrokerId,
        /// In which epoch.
        epoch: LeaderEpoch,
        /// Acknowledged records may be lost by it.
        may_have_lost: bool,
    },
    /// A partition's in-sync set has changed.
    InSyncChanged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// Who has left it.
        left: Vec<BrokerId>,
        /// Who has come.
        joined: Vec<BrokerId>,
    },
    /// A replica may have lost what it acknowledged.
    Suspected {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The replica's broker.
        broker: BrokerId,
    },
    /// A replica that was suspected has all that it must have.
    Cleared {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The replica's broker.
        broker: BrokerId,
    },
}

fn brokers(ids: &[BrokerId]) -> String {
    let ids: Vec<String> = ids.iter().map(BrokerId::to_string).collect();
    format!("broker {}", ids.join(", "))
}

impl std::fmt::Display for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Happening::BrokerRegistered { broker, life } => {
                write!(f, "broker {broker} has started (life {life})")
            }
            Happening::BrokerDown { broker } => write!(f, "broker {broker} is down"),
            Happening::BrokerUp { broker } => write!(f, "broker {broker} is up again"),
            Happening::TopicCreated { topic, partitions } => {
                let s = if *partitions == 1 { "" } else { "s" };
                write!(f, "{topic}: made with {partitions} partition{s}")
            }
            Happening::TopicDeleted { topic } => write!(f, "{topic}: deleted"),
            Happening::SyncFollowersSet {
                topic,
                sync_followers,
            } => write!(f, "{topic}: synchronous followers set to {sync_followers}"),
            Happening::PolicySet { topic, .. } => {
                write!(
                    f,
                    "{topic}: another rule for its old records or their timestamps"
                )
            }
            Happening::LeaderLost {
                topic,
                partition,
                leader,
                epoch,
            } => {
                write!(f, "{topic}/{partition}: election of epoch {epoch}")?;
                match leader {
                    Some(leader) => write!(f, ", broker {leader} does not lead any more"),
                    None => Ok(()),
                }
            }
            Happening::LeaderNamed {
                topic,
                partition,
                leader,
                epoch,
                may_have_lost,
            } => {
                write!(
                    f,
                    "{topic}/{partition}: broker {leader} leads in epoch {epoch}"
                )?;
                match may_have_lost {
                    true => write!(f, "; acknowledged records may be lost"),
                    false => Ok(()),
                }
            }
            Happening::InSyncChanged {
                topic,
                partition,
                left,
                joined,
            } => {
                write!(f, "{topic}/{partition}:")?;
                if !left.is_empty() {
                    write!(f, " {} not in sync any more", brokers(left))?;
                }
                if !left.is_empty() && !joined.is_empty() {
                    write!(f, ",")?;
                }
                match joined.is_empty() {
                    true => Ok(()),
                    false => write!(f, " {} in sync", brokers(joined)),
                }
            }
            Happening::Suspected {
                topic,
                partition,
                broker,
            } => write!(
                f,
                "{topic}/{partition}: broker {broker} may have lost what it acknowledged"
            ),
            Happening::Cleared {
                topic,
                partition,
                broker,
            } => write!(
                f,
                "{topic}/{partition}: broker {broker} has everything again"
            ),
        }
    }
}
