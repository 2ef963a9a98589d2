//! Hints that are written beside the log while it runs, so that a start need not read all of it: the
//! index of each segment, and the owner's account of the producers.
//!
//! They speak only of what is durable and marked as such. Writing them is a [`HintJob`], for any
//! thread that may wait; the log never waits for one, except for a cut: then no job may bring back
//! what is being cut. The mark is made durable in the same way, at the same occasion or when it has not
//! been for a while: a log of thousands would otherwise keep its thread waiting for the disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::flush::Trusted;
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES};
use crate::index_file::{self, IndexFile};
use crate::log::Log;
use crate::mark::MarkSync;
use crate::producers::{self, Point};
use crate::reader::Part;
use crate::segment::Segment;

/// How often the mark of a log that is written is made durable, at least.
const MARK_SYNC_EVERY: Duration = Duration::from_secs(10);

/// What a log knows of its hints.
#[derive(Debug)]
pub(crate) struct Hints {
    shared: Arc<Shared>,
    /// How often the log has been cut; none once it is closed.
    cuts: Option<u64>,
    /// So many of the segments, from the first on, need no index any more: a job has been made.
    parts_done: usize,
    /// Bytes of the segment after these that a job has been made for.
    bytes_done: usize,
    /// An account of the producers that waits until what it speaks of is durable.
    account: Option<Box<(Point, Vec<u8>)>>,
    /// How far the log was when an account was last given: segment and bytes of it.
    account_at: (Offset, usize),
    /// A start that was moved, and that the mark does not say yet.
    start: Option<Box<MovedStart>>,
    /// How often the log has begun anew.
    resets: u64,
    /// Files below the log's start, each with the end of its last entry, oldest first.
    expired: Vec<(Offset, PathBuf)>,
}

/// A start that was moved.
#[derive(Debug)]
struct MovedStart {
    at: Point,
    /// The account of the producers below it, which has to be durable before the mark says it.
    account: Option<Arc<Vec<u8>>>,
}

/// What a log shares with its jobs. It goes with the log, so that no job outlives it.
#[derive(Debug)]
pub(crate) struct Shared {
    dir: Arc<Path>,
    identity: LogIdentity,
    /// Held while a job runs.
    turn: Mutex<Turn>,
    /// The account of what lies below the log's start is durable as of here.
    account_at_start: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Turn {
    /// As the log has it: a job that was made before a cut is void.
    cuts: Option<u64>,
    /// The end that the account is of which was kept last.
    account_end: Offset,
    /// How often the log has begun anew: a job that was made before removes no files.
    resets: u64,
}

impl Shared {
    /// The directory of the log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the log has been cut so often, and is open.
    pub fn is_at(&self, cuts: u64) -> bool {
        self.turn().is_at(cuts)
    }

    /// To be held by whoever changes the log's files beside its owner.
    pub fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// As [`Shared::is_at`].
    pub fn is_at(&self, cuts: u64) -> bool {
        self.cuts == Some(cuts)
    }

    /// Keeps an account, unless a newer one is kept already.
    fn save(&mut self, shared: &Shared, at: Point, account: &[u8]) -> Result<(), StorageError> {
        if at.end < self.account_end {
            return Ok(());
        }
        producers::save(&shared.dir, at, account)?;
        self.account_end = at.end;
        Ok(())
    }
}

impl Hints {
    /// Keeps an account of the producers now.
    pub fn save(&self, at: Point, account: &[u8]) -> Result<(), StorageError> {
        self.shared.turn().save(&self.shared, at, account)
    }

    pub fn new(dir: Arc<Path>, identity: LogIdentity) -> Hints {
        let shared = Shared {
            dir,
            identity,
            turn: Mutex::new(Turn {
                cuts: Some(0),
                account_end: Offset::ZERO,
                resets: 0,
            }),
            account_at_start: AtomicU64::new(0),
        };
        Hints {
            shared: Arc::new(shared),
            cuts: Some(0),
            parts_done: 0,
            bytes_done: 0,
            account: None,
            account_at: (Offset::ZERO, 0),
            start: None,
            resets: 0,
            expired: Vec::new(),
        }
    }

    /// What the log shares with its jobs.
    pub fn shared(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// How often the log has been cut; none once it is closed.
    pub fn cuts(&self) -> Option<u64> {
        self.cuts
    }

    /// Jobs that have not run yet come to nothing, but for what they remove below the start.
    pub fn void(&mut self) {
        self.cuts = self.cuts.map(|cuts| cuts + 1);
        self.shared.turn().cuts = self.cuts;
    }

    /// The log ends: nothing is written any more.
    pub fn close(&mut self) {
        self.cuts = None;
        self.shared.turn().cuts = None;
    }

    /// The log is about to be cut at `end`: indexes of what goes are removed, durably, and jobs that
    /// have not run yet come to nothing.
    pub fn cut(
        &mut self,
        parts: &[Part],
        parts_kept: usize,
        end: Offset,
    ) -> Result<(), StorageError> {
        let mut turn = self.shared.turn();
        self.cuts = self.cuts.map(|cuts| cuts + 1);
        turn.cuts = self.cuts;
        turn.account_end = Offset::ZERO;
        let mut removed = false;
        for part in parts.iter().filter(|part| part.extent().1 > end) {
            part.segment.indexed.store(0, Ordering::Release);
            removed |= index_file::remove(&part.segment.path())?;
        }
        drop(turn);
        if removed {
            sync_dir(&self.shared.dir)?;
        }
        self.parts_done = self.parts_done.min(parts_kept.saturating_sub(1));
        self.bytes_done = 0;
        self.account = None;
        // What was kept may have to go.
        self.account_at = (Offset::ZERO, 0);
        Ok(())
    }

    /// The log starts at `at` from now on, and these segments, which come first in it, are no part of
    /// it any more.
    pub fn let_go(
        &mut self,
        gone: impl Iterator<Item = Part>,
        at: Point,
        account: Option<Vec<u8>>,
    ) {
        for part in gone {
            let path = part.segment.path();
            self.expired.push((part.extent().1, path));
            if self.parts_done == 0 {
                self.bytes_done = 0;
            }
            self.parts_done = self.parts_done.saturating_sub(1);
        }
        let account = account.map(Arc::new);
        self.start = Some(Box::new(MovedStart { at, account }));
    }

    /// A start that was moved and that the mark may say now.
    pub fn start_to_mark(&mut self) -> Option<Point> {
        let durable = self.shared.account_at_start.load(Ordering::Acquire);
        let moved = self
            .start
            .take_if(|moved| moved.account.is_none() || durable >= moved.at.end.0)?;
        Some(moved.at)
    }

    /// The log is about to begin anew: all indexes are removed, durably, and jobs that have not run yet
    /// come to nothing.
    pub fn reset(&mut self, parts: &[Part]) -> Result<(), StorageError> {
        self.cut(parts, 0, Offset::ZERO)?;
        self.resets += 1;
        self.shared.turn().resets = self.resets;
        self.shared.account_at_start.store(0, Ordering::Release);
        self.start = None;
        self.expired.clear();
        Ok(())
    }
}

/// Hints to be written, on any thread.
#[derive(Debug)]
pub struct HintJob {
    shared: Weak<Shared>,
    /// How often the log had been cut when the job was made.
    cuts: u64,
    /// How often the log had begun anew by then.
    resets: u64,
    indexes: Vec<IndexOf>,
    account: Option<(Point, Vec<u8>)>,
    account_at_start: Option<(Point, Arc<Vec<u8>>)>,
    /// Files below the start that the mark says.
    expired: Vec<PathBuf>,
    mark: MarkSync,
    trusted: Arc<Trusted>,
}

/// An index to be written.
#[derive(Debug)]
pub(crate) struct IndexOf {
    pub segment: Arc<Segment>,
    pub len: usize,
    pub end: Offset,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

impl HintJob {
    /// Makes the mark durable and writes the hints, unless the log has been cut or closed since.
    /// Without hints a start has more to read, so a failure is said and no more. A mark that cannot be
    /// flushed is the end of the log.
    pub fn run(self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut turn = shared.turn();
        if turn.cuts.is_none() {
            return;
        }
        // First: after a power cut hints count as far as the mark goes, and files are left over only
        // where it says so.
        if let Err(error) = self.trusted.flush(&shared.dir, || self.mark.run()) {
            let dir = shared.dir.display();
            tracing::error!(%dir, %error, "the mark of a log cannot be made durable; the log takes nothing more");
            return;
        }
        if turn.resets == self.resets {
            self.leave_behind(&shared);
        }
        if turn.cuts == Some(self.cuts) {
            self.write(&shared, &mut turn);
        }
    }

    /// Removes what lies below the start, and keeps what will be left of it.
    fn leave_behind(&self, shared: &Shared) {
        let dir = shared.dir.display();
        for path in &self.expired {
            // What cannot be removed is left to the next start.
            if let Err(error) = remove_segment(path) {
                tracing::warn!(%dir, %error, "a segment below the log's start cannot be removed; the next start of the broker removes it");
            }
        }
        if let Some((at, account)) = &self.account_at_start {
            match producers::save_at_start(&shared.dir, *at, account) {
                Ok(()) => shared.account_at_start.store(at.end.0, Ordering::Release),
                Err(error) => {
                    tracing::warn!(%dir, %error, "the producers' state cannot be kept; what lies below the log's start stays on the disk until it is");
                }
            }
        }
    }

    fn write(&self, shared: &Shared, turn: &mut Turn) {
        let dir = shared.dir.display();
        for index in &self.indexes {
            if let Err(error) = index.write(shared.identity) {
                tracing::warn!(%dir, %error, "the index of a segment cannot be written; the next start reads the segment instead");
            }
        }
        if let Some((at, account)) = &self.account
            && let Err(error) = turn.save(shared, *at, account)
        {
            tracing::warn!(%dir, %error, "the producers' state cannot be kept; the next start reads more of the log instead");
        }
    }

    fn is_empty(&self) -> bool {
        self.indexes.is_empty() && self.account.is_none() && !self.moves_start()
    }

    fn moves_start(&self) -> bool {
        self.account_at_start.is_some() || !self.expired.is_empty()
    }
}

fn remove_segment(path: &Path) -> Result<(), StorageError> {
    index_file::remove(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(path, "remove"),
    }
}

impl IndexOf {
    pub fn write(&self, identity: LogIdentity) -> Result<(), StorageError> {
        if self.segment.indexed.load(Ordering::Acquire) >= self.len {
            return Ok(());
        }
        let index = self.segment.index();
        let entries: Vec<_> = index
            .entries()
            .take_while(|entry| entry.position < self.len)
            .collect();
        let Some(last) = entries.last().map(|entry| entry.position) else {
            return Ok(());
        };
        let file = IndexFile {
            len: self.len,
            end: self.end,
            epochs: self.epochs.clone(),
            check: crc32fast::hash(self.segment.bytes(last, self.len)),
            entries,
        };
        file.write(&self.segment.path(), identity, self.segment.base())?;
        self.segment.indexed.store(self.len, Ordering::Release);
        Ok(())
    }
}

impl Log {
    /// What has to be written so that the next start has little to read, if it is time for that. To
    /// be asked after [`Log::flushed`].
    pub fn hint_job(&mut self) -> Option<HintJob> {
        self.hints_since(self.config.hint_interval_bytes)
    }

    /// The log ends: all hints that are missing are written.
    pub(crate) fn finish_hints(&mut self) {
        // Once more what a job has not done.
        self.hints.parts_done = 0;
        self.hints.bytes_done = 0;
        // A start that was moved takes two: what has to be durable before the mark, and the mark.
        for _ in 0..2 {
            if let Some(job) = self.hints_since(1) {
                job.run();
            }
        }
    }

    /// What has to be done for a start that was moved, if something is left. To be asked now and then
    /// where nothing is written that would have [`Log::hint_job`] asked.
    pub fn start_job(&mut self) -> Option<HintJob> {
        if self.hints.start.is_none() && self.hints.expired.is_empty() {
            return None;
        }
        self.hint_job()
    }

    fn hints_since(&mut self, bytes: usize) -> Option<HintJob> {
        let cuts = self.hints.cuts?;
        if self.trusted.failed() {
            return None;
        }
        self.mark_start();
        let durable_end = self.durable_end;
        let marked = self.marked_start.end;
        let (expired, later) = std::mem::take(&mut self.hints.expired)
            .into_iter()
            .partition(|(end, _)| *end <= marked);
        self.hints.expired = later;
        let expired: Vec<(Offset, PathBuf)> = expired;
        let moved = self.hints.start.as_ref();
        let account = self
            .hints
            .account
            .take_if(|account| account.0.end <= durable_end);
        let job = HintJob {
            shared: Arc::downgrade(&self.hints.shared),
            cuts,
            resets: self.hints.resets,
            account_at_start: moved.and_then(|moved| Some((moved.at, moved.account.clone()?))),
            expired: expired.into_iter().map(|(_, path)| path).collect(),
            indexes: self.indexes_since(bytes),
            account: account.map(|account| *account),
            mark: self.mark.to_sync(),
            trusted: self.trusted.clone(),
        };
        let due = !job.is_empty() || self.mark_synced_at.elapsed() >= MARK_SYNC_EVERY;
        due.then(|| {
            self.mark_synced_at = Instant::now();
            job
        })
    }

    fn indexes_since(&mut self, bytes: usize) -> Vec<IndexOf> {
        let mut indexes = Vec::new();
        while let Some(part) = self.parts.get(self.hints.parts_done) {
            let (len, end) = part.extent();
            let has = part.segment.indexed.load(Ordering::Acquire);
            let is_last = self.hints.parts_done + 1 == self.parts.len();
            if !is_last || part.is_cut() {
                // Nothing will be added to it.
                if end > self.durable_end {
                    break;
                }
                // Which epochs began below the start is forgotten, and it may be found where it was.
                let whole = part.segment.base() >= self.start;
                if whole && len > SEGMENT_HEADER_BYTES && has != len {
                    indexes.push(self.index_of(part, len, end));
                }
                self.hints.parts_done += 1;
                self.hints.bytes_done = 0;
                continue;
            }
            let has = has.max(self.hints.bytes_done).max(SEGMENT_HEADER_BYTES);
            if len - has < bytes {
                break;
            }
            // Durable is what ends at or below the durable end, if it can be read.
            if let Ok(Some((len, end))) = part.last_entry_below(self.durable_end)
                && len >= has + bytes
                && part.segment.base() >= self.start
            {
                indexes.push(self.index_of(part, len, end));
                self.hints.bytes_done = len;
            }
            break;
        }
        indexes
    }

    fn index_of(&self, part: &Part, len: usize, end: Offset) -> IndexOf {
        let base = part.segment.base();
        let here = |run: &&(LeaderEpoch, Offset)| (base..end).contains(&run.1);
        IndexOf {
            segment: part.segment.clone(),
            len,
            end,
            epochs: self.epochs.iter().filter(here).copied().collect(),
        }
    }

    /// Whether so much has been appended since the owner last gave an account of the producers that
    /// it should give another. `account_bytes` is about what that would take: a large one is due less
    /// often.
    pub fn account_is_due(&self, account_bytes: usize) -> bool {
        let (base, len) = self.hints.account_at;
        let later = self.parts.iter().rev();
        let later = later.take_while(|part| part.segment.base() >= base);
        let bytes: usize = later
            .map(|part| match part.segment.base() == base {
                true => part.extent().0.saturating_sub(len),
                false => part.extent().0,
            })
            .sum();
        let interval = self.config.hint_interval_bytes.max(4 * account_bytes);
        self.hints.account.is_none() && bytes >= interval
    }

    /// Takes the owner's account of the producers, as of the log's present end. It is kept by a
    /// [`HintJob`] when what it speaks of is durable, unless the log is cut before that.
    pub fn give_account(&mut self, account: Vec<u8>) {
        let at = Point::at(self.end, &self.epochs);
        self.hints.account = Some(Box::new((at, account)));
        if let Some(last) = self.parts.last() {
            self.hints.account_at = (last.segment.base(), last.extent().0);
        }
    }
}
