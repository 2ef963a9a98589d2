//! What each key takes. Checked before anything is deserialised, so that every error can name the
//! key, the value and what is allowed.

use config::{Value, ValueKind};

use super::bytes::ByteSize;
use super::{Broker, Config, VOTERS_MAX, Voter};

/// The values a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// A whole number between these, both included; what it counts.
    Number(u64, u64, &'static str),
    /// A size between these, both included.
    Bytes(u64, u64),
    /// `host:port`.
    Address,
    /// `host:port` or nothing.
    AddressOrNone,
    /// A list of `host:port`, not empty.
    Addresses,
    /// A list of voters, 1 to 5.
    Voters,
    /// A path.
    Path,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

use Rule::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every key, in the order of the file.
pub(super) const KEYS: &[(&str, Rule)] = &[
    ("broker.id", Number(1, u32::MAX as u64, "")),
    ("broker.data_dir", Path),
    ("broker.listen", Address),
    ("broker.advertised", AddressOrNone),
    ("broker.peer_listen", Address),
    ("broker.peer_advertised", AddressOrNone),
    ("broker.raft_listen", Address),
    ("broker.http_listen", Address),
    ("broker.threads", Number(0, 1_024, " threads")),
    ("cluster.voters", Voters),
    ("cluster.controllers", Addresses),
    ("cluster.session_timeout_ms", Number(200, 60_000, " ms")),
    ("cluster.heartbeat_interval_ms", Number(10, 10_000, " ms")),
    ("raft.heartbeat_interval_ms", Number(5, 10_000, " ms")),
    ("raft.election_timeout_min_ms", Number(10, 60_000, " ms")),
    ("raft.election_timeout_max_ms", Number(10, 60_000, " ms")),
    ("log.segment_bytes_max", Bytes(64 * KIB, GIB)),
    ("log.index_interval_bytes", Bytes(512, MIB)),
    ("log.flush_interval_ms", Number(10, 600_000, " ms")),
    ("log.flush_bytes", Bytes(0, 1024 * GIB)),
    ("log.page_cache_bytes", Bytes(0, 1024 * GIB)),
    ("log.check_at_start", OneOf(&["tail", "all"])),
    ("log.scrub_bytes_per_second", Bytes(0, 16 * GIB)),
    ("log.compaction_bytes_per_second", Bytes(64 * KIB, 16 * GIB)),
    ("log.compaction_keys_max", Number(1_000, 1_000_000_000, "")),
    (
        "log.retention_check_interval_ms",
        Number(100, 3_600_000, " ms"),
    ),
    ("replication.window_bytes", Bytes(64 * KIB, GIB)),
    ("replication.append_bytes_max", Bytes(4 * KIB, 16 * MIB)),
    ("replication.append_wait_ms", Number(0, 60_000, " ms")),
    ("replication.resend_timeout_ms", Number(10, 60_000, " ms")),
    ("replication.in_sync_lag_ms", Number(100, 600_000, " ms")),
    ("replication.in_sync_return_ms", Number(0, 60_000, " ms")),
    ("replication.change_retry_ms", Number(10, 60_000, " ms")),
    ("limits.message_bytes_max", Bytes(KIB, 16 * MIB)),
    ("limits.in_flight_bytes_per_connection", Bytes(KIB, GIB)),
    ("limits.in_flight_bytes", Bytes(KIB, GIB)),
    (
        "limits.connections_max",
        Number(1, 1_000_000, " connections"),
    ),
    ("groups.partitions", Number(1, 1_000, " partitions")),
    (
        "groups.offsets_retention_ms",
        Number(60_000, 315_360_000_000, " ms"),
    ),
    ("groups.heartbeat_interval_ms", Number(50, 60_000, " ms")),
    ("groups.session_timeout_min_ms", Number(100, 600_000, " ms")),
    (
        "groups.session_timeout_max_ms",
        Number(1_000, 86_400_000, " ms"),
    ),
    ("groups.groups_max", Number(1, 1_000_000, " groups")),
    ("groups.members_max", Number(1, 100_000, " members")),
    (
        "logging.level",
        OneOf(&["error", "warn", "info", "debug", "trace"]),
    ),
    ("logging.format", OneOf(&["text", "json"])),
];

/// The rule of a key, if there is such a key.
pub(super) fn rule(key: &str) -> Option<Rule> {
    KEYS.iter()
        .find(|(known, _)| *known == key)
        .map(|(_, rule)| *rule)
}

/// True for `host:port` with a port that is not 0.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_is_legal = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(legal),
    };
    host_is_legal && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// True for an address that is listened on for all of the machine, which nobody can connect to.
fn is_wildcard(address: &str) -> bool {
    address
        .parse::<std::net::SocketAddr>()
        .is_ok_and(|address| address.ip().is_unspecified())
}

impl Rule {
    /// True where a text from the environment or a flag is split at commas.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Addresses | Voters)
    }

    /// What is allowed, in words.
    pub(super) fn allowed(self) -> String {
        match self {
            Number(min, max, unit) => format!("a whole number from {min} to {max}{unit}"),
            Bytes(min, max) => format!(
                "a size from {} to {}, as a number of bytes or as \"64KiB\", \"1MiB\"",
                ByteSize(min),
                ByteSize(max)
            ),
            Address => "an address host:port, as 127.0.0.1:7401, with a port from 1 to 65535".into(),
            AddressOrNone => "an address host:port, as 127.0.0.1:7401, or nothing".into(),
            Addresses => "a list of one or more addresses host:port, as 127.0.0.1:7501".into(),
            Voters => "a list of 1 to 5 voters <broker id>@<host:port>, as 1@127.0.0.1:7601, no broker and no address twice".into(),
            Path => "a path".into(),
            OneOf(words) => words
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(" or "),
        }
    }

    /// True if a key of this rule takes `value`.
    pub(super) fn takes(self, value: &Value) -> bool {
        let Some(texts) = texts(value) else {
            return false;
        };
        if self.is_list() != matches!(value.kind, ValueKind::Array(_)) {
            return false;
        }
        let one = texts.first().map(String::as_str).unwrap_or_default();
        match self {
            Number(min, max, _) => one
                .parse()
                .is_ok_and(|number| (min..=max).contains(&number)),
            Bytes(min, max) => one
                .parse()
                .is_ok_and(|size: ByteSize| (min..=max).contains(&size.0)),
            Address => is_address(one),
            AddressOrNone => one.is_empty() || is_address(one),
            Addresses => !texts.is_empty() && texts.iter().all(|text| is_address(text)),
            Voters => are_voters(&texts),
            Path => !one.is_empty(),
            OneOf(words) => words.contains(&one),
        }
    }
}

fn are_voters(texts: &[String]) -> bool {
    let voters: Result<Vec<Voter>, String> = texts.iter().cloned().map(Voter::try_from).collect();
    voters.is_ok_and(|voters| {
        let twice = |i: usize, voter: &Voter| {
            voters[..i]
                .iter()
                .any(|other| other.broker == voter.broker || other.address == voter.address)
        };
        (1..=VOTERS_MAX).contains(&voters.len())
            && !voters.iter().enumerate().any(|(i, v)| twice(i, v))
    })
}

/// The texts of a scalar (one) or of a list of scalars; none for anything else.
fn texts(value: &Value) -> Option<Vec<String>> {
    let scalar = |value: &Value| match &value.kind {
        ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::String(_) => Some(value.to_string()),
        _ => None,
    };
    match &value.kind {
        ValueKind::Array(values) => values.iter().map(scalar).collect(),
        _ => Some(vec![scalar(value)?]),
    }
}

/// Two keys that do not go together: what the first must be, as the second is.
pub(super) struct Conflict {
    pub(super) key: &'static str,
    pub(super) with: &'static str,
    pub(super) allowed: String,
}

/// Where a broker listens; each needs an address of its own.
fn listeners(broker: &Broker) -> [(&'static str, &str); 4] {
    [
        ("broker.listen", &broker.listen),
        ("broker.peer_listen", &broker.peer_listen),
        ("broker.raft_listen", &broker.raft_listen),
        ("broker.http_listen", &broker.http_listen),
    ]
}

/// Two listeners that cannot both be: the same port, on the same address or on all of the machine.
fn same_listeners(broker: &Broker) -> Option<Conflict> {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    let listeners = listeners(broker);
    for (i, (key, address)) in listeners.iter().enumerate() {
        let taken = listeners[..i].iter().find(|(_, other)| {
            let anywhere = is_wildcard(address) || is_wildcard(other);
            address == other || anywhere && port(address) == port(other)
        });
        if let Some((with, other)) = taken {
            return Some(Conflict {
                key,
                with,
                allowed: format!("another address than {with}, which is {other}"),
            });
        }
    }
    None
}

/// Looks for values that are fine alone and not together.
pub(super) fn conflict(config: &Config) -> Option<Conflict> {
    let Config {
        broker,
        cluster,
        raft,
        log,
        limits,
        groups,
        ..
    } = config;
    let message = limits.message_bytes_max;
    let beat = cluster.heartbeat_interval_ms;
    let told = "set, because nobody can connect to the wildcard address that is listened on";
    // Whether it is wrong, the key to blame, what it does not go with, and what it must be.
    let checks = [
        (
            broker.advertised.is_empty() && is_wildcard(&broker.listen),
            "broker.advertised",
            "broker.listen",
            format!("{told} (broker.listen is {})", broker.listen),
        ),
        (
            broker.peer_advertised.is_empty() && is_wildcard(&broker.peer_listen),
            "broker.peer_advertised",
            "broker.peer_listen",
            format!("{told} (broker.peer_listen is {})", broker.peer_listen),
        ),
        (
            cluster.session_timeout_ms < 3 * beat,
            "cluster.session_timeout_ms",
            "cluster.heartbeat_interval_ms",
            format!("at least three times cluster.heartbeat_interval_ms, which is {beat}"),
        ),
        (
            raft.election_timeout_min_ms <= raft.heartbeat_interval_ms,
            "raft.election_timeout_min_ms",
            "raft.heartbeat_interval_ms",
            format!(
                "more than raft.heartbeat_interval_ms, which is {}",
                raft.heartbeat_interval_ms
            ),
        ),
        (
            raft.election_timeout_max_ms <= raft.election_timeout_min_ms,
            "raft.election_timeout_max_ms",
            "raft.election_timeout_min_ms",
            format!(
                "more than raft.election_timeout_min_ms, which is {}",
                raft.election_timeout_min_ms
            ),
        ),
        (
            log.segment_bytes_max <= message,
            "log.segment_bytes_max",
            "limits.message_bytes_max",
            format!(
                "more than limits.message_bytes_max, which is {}",
                ByteSize(message as u64)
            ),
        ),
        (
            limits.in_flight_bytes_per_connection < message,
            "limits.in_flight_bytes_per_connection",
            "limits.message_bytes_max",
            format!(
                "at least limits.message_bytes_max, which is {}",
                ByteSize(message as u64)
            ),
        ),
        (
            limits.in_flight_bytes < limits.in_flight_bytes_per_connection,
            "limits.in_flight_bytes",
            "limits.in_flight_bytes_per_connection",
            format!(
                "at least limits.in_flight_bytes_per_connection, which is {}",
                ByteSize(limits.in_flight_bytes_per_connection as u64)
            ),
        ),
        (
            groups.session_timeout_max_ms < groups.session_timeout_min_ms,
            "groups.session_timeout_max_ms",
            "groups.session_timeout_min_ms",
            format!(
                "at least groups.session_timeout_min_ms, which is {}",
                groups.session_timeout_min_ms
            ),
        ),
    ];
    checks
        .into_iter()
        .find(|(wrong, ..)| *wrong)
        .map(|(_, key, with, allowed)| Conflict { key, with, allowed })
        .or_else(|| same_listeners(broker))
}
