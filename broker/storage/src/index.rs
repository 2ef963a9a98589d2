//! The sparse index of a segment: where to begin looking for an offset.
//!
//! A hint: read from the segment's index file, or rebuilt from the scan that checks the entries. It
//! never proves the log.

use baton_protocol::ids::Offset;

/// An entry that is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// Its base offset.
    pub base: Offset,
    /// Where in the file it is.
    pub position: usize,
    /// The greatest timestamp of the entries before it in the segment; [`NO_TIME`] if there are none.
    pub newest_before: i64,
}

/// Less than every timestamp.
pub const NO_TIME: i64 = i64::MIN;

/// Some entries of a segment, by offset.
#[derive(Clone, Debug, Default)]
pub struct SparseIndex {
    /// Every entry that is indexed, rising. In blocks, so that adding one copies little.
    blocks: Vec<std::sync::Arc<Vec<Indexed>>>,
}

/// Entries of a block.
const BLOCK: usize = 256;

impl SparseIndex {
    /// Whether an entry at `position` should be indexed, one in `bytes` being wanted.
    pub fn wants(&self, position: usize, bytes: usize) -> bool {
        let last = self.blocks.last().and_then(|block| block.last());
        last.is_none_or(|last| position - last.position >= bytes)
    }

    /// The index with one entry more.
    #[must_use]
    pub fn with(&self, entry: Indexed) -> SparseIndex {
        let mut blocks = self.blocks.clone();
        match blocks.last_mut() {
            Some(block) if block.len() < BLOCK => {
                std::sync::Arc::make_mut(block).push(entry);
            }
            _ => blocks.push(std::sync::Arc::new(vec![entry])),
        }
        SparseIndex { blocks }
    }

    /// Adds an entry in place.
    pub fn push(&mut self, entry: Indexed) {
        *self = self.with(entry);
    }

    /// An index of these entries, which rise.
    pub fn of(entries: &[Indexed]) -> SparseIndex {
        let blocks = entries.chunks(BLOCK);
        SparseIndex {
            blocks: blocks
                .map(|block| std::sync::Arc::new(block.to_vec()))
                .collect(),
        }
    }

    /// Its entries, rising.
    pub fn entries(&self) -> impl Iterator<Item = Indexed> + '_ {
        self.blocks.iter().flat_map(|block| block.iter().copied())
    }

    /// Position of an indexed entry that starts at or before `offset`; none if all start after it.
    pub fn floor(&self, offset: Offset) -> Option<usize> {
        let block = self
            .blocks
            .partition_point(|block| block[0].base <= offset)
            .checked_sub(1)?;
        let entries = &self.blocks[block];
        let at = entries.partition_point(|entry| entry.base <= offset) - 1;
        Some(entries[at].position)
    }

    /// Position of the last indexed entry before which all timestamps are below `timestamp`: none of the
    /// entries in front of it is wanted by who looks for one that is not. None for an empty index.
    pub fn floor_by_time(&self, timestamp: i64) -> Option<usize> {
        let earlier = |entry: &Indexed| entry.newest_before < timestamp;
        let block = self.blocks.partition_point(|block| earlier(&block[0]));
        let entries = &self.blocks[block.checked_sub(1)?];
        let at = entries.partition_point(earlier).checked_sub(1)?;
        Some(entries[at].position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: u64) -> Indexed {
        Indexed {
            base: Offset(i * 10 + 5),
            position: i as usize * 4096,
            newest_before: match i {
                0 => NO_TIME,
                i => i as i64 * 7,
            },
        }
    }

    #[test]
    fn the_floor_of_an_offset_is_the_last_indexed_entry_not_after_it() {
        let mut index = SparseIndex::default();
        assert_eq!(index.floor(Offset(3)), None);
        for i in 0..1_000u64 {
            index.push(entry(i));
        }
        assert_eq!(index.floor(Offset(4)), None);
        assert_eq!(index.floor(Offset(5)), Some(0));
        assert_eq!(index.floor(Offset(5_000)), Some(499 * 4096));
        assert_eq!(index.floor(Offset(99_999)), Some(999 * 4096));
        let entries: Vec<_> = index.entries().collect();
        assert_eq!(entries.len(), 1_000);
        let again = SparseIndex::of(&entries).with(entry(1_000));
        assert!(again.entries().take(1_000).eq(entries));
        assert_eq!(again.floor(Offset(10_005)), Some(1_000 * 4096));
        assert_eq!(again.floor_by_time(NO_TIME), None);
        assert_eq!(again.floor_by_time(-5), Some(0));
        assert_eq!(again.floor_by_time(7), Some(0));
        assert_eq!(again.floor_by_time(8), Some(4096));
        assert_eq!(again.floor_by_time(3_501), Some(500 * 4096));
        assert_eq!(again.floor_by_time(i64::MAX), Some(1_000 * 4096));
    }
}
