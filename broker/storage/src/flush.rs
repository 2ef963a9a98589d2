//! Making the log durable. A flush runs apart from the log, on a thread that may wait for the disk;
//! one that fails is the end of the log.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::ids::Offset;

use crate::drop_behind::DropBehind;
use crate::error::StorageError;
use crate::files::sync_open_dir;
use crate::log::Log;
use crate::reader::Published;
use crate::segment::Segment;

/// What the log and its flushes know of the disk.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    /// Held while something is flushed: of a failure the system tells only one of those who flush
    /// the same file, and the others would believe that all is well.
    turn: Mutex<()>,
    failed: AtomicBool,
}

impl Trusted {
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Flushes, if nothing has failed so far. A failure is final.
    pub fn flush(
        &self,
        dir: &Path,
        flush: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed() {
            return Err(StorageError::Failed {
                path: dir.to_owned(),
            });
        }
        flush().inspect_err(|_| self.fail())
    }
}

/// A flush, to be run on any thread.
#[derive(Debug)]
pub struct FlushJob {
    dir: Arc<Path>,
    segments: Vec<Arc<Segment>>,
    done: FlushDone,
    trusted: Arc<Trusted>,
    published: Arc<Published>,
    drop_behind: Option<Arc<DropBehind>>,
}

/// What a flush has achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushDone {
    /// The log is durable up to here,
    pub end: Offset,
    /// unless it was cut since: how often it had been cut when the flush was prepared.
    pub generation: u64,
}

impl FlushJob {
    /// Flushes. The files first, then the directory where a file in it is new: an entry that is
    /// claimed durable must be found again. Waits for a flush of this log that runs elsewhere.
    ///
    /// # Errors
    /// If the disk refuses, which is the end of the log, even if nobody tells it: see
    /// [`Log::flush_failed`]. [`StorageError::Failed`] if that has happened before.
    pub fn run(self) -> Result<FlushDone, StorageError> {
        // Bytes that come while it flushes may or may not be among those that are flushed.
        let lens: Vec<_> = self.segments.iter().map(|one| one.len()).collect();
        self.trusted.flush(&self.dir, || {
            for segment in &self.segments {
                segment.sync()?;
            }
            // All of them are in the same directory.
            let fresh_in = self
                .segments
                .iter()
                .find_map(|segment| segment.fresh_in().clone());
            if let Some(directory) = fresh_in {
                sync_open_dir(&directory, &self.dir)?;
                for segment in &self.segments {
                    segment.fresh_in().take();
                }
            }
            Ok(())
        })?;
        if let Some(drop_behind) = &self.drop_behind {
            for (segment, len) in self.segments.iter().zip(lens) {
                drop_behind.flushed(segment, len, &self.published);
            }
        }
        Ok(self.done)
    }
}

/// What is not known to be durable.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    /// Segments with bytes that no prepared flush covers.
    dirty: Vec<Arc<Segment>>,
    /// Bytes of entries that no prepared flush covers, more or less: a cut does not change it.
    bytes: usize,
    /// Segments of flushes that nobody has told the end of.
    in_flight: Vec<Arc<Segment>>,
    /// The newest flush that was prepared; it covers all in flight.
    newest: Option<FlushDone>,
}

impl Unflushed {
    /// Notes that the segment has been written.
    pub fn written(&mut self, segment: &Arc<Segment>) {
        add(&mut self.dirty, segment);
    }

    /// Notes that an entry of so many bytes has been stored in it.
    pub fn appended(&mut self, segment: &Arc<Segment>, bytes: usize) {
        self.written(segment);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

fn add(segments: &mut Vec<Arc<Segment>>, segment: &Arc<Segment>) {
    let is_last = |last: &Arc<Segment>| Arc::ptr_eq(last, segment);
    if !segments.last().is_some_and(is_last) && !segments.iter().any(is_last) {
        segments.push(segment.clone());
    }
}

impl Log {
    /// What has to be done, on any thread, to make the log durable up to its present end. Includes
    /// what earlier flushes were to do that [`Log::flushed`] has not been told of.
    pub fn prepare_flush(&mut self) -> FlushJob {
        let done = FlushDone {
            end: self.end,
            generation: self.generation,
        };
        let unflushed = &mut self.unflushed;
        for segment in std::mem::take(&mut unflushed.dirty) {
            add(&mut unflushed.in_flight, &segment);
        }
        unflushed.newest = Some(done);
        unflushed.bytes = 0;
        FlushJob {
            dir: self.dir.clone(),
            segments: unflushed.in_flight.clone(),
            done,
            trusted: self.trusted.clone(),
            published: self.published.clone(),
            drop_behind: self.drop_behind.clone(),
        }
    }

    /// About how many bytes have been stored since a flush was prepared last.
    pub fn unflushed_bytes(&self) -> usize {
        self.unflushed.bytes
    }

    /// Takes note of a flush that succeeded.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if another flush has failed, and [`StorageError::Io`] if the mark
    /// cannot be written, which is the end of the log too. Nothing more is durable then.
    pub fn flushed(&mut self, done: FlushDone) -> Result<(), StorageError> {
        self.check_trusted()?;
        if self.unflushed.newest == Some(done) {
            self.unflushed.newest = None;
            self.unflushed.in_flight.clear();
        }
        if done.generation == self.generation {
            let durable_end = self.durable_end.max(done.end);
            self.raise_mark(durable_end)
                .inspect_err(|_| self.trusted.fail())?;
            self.durable_end = durable_end;
        } else {
            // Part of what it made durable has been cut since, and something else may stand
            // there: that is flushed again.
            for part in &self.parts {
                self.unflushed.written(&part.segment);
            }
        }
        Ok(())
    }

    fn raise_mark(&mut self, to: Offset) -> Result<(), StorageError> {
        let extent = self.extent_to(to);
        if self.mark.extent() != Some(extent) {
            self.mark.set(extent)?;
        }
        Ok(())
    }

    /// Gives back the room that was taken for flushes that are over.
    pub fn give_room_back(&mut self) {
        self.unflushed.dirty.shrink_to_fit();
        self.unflushed.in_flight.shrink_to_fit();
    }

    /// Takes note of a flush that failed. It is never tried again: the system may have dropped the
    /// pages it could not write, and a second flush would succeed without them. The log takes
    /// nothing more, and [`Log::close`] is an error.
    pub fn flush_failed(&mut self) {
        self.trusted.fail();
    }

    /// Ends the log in good order: all of it is durable, and so is the mark that says so. Waits for a
    /// flush that is still running.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if a flush or a write of this log has ever failed, or it was damaged
    /// when it was opened; any other if one fails now. The log then has not ended in good order: its
    /// owner must not say so to the next start, which has to open it with
    /// [`Trust::OnlyTheMark`](crate::Trust::OnlyTheMark) if it was a flush that failed.
    pub fn close(&mut self) -> Result<(), StorageError> {
        let settled = self.settle();
        if settled.is_ok() {
            self.finish_hints();
        }
        self.hints.close();
        settled
    }

    /// Makes all of it durable, and the mark too.
    pub(crate) fn settle(&mut self) -> Result<(), StorageError> {
        let done = self.prepare_flush().run()?;
        self.flushed(done)?;
        self.trusted.flush(&self.dir, || self.mark.sync())
    }

    pub(crate) fn check_trusted(&self) -> Result<(), StorageError> {
        if self.trusted.failed() {
            return Err(StorageError::Failed {
                path: self.dir.to_path_buf(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use baton_protocol::batch::{BatchBuilder, LeaderStamp};
    use baton_protocol::ids::{LeaderEpoch, PartitionIndex, TopicId};

    use super::*;
    use crate::header::{LogIdentity, file_name};
    use crate::log::LogConfig;
    use crate::witness::{self, Act};

    const IDENTITY: LogIdentity = LogIdentity {
        topic: TopicId(uuid::Uuid::from_u128(5)),
        partition: PartitionIndex(1),
    };

    fn log(dir: &Path) -> Log {
        let (mut log, _) = Log::open(dir, IDENTITY, LogConfig::default()).expect("opens");
        append(&mut log);
        witness::take();
        log
    }

    fn append(log: &mut Log) {
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(b"content"), &[]);
        let batch = builder.build(None);
        log.reserve(batch.len() + 4).expect("room");
        log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(1)))
            .expect("stored");
    }

    fn acts_on(path: &Path) -> Vec<Act> {
        let seen = witness::take().into_iter();
        seen.filter_map(|(act, of)| (of == path).then_some(act))
            .collect()
    }

    #[test]
    fn a_close_makes_durable_what_a_flush_in_flight_has_taken() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = log(dir.path());
        let segment = dir.path().join(file_name(Offset::ZERO));
        let in_flight = log.prepare_flush();
        log.close().expect("closed");
        assert_eq!(acts_on(&segment), [Act::Data]);
        assert_eq!(log.durable_end(), Offset(1));
        drop(in_flight);
    }

    #[test]
    fn a_flush_covers_what_one_that_never_ran_was_to_do() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = log(dir.path());
        let segment = dir.path().join(file_name(Offset::ZERO));
        drop(log.prepare_flush());
        let done = log.prepare_flush().run().expect("flushed");
        log.flushed(done).expect("noted");
        assert_eq!(acts_on(&segment), [Act::Data]);
        // Once it is known, it is not done again.
        log.prepare_flush().run().expect("flushed");
        assert_eq!(acts_on(&segment), []);
    }

    #[test]
    fn entries_are_durable_before_the_seal_that_covers_them() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = log(dir.path());
        let segment = dir.path().join(file_name(Offset::ZERO));
        append(&mut log);
        log.truncate(Offset(1)).expect("cut");
        assert_eq!(acts_on(&segment), [Act::Data, Act::Seal, Act::Data]);
    }

    /// Runs a flush of new segments whose directory cannot be made durable: it is none.
    fn fail(job: FlushJob) {
        let unfit = File::open("/dev/null").expect("opened");
        *job.segments[1].fresh_in() = Some(Arc::new(unfit));
        *job.segments[0].fresh_in() = None;
        let error = job.run().expect_err("not to be flushed");
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
    }

    #[test]
    fn a_log_whose_flush_failed_never_says_again_that_it_is_durable() {
        let root = tempfile::tempdir().expect("dir");
        let dir = root.path();
        let config = LogConfig {
            segment_bytes_max: 1_000,
            ..LogConfig::default()
        };
        let (mut log, _) = Log::open(dir, IDENTITY, config).expect("opens");
        append(&mut log);
        let done = log.prepare_flush().run().expect("flushed");
        log.flushed(done).expect("noted");
        let mark = std::fs::read(dir.join("durable")).expect("read");
        for _ in 1..30 {
            append(&mut log);
        }
        // One flush fails; another one of the same bytes is on its way and does not hear of it.
        let (first, second) = (log.prepare_flush(), log.prepare_flush());
        fail(first);
        let failed = |result: Result<(), StorageError>| {
            let error = result.expect_err("an error");
            assert!(matches!(error, StorageError::Failed { .. }), "{error}");
        };
        failed(second.run().map(|_| ()));
        failed(log.prepare_flush().run().map(|_| ()));
        failed(log.save_producers(b"account"));
        failed(log.truncate(Offset(5)));
        failed(log.reserve(1));
        failed(log.close());
        failed(log.close());
        assert_eq!(log.durable_end(), Offset(1));
        assert_eq!(std::fs::read(dir.join("durable")).expect("read"), mark);
        assert!(!dir.join("producers").exists());
    }
}
