//! Finding an offset by a timestamp.

use baton_protocol::batch::{BatchHeader, Codec, EntryIter, RecordIter};
use baton_protocol::ids::Offset;

use crate::error::ReadError;
use crate::reader::LogReader;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

impl LogReader {
    /// The first offset below `up_to` whose record has this timestamp or a greater one; none if there is
    /// none. Timestamps need not rise. Of a batch that is compressed, or whose timestamps are those of
    /// the append, the first offset is given: it is looked at as a whole.
    ///
    /// Reads what may be on the disk only.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] for what cannot be read.
    pub fn offset_for_time(
        &self,
        timestamp: i64,
        up_to: Offset,
    ) -> Result<Option<Offset>, ReadError> {
        let mut at = self.start();
        let parts = self.published.parts.load_full();
        for part in parts.iter() {
            if part.segment.newest() < timestamp {
                continue;
            }
            let floor = part.segment.index().floor_by_time(timestamp);
            let base = floor.map(|position| part.base_at(position)).transpose()?;
            at = at.max(base.unwrap_or(part.segment.base()));
            let (_, end) = part.extent();
            while at < end.min(up_to) {
                let read = self.read(at, READ_BYTES, up_to);
                // What has expired meanwhile is looked for no more.
                if let Err(ReadError::OutOfRange { start, .. }) = read
                    && start > at
                {
                    at = start;
                    continue;
                }
                let Some(chunk) = read? else {
                    return Ok(None);
                };
                for entry in EntryIter::new(&chunk.bytes) {
                    let entry = entry.map_err(|_| ReadError::Damaged {
                        segment: part.segment.base(),
                        position: 0,
                    })?;
                    let first = first_since(entry.batch, &entry.header, timestamp, self.start());
                    if let Some(offset) = first {
                        return Ok(Some(offset));
                    }
                }
                at = chunk.end;
            }
        }
        Ok(None)
    }
}

/// The first record of a batch, at or above `start`, with this timestamp or a greater one.
fn first_since(
    batch: &[u8],
    header: &BatchHeader,
    timestamp: i64,
    start: Offset,
) -> Option<Offset> {
    if header.is_control() || header.max_timestamp() < timestamp {
        return None;
    }
    if header.codec() != Some(Codec::None) || header.is_of_append_time() {
        return Some(header.base_offset().max(start));
    }
    let records = RecordIter::new(batch, header).filter_map(Result::ok);
    let mut since = records.filter(|record| record.timestamp >= timestamp);
    since.find_map(|record| (record.offset >= start).then_some(record.offset))
}
