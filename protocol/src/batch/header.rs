//! The fixed part of a record batch: 61 bytes, big-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | base offset |
//! | 8 | 4 | length of what follows this field |
//! | 12 | 4 | leader epoch, -1 for none yet |
//! | 16 | 1 | magic, 2 |
//! | 17 | 4 | CRC-32C of everything from byte 21 on |
//! | 21 | 2 | attributes: codec (bits 0-2), log-append time (3), transactional (4), control (5) |
//! | 23 | 4 | last offset delta |
//! | 27 | 8 | base timestamp, ms |
//! | 35 | 8 | greatest timestamp, ms |
//! | 43 | 8 | producer id, -1 for none |
//! | 51 | 2 | producer epoch, -1 for none |
//! | 53 | 4 | base sequence, -1 for none |
//! | 57 | 4 | record count |

use crate::batch::{BatchError, Codec};
use crate::ids::{LeaderEpoch, Offset, ProducerId};

/// Bytes of the fixed part.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Where the part that the CRC-32C covers begins.
pub(super) const CHECKED_FROM: usize = 21;

/// Kafka's CRC-32C.
pub(super) const CRC_32C: crc_fast::CrcAlgorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Where attributes and timestamps end.
const TIMES_END: usize = 43;

/// A leader epoch that nobody has assigned yet: -1.
const NO_EPOCH: [u8; 4] = [0xff; 4];

/// Bytes before the length field's own end: what the length does not count.
const UNCOUNTED: usize = 12;

pub(super) const CONTROL: i16 = 1 << 5;

/// Attribute bit: timestamps are those of the append.
pub(super) const APPEND_TIME: i16 = 1 << 3;
pub(super) const TRANSACTIONAL: i16 = 1 << 4;
pub(super) const KNOWN_ATTRIBUTES: i16 = 0b11_1111;

/// A batch's mark of its idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: u16,
    /// Sequence of the first record.
    pub sequence: u32,
    /// Number of records that it was sent with: compaction may have left fewer.
    pub records: u32,
}

/// The fixed part of a batch. Reading it checks what must hold for any batch: magic, length,
/// signs; the checksums and the records are checked elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    base_offset: u64,
    batch_bytes: usize,
    leader_epoch: u32,
    crc: u32,
    attributes: i16,
    last_offset_delta: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: u32,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    number.copy_from_slice(&bytes[at..at + N]);
    number
}

fn not_negative(field: &'static str, value: i64) -> Result<u64, BatchError> {
    u64::try_from(value).map_err(|_| BatchError::Field {
        field,
        value,
        expected: "it cannot be negative",
    })
}

impl BatchHeader {
    /// Reads the fixed part at the front of `bytes`, which may hold less than the whole batch.
    ///
    /// A leader epoch of -1, which Kafka's producers send because only the broker that appends the
    /// batch knows better, is read as [`LeaderEpoch::NONE`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Short {
                have: bytes.len(),
                need: BATCH_HEADER_BYTES,
            });
        }
        if bytes[16] != 2 {
            return Err(BatchError::Field {
                field: "magic",
                value: i64::from(bytes[16]),
                expected: "only version 2 is known",
            });
        }
        let length = i32::from_be_bytes(number(bytes, 8));
        let least = (BATCH_HEADER_BYTES - UNCOUNTED) as i32;
        if length < least {
            return Err(BatchError::Field {
                field: "length",
                value: i64::from(length),
                expected: "it is at least that of the header, 49",
            });
        }
        let signed =
            |field, at| not_negative(field, i64::from(i32::from_be_bytes(number(bytes, at))));
        let record_count = signed("record count", 57)?;
        let last_offset_delta = signed("last offset delta", 23)?;
        let base_offset = not_negative("base offset", i64::from_be_bytes(number(bytes, 0)))?;
        if base_offset
            .checked_add(last_offset_delta + 1)
            .is_none_or(|end| end > Offset::MAX.0)
        {
            return Err(BatchError::Field {
                field: "base offset",
                value: base_offset as i64,
                expected: "it leaves no room for the records",
            });
        }
        Ok(BatchHeader {
            base_offset,
            batch_bytes: UNCOUNTED + length as usize,
            leader_epoch: match number(bytes, 12) {
                NO_EPOCH => LeaderEpoch::NONE.0,
                _ => signed("leader epoch", 12)? as u32,
            },
            crc: u32::from_be_bytes(number(bytes, 17)),
            attributes: i16::from_be_bytes(number(bytes, 21)),
            last_offset_delta: last_offset_delta as u32,
            base_timestamp: i64::from_be_bytes(number(bytes, 27)),
            max_timestamp: i64::from_be_bytes(number(bytes, 35)),
            producer_id: i64::from_be_bytes(number(bytes, 43)),
            producer_epoch: i16::from_be_bytes(number(bytes, 51)),
            base_sequence: i32::from_be_bytes(number(bytes, 53)),
            record_count: record_count as u32,
        })
    }

    /// Bytes of the whole batch, this part included.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset)
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset + u64::from(self.last_offset_delta) + 1)
    }

    /// The epoch it was appended in.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch)
    }

    /// The CRC-32C as stored.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Number of records.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Offset of the last record, relative to the first.
    pub fn last_offset_delta(&self) -> u32 {
        self.last_offset_delta
    }

    /// Timestamp that those of the records are relative to, in ms since 1970.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// Greatest timestamp of the records, in ms since 1970.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Whether it holds a control record, which consumers never see.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether the timestamp of all records is that of the append, which is the greatest one.
    pub fn is_of_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    pub(super) fn attributes(&self) -> i16 {
        self.attributes
    }

    /// How its records are compressed; none for a codec that does not exist.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_bits(self.attributes)
    }

    /// Its producer's mark, if it has one.
    pub fn producer(&self) -> Option<ProducerStamp> {
        Some(ProducerStamp {
            id: ProducerId(u64::try_from(self.producer_id).ok()?),
            epoch: u16::try_from(self.producer_epoch).ok()?,
            sequence: u32::try_from(self.base_sequence).ok()?,
            records: self.last_offset_delta + 1,
        })
    }

    pub(super) fn producer_fields(&self) -> (i64, i16, i32) {
        (self.producer_id, self.producer_epoch, self.base_sequence)
    }
}

/// What a leader gives a batch when it stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderStamp {
    /// Offset of its first record.
    pub base: Offset,
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The time that all its records get, in ms since 1970; none: they keep their producer's.
    pub append_time_ms: Option<i64>,
}

impl LeaderStamp {
    /// A stamp that leaves the time as it is.
    pub fn new(base: Offset, epoch: LeaderEpoch) -> Self {
        LeaderStamp {
            base,
            epoch,
            append_time_ms: None,
        }
    }
}

/// Puts a stamp on a sound batch, of which no more than the fixed part need be here.
///
/// Offset and epoch lie outside the CRC-32C. For the time it is changed by what the change of the time makes of
/// it, not computed again: what happened to the rest of the batch since its producer summed it up still
/// shows.
///
/// # Panics
/// If `head` is shorter than [`BATCH_HEADER_BYTES`], or is none.
pub fn assign(head: &mut [u8], stamp: &LeaderStamp) {
    head[0..8].copy_from_slice(&stamp.base.0.to_be_bytes());
    head[12..16].copy_from_slice(&stamp.epoch.0.to_be_bytes());
    if let Some(ms) = stamp.append_time_ms {
        assign_time(head, ms);
    }
}

fn assign_time(head: &mut [u8], ms: i64) {
    let sum = |bytes: &[u8]| crc_fast::checksum(CRC_32C, bytes);
    let before = sum(&head[CHECKED_FROM..TIMES_END]);
    let attributes = i16::from_be_bytes(number(head, 21)) | APPEND_TIME;
    head[21..23].copy_from_slice(&attributes.to_be_bytes());
    head[35..TIMES_END].copy_from_slice(&ms.to_be_bytes());
    let after = sum(&head[CHECKED_FROM..TIMES_END]);
    let bytes = UNCOUNTED + u32::from_be_bytes(number(head, 8)) as usize;
    let behind = (bytes - TIMES_END) as u64;
    // The sum is linear: two batches' sums differ by that of their difference, moved by what follows.
    let difference = crc_fast::checksum_combine(CRC_32C, before ^ after, 0, behind) as u32;
    let crc = u32::from_be_bytes(number(head, 17)) ^ difference;
    head[17..21].copy_from_slice(&crc.to_be_bytes());
}
