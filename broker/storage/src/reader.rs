//! Reading the log: a cheap handle that never waits for the writer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use baton_protocol::batch::{BatchHeader, ENTRY_OVERHEAD_BYTES, parse_entry, verify_entry};
use baton_protocol::ids::Offset;
use bytes::Bytes;

use crate::error::ReadError;
use crate::header::SEGMENT_HEADER_BYTES;
use crate::segment::{Segment, SegmentSlice};

/// As much of an entry as is read of it at first, to be checked.
const CHECK_BYTES: usize = 8 << 10;

/// Entries between two that are indexed, and a header: with the interval that logs have. Where it is a
/// wider one, reading waits for a page now and then.
const STRETCH_SLACK_BYTES: usize = 8 << 10;

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    Any,
}

/// What a read that does not wait came to.
#[derive(Clone, Debug)]
pub enum Glance {
    /// The entries, if there are any.
    Here(Option<Chunk>),
    /// They are on the disk only.
    OnDisk,
}

/// A segment as part of the log. What lies behind a cut is still in the segment, for those who hold
/// slices of it, but no longer in the log.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub segment: Arc<Segment>,
    /// Where the log leaves the segment, if it was cut: bytes and offset.
    pub cut: Option<(usize, Offset)>,
}

impl Part {
    pub fn whole(segment: Arc<Segment>) -> Part {
        Part { segment, cut: None }
    }

    /// The length is read before anything else is: what is below it is published.
    pub fn extent(&self) -> (usize, Offset) {
        self.cut.unwrap_or_else(|| {
            let len = self.segment.len();
            (len, self.segment.end())
        })
    }

    /// Whether the segment takes no entries any more, because it was cut.
    pub fn is_cut(&self) -> bool {
        self.cut.is_some() || self.segment.header().sealed_len.is_some()
    }

    /// The base offset of the entry at this position. Waits for the disk.
    pub fn base_at(&self, position: usize) -> Result<Offset, ReadError> {
        let (len, _) = self.extent();
        self.fetch(position, len.min(position + CHECK_BYTES), Patience::Any)?;
        Ok(self.entry_at(position, len)?.base_offset())
    }

    /// About where `bytes` of entries lie that begin at `offset`: all that is looked at on the way to
    /// them, and the header of the entry that follows them.
    fn stretch(&self, offset: Offset, bytes: usize) -> (usize, usize) {
        let (len, _) = self.extent();
        let floor = self.segment.index().floor(offset);
        let at = floor.unwrap_or(SEGMENT_HEADER_BYTES);
        let bytes = bytes.saturating_add(STRETCH_SLACK_BYTES);
        (at, at.saturating_add(bytes).min(len).max(at))
    }

    /// Sees to it that the bytes from `from` to `to` are in memory; whether they are, if it must not
    /// wait for the disk.
    fn fetch(&self, from: usize, to: usize, patience: Patience) -> Result<bool, ReadError> {
        if self.segment.is_in_memory(from, to) {
            return Ok(true);
        }
        if patience == Patience::None {
            return Ok(false);
        }
        let loaded = self.segment.load(from, to);
        loaded.map(|()| true).map_err(|_| ReadError::Damaged {
            segment: self.segment.base(),
            position: from,
        })
    }

    /// Header and position of the entry that holds `offset`, or of the first one after it.
    pub fn find(&self, offset: Offset) -> Result<Option<(usize, BatchHeader)>, ReadError> {
        let (len, _) = self.extent();
        let mut at = self
            .segment
            .index()
            .floor(offset)
            .unwrap_or(SEGMENT_HEADER_BYTES);
        while at < len {
            let header = self.entry_at(at, len)?;
            if header.next_offset() > offset {
                return Ok(Some((at, header)));
            }
            at += ENTRY_OVERHEAD_BYTES + header.batch_bytes();
        }
        Ok(None)
    }

    /// Where the last entry that ends at or below `to` ends, in bytes and as an offset; none if all
    /// entries start at or above it.
    ///
    /// # Panics
    /// If `to` lies within an entry.
    pub fn last_entry_below(&self, to: Offset) -> Result<Option<(usize, Offset)>, ReadError> {
        let (len, end) = self.extent();
        // The index still knows what was cut off: it is asked below the end only.
        let to = to.min(end);
        let Some(below) = to.0.checked_sub(1).map(Offset) else {
            return Ok(None);
        };
        // The first entry is always indexed: without a floor all start at or above `to`.
        let Some(mut at) = self.segment.index().floor(below) else {
            return Ok(None);
        };
        let mut last = None;
        while at < len {
            let header = self.entry_at(at, len)?;
            if header.base_offset() >= to {
                break;
            }
            assert!(header.next_offset() <= to, "a cut through an entry");
            at += ENTRY_OVERHEAD_BYTES + header.batch_bytes();
            last = Some((at, header.next_offset()));
        }
        Ok(last)
    }

    /// The header of the entry at `at`. An entry that no one has looked at since the start is checked
    /// as a whole: what was believed then is not passed on before that.
    fn entry_at(&self, at: usize, len: usize) -> Result<BatchHeader, ReadError> {
        let damaged = || ReadError::Damaged {
            segment: self.segment.base(),
            position: at,
        };
        if at < self.segment.unchecked.load(Ordering::Acquire) {
            self.check(at, len).ok_or_else(damaged)?;
        }
        let bytes = self.segment.bytes(at, len);
        let batch = bytes.get(ENTRY_OVERHEAD_BYTES..).ok_or_else(damaged)?;
        let header = BatchHeader::parse(batch).map_err(|_| damaged())?;
        if header.batch_bytes() > batch.len() {
            return Err(damaged());
        }
        Ok(header)
    }

    /// Whether there is a sound entry at `at`. It is read from the file, since what the disk will not
    /// give is a signal in the mapping.
    fn check(&self, at: usize, len: usize) -> Option<()> {
        let mut buffer = vec![0; CHECK_BYTES.min(len - at)];
        self.segment.read_at(&mut buffer, at).ok()?;
        let header = BatchHeader::parse(buffer.get(ENTRY_OVERHEAD_BYTES..)?).ok()?;
        let size = ENTRY_OVERHEAD_BYTES + header.batch_bytes();
        if size > buffer.len() {
            buffer.resize(size.min(len - at), 0);
            self.segment.read_at(&mut buffer, at).ok()?;
        }
        let entry = parse_entry(&buffer).ok()??;
        verify_entry(&entry).ok()
    }

    /// Whole entries from the one at `at` on, up to `up_to` and about `bytes_max`, and where they lie.
    pub fn chunk(
        &self,
        at: usize,
        first: &BatchHeader,
        bytes_max: usize,
        up_to: Offset,
    ) -> Result<Option<(Range<usize>, Chunk)>, ReadError> {
        let (len, _) = self.extent();
        if first.next_offset() > up_to {
            return Ok(None);
        }
        let mut to = at + ENTRY_OVERHEAD_BYTES + first.batch_bytes();
        let mut end = first.next_offset();
        // Of an entry that goes alone, nothing behind it is looked at: it need not be in memory.
        while to < len && to - at < bytes_max {
            let header = self.entry_at(to, len)?;
            let next = to + ENTRY_OVERHEAD_BYTES + header.batch_bytes();
            if header.next_offset() > up_to || next - at > bytes_max {
                break;
            }
            (to, end) = (next, header.next_offset());
        }
        let slice = SegmentSlice {
            segment: self.segment.clone(),
            from: at,
            to,
        };
        let chunk = Chunk {
            base: first.base_offset(),
            end,
            bytes: Bytes::from_owner(slice),
        };
        Ok(Some((at..to, chunk)))
    }
}

/// Whole entries, back to back: a slice of a mapped segment, not a copy.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// The entries.
    pub bytes: Bytes,
}

/// What the writer publishes.
#[derive(Debug)]
pub(crate) struct Published {
    pub parts: ArcSwap<Vec<Part>>,
    pub start: AtomicU64,
    pub end: AtomicU64,
    pub high_watermark: AtomicU64,
    /// Somebody will have to read what lies from here on; nobody, if it is the greatest number.
    pub wanted_from: AtomicU64,
}

impl Default for Published {
    fn default() -> Self {
        Published {
            parts: ArcSwap::default(),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            high_watermark: AtomicU64::new(0),
            wanted_from: AtomicU64::new(u64::MAX),
        }
    }
}

/// Reads a log. Cheap to clone, may be used from any thread, never waits for the writer.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(crate) published: Arc<Published>,
}

impl LogReader {
    /// First offset of the log.
    pub fn start(&self) -> Offset {
        Offset(self.published.start.load(Ordering::Acquire))
    }

    /// Offset after the last entry.
    pub fn end(&self) -> Offset {
        Offset(self.published.end.load(Ordering::Acquire))
    }

    /// First offset not known to be committed.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.published.high_watermark.load(Ordering::Acquire))
    }

    /// Whole entries from the one that holds `from` on (or, in a gap, the next one): as many as fit
    /// into `bytes_max`, at least one, none beyond `up_to`. None if there is nothing to read yet.
    pub fn read(
        &self,
        from: Offset,
        bytes_max: usize,
        up_to: Offset,
    ) -> Result<Option<Chunk>, ReadError> {
        match self.look(from, bytes_max, up_to, Patience::Any)? {
            Glance::Here(chunk) => Ok(chunk),
            Glance::OnDisk => unreachable!("it has waited for the disk"),
        }
    }

    /// As [`LogReader::read`], but of what is in memory: where it would have to wait for the disk, it
    /// says so, and the read belongs on a thread that may.
    pub fn glance(
        &self,
        from: Offset,
        bytes_max: usize,
        up_to: Offset,
    ) -> Result<Glance, ReadError> {
        self.look(from, bytes_max, up_to, Patience::None)
    }

    fn look(
        &self,
        from: Offset,
        bytes_max: usize,
        up_to: Offset,
        patience: Patience,
    ) -> Result<Glance, ReadError> {
        let end = self.end();
        let parts = self.published.parts.load();
        // A start that was moved meanwhile is published before its segments are gone.
        let start = self.start();
        if from < start || from > end {
            return Err(ReadError::OutOfRange {
                offset: from,
                start,
                end,
            });
        }
        let first = parts
            .partition_point(|part| part.segment.base() <= from)
            .saturating_sub(1);
        for part in parts.iter().skip(first) {
            if part.extent().1 <= from {
                continue;
            }
            let (at, to) = part.stretch(from, bytes_max);
            if !part.fetch(at, to, patience)? {
                return Ok(Glance::OnDisk);
            }
            let Some((at, header)) = part.find(from)? else {
                continue;
            };
            let Some((range, chunk)) = part.chunk(at, &header, bytes_max, up_to)? else {
                return Ok(Glance::Here(None));
            };
            // One entry can be larger than what was asked for.
            if range.end > to && !part.fetch(to, range.end, patience)? {
                return Ok(Glance::OnDisk);
            }
            return Ok(Glance::Here(Some(chunk)));
        }
        Ok(Glance::Here(None))
    }
}
