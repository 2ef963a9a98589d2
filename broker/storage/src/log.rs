//! The log of one partition: its one writer.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use baton_protocol::batch::{
    self, BATCH_HEADER_BYTES, BatchHeader, ENTRY_OVERHEAD_BYTES, EntryIter, LeaderStamp,
};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::compact::Compacting;
use crate::drop_behind::DropBehind;
use crate::epochs::Run;
use crate::error::{IoContext, ReadError, StorageError};
use crate::files::{make_dirs, sync_dir};
use crate::flush::{Trusted, Unflushed};
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES};
use crate::hints::Hints;
use crate::mark::{Extent, Mark};
use crate::producers::{self, Point};
use crate::reader::{Chunk, Glance, LogReader, Part, Published};
use crate::recheck;
use crate::recovery::{self, Check, Recovery};
use crate::segment::Segment;

/// What can be tuned.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Most bytes of a segment; a new one is begun before it is exceeded. At least 64 KiB.
    pub segment_bytes_max: usize,
    /// One entry in about this many bytes is indexed.
    pub index_interval_bytes: usize,
    /// About so many bytes have to be checked at the start after an end that was not a clean one.
    pub hint_interval_bytes: usize,
    /// How much an opening checks.
    pub check: Check,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes_max: 128 << 20,
            index_interval_bytes: 4096,
            hint_interval_bytes: 16 << 20,
            check: Check::Tail,
        }
    }
}

/// The log of one partition.
#[derive(Debug)]
pub struct Log {
    pub(crate) dir: Arc<Path>,
    identity: LogIdentity,
    pub(crate) config: LogConfig,
    pub(crate) parts: Vec<Part>,
    pub(crate) published: Arc<Published>,
    pub(crate) epochs: Vec<Run>,
    pub(crate) start: Offset,
    /// The start as the mark says it, which may lie behind.
    pub(crate) marked_start: Point,
    pub(crate) end: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) mark: Mark,
    pub(crate) mark_synced_at: Instant,
    pub(crate) unflushed: Unflushed,
    /// Raised by each cut, so that a flush prepared before it does not speak of what came after.
    pub(crate) generation: u64,
    pub(crate) trusted: Arc<Trusted>,
    pub(crate) drop_behind: Option<Arc<DropBehind>>,
    pub(crate) hints: Hints,
    /// The last segment takes nothing more.
    pub(crate) next_begins: bool,
    pub(crate) compacting: Compacting,
}

impl Log {
    /// Opens the log in `dir`, or makes an empty one. What is found is checked, as far as
    /// [`LogConfig::check`] says, and made durable: a process that was killed may have left it in the
    /// page cache only.
    ///
    /// All of it is checked if that was asked for ([`ask_recheck`](crate::ask_recheck)). What is
    /// sound is believed, wherever it is read from; after a flush that failed,
    /// [`Log::open_trusting`] has to be used. A damaged log is opened for looking only.
    ///
    /// # Errors
    /// [`StorageError::WrongPartition`], [`StorageError::NewerVersion`] for files that are not this
    /// log's or not to be understood. [`StorageError::Io`] if the disk refuses something, which may
    /// have been a flush: the next opening must not believe all that it reads.
    pub fn open(
        dir: &Path,
        identity: LogIdentity,
        config: LogConfig,
    ) -> Result<(Log, Recovery), StorageError> {
        make_dirs(dir)?;
        let dir: &Arc<Path> = &Arc::from(dir);
        let mut mark = Mark::open(dir)?;
        let check = match recheck::is_asked(dir) {
            true => Check::All,
            false => config.check,
        };
        let (recovery, found) = recovery::recover(dir, identity, &config, mark.extent(), check)?;
        for segment in &found.segments {
            segment.sync()?;
        }
        sync_dir(dir)?;
        let marked_start = Point::at(found.start, &found.epochs);
        if recovery.damage.is_none() {
            // An account of what is not there would fit again when the log has grown past it.
            producers::forget_unless(dir, |at| at.is_in(found.end, &found.epochs))?;
            mark.set(Extent {
                durable_end: found.end,
                start: found.start,
                epoch_before: marked_start.epoch,
            })?;
            mark.sync()?;
            recheck::forget(dir)?;
        }
        let published = Arc::new(Published::default());
        let mut log = Log {
            dir: dir.clone(),
            identity,
            config,
            parts: found.segments.into_iter().map(Part::whole).collect(),
            published,
            epochs: found.epochs,
            start: found.start,
            marked_start,
            end: found.end,
            durable_end: found.end,
            mark,
            mark_synced_at: Instant::now(),
            unflushed: Unflushed::default(),
            generation: 0,
            trusted: Arc::default(),
            drop_behind: None,
            hints: Hints::new(dir.clone(), identity),
            next_begins: false,
            compacting: Compacting::default(),
        };
        if recovery.damage.is_some() {
            log.trusted.fail();
        }
        log.publish();
        Ok((log, recovery))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whose log it is.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// First offset.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset that the next entry gets.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// How far it is durable.
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Which epoch wrote what, oldest first: each epoch with the log's end when its first entry came.
    /// That entry may start above it, where the epoch left a gap; so a run ends where the next one
    /// begins here, gap or not.
    pub fn epochs(&self) -> &[(LeaderEpoch, Offset)] {
        &self.epochs
    }

    /// A handle to read it.
    pub fn reader(&self) -> LogReader {
        LogReader {
            published: self.published.clone(),
        }
    }

    /// Makes sure that appends of `bytes` in all cannot fail. Begins a new segment where the
    /// present one is full.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), StorageError> {
        self.check_trusted()?;
        if let Some(part) = self.parts.last()
            && part.cut.is_none()
            && !self.next_begins
            && part.segment.header().sealed_len.is_none()
            && part.segment.len() + bytes <= part.segment.capacity()
            && (part.segment.is_empty()
                || part.segment.len() + bytes <= self.config.segment_bytes_max)
        {
            return part.segment.reserve(bytes);
        }
        self.roll(bytes)
    }

    fn roll(&mut self, bytes: usize) -> Result<(), StorageError> {
        let capacity = self
            .config
            .segment_bytes_max
            .max(SEGMENT_HEADER_BYTES + bytes);
        let segment = Segment::create(&self.dir, self.identity, self.end, capacity, bytes)?;
        if let Some(last) = self.parts.last()
            && last.segment.is_empty()
        {
            // It had the same name and was too small; the new file has taken its place.
            self.parts.pop();
        }
        if self.parts.is_empty() {
            // Most logs have one.
            self.parts.reserve_exact(1);
        }
        self.parts.push(Part::whole(Arc::new(segment)));
        self.next_begins = false;
        self.publish();
        Ok(())
    }

    /// Stores a batch with this stamp. The room must have been reserved. An offset above
    /// the log's end leaves a gap, which no entry will ever fill.
    ///
    /// # Panics
    /// If the room was not reserved, the offset lies before the log's end, or the epoch falls: the
    /// caller's mistakes.
    pub fn append_batch(&mut self, bytes: &[u8], stamp: &LeaderStamp) -> Result<(), StorageError> {
        let header = self.header_of(bytes)?;
        // The fixed part is put together here, the rest is stored as it came. The checksum runs over
        // both.
        let (fixed, records) = bytes.split_at(BATCH_HEADER_BYTES);
        let mut head = [0; BATCH_HEADER_BYTES];
        head.copy_from_slice(fixed);
        batch::assign(&mut head, stamp);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(records);
        let crc = crc.finalize().to_be_bytes();
        let base = stamp.base;
        let end = base.plus(u64::from(header.last_offset_delta()) + 1);
        let timestamp = stamp.append_time_ms.unwrap_or(header.max_timestamp());
        self.append([&crc, &head, records], base..end, stamp.epoch, timestamp)
    }

    /// Stores an entry as it is. The room must have been reserved; the entry must have been
    /// verified.
    ///
    /// # Panics
    /// As [`Log::append_batch`].
    pub fn append_entry(&mut self, entry: &[u8]) -> Result<(), StorageError> {
        let batch = entry.get(ENTRY_OVERHEAD_BYTES..).unwrap_or_default();
        let header = self.header_of(batch)?;
        let offsets = header.base_offset()..header.next_offset();
        let timestamp = header.max_timestamp();
        self.append([entry, &[], &[]], offsets, header.leader_epoch(), timestamp)
    }

    fn header_of(&self, batch: &[u8]) -> Result<BatchHeader, StorageError> {
        let header = BatchHeader::parse(batch)
            .map_err(|error| StorageError::corrupt(&self.dir, error.to_string()))?;
        assert!(batch.len() >= BATCH_HEADER_BYTES && header.batch_bytes() == batch.len());
        Ok(header)
    }

    fn append(
        &mut self,
        parts: [&[u8]; 3],
        offsets: Range<Offset>,
        epoch: LeaderEpoch,
        timestamp: i64,
    ) -> Result<(), StorageError> {
        let Range { start: base, end } = offsets;
        assert!(
            base >= self.end,
            "an entry at {base} in a log that ends at {}",
            self.end
        );
        let last = self.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0);
        assert!(
            epoch >= last,
            "an entry of epoch {epoch} after one of {last}"
        );
        // Room for several entries was reserved together; a new segment can still be due between.
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.reserve(bytes)?;
        let Some(part) = self.parts.last() else {
            unreachable!("a reservation leaves a segment");
        };
        let segment = part.segment.clone();
        segment.append(
            parts,
            base,
            end,
            timestamp,
            self.config.index_interval_bytes,
        )?;
        if epoch > last {
            if self.epochs.is_empty() {
                self.epochs.reserve_exact(1);
            }
            self.epochs.push((epoch, self.end));
        }
        self.unflushed.appended(&segment, bytes);
        self.end = end;
        self.published.end.store(end.0, Ordering::Release);
        Ok(())
    }

    /// Cuts everything from `to` on, durably: when this returns, no recovery finds it again. Those
    /// who hold slices of it still see them. The log then ends where its last entry does, which is
    /// below `to` if that lies in a gap.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if the log has failed before; any other is the end of the log, since
    /// it is not known how much of the cut will be found again.
    ///
    /// # Panics
    /// If `to` lies outside the log or within an entry: the caller's mistakes.
    pub fn truncate(&mut self, to: Offset) -> Result<(), StorageError> {
        assert!(to >= self.start && to <= self.end, "a cut outside the log");
        self.check_trusted()?;
        self.cut(to).inspect_err(|_| self.trusted.fail())
    }

    fn cut(&mut self, to: Offset) -> Result<(), StorageError> {
        self.generation += 1;
        self.end_compaction();
        let kept = self.last_entry_below(to)?;
        // What lies below the start may still be in the first segment: it ends there then.
        let end = kept.map_or(self.start, |(_, _, end)| end.max(self.start));
        let parts_kept = kept.map_or(0, |(part, _, _)| part + 1);
        self.hints.cut(&self.parts, parts_kept, end)?;
        // Then the mark: what is cut is not damage.
        if self.mark.extent().is_none_or(|mark| mark.durable_end > end) {
            self.mark.set(self.extent_to(end))?;
            self.mark.sync()?;
        }
        producers::forget_after(&self.dir, end)?;
        // Later segments go, the last one first, so that an interruption leaves a log without
        // holes; but before them the seal, so that it leaves one that is cut.
        if let Some((part, at, _)) = kept
            && at < self.parts[part].extent().0
        {
            let segment = &self.parts[part].segment;
            let durable = self.durable_end >= end;
            self.trusted.flush(&self.dir, || {
                // What a seal covers is durable: damage is told by that. If both were flushed at
                // once, a power cut could leave the seal without its entries.
                if !durable {
                    segment.sync()?;
                }
                segment.seal(at)
            })?;
            self.parts[part].cut = Some((at, end));
        }
        while self.parts.len() > parts_kept {
            if let Some(part) = self.parts.pop() {
                let path = part.segment.path();
                std::fs::remove_file(&path).context(&path, "remove")?;
                sync_dir(&self.dir)?;
            }
        }
        self.compacting.cut(end);
        self.epochs.retain(|run| run.1 < end);
        self.end = end;
        self.durable_end = self.durable_end.min(end);
        self.publish();
        Ok(())
    }

    /// The last entry that ends at or below `to`: its segment, and where it ends there, in bytes and
    /// as an offset.
    fn last_entry_below(&self, to: Offset) -> Result<Option<(usize, usize, Offset)>, StorageError> {
        for (i, part) in self.parts.iter().enumerate().rev() {
            let last = part
                .last_entry_below(to)
                .map_err(|error| self.damaged(&error))?;
            if let Some((at, end)) = last {
                return Ok(Some((i, at, end)));
            }
        }
        Ok(None)
    }

    fn damaged(&self, error: &ReadError) -> StorageError {
        damaged(&self.dir, error)
    }

    /// Whole entries from the one that holds `from` on, up to the log's end: as many as fit, at
    /// least one; none at the end.
    pub fn read(&self, from: Offset, bytes_max: usize) -> Result<Option<Chunk>, StorageError> {
        let chunk = self.reader().read(from, bytes_max, self.end);
        chunk.map_err(|error| self.damaged(&error))
    }

    /// As [`Log::read`], if what is wanted is in memory.
    pub fn glance(&self, from: Offset, bytes_max: usize) -> Result<Glance, StorageError> {
        let glance = self.reader().glance(from, bytes_max, self.end);
        glance.map_err(|error| self.damaged(&error))
    }

    /// [`Log::read`], to be done by a thread that may wait for the disk, of the log as it is then.
    pub fn read_later(
        &self,
        from: Offset,
        bytes_max: usize,
    ) -> impl FnOnce() -> Result<Option<Chunk>, StorageError> + Send + use<> {
        let (reader, dir) = (self.reader(), self.dir.clone());
        move || {
            let chunk = reader.read(from, bytes_max, reader.end());
            chunk.map_err(|error| damaged(&dir, &error))
        }
    }

    /// Checks what was read, byte by byte.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if an entry is not what was stored.
    pub fn check(&self, entries: &Chunk) -> Result<(), StorageError> {
        for entry in EntryIter::new(&entries.bytes) {
            entry.map_err(|error| {
                let detail = format!("entries from offset {} on: {error}", entries.base);
                StorageError::corrupt(&self.dir, detail)
            })?;
        }
        Ok(())
    }

    /// Readers may read up to here.
    pub fn publish_high_watermark(&self, to: Offset) {
        self.published.high_watermark.store(to.0, Ordering::Release);
    }

    /// Keeps the caller's account of the producers, as of the log's end. The log is made durable
    /// first: an account must not outlive what it speaks of.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if the log has failed; any other if the disk refuses.
    pub fn save_producers(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.settle()?;
        self.hints.save(Point::at(self.end, &self.epochs), bytes)
    }

    /// The account that was kept, with the end it is as of; none if there is none that is sound
    /// and speaks of this log: of the entries below that end that are in it now.
    pub fn load_producers(&self) -> Option<(Offset, Vec<u8>)> {
        let is_of_this = |at: &Point| at.end >= self.start && at.is_in(self.end, &self.epochs);
        let newest = producers::load(&self.dir).filter(|(at, _)| is_of_this(at));
        let account = newest.or_else(|| {
            let account = producers::load_at_start(&self.dir);
            let sound = account.filter(|(at, _)| is_of_this(at));
            if sound.is_none() && self.start > Offset::ZERO && producers::has_one_at_start(&self.dir) {
                tracing::warn!(dir = %self.dir.display(), "what was known of the producers below the log's start is lost; those that have written nothing since have to begin anew");
            }
            sound
        });
        account.map(|(at, account)| (at.end, account))
    }

    pub(crate) fn extent_to(&self, durable_end: Offset) -> Extent {
        Extent {
            durable_end,
            start: self.marked_start.end,
            epoch_before: self.marked_start.epoch,
        }
    }

    pub(crate) fn publish(&mut self) {
        // The start first: whoever finds segments gone then finds it moved.
        self.published.start.store(self.start.0, Ordering::Release);
        self.published.parts.store(Arc::new(self.parts.clone()));
        self.published.end.store(self.end.0, Ordering::Release);
    }
}

fn damaged(dir: &Path, error: &ReadError) -> StorageError {
    StorageError::corrupt(dir, error.to_string())
}

/// Bytes that an entry of this batch takes.
pub fn entry_bytes(batch: &[u8]) -> usize {
    batch::ENTRY_OVERHEAD_BYTES + batch.len()
}
