//! Stored entries: `[u32 crc32][record batch]`, back to back.

use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};

/// What an entry has beyond its batch: the CRC-32.
pub const ENTRY_OVERHEAD_BYTES: usize = 4;

/// An entry within a larger buffer.
#[derive(Clone, Debug)]
pub struct EntryRef<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// Its batch.
    pub batch: &'a [u8],
    /// The batch's fixed part.
    pub header: BatchHeader,
}

/// The CRC-32 of a batch as stored.
pub fn entry_crc(batch: &[u8]) -> u32 {
    crc32fast::hash(batch)
}

/// Reads the entry at the front of `bytes`; none if it is not all there.
pub fn parse_entry(bytes: &[u8]) -> Result<Option<EntryRef<'_>>, BatchError> {
    if bytes.len() < ENTRY_OVERHEAD_BYTES + BATCH_HEADER_BYTES {
        return Ok(None);
    }
    let header = BatchHeader::parse(&bytes[ENTRY_OVERHEAD_BYTES..])?;
    let end = ENTRY_OVERHEAD_BYTES + header.batch_bytes();
    if bytes.len() < end {
        return Ok(None);
    }
    Ok(Some(EntryRef {
        bytes: &bytes[..end],
        batch: &bytes[ENTRY_OVERHEAD_BYTES..end],
        header,
    }))
}

/// Bytes of the entry at the front of `bytes`, or, if its header is not all there, the fewest that
/// tell.
fn entry_bytes(bytes: &[u8]) -> usize {
    let header = bytes
        .get(ENTRY_OVERHEAD_BYTES..)
        .and_then(|batch| BatchHeader::parse(batch).ok());
    ENTRY_OVERHEAD_BYTES + header.map_or(BATCH_HEADER_BYTES, |header| header.batch_bytes())
}

/// Checks an entry's CRC-32.
pub fn verify_entry(entry: &EntryRef<'_>) -> Result<(), BatchError> {
    let mut stored = [0; 4];
    stored.copy_from_slice(&entry.bytes[..4]);
    let stored = u32::from_be_bytes(stored);
    let computed = entry_crc(entry.batch);
    if stored == computed {
        Ok(())
    } else {
        Err(BatchError::Checksum {
            which: "entry's CRC-32",
            stored,
            computed,
        })
    }
}

/// Walks entries that lie back to back, verifying each. Ends after the first error.
#[derive(Clone, Debug)]
pub struct EntryIter<'a> {
    rest: &'a [u8],
}

impl<'a> EntryIter<'a> {
    /// Walks `bytes`, which should hold whole entries only.
    pub fn new(bytes: &'a [u8]) -> Self {
        EntryIter { rest: bytes }
    }
}

impl<'a> Iterator for EntryIter<'a> {
    type Item = Result<EntryRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = parse_entry(self.rest).and_then(|entry| {
            let entry = entry.ok_or_else(|| BatchError::Short {
                have: self.rest.len(),
                need: entry_bytes(self.rest),
            })?;
            verify_entry(&entry)?;
            Ok(entry)
        });
        self.rest = match &entry {
            Ok(entry) => &self.rest[entry.bytes.len()..],
            Err(_) => &[],
        };
        Some(entry)
    }
}
