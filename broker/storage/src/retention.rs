//! How far a log may expire: decided by what its segments hold, and by nothing else.
//!
//! Whole segments only. Where the log starts then is for others to decide: not above what is committed.

use baton_protocol::ids::Offset;

use crate::header::SEGMENT_HEADER_BYTES;
use crate::log::Log;

/// How long entries are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At least so long, by their timestamps, in milliseconds; none: for ever.
    pub ms: Option<u64>,
    /// At least so many bytes of the newest; none: all.
    pub bytes: Option<u64>,
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Offset after its last entry.
    pub end: Offset,
    /// Bytes of its entries.
    pub bytes: u64,
    /// Its greatest timestamp, in milliseconds since 1970; none if that is not known.
    pub newest_ms: Option<i64>,
}

/// The offset below which nothing has to be kept of a log with these segments, oldest first; none if
/// all has. The last segment counts as any other for the time: a log to which nothing is added expires
/// as a whole. By its bytes it stays.
pub fn start_wanted(
    segments: &[SegmentExtent],
    retention: &Retention,
    now_ms: i64,
) -> Option<Offset> {
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut start = None;
    for segment in segments {
        left -= segment.bytes;
        let age_ms = segment
            .newest_ms
            .map_or(0, |newest| now_ms.saturating_sub(newest));
        let too_old = retention
            .ms
            .is_some_and(|ms| age_ms > i64::try_from(ms).unwrap_or(i64::MAX));
        // What is left without it is enough.
        let too_much = retention.bytes.is_some_and(|bytes| left >= bytes);
        if !too_old && !too_much {
            break;
        }
        start = Some(segment.end);
    }
    start
}

impl Log {
    /// What its segments hold, oldest first.
    pub fn extents(&self) -> Vec<SegmentExtent> {
        let with_entries = self.parts.iter().filter(|part| !part.segment.is_empty());
        let extents = with_entries.map(|part| {
            let (len, end) = part.extent();
            // Entries may come without timestamps, or with some from before 1970.
            let newest = Some(part.segment.newest()).filter(|newest| *newest >= 0);
            SegmentExtent {
                end,
                bytes: (len - SEGMENT_HEADER_BYTES) as u64,
                newest_ms: newest.or_else(|| part.segment.written_ms()),
            }
        });
        extents.collect()
    }

    /// Ends the last segment, so that the next entry begins another one, if its first entry is from
    /// before this time: what is added to slowly expires in pieces that are not too large.
    pub fn end_segment_from_before(&mut self, timestamp_ms: i64) {
        if let Some(last) = self.parts.last()
            && !last.segment.is_empty()
            && last
                .segment
                .oldest()
                .is_some_and(|oldest| oldest < timestamp_ms)
        {
            self.next_begins = true;
        }
    }

    /// Segments have so many bytes at most from now on. One that has more already takes nothing more.
    pub fn set_segment_bytes_max(&mut self, bytes: usize) {
        self.config.segment_bytes_max = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(of: &[(u64, u64, Option<i64>)]) -> Vec<SegmentExtent> {
        let extent = |(end, bytes, newest_ms): &(u64, u64, Option<i64>)| SegmentExtent {
            end: Offset(*end),
            bytes: *bytes,
            newest_ms: *newest_ms,
        };
        of.iter().map(extent).collect()
    }

    fn wanted(of: &[SegmentExtent], ms: Option<u64>, bytes: Option<u64>) -> Option<u64> {
        let retention = Retention { ms, bytes };
        start_wanted(of, &retention, 1_000).map(|start| start.0)
    }

    #[test]
    fn without_a_limit_nothing_expires() {
        let old = segments(&[(10, 100, Some(0)), (20, 100, Some(0))]);
        assert_eq!(wanted(&old, None, None), None);
        assert_eq!(wanted(&[], Some(1), Some(1)), None);
    }

    #[test]
    fn by_time_all_goes_that_is_old_up_to_the_first_that_is_not() {
        let all = segments(&[
            (10, 100, Some(100)),
            (20, 100, Some(900)),
            (30, 100, Some(100)),
            (40, 100, Some(950)),
        ]);
        assert_eq!(wanted(&all, Some(900), None), None);
        assert_eq!(wanted(&all, Some(899), None), Some(10));
        assert_eq!(wanted(&all, Some(99), None), Some(30));
        assert_eq!(wanted(&all, Some(49), None), Some(40));
        assert_eq!(wanted(&all, Some(u64::MAX), None), None);
        let unknown = segments(&[(10, 100, None), (20, 100, Some(2_000))]);
        assert_eq!(wanted(&unknown, Some(1), None), None);
    }

    #[test]
    fn by_size_so_much_stays_as_is_wanted_at_least() {
        let all = segments(&[(10, 100, None), (20, 50, None), (30, 100, None)]);
        assert_eq!(wanted(&all, None, Some(151)), None);
        assert_eq!(wanted(&all, None, Some(150)), Some(10));
        assert_eq!(wanted(&all, None, Some(101)), Some(10));
        assert_eq!(wanted(&all, None, Some(100)), Some(20));
        assert_eq!(wanted(&all, None, Some(1)), Some(20));
    }
}
