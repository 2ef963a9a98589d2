//! Records, as they are sent and as they are read.

use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex};
use bytes::Bytes;

/// A record to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Records of equal key go to the same partition; none: any.
    pub key: Option<Bytes>,
    /// The content.
    pub value: Option<Bytes>,
    /// Names and values that go with it.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// The partition; none: by key.
    pub partition: Option<PartitionIndex>,
    /// Milliseconds since 1970; none: now.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record of this content.
    pub fn value(value: impl Into<Bytes>) -> Self {
        Record {
            value: Some(value.into()),
            ..Record::default()
        }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same for this partition.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(PartitionIndex(partition));
        self
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset; none with `Acks::Leader` or `Acks::None` (but in an asynchronous topic): what is
    /// not committed yet may still be discarded, and its offset given to another record.
    pub offset: Option<Offset>,
    /// The leader epoch it was appended in; none with `Acks::None`.
    pub epoch: Option<LeaderEpoch>,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset.
    pub offset: Offset,
    /// The leader epoch it was appended in.
    pub epoch: LeaderEpoch,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The content.
    pub value: Option<Bytes>,
    /// Names and values that go with it.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The partition of a key: Kafka's default partitioner (murmur2 with seed 0x9747b28c, sign bit
/// cleared), so that clients of both kinds agree.
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionIndex {
    PartitionIndex((murmur2(key) & 0x7fff_ffff) % partitions)
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_kafkas_own_tests_say() {
        // From Apache Kafka's UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
