//! A segment file's name and header: whose it is, where it continues, and where it was sealed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use baton_protocol::ids::{Offset, PartitionIndex, TopicId};

use crate::error::{IoContext, StorageError};

/// Bytes before the first entry.
pub const SEGMENT_HEADER_BYTES: usize = 128;

/// First bytes of every segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"BATONSEG";

/// Format version written, and the newest understood.
pub const SEGMENT_VERSION: u16 = 1;

/// Where the sealing slot lies in the header: sealed length (u64), CRC-32 of it (u32).
pub(crate) const SEAL_AT: usize = 64;

/// Which log a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
}

impl std::fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The fixed part of a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose it is.
    pub identity: LogIdentity,
    /// The log's end when the segment was begun: the segment before ends here, or is not before
    /// this one.
    pub prev_end: Offset,
    /// Offset that the file is named after; its first entry starts here or later.
    pub base: Offset,
    /// Number of bytes, header included, at which the segment was sealed; none while it may grow.
    pub sealed_len: Option<u64>,
    /// It was sealed, or was being sealed, but where cannot be read any more.
    pub seal_lost: bool,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..10].copy_from_slice(&SEGMENT_VERSION.to_be_bytes());
        bytes[16..32].copy_from_slice(self.identity.topic.0.as_bytes());
        bytes[32..36].copy_from_slice(&self.identity.partition.0.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.base.0.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.prev_end.0.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_be_bytes());
        if let Some(len) = self.sealed_len {
            bytes[SEAL_AT..SEAL_AT + 12].copy_from_slice(&encode_seal(len));
        }
        bytes
    }

    /// Reads the header of the file at `path`.
    pub fn read(path: &Path) -> Result<SegmentHeader, StorageError> {
        let file = File::open(path).context(path, "open")?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(StorageError::corrupt(path, "it is shorter than a header"));
            }
            other => other.context(path, "read the header")?,
        }
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err(StorageError::corrupt(
                path,
                "this is no segment file (wrong magic)",
            ));
        }
        // The checksum stands in the same place in every version, so that a flipped bit is not
        // taken for a newer version.
        if crc32fast::hash(&bytes[..60]).to_be_bytes() != bytes[60..64] {
            return Err(StorageError::corrupt(
                path,
                "the header's checksum does not match",
            ));
        }
        let found = u16::from_be_bytes([bytes[8], bytes[9]]);
        if found > SEGMENT_VERSION {
            return Err(StorageError::NewerVersion {
                path: path.to_owned(),
                found,
                known: SEGMENT_VERSION,
            });
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(number)
        };
        let seal = &bytes[SEAL_AT..SEAL_AT + 12];
        let sealed_len = decode_seal(path, seal);
        let mut topic = [0; 16];
        topic.copy_from_slice(&bytes[16..32]);
        let mut partition = [0; 4];
        partition.copy_from_slice(&bytes[32..36]);
        Ok(SegmentHeader {
            identity: LogIdentity {
                topic: TopicId(uuid_from(topic)),
                partition: PartitionIndex(u32::from_be_bytes(partition)),
            },
            base: Offset(number(40)),
            prev_end: Offset(number(48)),
            sealed_len,
            seal_lost: sealed_len.is_none() && seal.iter().any(|byte| *byte != 0),
        })
    }
}

fn uuid_from(bytes: [u8; 16]) -> uuid::Uuid {
    uuid::Uuid::from_bytes(bytes)
}

pub(crate) fn encode_seal(len: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&len.to_be_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Makes a segment's bytes those of one that is not sealed.
pub(crate) fn clear_seal(segment: &mut [u8]) {
    if let Some(seal) = segment.get_mut(SEAL_AT..SEAL_AT + 12) {
        seal.fill(0);
    }
}

/// All zero means not sealed. A slot that is neither zero nor sound was torn while being written:
/// the sealing had not happened yet.
fn decode_seal(path: &Path, bytes: &[u8]) -> Option<u64> {
    let mut len = [0; 8];
    len.copy_from_slice(&bytes[..8]);
    let len = u64::from_be_bytes(len);
    if bytes == encode_seal(len) && len >= SEGMENT_HEADER_BYTES as u64 {
        return Some(len);
    }
    if bytes.iter().any(|byte| *byte != 0) {
        tracing::warn!(path = %path.display(), "a torn sealing is taken as none");
    }
    None
}

/// The name of the segment file that begins at `base`.
pub fn file_name(base: Offset) -> String {
    format!("{:020}.log", base.0)
}
