//! The sparse index of a segment: where to begin looking for an offset.
//!
//! A hint: read from the segment's index file, or rebuilt from the scan that checks the entries. It
//! never proves the log.

use baton_protocol::ids::Offset;

/// Some entries of a segment, by offset.
#[derive(Clone, Debug, Default)]
pub struct SparseIndex {
    /// Base offset and position of every entry that is indexed, rising. In blocks, so that adding
    /// one copies little.
    blocks: Vec<std::sync::Arc<Vec<(Offset, usize)>>>,
}

/// Entries of a block.
const BLOCK: usize = 256;

impl SparseIndex {
    /// Whether an entry at `position` should be indexed, one in `bytes` being wanted.
    pub fn wants(&self, position: usize, bytes: usize) -> bool {
        let last = self.blocks.last().and_then(|block| block.last());
        last.is_none_or(|(_, at)| position - at >= bytes)
    }

    /// The index with one entry more.
    #[must_use]
    pub fn with(&self, base: Offset, position: usize) -> SparseIndex {
        let mut blocks = self.blocks.clone();
        match blocks.last_mut() {
            Some(block) if block.len() < BLOCK => {
                std::sync::Arc::make_mut(block).push((base, position));
            }
            _ => blocks.push(std::sync::Arc::new(vec![(base, position)])),
        }
        SparseIndex { blocks }
    }

    /// Adds an entry in place.
    pub fn push(&mut self, base: Offset, position: usize) {
        *self = self.with(base, position);
    }

    /// An index of these entries, which rise.
    pub fn of(entries: &[(Offset, usize)]) -> SparseIndex {
        let blocks = entries.chunks(BLOCK);
        SparseIndex {
            blocks: blocks
                .map(|block| std::sync::Arc::new(block.to_vec()))
                .collect(),
        }
    }

    /// Its entries, rising.
    pub fn entries(&self) -> impl Iterator<Item = (Offset, usize)> + '_ {
        self.blocks.iter().flat_map(|block| block.iter().copied())
    }

    /// Position of an indexed entry that starts at or before `offset`; none if all start after it.
    pub fn floor(&self, offset: Offset) -> Option<usize> {
        let block = self
            .blocks
            .partition_point(|block| block[0].0 <= offset)
            .checked_sub(1)?;
        let entries = &self.blocks[block];
        let at = entries.partition_point(|entry| entry.0 <= offset) - 1;
        Some(entries[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_of_an_offset_is_the_last_indexed_entry_not_after_it() {
        let mut index = SparseIndex::default();
        assert_eq!(index.floor(Offset(3)), None);
        for i in 0..1_000u64 {
            index.push(Offset(i * 10 + 5), i as usize * 4096);
        }
        assert_eq!(index.floor(Offset(4)), None);
        assert_eq!(index.floor(Offset(5)), Some(0));
        assert_eq!(index.floor(Offset(5_000)), Some(499 * 4096));
        assert_eq!(index.floor(Offset(99_999)), Some(999 * 4096));
        let entries: Vec<_> = index.entries().collect();
        assert_eq!(entries.len(), 1_000);
        let again = SparseIndex::of(&entries).with(Offset(10_005), 1_000 * 4096);
        assert!(again.entries().take(1_000).eq(entries));
        assert_eq!(again.floor(Offset(10_005)), Some(1_000 * 4096));
    }
}
