//! Which partition a record goes to.

use baton_protocol::ids::PartitionIndex;

use crate::record::Record;

/// Chooses partitions. Called for every record that names none; has to be quick.
pub trait Partitioner: Send + Sync + 'static {
    /// The partition of a record, less than `partitions`, which is at least 1. None: any. Records
    /// that may go anywhere go to one partition until their batch is sent, then to the next: that
    /// makes batches large.
    fn partition(&self, record: &Record, partitions: u32) -> Option<PartitionIndex>;
}

/// By the hash of the key, as Kafka's clients do; anywhere without one. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHash;

impl Partitioner for KeyHash {
    fn partition(&self, record: &Record, partitions: u32) -> Option<PartitionIndex> {
        let key = record.key.as_deref()?;
        Some(partition_of_key(key, partitions))
    }
}

/// A function is a partitioner.
impl<F> Partitioner for F
where
    F: Fn(&Record, u32) -> Option<PartitionIndex> + Send + Sync + 'static,
{
    fn partition(&self, record: &Record, partitions: u32) -> Option<PartitionIndex> {
        self(record, partitions)
    }
}

/// The partition of a key: Kafka's default partitioner (murmur2 with seed 0x9747b28c, sign bit
/// cleared), so that clients of both kinds agree.
///
/// # Panics
/// If `partitions` is 0.
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
