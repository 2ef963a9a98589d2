//! The file `<base offset>.index` beside a segment: what a scan of the segment would find.
//!
//! A hint. It lets a start believe what lies below the mark without reading it, and is worth nothing
//! by itself: it counts only if it is whole, of this log and this segment, and if the segment's bytes
//! from the last indexed entry on are those that it speaks of. An entry is named by its offset and
//! leader epoch once and for all, so logs that agree in one agree in all that is below. What is wrong
//! in any way is as good as missing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::files::temporary;
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::index::{Indexed, NO_TIME};

const MAGIC: [u8; 8] = *b"BATONIDX";
const VERSION: u16 = 2;
const HEAD_BYTES: usize = 80;
const CRC_AT: usize = 76;
const EPOCH_BYTES: usize = 12;
const ENTRY_BYTES: usize = 24;

/// More than the index of the largest segment takes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What an index says of its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// Bytes of the segment that it speaks of, header included; whole entries.
    pub len: usize,
    /// Offset after the last of these entries.
    pub end: Offset,
    /// Each epoch that begins in them, with the log's end before.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Some of the entries, the first one among them.
    pub entries: Vec<Indexed>,
    /// CRC-32 of the segment's bytes from the last of these entries up to the length.
    pub check: u32,
}

impl IndexFile {
    /// The index of the segment file at `path`, which has this header; none if there is none that is
    /// whole and of this segment.
    pub fn read(path: &Path, header: &SegmentHeader) -> Option<IndexFile> {
        let mut bytes = Vec::new();
        let file = File::open(path_of(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        decode(&bytes, header)
    }

    /// Puts the index beside the segment file at `path`, in place of an older one. It is not
    /// flushed: a torn one is known by its checksum.
    pub fn write(
        &self,
        path: &Path,
        identity: LogIdentity,
        base: Offset,
    ) -> Result<(), StorageError> {
        let path = path_of(path);
        let unnamed = temporary(&path);
        let written = File::create(&unnamed)
            .and_then(|mut file| file.write_all(&self.encode(identity, base)))
            .context(&unnamed, "write");
        let named =
            written.and_then(|()| std::fs::rename(&unnamed, &path).context(&path, "replace"));
        if named.is_err() {
            // The next start removes what cannot be removed now.
            drop(std::fs::remove_file(&unnamed));
        }
        named
    }

    /// Position of the last entry that is indexed.
    pub fn last_position(&self) -> usize {
        self.entries
            .last()
            .map_or(SEGMENT_HEADER_BYTES, |e| e.position)
    }

    fn encode(&self, identity: LogIdentity, base: Offset) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
        bytes[16..32].copy_from_slice(identity.topic.0.as_bytes());
        bytes[32..36].copy_from_slice(&identity.partition.0.to_be_bytes());
        bytes[36..40].copy_from_slice(&(self.epochs.len() as u32).to_be_bytes());
        bytes[40..48].copy_from_slice(&base.0.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.end.0.to_be_bytes());
        bytes[56..64].copy_from_slice(&(self.len as u64).to_be_bytes());
        bytes[64..68].copy_from_slice(&self.check.to_be_bytes());
        bytes[68..72].copy_from_slice(&(self.entries.len() as u32).to_be_bytes());
        for (epoch, end_before) in &self.epochs {
            bytes.extend_from_slice(&epoch.0.to_be_bytes());
            bytes.extend_from_slice(&end_before.0.to_be_bytes());
        }
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.base.0.to_be_bytes());
            bytes.extend_from_slice(&(entry.position as u64).to_be_bytes());
            bytes.extend_from_slice(&entry.newest_before.to_be_bytes());
        }
        let crc = checksum(&bytes).to_be_bytes();
        bytes[CRC_AT..HEAD_BYTES].copy_from_slice(&crc);
        bytes
    }

    /// Whether it can be the index of anything: all that it says lies in order and within what it
    /// speaks of.
    fn is_in_order(&self, base: Offset) -> bool {
        let rising = |pair: &[Indexed]| {
            pair[0].base < pair[1].base
                && pair[0].position < pair[1].position
                && pair[0].newest_before <= pair[1].newest_before
        };
        let later = |pair: &[(LeaderEpoch, Offset)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) else {
            return false;
        };
        let epochs_within = self
            .epochs
            .iter()
            .all(|run| (base..self.end).contains(&run.1));
        first.base >= base
            && first.position == SEGMENT_HEADER_BYTES
            && first.newest_before == NO_TIME
            && last.base < self.end
            && last.position < self.len
            && self.entries.windows(2).all(rising)
            && epochs_within
            && self.epochs.windows(2).all(later)
    }
}

fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<IndexFile> {
    if bytes.len() < HEAD_BYTES || bytes[0..8] != MAGIC || bytes[8..10] != VERSION.to_be_bytes() {
        return None;
    }
    let crc = checksum(bytes).to_be_bytes();
    let identity = header.identity;
    let is_ours = bytes[16..32] == *identity.topic.0.as_bytes()
        && bytes[32..36] == identity.partition.0.to_be_bytes()
        && number(&bytes[40..48]) == header.base.0;
    if bytes[CRC_AT..HEAD_BYTES] != crc || !is_ours {
        return None;
    }
    let epochs = number(&bytes[36..40]) as usize * EPOCH_BYTES;
    let entries = number(&bytes[68..72]) as usize * ENTRY_BYTES;
    let (of_epochs, of_entries) = bytes[HEAD_BYTES..].split_at_checked(epochs)?;
    if of_entries.len() != entries {
        return None;
    }
    let run = |run: &[u8]| {
        let epoch = LeaderEpoch(number(&run[..4]) as u32);
        (epoch, Offset(number(&run[4..])))
    };
    let entry = |entry: &[u8]| {
        Some(Indexed {
            base: Offset(number(&entry[..8])),
            position: usize::try_from(number(&entry[8..16])).ok()?,
            newest_before: number(&entry[16..]) as i64,
        })
    };
    let entries = of_entries.chunks_exact(ENTRY_BYTES).map(entry);
    let found = IndexFile {
        len: usize::try_from(number(&bytes[56..64])).ok()?,
        end: Offset(number(&bytes[48..56])),
        epochs: of_epochs.chunks_exact(EPOCH_BYTES).map(run).collect(),
        entries: entries.collect::<Option<_>>()?,
        check: number(&bytes[64..68]) as u32,
    };
    found.is_in_order(header.base).then_some(found)
}

/// Of everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC_AT]);
    crc.update(&bytes[HEAD_BYTES..]);
    crc.finalize()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Where the index of the segment file at `path` lies.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    path.with_extension("index")
}

/// Removes the index of the segment file at `path`; tells whether there was one. It has to be gone
/// before the segment is cut or replaced.
pub(crate) fn remove(path: &Path) -> Result<bool, StorageError> {
    let path = path_of(path);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        other => other.context(&path, "remove").map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::ids::{PartitionIndex, TopicId};

    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        identity: LogIdentity {
            topic: TopicId(uuid::Uuid::from_u128(5)),
            partition: PartitionIndex(1),
        },
        prev_end: Offset(70),
        base: Offset(70),
        sealed_len: None,
        seal_lost: false,
    };

    fn entry(base: u64, position: usize, newest_before: i64) -> Indexed {
        Indexed {
            base: Offset(base),
            position,
            newest_before,
        }
    }

    fn sample() -> IndexFile {
        IndexFile {
            len: 900,
            end: Offset(110),
            epochs: vec![(LeaderEpoch(2), Offset(70)), (LeaderEpoch(5), Offset(80))],
            entries: vec![entry(70, 128, NO_TIME), entry(90, 500, -3)],
            check: 77,
        }
    }

    fn encoded(index: &IndexFile) -> Vec<u8> {
        index.encode(HEADER.identity, HEADER.base)
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_in_no_other_shape() {
        let whole = encoded(&sample());
        assert_eq!(decode(&whole, &HEADER), Some(sample()));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            assert_eq!(decode(&bytes, &HEADER), None, "byte {at}");
            assert_eq!(decode(&whole[..at], &HEADER), None, "cut at {at}");
        }
        let longer = [&whole[..], &[0; 24]].concat();
        assert_eq!(decode(&longer, &HEADER), None);
    }

    #[test]
    fn an_index_of_another_log_or_segment_is_none() {
        let whole = encoded(&sample());
        let mut others = [HEADER; 3];
        others[0].base = Offset(71);
        others[1].identity.partition = PartitionIndex(2);
        others[2].identity.topic = TopicId(uuid::Uuid::from_u128(6));
        for other in others {
            assert_eq!(decode(&whole, &other), None);
        }
    }

    #[test]
    fn an_index_that_contradicts_itself_is_none() {
        let wrong: [fn(&mut IndexFile); 10] = [
            |index| index.entries.clear(),
            |index| index.entries[0].position = 127,
            |index| index.entries[0].base = Offset(69),
            |index| index.entries[0].newest_before = -3,
            |index| index.entries[1].base = Offset(70),
            |index| index.entries[1].position = 900,
            |index| index.end = Offset(90),
            |index| index.epochs[1].0 = LeaderEpoch(2),
            |index| index.epochs[1].1 = Offset(110),
            |index| index.epochs[0].1 = Offset(69),
        ];
        for (i, spoil) in wrong.iter().enumerate() {
            let mut index = sample();
            spoil(&mut index);
            assert_eq!(decode(&encoded(&index), &HEADER), None, "case {i}");
        }
    }
}
