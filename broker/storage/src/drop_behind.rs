//! How much of what was written stays in memory: a window over the newest bytes of all logs of a broker.
//!
//! A log that grows takes a new page of the system's page cache for every page it writes. Left to itself
//! the system keeps all of them until memory is short; then it has to find out which ones nobody needs, and
//! every new page is one that was not in use before, which on a virtual machine can cost more than all else
//! that is done with its bytes. Followers and consumers that keep up read what was written a moment ago, so
//! what lies further back is dropped, and its pages serve what comes next. Whoever reads there has it read
//! from the disk again, on a thread that may wait for it.
//!
//! A follower that falls behind by more than the window, for a moment in which it did not run, would meet the
//! disk at the worst time and never come up with a leader that writes at full speed. So what a leader's
//! followers in the in-sync set have not got yet stays, however much it is.
//!
//! Only bytes that are durable are dropped. Nothing depends on whether the system takes the hint.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use baton_protocol::ids::Offset;

use crate::log::Log;
use crate::reader::Published;
use crate::segment::Segment;

/// A segment's bytes are dropped by multiples of this many. Of each segment that is written less than that
/// stays.
const STRETCH_BYTES: usize = 256 << 10;

/// The system keeps pages that were written together as one, up to about this size, and drops it only as a
/// whole: what was kept of a stretch because of that is dropped with the next one.
const PAGES_AS_ONE_BYTES: usize = 1 << 20;

/// Dropping takes a thread from flushing, so it is done by so many stretches at a time.
const STRETCHES_AT_A_TIME: usize = 256;

/// So many of the oldest stretches are looked at for one that nobody wants.
const LOOKED_AT_MAX: usize = 1_024;

/// What was written last, by all logs that share it.
#[derive(Debug)]
pub struct DropBehind {
    bytes_max: usize,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// In the order in which they became durable.
    stretches: VecDeque<Stretch>,
    /// Bytes of all of them.
    bytes: usize,
}

#[derive(Debug)]
struct Stretch {
    /// Gone with the segment, whose pages go with its file.
    segment: Weak<Segment>,
    from: usize,
    to: usize,
    /// No entry in it ends above this.
    end: Offset,
    log: Weak<Published>,
}

impl Stretch {
    /// Somebody will have to read it before long.
    fn is_wanted(&self) -> bool {
        let log = self.log.upgrade();
        log.is_some_and(|log| log.wanted_from.load(Ordering::Relaxed) < self.end.0)
    }
}

impl Log {
    /// Entries from this offset on, if any, will have to be read before long: they are kept in memory, if
    /// they are there, wherever they lie in the window.
    pub fn keep_in_memory(&self, from: Option<Offset>) {
        let from = from.map_or(u64::MAX, |from| from.0);
        self.published.wanted_from.store(from, Ordering::Relaxed);
    }

    /// Counts what becomes durable from now on in this window.
    pub fn set_drop_behind(&mut self, window: Option<Arc<DropBehind>>) {
        self.drop_behind = window;
    }
}

impl DropBehind {
    /// A window of so many bytes; none if it is 0, which leaves everything to the system.
    pub fn new(bytes_max: usize) -> Option<Arc<DropBehind>> {
        (bytes_max > 0).then(|| {
            Arc::new(DropBehind {
                bytes_max,
                window: Mutex::default(),
            })
        })
    }

    /// Takes note that a segment of this log is durable up to `len`.
    pub(crate) fn flushed(&self, segment: &Arc<Segment>, len: usize, log: &Arc<Published>) {
        let to = len / STRETCH_BYTES * STRETCH_BYTES;
        // Of two flushes of the same bytes, one notes them.
        let from = segment.noted.fetch_max(to, Ordering::AcqRel) / STRETCH_BYTES * STRETCH_BYTES;
        if to <= from {
            return;
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.bytes += to - from;
        window.stretches.push_back(Stretch {
            segment: Arc::downgrade(segment),
            from,
            to,
            end: segment.end(),
            log: Arc::downgrade(log),
        });
    }

    /// Drops what the window has moved past, if nobody wants it, or a part of that. Belongs on a thread that may
    /// wait a moment.
    pub fn drop_excess(&self) {
        for _ in 0..STRETCHES_AT_A_TIME {
            let Some(stretch) = self.next() else {
                return;
            };
            if let Some(segment) = stretch.segment.upgrade() {
                let from = stretch.from.saturating_sub(PAGES_AS_ONE_BYTES);
                segment.drop_pages(from, stretch.to);
            }
        }
    }

    /// The oldest stretch that nobody wants, if there is more than fits.
    fn next(&self) -> Option<Stretch> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.bytes <= self.bytes_max {
            return None;
        }
        let mut free = Some(0);
        if window.stretches.front()?.is_wanted() {
            // What is wanted takes no room from the others: they would have none left.
            let mut wanted = 0;
            free = None;
            for (i, stretch) in window.stretches.iter().enumerate().take(LOOKED_AT_MAX) {
                match stretch.is_wanted() {
                    true => wanted += stretch.to - stretch.from,
                    false => free = free.or(Some(i)),
                }
            }
            if window.bytes - wanted <= self.bytes_max {
                return None;
            }
        }
        let stretch = window.stretches.remove(free?)?;
        window.bytes -= stretch.to - stretch.from;
        Some(stretch)
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::batch::{BatchBuilder, LeaderStamp};
    use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};

    use super::*;
    use crate::header::LogIdentity;
    use crate::log::LogConfig;

    /// Appends entries of about a quarter of a stretch, and flushes each of them.
    fn append(log: &mut Log, entries: u64) {
        for _ in 0..entries {
            let mut builder = BatchBuilder::default();
            let value = vec![log.end().0 as u8; STRETCH_BYTES / 4];
            builder.push(1, None, Some(&value), &[]);
            let batch = builder.build(None);
            log.reserve(batch.len() + 4).expect("room");
            log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(1)))
                .expect("stored");
            let done = log.prepare_flush().run().expect("flushed");
            log.flushed(done).expect("noted");
        }
    }

    fn open(dir: &std::path::Path, window: &Option<Arc<DropBehind>>) -> Log {
        let identity = LogIdentity {
            topic: TopicId(uuid::Uuid::from_u128(5)),
            partition: PartitionIndex(1),
        };
        let config = LogConfig {
            segment_bytes_max: 6 * STRETCH_BYTES,
            ..LogConfig::default()
        };
        let (mut log, _) = Log::open(dir, identity, config).expect("opens");
        log.set_drop_behind(window.clone());
        log
    }

    /// Stretches of the log that are in memory as a whole, of those that were filled.
    fn in_memory(log: &Log) -> Vec<bool> {
        let segments = log.parts.iter().map(|part| &part.segment);
        let of_segment = |segment: &Arc<Segment>| {
            let segment = segment.clone();
            (0..segment.len() / STRETCH_BYTES).map(move |stretch| {
                segment.is_in_memory(stretch * STRETCH_BYTES, (stretch + 1) * STRETCH_BYTES)
            })
        };
        segments.flat_map(of_segment).collect()
    }

    #[test]
    fn what_lies_behind_the_window_leaves_memory_and_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("dir");
        let window = DropBehind::new(3 * STRETCH_BYTES);
        let mut log = open(dir.path(), &window);
        append(&mut log, 4);
        let held = log.reader().read(Offset(0), 1, log.end());
        let held = held.expect("readable").expect("there");
        append(&mut log, 36);
        let before = in_memory(&log);
        assert!(before.iter().all(|is| *is), "nobody has dropped any yet");

        window.as_ref().expect("a window").drop_excess();

        // Where the system has no pages to drop (a file system in memory), all else still holds.
        let after = in_memory(&log);
        let newest = &after[after.len() - 3..];
        assert!(newest.iter().all(|is| *is), "{after:?}");
        if !after.iter().all(|is| *is) {
            let oldest = &after[..after.len() - 4];
            assert!(!oldest.iter().any(|is| *is), "{after:?}");
        }
        for offset in 0..log.end().0 {
            let read = log.reader().read(Offset(offset), 1, log.end());
            let read = read.expect("readable").expect("there");
            assert_eq!(read.bytes[STRETCH_BYTES / 8], offset as u8);
        }
        assert_eq!(held.bytes[STRETCH_BYTES / 8], 0, "a slice from before");
    }

    #[test]
    fn what_somebody_wants_stays_and_takes_no_room_from_others() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("dir"));
        let window = DropBehind::new(STRETCH_BYTES);
        let [mut lagging, mut other] = [&dirs[0], &dirs[1]].map(|dir| open(dir.path(), &window));
        append(&mut lagging, 8);
        append(&mut other, 16);
        let kept = || {
            window
                .as_ref()
                .map(|all| all.window.lock().expect("sound").bytes)
        };
        let drop_excess = || window.as_ref().expect("a window").drop_excess();

        lagging.keep_in_memory(Some(Offset(0)));
        drop_excess();
        let of_lagging = in_memory(&lagging);
        assert!(of_lagging.iter().all(|is| *is), "{of_lagging:?}");
        // The others have the window for themselves.
        assert_eq!(kept(), Some((of_lagging.len() + 1) * STRETCH_BYTES));
        // What the follower has got is not wanted any more.
        lagging.keep_in_memory(Some(Offset(7)));
        drop_excess();
        assert_eq!(kept(), Some(2 * STRETCH_BYTES));
        lagging.keep_in_memory(Some(lagging.end()));
        drop_excess();
        assert_eq!(kept(), Some(STRETCH_BYTES));
        lagging.keep_in_memory(None);
        append(&mut other, 4);
        drop_excess();
        assert_eq!(kept(), Some(STRETCH_BYTES));
    }

    #[test]
    fn a_log_that_is_gone_wants_nothing_and_holds_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let window = DropBehind::new(STRETCH_BYTES);
        let mut log = open(dir.path(), &window);
        append(&mut log, 16);
        log.keep_in_memory(Some(Offset(0)));
        let published = Arc::downgrade(&log.published);
        drop(log);
        assert_eq!(published.strong_count(), 0);
        let window = window.expect("a window");
        window.drop_excess();
        assert_eq!(window.window.lock().expect("sound").bytes, STRETCH_BYTES);
    }

    #[test]
    fn what_is_not_durable_is_not_counted_and_what_was_there_at_the_start_neither() {
        let dir = tempfile::tempdir().expect("dir");
        let window = DropBehind::new(STRETCH_BYTES);
        let mut log = open(dir.path(), &None);
        append(&mut log, 10);
        drop(log);
        let mut log = open(dir.path(), &window);
        let bytes = || {
            window
                .as_ref()
                .map(|all| all.window.lock().expect("sound").bytes)
        };
        append(&mut log, 1);
        assert_eq!(bytes(), Some(0), "not even a stretch since the start");
        append(&mut log, 4);
        assert_eq!(bytes(), Some(STRETCH_BYTES));
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(&vec![1; 2 * STRETCH_BYTES]), &[]);
        let batch = builder.build(None);
        log.reserve(batch.len() + 4).expect("room");
        log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(1)))
            .expect("stored");
        assert_eq!(bytes(), Some(STRETCH_BYTES), "not flushed");
    }
}
