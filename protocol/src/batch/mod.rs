//! Record batches: the one format of disk, wire and client.
//!
//! A batch is Kafka's record batch, version 2 (KIP-98), byte for byte. A stored *entry* is
//! `[u32 crc32][batch]`, big-endian: Kafka's own CRC-32C leaves the base offset and the leader
//! epoch uncovered; the CRC-32 before it covers every byte of the batch as stored, and travels with
//! the entry.
//!
//! | module | what |
//! | --- | --- |
//! | `header` | the fixed part of a batch |
//! | `entry` | entries, back to back, verified |
//! | `build` | making batches |
//! | `codec` | compressing records and expanding them again, within a bound |
//! | `records` | reading the records of a batch |
//! | `retain` | batches with fewer records, as compaction leaves them |
//! | `validate` | what a broker demands of a producer's batch |

mod build;
mod codec;
mod entry;
mod header;
mod records;
mod retain;
mod snappy;
mod validate;
mod varint;

pub use build::{BatchBuilder, Header, ProducerState, control_batch_epoch_start};
pub use codec::{Codec, EXPANDED_BYTES_MAX};
pub use entry::{ENTRY_OVERHEAD_BYTES, EntryIter, EntryRef, entry_crc, parse_entry, verify_entry};
pub use header::{BATCH_HEADER_BYTES, BatchHeader, LeaderStamp, ProducerStamp, assign};
pub use records::{HeaderIter, RecordIter, RecordRef, RecordWalk, expand_records};
pub use retain::{check_keys, retain_records};
pub use validate::{HEADERS_PER_RECORD_MAX, validate_produced};

/// Bytes that are no (good) batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// It ends too early.
    #[error("the batch is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Something follows it where exactly one batch is expected.
    #[error("one batch is expected in {len} bytes, but it ends after {batch}")]
    Trailing {
        /// Bytes at hand.
        len: usize,
        /// Bytes of the batch.
        batch: usize,
    },
    /// It is larger than allowed.
    #[error("the batch has {len} bytes, at most {max} are allowed (message_bytes_max)")]
    TooLarge {
        /// Its size.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// A field has a value that it cannot have.
    #[error("the batch's {field} is {value}, {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: i64,
        /// What it should be.
        expected: &'static str,
    },
    /// A checksum does not match.
    #[error(
        "the {which} does not match: {stored:#010x} is stored, the bytes give {computed:#010x}"
    )]
    Checksum {
        /// Which.
        which: &'static str,
        /// As stored.
        stored: u32,
        /// As it should be.
        computed: u32,
    },
    /// Its compressed records cannot be expanded.
    #[error("the batch's records cannot be expanded with {codec}: {why}")]
    Compressed {
        /// How they are compressed.
        codec: Codec,
        /// What the codec says.
        why: String,
    },
    /// Its compressed records are more than a reader takes.
    #[error("the batch's records expand with {codec} to more than the {max} bytes allowed")]
    ExpandsTooFar {
        /// How they are compressed.
        codec: Codec,
        /// What is allowed.
        max: usize,
    },
    /// A record is malformed.
    #[error("record {index} of the batch is malformed: {what}")]
    Record {
        /// Which record.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A record has no key, where every record has to have one.
    #[error(
        "record {index} of the batch has no key, and the topic keeps the newest record of each key (cleanup = compact)"
    )]
    NoKey {
        /// Which record.
        index: u32,
    },
}

impl BatchError {
    /// Whether size is the only thing wrong.
    pub fn is_too_large(&self) -> bool {
        matches!(self, BatchError::TooLarge { .. })
    }
}

#[cfg(test)]
mod tests;
