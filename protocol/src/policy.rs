//! What becomes of a topic's entries: how long they are kept, in what pieces, and with what time.

use serde::{Deserialize, Serialize};

/// Smallest `segment_bytes`.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Largest `segment_bytes`.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Longest `retention_ms`: a hundred years.
pub const RETENTION_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;

/// How long a record without a value is kept at least, where a topic says nothing else: a day.
pub const DELETE_RETENTION_MS: u64 = 24 * 3_600_000;

/// What is done with old entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cleanup {
    /// They are removed, oldest first, as the retention says.
    #[default]
    Delete,
    /// Of each key the newest record is kept, older ones are removed. The retention counts for nothing.
    Compact,
    /// Both.
    CompactDelete,
}

impl Cleanup {
    /// Whether older records of a key are removed. Then every record has to have one.
    pub fn compacts(self) -> bool {
        matches!(self, Cleanup::Compact | Cleanup::CompactDelete)
    }

    /// Whether the retention counts.
    pub fn deletes(self) -> bool {
        matches!(self, Cleanup::Delete | Cleanup::CompactDelete)
    }
}

impl std::fmt::Display for Cleanup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactDelete => "compact,delete",
        })
    }
}

/// Whose clock the timestamps of records are by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Timestamps {
    /// The producer's: when a record came about, or whatever else it says.
    #[default]
    Create,
    /// The leader's, when it stored the record, whatever the producer says.
    Append,
}

impl std::fmt::Display for Timestamps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Timestamps::Create => "create",
            Timestamps::Append => "append",
        })
    }
}

/// How long a topic's entries are kept, and what time they have. Changes at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPolicy {
    /// What is done with old entries; none: [`Cleanup::Delete`].
    #[serde(default)]
    pub cleanup: Option<Cleanup>,
    /// How long entries are kept at least, by their timestamps, in milliseconds; none: for ever.
    #[serde(default)]
    pub retention_ms: Option<u64>,
    /// How many bytes of the newest entries each replica of a partition keeps at least; none: all.
    #[serde(default)]
    pub retention_bytes: Option<u64>,
    /// How long a record without a value, which deletes its key, is kept at least after it was written where
    /// older records of a key are removed, in milliseconds; none: [`DELETE_RETENTION_MS`].
    #[serde(default)]
    pub delete_retention_ms: Option<u64>,
    /// Older records of keys may have been removed: it was said once that they are.
    #[serde(default)]
    pub compacted: bool,
    /// Entries are removed a segment at a time: the most bytes of one; none: as the brokers are
    /// configured.
    #[serde(default)]
    pub segment_bytes: Option<u64>,
    /// What time records have; none: [`Timestamps::Create`]. A change counts for records that come after it.
    #[serde(default)]
    pub timestamps: Option<Timestamps>,
}

/// A limit, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// There is none.
    None,
    /// There is this one.
    To(u64),
}

impl From<Limit> for Option<u64> {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::None => None,
            Limit::To(limit) => Some(limit),
        }
    }
}

/// What is to be changed of a topic's policy; none: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChanges {
    /// As [`TopicPolicy::cleanup`].
    #[serde(default)]
    pub cleanup: Option<Cleanup>,
    /// As [`TopicPolicy::delete_retention_ms`].
    #[serde(default)]
    pub delete_retention_ms: Option<Limit>,
    /// As [`TopicPolicy::retention_ms`].
    #[serde(default)]
    pub retention_ms: Option<Limit>,
    /// As [`TopicPolicy::retention_bytes`].
    #[serde(default)]
    pub retention_bytes: Option<Limit>,
    /// As [`TopicPolicy::segment_bytes`].
    #[serde(default)]
    pub segment_bytes: Option<Limit>,
    /// As [`TopicPolicy::timestamps`].
    #[serde(default)]
    pub timestamps: Option<Timestamps>,
}

impl TopicPolicy {
    /// The policy with these changes.
    #[must_use]
    pub fn with(self, changes: &PolicyChanges) -> TopicPolicy {
        let new = |old, change: Option<Limit>| change.map_or(old, Option::from);
        TopicPolicy {
            cleanup: changes.cleanup.or(self.cleanup),
            compacted: self.may_lack_entries(),
            delete_retention_ms: new(self.delete_retention_ms, changes.delete_retention_ms),
            retention_ms: new(self.retention_ms, changes.retention_ms),
            retention_bytes: new(self.retention_bytes, changes.retention_bytes),
            segment_bytes: new(self.segment_bytes, changes.segment_bytes),
            timestamps: changes.timestamps.or(self.timestamps),
        }
    }

    /// What is done with old entries.
    pub fn cleanup(&self) -> Cleanup {
        self.cleanup.unwrap_or_default()
    }

    /// What time records have.
    pub fn timestamps(&self) -> Timestamps {
        self.timestamps.unwrap_or_default()
    }

    /// Whether logs may lack entries that newer ones supersede.
    pub fn may_lack_entries(&self) -> bool {
        self.compacted || self.cleanup().compacts()
    }

    /// Checks the ranges. The error says what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if let Some(ms) = self.retention_ms
            && !(1..=RETENTION_MS_MAX).contains(&ms)
        {
            return Err(format!(
                "entries are kept for 1 to {RETENTION_MS_MAX} ms (a hundred years), or for ever, not for {ms} ms"
            ));
        }
        if let Some(ms) = self.delete_retention_ms
            && ms > RETENTION_MS_MAX
        {
            return Err(format!(
                "records that delete their key are kept for 0 to {RETENTION_MS_MAX} ms (a hundred years), not for {ms} ms"
            ));
        }
        if self.retention_bytes == Some(0) {
            return Err("at least 1 byte of entries is kept, or all of them".to_owned());
        }
        if let Some(bytes) = self.segment_bytes
            && !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        {
            return Err(format!(
                "a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, not {bytes}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_the_rest_as_it_is_and_can_lift_a_limit() {
        let policy = TopicPolicy {
            retention_ms: Some(5),
            retention_bytes: Some(7),
            ..TopicPolicy::default()
        };
        let changes = PolicyChanges {
            retention_ms: Some(Limit::None),
            segment_bytes: Some(Limit::To(1 << 20)),
            ..PolicyChanges::default()
        };
        let changed = policy.with(&changes);
        assert_eq!(changed.retention_ms, None);
        assert_eq!(changed.retention_bytes, Some(7));
        assert_eq!(changed.segment_bytes, Some(1 << 20));
        assert_eq!(policy.with(&PolicyChanges::default()), policy);
    }

    #[test]
    fn a_topic_that_was_once_compacted_stays_one_that_may_lack_entries() {
        let change = |cleanup| PolicyChanges {
            cleanup: Some(cleanup),
            ..PolicyChanges::default()
        };
        let new = TopicPolicy::default();
        assert!(!new.may_lack_entries() && new.cleanup().deletes());
        assert!(!new.with(&change(Cleanup::Delete)).may_lack_entries());
        let compacted = new.with(&change(Cleanup::Compact));
        assert!(compacted.may_lack_entries() && !compacted.cleanup().deletes());
        let again = compacted.with(&change(Cleanup::Delete));
        assert!(again.may_lack_entries() && !again.cleanup().compacts());
        assert!(again.with(&PolicyChanges::default()).may_lack_entries());
        let both = Cleanup::CompactDelete;
        assert!(both.compacts() && both.deletes());
    }

    #[test]
    fn ranges_are_checked() {
        let with = |policy: TopicPolicy| policy.check().is_ok();
        let none = TopicPolicy::default();
        assert!(with(none));
        for (ms, fine) in [(0, false), (1, true), (RETENTION_MS_MAX + 1, false)] {
            let retention_ms = Some(ms);
            assert_eq!(
                with(TopicPolicy {
                    retention_ms,
                    ..none
                }),
                fine
            );
        }
        for (bytes, fine) in [(0, false), (1, true), (u64::MAX, true)] {
            let retention_bytes = Some(bytes);
            assert_eq!(
                with(TopicPolicy {
                    retention_bytes,
                    ..none
                }),
                fine
            );
        }
        for (bytes, fine) in [
            (65_535, false),
            (65_536, true),
            (1 << 30, true),
            ((1 << 30) + 1, false),
        ] {
            let segment_bytes = Some(bytes);
            assert_eq!(
                with(TopicPolicy {
                    segment_bytes,
                    ..none
                }),
                fine
            );
        }
    }

    #[test]
    fn a_record_of_before_has_no_limits() {
        let empty = rmp_serde::to_vec_named(&std::collections::BTreeMap::<String, u64>::new());
        let policy = rmp_serde::from_slice::<TopicPolicy>(&empty.expect("encoded"));
        assert_eq!(policy.expect("decoded"), TopicPolicy::default());
    }
}
