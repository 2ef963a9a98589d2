//! The broker's configuration, as `config.toml` describes it.
//!
//! This file holds the keys; [`rules`] says which values each takes; [`load`] lays flags over
//! environment over file over defaults. Nothing here looks at the machine: whether a port is free or
//! a directory can be written shows when the broker starts.

mod bytes;
mod load;
mod rules;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use baton_protocol::ids::BrokerId;
use baton_storage::Check;
use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Loaded, Origin, Override, Setting};

/// The commented default configuration.
pub const DEFAULT_FILE: &str = include_str!("../../config.toml");

/// Most brokers that keep the cluster's metadata.
pub const VOTERS_MAX: usize = 5;

/// Everything a broker is told at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This broker.
    pub broker: Broker,
    /// The cluster it belongs to.
    pub cluster: Cluster,
    /// The metadata's consensus.
    pub raft: Raft,
    /// Logs on disk.
    pub log: Log,
    /// Copies of partitions.
    pub replication: Replication,
    /// Bounds.
    pub limits: Limits,
    /// Consumer groups.
    pub groups: Groups,
    /// What the broker says of itself.
    pub logging: Logging,
    /// Every key with where its value comes from, for who asks.
    #[serde(skip)]
    pub settings: Vec<baton_protocol::inspect::Setting>,
}

impl Config {
    /// Reads the file, if one is given, and this process's environment, and lays `flags` over them.
    pub fn load(file: Option<&Path>, flags: &[Override]) -> Result<Config, ConfigError> {
        Loaded::load(file, flags).map(|loaded| loaded.config)
    }

    /// What the embedded file says, with nothing laid over it.
    pub fn load_defaults() -> Result<Config, ConfigError> {
        Loaded::of(None, [], &[]).map(|loaded| loaded.config)
    }

    /// This broker's id.
    pub fn broker_id(&self) -> BrokerId {
        self.broker.id
    }

    /// Whether this broker keeps the cluster's metadata.
    pub fn is_voter(&self) -> bool {
        let mut voters = self.cluster.voters.iter();
        voters.any(|voter| voter.broker == self.broker.id)
    }
}

/// `[broker]`: this broker. Addresses are `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Its id; at least 1.
    pub id: BrokerId,
    /// Where everything is stored.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listen: String,
    /// The address clients are told; empty means `listen`. See [`Self::client_address`].
    pub advertised: String,
    /// Where brokers connect.
    pub peer_listen: String,
    /// The address brokers are told; empty means `peer_listen`. See [`Self::peer_address`].
    pub peer_advertised: String,
    /// Where the other voters connect.
    pub raft_listen: String,
    /// Where the HTTP API is served.
    pub http_listen: String,
    /// Threads for partitions and connections; 0 means one for each processor.
    pub threads: usize,
}

impl Default for Broker {
    fn default() -> Self {
        Broker {
            id: BrokerId(1),
            data_dir: PathBuf::from("data/broker"),
            listen: "127.0.0.1:7401".to_owned(),
            advertised: String::new(),
            peer_listen: "127.0.0.1:7501".to_owned(),
            peer_advertised: String::new(),
            raft_listen: "127.0.0.1:7601".to_owned(),
            http_listen: "127.0.0.1:7701".to_owned(),
            threads: 0,
        }
    }
}

impl Broker {
    /// The `host:port` that clients are told to connect to.
    pub fn client_address(&self) -> &str {
        or_else(&self.advertised, &self.listen)
    }

    /// The `host:port` that brokers are told to connect to.
    pub fn peer_address(&self) -> &str {
        or_else(&self.peer_advertised, &self.peer_listen)
    }
}

fn or_else<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

/// A broker that keeps the cluster's metadata: `<id>@<host:port>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Voter {
    /// The broker.
    pub broker: BrokerId,
    /// Where the other voters reach it.
    pub address: String,
}

impl std::fmt::Display for Voter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.broker, self.address)
    }
}

impl From<Voter> for String {
    fn from(voter: Voter) -> String {
        voter.to_string()
    }
}

impl TryFrom<String> for Voter {
    type Error = String;

    fn try_from(text: String) -> Result<Voter, String> {
        let parts = text.split_once('@').and_then(|(id, address)| {
            let broker = id.parse().ok().filter(|id| *id != BrokerId(0))?;
            rules::is_address(address).then(|| Voter {
                broker,
                address: address.to_owned(),
            })
        });
        parts.ok_or_else(|| {
            format!("`{text}` is no voter; a voter is <broker id>@<host:port>, as 1@127.0.0.1:7601")
        })
    }
}

/// `[cluster]`: the cluster and how brokers are found dead in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The brokers that keep the metadata, 1 to 5.
    pub voters: Vec<Voter>,
    /// Peer addresses, `host:port`, where the controller is looked for.
    pub controllers: Vec<String>,
    /// How long a broker may be silent before it is held for dead, in milliseconds.
    pub session_timeout_ms: u64,
    /// How often a broker shows that it lives, in milliseconds.
    pub heartbeat_interval_ms: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            voters: vec![Voter {
                broker: BrokerId(1),
                address: "127.0.0.1:7601".to_owned(),
            }],
            controllers: vec!["127.0.0.1:7501".to_owned()],
            session_timeout_ms: 1_000,
            heartbeat_interval_ms: 100,
        }
    }
}

/// `[raft]`: the timers of the metadata's consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raft {
    /// How often its leader shows that it lives, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Shortest time without a leader before an election, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Longest time without a leader before an election, in milliseconds.
    pub election_timeout_max_ms: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Raft {
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
        }
    }
}

/// `[log]`: logs on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Most bytes of a segment file.
    #[serde(with = "bytes")]
    pub segment_bytes_max: usize,
    /// One entry in about this many bytes is indexed.
    #[serde(with = "bytes")]
    pub index_interval_bytes: usize,
    /// How often the logs of topics that flush at intervals are made durable, in milliseconds.
    pub flush_interval_ms: u64,
    /// They are made durable earlier after this much; 0 means only by time.
    #[serde(with = "bytes")]
    pub flush_bytes: usize,
    /// How much of what was written last, by all logs together, stays in the system's page cache; 0 leaves
    /// that to the system.
    #[serde(with = "bytes")]
    pub page_cache_bytes: usize,
    /// How much of each log is checked before it is served.
    pub check_at_start: CheckAtStart,
    /// How much of what was not checked then is checked in a second; 0 means none.
    #[serde(with = "bytes")]
    pub scrub_bytes_per_second: usize,
    /// How much is read of what is compacted in a second.
    #[serde(with = "bytes")]
    pub compaction_bytes_per_second: usize,
    /// Most keys that are kept in memory while a log is compacted, one log at a time.
    pub compaction_keys_max: u64,
    /// How often it is looked for entries that are too old, or too many, in milliseconds.
    pub retention_check_interval_ms: u64,
}

/// How much of each log a start checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckAtStart {
    /// What no index speaks of.
    #[default]
    Tail,
    /// Every entry.
    All,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            segment_bytes_max: 128 << 20,
            index_interval_bytes: 4096,
            flush_interval_ms: 1_000,
            flush_bytes: 16 << 20,
            page_cache_bytes: 256 << 20,
            check_at_start: CheckAtStart::Tail,
            scrub_bytes_per_second: 16 << 20,
            compaction_bytes_per_second: 16 << 20,
            compaction_keys_max: 1_000_000,
            retention_check_interval_ms: 5_000,
        }
    }
}

impl Log {
    /// The settings of one partition's log.
    pub fn storage(&self) -> baton_storage::LogConfig {
        baton_storage::LogConfig {
            segment_bytes_max: self.segment_bytes_max,
            index_interval_bytes: self.index_interval_bytes,
            check: match self.check_at_start {
                CheckAtStart::Tail => Check::Tail,
                CheckAtStart::All => Check::All,
            },
            ..baton_storage::LogConfig::default()
        }
    }
}

/// `[replication]`: copies of partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// Most bytes on their way to one follower of one partition.
    #[serde(with = "bytes")]
    pub window_bytes: usize,
    /// Most bytes of entries in one message to a follower.
    #[serde(with = "bytes")]
    pub append_bytes_max: usize,
    /// How long too few followers may be reachable before appends are refused, in milliseconds.
    pub append_wait_ms: u64,
    /// How long an answer may be due before the follower is asked again, in milliseconds.
    pub resend_timeout_ms: u64,
    /// How far a follower may lie behind before it leaves the in-sync set, in milliseconds.
    pub in_sync_lag_ms: u64,
    /// How long a follower stays outside after it was taken out, in milliseconds.
    pub in_sync_return_ms: u64,
    /// How long a set change may be without outcome before it is asked for again, in milliseconds.
    pub change_retry_ms: u64,
}

impl Default for Replication {
    fn default() -> Self {
        Replication {
            window_bytes: 8 << 20,
            append_bytes_max: 1 << 20,
            append_wait_ms: 1_000,
            resend_timeout_ms: 500,
            in_sync_lag_ms: 3_000,
            in_sync_return_ms: 300,
            change_retry_ms: 500,
        }
    }
}

impl Config {
    /// The settings of the replication core.
    pub fn core(&self) -> baton_replication::Config {
        let replication = &self.replication;
        baton_replication::Config {
            window_bytes: replication.window_bytes as u64,
            append_bytes_max: replication.append_bytes_max as u64,
            append_wait_ms: replication.append_wait_ms,
            resend_timeout_ms: replication.resend_timeout_ms,
            in_sync_lag_ms: replication.in_sync_lag_ms,
            in_sync_return_ms: replication.in_sync_return_ms,
            change_retry_ms: replication.change_retry_ms,
            lease_ms: self.cluster.session_timeout_ms,
            flush_interval_ms: self.log.flush_interval_ms,
        }
    }
}

/// `[limits]`: bounds on what others may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest record batch.
    #[serde(with = "bytes")]
    pub message_bytes_max: usize,
    /// Most bytes of batches that wait for their commit on one client connection.
    #[serde(with = "bytes")]
    pub in_flight_bytes_per_connection: usize,
    /// The same on all client connections together.
    #[serde(with = "bytes")]
    pub in_flight_bytes: usize,
    /// Most client connections at a time.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 1 << 20,
            in_flight_bytes_per_connection: 32 << 20,
            in_flight_bytes: 256 << 20,
            connections_max: 10_000,
        }
    }
}

/// `[groups]`: consumer groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Partitions that the internal topic of groups is made with; it keeps them for ever.
    pub partitions: u32,
    /// How long a group without members is kept after its last commit, in milliseconds.
    pub offsets_retention_ms: u64,
    /// How often members show that they live, in milliseconds.
    pub heartbeat_interval_ms: u32,
    /// Shortest session time-out that a consumer may ask for, in milliseconds.
    pub session_timeout_min_ms: u32,
    /// Longest session time-out that a consumer may ask for, in milliseconds.
    pub session_timeout_max_ms: u32,
    /// Most groups in one partition of the internal topic.
    pub groups_max: usize,
    /// Most members of one group.
    pub members_max: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Groups {
            partitions: 16,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            heartbeat_interval_ms: 1_000,
            session_timeout_min_ms: 1_000,
            session_timeout_max_ms: 30 * 60 * 1_000,
            groups_max: 10_000,
            members_max: 1_000,
        }
    }
}

/// Largest batch that can be stored and sent to followers, whatever producers may send.
const BATCH_BYTES_MAX: usize = 16 << 20;

impl Config {
    /// Most bytes of a batch of the internal topic. A record there is what members and groups make
    /// of it, so that the limit for producers may be too low for it.
    pub fn group_batch_bytes_max(&self) -> usize {
        let of_segment = self.log.segment_bytes_max / 2;
        let bytes_max = of_segment.max(self.limits.message_bytes_max);
        bytes_max.min(BATCH_BYTES_MAX)
    }

    /// The settings of the coordinators of groups.
    pub fn coordinator(&self) -> baton_groups::Config {
        let groups = &self.groups;
        let defaults = baton_groups::Config::default();
        let heartbeat_ms = groups.heartbeat_interval_ms;
        baton_groups::Config {
            heartbeat_interval_ms: heartbeat_ms,
            heartbeat_rebalance_ms: defaults.heartbeat_rebalance_ms.min(heartbeat_ms),
            timeout_min_ms: groups.session_timeout_min_ms,
            timeout_max_ms: groups.session_timeout_max_ms,
            offsets_retention_ms: groups.offsets_retention_ms,
            groups_max: groups.groups_max,
            members_max: groups.members_max,
            // While a subscription changes, a member has what it had beside what it shall have.
            member_bytes_max: self.group_batch_bytes_max() / 2,
            ..defaults
        }
    }
}

/// `[logging]`: what the broker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, and what is worse.
    pub level: String,
    /// How.
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Logging {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// How is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
