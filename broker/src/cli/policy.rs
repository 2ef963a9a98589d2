//! What becomes of a topic's old records, on the command line: flags, and how it is shown.

use baton_client::{Cleanup, Limit, PolicyChanges, Timestamps, TopicPolicy};
use baton_protocol::metadata::{Flush, TopicConfig};
use baton_protocol::policy::{DELETE_RETENTION_MS, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::output::{print_json, print_table};
use crate::cli::quantity::{self, SIZE_UNITS, TIME_UNITS};

/// Flags of `baton topic create` and `baton topic set`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PolicyArgs {
    /// What becomes of old records: `delete`, by --retention and --retention-bytes; `compact`: of each key
    /// the newest record stays, and every record has to have a key; `compact,delete`: both [default of a new
    /// topic: delete].
    #[arg(long, value_name = "HOW", value_parser = cleanup)]
    cleanup: Option<Cleanup>,
    /// How long a record without a value, which deletes its key, stays at least where --cleanup is compact;
    /// none: 1d [default of a new topic: none].
    #[arg(long, value_name = "TIME", value_parser = limit_ms, allow_hyphen_values = true)]
    delete_retention: Option<Limit>,
    /// How long records are kept, by their timestamps: such as 90s, 15m, 12h, 7d; none: for ever
    /// [default of a new topic: none].
    #[arg(long, value_name = "TIME", value_parser = limit_ms, allow_hyphen_values = true)]
    retention: Option<Limit>,
    /// How many bytes of the newest records each partition keeps, such as 10GiB; none: all [default of a
    /// new topic: none].
    #[arg(long, value_name = "SIZE", value_parser = limit_bytes, allow_hyphen_values = true)]
    retention_bytes: Option<Limit>,
    /// Records are removed a segment file at a time: the most bytes of one, 64KiB to 1GiB; none: as the
    /// brokers are configured [default of a new topic: none].
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = segment_bytes,
        allow_hyphen_values = true
    )]
    segment_bytes: Option<Limit>,
    /// What time records have: `create`: their producer says it; `append`: the leader does, when it stores
    /// them [default of a new topic: create].
    #[arg(long, value_name = "WHOSE", value_parser = timestamps)]
    timestamps: Option<Timestamps>,
}

impl PolicyArgs {
    /// What they change.
    pub fn changes(&self) -> PolicyChanges {
        PolicyChanges {
            cleanup: self.cleanup,
            delete_retention_ms: self.delete_retention,
            retention_ms: self.retention,
            retention_bytes: self.retention_bytes,
            segment_bytes: self.segment_bytes,
            timestamps: self.timestamps,
        }
    }
}

/// A setting as it is shown: its name, its value as JSON and in words, and whether the topic says so.
struct Setting {
    name: &'static str,
    value: Value,
    words: String,
    is_own: bool,
}

impl Setting {
    /// What every topic has of its own, since it was made.
    fn own(name: &'static str, value: Value) -> Setting {
        let words = value.as_str().map_or(value.to_string(), str::to_owned);
        Setting {
            name,
            value,
            words,
            is_own: true,
        }
    }

    /// A limit, which a topic need not have.
    fn limit(
        name: &'static str,
        limit: Option<u64>,
        words: fn(u64) -> String,
        without: &str,
    ) -> Setting {
        Setting {
            name,
            value: json!(limit),
            words: limit.map_or(without.to_owned(), words),
            is_own: limit.is_some(),
        }
    }

    fn source(&self) -> &'static str {
        match self.is_own {
            true => "topic",
            false => "default",
        }
    }
}

fn settings(config: &TopicConfig) -> Vec<Setting> {
    let flush = match config.flush {
        Flush::Ack => "ack",
        Flush::Interval => "interval",
    };
    let policy = &config.policy;
    vec![
        Setting::own("replicas", json!(config.replicas)),
        Setting::own("sync_followers", json!(config.sync_followers)),
        Setting::own("flush", json!(flush)),
        Setting::own("unclean_election", json!(config.unclean_election)),
        Setting {
            name: "cleanup",
            value: json!(policy.cleanup()),
            words: policy.cleanup().to_string(),
            is_own: policy.cleanup.is_some(),
        },
        Setting::limit("retention_ms", policy.retention_ms, time, "for ever"),
        Setting::limit(
            "delete_retention_ms",
            policy.delete_retention_ms,
            time,
            &time(DELETE_RETENTION_MS),
        ),
        Setting::limit("retention_bytes", policy.retention_bytes, size, "all"),
        Setting::limit(
            "segment_bytes",
            policy.segment_bytes,
            size,
            "as each broker is configured",
        ),
        Setting {
            name: "timestamps",
            value: json!(policy.timestamps()),
            words: policy.timestamps().to_string(),
            is_own: policy.timestamps.is_some(),
        },
    ]
}

/// Prints a topic's settings, and where each comes from.
pub fn show(config: &TopicConfig, as_json: bool) -> anyhow::Result<()> {
    let settings = settings(config);
    if as_json {
        let values = settings.iter().map(|setting| {
            let value = json!({"value": setting.value, "source": setting.source()});
            (setting.name.to_owned(), value)
        });
        return print_json(&values.collect::<Map<_, _>>());
    }
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            let source = setting.source().to_owned();
            vec![setting.name.to_owned(), setting.words.clone(), source]
        })
        .collect();
    print_table(&["setting", "value", "source"], &rows)
}

/// What a topic keeps, in words.
pub fn kept(policy: &TopicPolicy) -> String {
    let how = match policy.cleanup() {
        Cleanup::Compact => return "the newest record of each key is kept".to_owned(),
        Cleanup::CompactDelete => "the newest record of each key is kept, ",
        _ => "",
    };
    let young = policy.retention_ms.map(|ms| format!("for {}", time(ms)));
    let newest = policy.retention_bytes;
    let newest = newest.map(|bytes| format!("{} of a partition", size(bytes)));
    let segments = match policy.segment_bytes {
        Some(bytes) => format!(" (segments of {})", size(bytes)),
        None => String::new(),
    };
    let limits: Vec<String> = young.into_iter().chain(newest).collect();
    match limits.is_empty() {
        true => format!("{how}records are kept for ever{segments}"),
        false => format!("{how}records are kept: {}{segments}", limits.join(", ")),
    }
}

/// A time in the largest unit that leaves no rest.
fn time(ms: u64) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let fits = units.iter().find(|(unit, _)| ms.is_multiple_of(*unit));
    fits.map_or(format!("{ms}ms"), |(unit, name)| {
        format!("{}{name}", ms / unit)
    })
}

/// A size in the largest unit that leaves no rest.
fn size(bytes: u64) -> String {
    let units = [
        (1u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let fits = units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    fits.map_or(format!("{bytes} bytes"), |(unit, name)| {
        format!("{}{name}", bytes / unit)
    })
}

fn cleanup(text: &str) -> Result<Cleanup, String> {
    match text {
        "delete" => Ok(Cleanup::Delete),
        "compact" => Ok(Cleanup::Compact),
        "compact,delete" | "delete,compact" => Ok(Cleanup::CompactDelete),
        _ => Err(format!(
            "`{text}` is none of delete, compact and compact,delete"
        )),
    }
}

fn timestamps(text: &str) -> Result<Timestamps, String> {
    match text {
        "create" => Ok(Timestamps::Create),
        "append" => Ok(Timestamps::Append),
        _ => Err(format!("`{text}` is neither create nor append")),
    }
}

fn limit_ms(text: &str) -> Result<Limit, String> {
    limit(text, &TIME_UNITS).ok_or_else(|| {
        format!("`{text}` is no time; say a number with ms, s, m, h or d, such as 7d, or none")
    })
}

fn limit_bytes(text: &str) -> Result<Limit, String> {
    limit(text, &SIZE_UNITS).ok_or_else(|| {
        format!("`{text}` is no size; say a number of bytes or one with KiB, MiB, GiB or TiB, such as 10GiB, or none")
    })
}

fn segment_bytes(text: &str) -> Result<Limit, String> {
    match limit_bytes(text)? {
        Limit::To(bytes) if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) => {
            let (min, max) = (size(SEGMENT_BYTES_MIN), size(SEGMENT_BYTES_MAX));
            Err(format!("a segment has {min} to {max}, not {}", size(bytes)))
        }
        limit => Ok(limit),
    }
}

/// A number in one of these units, or none.
fn limit(text: &str, units: &[(&str, u64)]) -> Option<Limit> {
    match text {
        "none" => Some(Limit::None),
        _ => quantity::in_units(text, units).map(Limit::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        let ms = [
            ("7d", 7 * 86_400_000),
            ("90s", 90_000),
            ("12h", 43_200_000),
            ("5ms", 5),
        ];
        for (text, expected) in ms {
            assert_eq!(limit_ms(text), Ok(Limit::To(expected)));
            assert_eq!(limit_ms(&time(expected)), Ok(Limit::To(expected)));
        }
        let bytes = [("10GiB", 10 << 30), ("64KiB", 64 << 10), ("1000", 1_000)];
        for (text, expected) in bytes {
            assert_eq!(limit_bytes(text), Ok(Limit::To(expected)));
        }
        assert_eq!(size(10 << 30), "10GiB");
        assert_eq!(segment_bytes("64KiB"), Ok(Limit::To(64 << 10)));
        let small = segment_bytes("1000").expect_err("too small");
        assert_eq!(small, "a segment has 64KiB to 1GiB, not 1000 bytes");
        assert_eq!(limit_ms("none"), Ok(Limit::None));
        for text in [
            "",
            "7",
            "d",
            "-1d",
            "7 d",
            "7w",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert!(limit_ms(text).is_err(), "{text}");
        }
        for text in ["", "GiB", "1GB", "1.5GiB", "99999999TiB"] {
            assert!(limit_bytes(text).is_err(), "{text}");
        }
    }
}
