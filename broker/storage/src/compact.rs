//! Compaction: of each key the newest record stays, what is older goes.
//!
//! A pass looks at segments that nothing is added to any more, as far as they are durable and its owner says. It
//! learns which record of each key is the newest, as far as its memory goes, then goes through the
//! segments, the oldest first, and replaces each in which something can go by a file that lacks it: written
//! and flushed beside it, then put in its place at once. Whatever is cut off in between leaves each segment
//! as it was or as it is to be, and either fits to its neighbours: offsets stay, and so does where a segment
//! ends. Readers keep what they hold.
//!
//! A pass is work for any thread that may wait, a step at a time. The log learns of it by
//! [`Log::adopt_compacted`], and a cut of the log ends it.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use baton_protocol::batch::{
    BatchHeader, EXPANDED_BYTES_MAX, RecordIter, RecordRef, expand_records, retain_records,
};
use baton_protocol::ids::{LeaderEpoch, Offset, ProducerId};
use bytes::Bytes;

use crate::compact_file::{Entry, Replacement, Walk, replacement_path};
use crate::epochs::Run;
use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::flush::Trusted;
use crate::hints::{IndexOf, Shared};
use crate::index_file;
use crate::keys::KeyMap;
use crate::log::Log;
use crate::reader::{Part, Published};
use crate::segment::Segment;
use crate::survey::segment_files;

/// So many of each producer's batches in a segment keep at least their header: a start rebuilds from them
/// which batches are repeated ones.
const HEADERS_PER_PRODUCER: usize = 5;

/// A pass that did not come to its end is not repeated before this time, in milliseconds.
const RETRY_MS: i64 = 60_000;

/// What a log is compacted by.
#[derive(Clone, Copy, Debug)]
pub struct CompactionRules {
    /// The time of day, in milliseconds since 1970.
    pub now_ms: i64,
    /// Nothing is looked at that ends above: it is not committed, or others lack it.
    pub up_to: Offset,
    /// How long records without a value, which delete their key, stay after their segment was written,
    /// in milliseconds.
    pub delete_retention_ms: u64,
    /// Most keys that a pass keeps in memory: 50 bytes each, about.
    pub keys_max: usize,
}

/// What a log knows of its compaction.
#[derive(Debug, Default)]
pub(crate) struct Compacting {
    /// Shared with the pass that is under way; none before the first one.
    progress: Option<Arc<Mutex<Progress>>>,
    /// Below this offset no key had two records when the last pass ended.
    clean_to: Offset,
    /// More could have gone in the last pass with more memory.
    more: bool,
    /// When the oldest of the records without a value that were kept may go, as far as their age goes.
    tombstones_due_ms: Option<i64>,
    /// What was clean a while ago.
    cleaned: Option<Cleaned>,
    /// No pass begins before this time.
    not_before_ms: i64,
}

/// How far the log has been clean, and since when. Whoever has read a record that was superseded did so
/// before: so long they have had to come to what superseded it.
#[derive(Clone, Copy, Debug)]
struct Cleaned {
    to: Offset,
    /// None until somebody has told the time.
    since_ms: Option<i64>,
}

/// What a pass has done that the log does not know yet.
#[derive(Debug, Default)]
struct Progress {
    /// Segments that others have taken the place of.
    swaps: Vec<(Arc<Segment>, Arc<Segment>)>,
    finished: Option<Finished>,
}

#[derive(Debug)]
struct Finished {
    /// How often the log had been cut: of what has come after a cut this says nothing.
    cuts: u64,
    /// From now on it counts how long this much has been clean.
    renews: bool,
    clean_to: Offset,
    more: bool,
    tombstones_due_ms: Option<i64>,
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Compacting {
    fn is_running(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|progress| Arc::strong_count(progress) > 1)
    }

    /// The log was cut there.
    pub fn cut(&mut self, end: Offset) {
        self.clean_to = self.clean_to.min(end);
        if let Some(cleaned) = &mut self.cleaned {
            cleaned.to = cleaned.to.min(end);
        }
    }

    /// Records without a value below this have been the only ones of their keys for long enough.
    fn deletes_below(&self, rules: &CompactionRules) -> Offset {
        let retention = i64::try_from(rules.delete_retention_ms).unwrap_or(i64::MAX);
        let long_enough = |since: i64| since.saturating_add(retention) <= rules.now_ms;
        let cleaned = self.cleaned.filter(|c| c.since_ms.is_some_and(long_enough));
        cleaned.map_or(Offset::ZERO, |cleaned| cleaned.to)
    }
}

impl Log {
    /// A pass, if one is due and none is under way.
    pub fn compaction(&mut self, rules: &CompactionRules) -> Option<Compaction> {
        self.adopt_compacted();
        if let Some(cleaned) = &mut self.compacting.cleaned {
            cleaned.since_ms.get_or_insert(rules.now_ms);
        }
        let cuts = self.hints.cuts()?;
        if self.trusted.failed() || self.compacting.is_running() {
            return None;
        }
        let parts = self.closed(rules.up_to);
        let deletes_below = self.compacting.deletes_below(rules);
        if !self.compaction_is_due(&parts, rules.now_ms, deletes_below) {
            return None;
        }
        self.compacting.not_before_ms = rules.now_ms.saturating_add(RETRY_MS);
        // As long as files of what has expired are there, a start may find it again: what deletes some of it
        // has to stay.
        let first = parts.first().map(|part| part.segment.path());
        if first.is_some_and(|first| !is_first_file(&self.dir, &first)) {
            return None;
        }
        let learn_from = self.compacting.clean_to;
        let mut pass = Compaction {
            shared: self.hints.shared(),
            cuts,
            published: Arc::downgrade(&self.published),
            trusted: self.trusted.clone(),
            progress: self.compacting.progress.get_or_insert_default().clone(),
            rules: *rules,
            index_bytes: self.config.index_interval_bytes,
            epochs: self.epochs.clone(),
            start: self.start,
            // Of what is not looked at, older records may come back when such a one goes.
            may_delete: parts
                .first()
                .is_some_and(|part| part.segment.base() >= self.start),
            deletes_below,
            renews: self.compacting.cleaned.is_none() || deletes_below > Offset::ZERO,
            learn_from,
            learned_to: learn_from,
            keys: KeyMap::default(),
            tombstones_due_ms: None,
            expanded: Cell::new(0),
            stage: Stage::Done,
            parts,
        };
        pass.stage = pass.begin();
        Some(pass)
    }

    /// The segments that nothing is added to any more, up to there, as far as they are durable.
    fn closed(&self, up_to: Offset) -> Vec<Part> {
        let up_to = self.durable_end.min(up_to);
        let closed = self.parts.len().saturating_sub(1);
        let parts = self.parts[..closed].iter();
        parts
            .take_while(|part| part.extent().1 <= up_to)
            .filter(|part| !part.segment.is_empty())
            .cloned()
            .collect()
    }

    /// Whether half as much has come as there was when the last pass ended, or something may go for its
    /// age.
    fn compaction_is_due(&self, parts: &[Part], now_ms: i64, deletes_below: Offset) -> bool {
        let known = &self.compacting;
        let bytes = |part: &&Part| part.extent().0 as u64;
        let is_clean = |part: &&Part| part.extent().1 <= known.clean_to;
        let clean: u64 = parts.iter().filter(is_clean).map(|part| bytes(&part)).sum();
        let all: u64 = parts.iter().map(|part| bytes(&part)).sum();
        let dirty = all - clean;
        let is_worth_it = dirty > 0 && (known.more || dirty >= clean / 2);
        let is_overdue = deletes_below > Offset::ZERO
            && known.tombstones_due_ms.is_some_and(|due| due <= now_ms);
        now_ms >= known.not_before_ms && (is_worth_it || is_overdue)
    }

    /// Takes over what a pass has done so far. To be called now and then.
    pub fn adopt_compacted(&mut self) {
        let (swaps, finished) = {
            let Some(progress) = &self.compacting.progress else {
                return;
            };
            let mut progress = lock(progress);
            (
                std::mem::take(&mut progress.swaps),
                progress.finished.take(),
            )
        };
        let cuts = self.hints.cuts();
        if let Some(finished) = finished.filter(|finished| cuts == Some(finished.cuts)) {
            if finished.renews {
                self.compacting.cleaned = Some(Cleaned {
                    to: finished.clean_to,
                    since_ms: None,
                });
            }
            self.compacting.clean_to = finished.clean_to;
            self.compacting.more = finished.more;
            self.compacting.tombstones_due_ms = finished.tombstones_due_ms;
            self.compacting.not_before_ms = 0;
        }
        if swaps.is_empty() {
            return;
        }
        for part in &mut self.parts {
            let of_this = |(old, _): &&(Arc<Segment>, _)| Arc::ptr_eq(old, &part.segment);
            if let Some((_, new)) = swaps.iter().find(of_this) {
                *part = Part::whole(new.clone());
            }
        }
        self.publish();
    }

    /// The log is about to be cut: no pass changes a file any more, and what has been changed is known.
    pub(crate) fn end_compaction(&mut self) {
        self.hints.void();
        self.adopt_compacted();
    }
}

/// A pass over a log, on any thread.
#[derive(Debug)]
pub struct Compaction {
    shared: Weak<Shared>,
    /// How often the log had been cut when the pass began: another cut ends it.
    cuts: u64,
    published: Weak<Published>,
    trusted: Arc<Trusted>,
    progress: Arc<Mutex<Progress>>,
    rules: CompactionRules,
    index_bytes: usize,
    epochs: Vec<Run>,
    /// Where the log started.
    start: Offset,
    may_delete: bool,
    /// Below this, records without a value may go for their age.
    deletes_below: Offset,
    /// What had been clean for long enough is made use of here: from the end of this pass on it counts how
    /// long what is clean then has been.
    renews: bool,
    parts: Vec<Part>,
    keys: KeyMap,
    /// Below this offset no key has two records: what is learned begins here.
    learn_from: Offset,
    /// The newest record of each key below this offset is known, or no key has two.
    learned_to: Offset,
    tombstones_due_ms: Option<i64>,
    /// Bytes that entries were expanded to, beyond what they are stored as, since the last step counted them.
    expanded: Cell<usize>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Which record of each key is the newest.
    Learn(usize, Walk),
    /// What can go of a segment.
    Look(usize, Walk, Plan),
    /// The segment without it.
    Write(usize, Walk, Plan, Replacement),
    Done,
}

/// What is to become of a segment.
#[derive(Debug, Default)]
struct Plan {
    /// Entries that stay though no record of theirs does, by their base offsets.
    stay: BTreeSet<Offset>,
    /// Entries that are without records, or will be.
    empty: Vec<Offset>,
    /// Some entry loses records.
    changes: bool,
    /// The entry that was looked at last.
    previous: Option<(Offset, LeaderEpoch)>,
    producers: HashMap<ProducerId, VecDeque<Offset>>,
}

impl Plan {
    /// Takes an entry into account, of which so many records will be left.
    fn add(&mut self, header: &BatchHeader, is_empty: bool, changes: bool) {
        let (base, epoch) = (header.base_offset(), header.leader_epoch());
        if let Some((last, before)) = self.previous
            && before != epoch
        {
            // It says where its epoch ended.
            self.stay.insert(last);
        }
        self.previous = Some((base, epoch));
        if let Some(stamp) = header.producer() {
            let newest = self.producers.entry(stamp.id).or_default();
            newest.push_back(base);
            if newest.len() > HEADERS_PER_PRODUCER {
                newest.pop_front();
            }
        }
        if is_empty {
            self.empty.push(base);
        }
        self.changes |= changes;
    }

    /// All entries have been looked at. Whether the segment is to be replaced.
    fn decide(&mut self) -> bool {
        // The last entry says where the segment ends, and where the next one goes on.
        self.stay.extend(self.previous.map(|(last, _)| last));
        let newest = std::mem::take(&mut self.producers);
        self.stay.extend(newest.into_values().flatten());
        self.changes || self.empty.iter().any(|base| !self.stay.contains(base))
    }
}

impl Compaction {
    /// Goes on for about so many bytes that are read, or expanded. Tells how many they were; none when the pass is over,
    /// or void because the log was cut or closed.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for a damaged entry. Any other if something cannot be read or written:
    /// the pass is over then, and the log is whole, unless a flush of its directory failed.
    pub fn step(&mut self, bytes: usize) -> Result<Option<usize>, StorageError> {
        let mut spent = 0;
        while spent < bytes && !self.is_over() {
            match self.advance() {
                Ok(cost) => spent += cost + self.expanded.take(),
                Err(error) => {
                    self.stage = Stage::Done;
                    return Err(error);
                }
            }
        }
        Ok((spent > 0 || !self.is_over()).then_some(spent))
    }

    fn is_over(&mut self) -> bool {
        let is_void = self
            .shared
            .upgrade()
            .is_none_or(|shared| !shared.is_at(self.cuts));
        if is_void {
            self.stage = Stage::Done;
        }
        matches!(self.stage, Stage::Done)
    }

    /// Does what comes next: an entry, or the end of a segment. Tells what it cost.
    fn advance(&mut self) -> Result<usize, StorageError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Learn(at, mut walk) => match walk.next()? {
                Some(entry) => {
                    self.learn(&entry);
                    self.stage = match self.keys.len() < self.rules.keys_max {
                        true => Stage::Learn(at, walk),
                        false => self.look_at(0),
                    };
                    Ok(entry.bytes.len())
                }
                None => {
                    self.stage = self.learn_part(at + 1);
                    Ok(1)
                }
            },
            Stage::Look(at, mut walk, mut plan) => match walk.next()? {
                Some(entry) => {
                    let segment = self.parts[at].segment.clone();
                    self.look(&entry, &segment, &mut plan);
                    self.stage = Stage::Look(at, walk, plan);
                    Ok(entry.bytes.len())
                }
                None => {
                    self.stage = match plan.decide() {
                        true => self.write_part(at, plan)?,
                        false => self.look_at(at + 1),
                    };
                    Ok(1)
                }
            },
            Stage::Write(at, mut walk, plan, mut replacement) => match walk.next()? {
                Some(entry) => {
                    let left = self.left_of(&entry, &self.parts[at].segment);
                    let header = &entry.header;
                    let stays = plan.stay.contains(&header.base_offset());
                    let is_empty = left
                        .as_ref()
                        .map_or(header.record_count(), |left| count_of(left))
                        == 0;
                    if stays || !is_empty {
                        replacement.push(&entry, left.as_deref(), self.index_bytes)?;
                    }
                    self.stage = Stage::Write(at, walk, plan, replacement);
                    // It is written, too.
                    Ok(2 * entry.bytes.len())
                }
                None => {
                    self.replace(at, replacement)?;
                    self.stage = self.look_at(at + 1);
                    Ok(1)
                }
            },
            Stage::Done => Ok(0),
        }
    }

    /// Begins to learn in the first segment of which something is to be learned.
    fn begin(&mut self) -> Stage {
        let is_dirty = |part: &Part| part.extent().1 > self.learn_from;
        let dirty = self.parts.iter().position(is_dirty);
        self.learn_part(dirty.unwrap_or(self.parts.len()))
    }

    fn learn_part(&mut self, at: usize) -> Stage {
        match self.parts.get(at) {
            Some(part) => Stage::Learn(at, Walk::over(part)),
            None => {
                let end = self.parts.last().map(|part| part.extent().1);
                self.learned_to = end.unwrap_or(self.learned_to);
                self.look_at(0)
            }
        }
    }

    fn learn(&mut self, entry: &Entry) {
        let header = &entry.header;
        if header.next_offset() <= self.learn_from {
            return;
        }
        self.learned_to = header.next_offset();
        if header.is_control() {
            return;
        }
        // What cannot be read stays as it is: nobody can say what is in it.
        let Ok(records) = expand_records(&entry.batch(), header, EXPANDED_BYTES_MAX) else {
            return;
        };
        self.count_expanded(entry, records.len());
        for record in RecordIter::of(&records, header).map_while(Result::ok) {
            if let Some(key) = record.key {
                self.keys.note(key, record.offset);
            }
        }
    }

    /// Begins to look at a segment, or at the next in which something may go.
    fn look_at(&mut self, from: usize) -> Stage {
        for (at, part) in self.parts.iter().enumerate().skip(from) {
            let is_learned = part.segment.base() < self.learned_to;
            if is_learned && part.segment.base() >= self.start {
                return Stage::Look(at, Walk::over(part), Plan::default());
            }
        }
        let end = self.parts.last().map(|part| part.extent().1);
        lock(&self.progress).finished = Some(Finished {
            cuts: self.cuts,
            renews: self.renews,
            clean_to: self.learned_to,
            more: end.is_some_and(|end| end > self.learned_to),
            tombstones_due_ms: self.tombstones_due_ms,
        });
        Stage::Done
    }

    fn look(&mut self, entry: &Entry, segment: &Segment, plan: &mut Plan) {
        let left = self.left_of(entry, segment);
        let header = &entry.header;
        let count = left
            .as_ref()
            .map_or(header.record_count(), |left| count_of(left));
        plan.add(header, count == 0, left.is_some());
        let due = self.tombstones_of(segment);
        let is_first = self.tombstones_due_ms.is_none_or(|other| due < other);
        if self.may_delete && is_first && count > 0 {
            let batch = left.map_or_else(|| entry.batch(), Bytes::from);
            if deletes(&batch) {
                self.tombstones_due_ms = Some(due);
            }
        }
    }

    /// When records without a value of this segment may go.
    fn tombstones_of(&self, segment: &Segment) -> i64 {
        let retention = i64::try_from(self.rules.delete_retention_ms).unwrap_or(i64::MAX);
        let written = segment.written_ms();
        written.map_or(i64::MAX, |written| {
            written.saturating_add(retention).saturating_add(1)
        })
    }

    /// The batch that is left of an entry; none if it stays as it is.
    fn left_of(&self, entry: &Entry, segment: &Segment) -> Option<Vec<u8>> {
        if entry.header.is_control() {
            return None;
        }
        let is_due = self.may_delete && self.tombstones_of(segment) <= self.rules.now_ms;
        let mut expanded = 0;
        let keep = |record: &RecordRef<'_>| {
            expanded += record.value.map_or(0, <[u8]>::len);
            let Some(key) = record.key else {
                return true;
            };
            let deletes = record.value.is_none() && record.offset < self.deletes_below;
            let goes = self.keys.supersedes(key, record.offset) || deletes && is_due;
            !goes
        };
        let left = retain_records(&entry.batch(), &entry.header, EXPANDED_BYTES_MAX, keep);
        self.count_expanded(entry, expanded);
        left.ok().flatten()
    }

    /// What an entry was expanded to takes time as what is read does.
    fn count_expanded(&self, entry: &Entry, bytes: usize) {
        let beyond = bytes.saturating_sub(entry.bytes.len());
        self.expanded.set(self.expanded.get() + beyond);
    }

    fn write_part(&mut self, at: usize, plan: Plan) -> Result<Stage, StorageError> {
        let part = &self.parts[at];
        let replacement = Replacement::create(&part.segment)?;
        Ok(Stage::Write(at, Walk::over(part), plan, replacement))
    }

    /// Puts the new file in the place of the segment, unless the log does not have that any more.
    fn replace(&mut self, at: usize, replacement: Replacement) -> Result<(), StorageError> {
        let old = self.parts[at].segment.clone();
        let (new, was_named) = replacement.finish()?;
        let new = Arc::new(new);
        let (Some(shared), Some(published)) = (self.shared.upgrade(), self.published.upgrade())
        else {
            return Ok(());
        };
        // Held until the log can know of it: a cut waits, and then finds what is there.
        let turn = shared.turn();
        let is_there = published
            .parts
            .load()
            .iter()
            .any(|part| Arc::ptr_eq(&part.segment, &old));
        if !turn.is_at(self.cuts) || !is_there {
            return Ok(());
        }
        let end = new.end();
        assert_eq!(
            end,
            self.parts[at].extent().1,
            "a segment ends where it did"
        );
        let path = old.path();
        let unnamed = replacement_path(&path);
        self.trusted.flush(shared.dir(), || {
            // An index must not speak of another file than that beside it.
            if index_file::remove(&path)? {
                sync_dir(shared.dir())?;
            }
            std::fs::rename(&unnamed, &path).context(&path, "replace")?;
            was_named();
            sync_dir(shared.dir())
        })?;
        // Whoever has yet to write an index of the old one has nothing to write.
        old.indexed.store(usize::MAX, Ordering::Release);
        let freed = old.len().saturating_sub(new.len());
        tracing::debug!(segment = %path.display(), freed, left = new.len(), "compacted");
        let here = |run: &&Run| (new.base()..end).contains(&run.1);
        let index = IndexOf {
            segment: new.clone(),
            len: new.len(),
            end,
            epochs: self.epochs.iter().filter(here).copied().collect(),
        };
        if let Err(error) = index.write(old.header().identity) {
            tracing::warn!(segment = %path.display(), %error, "the index of a segment cannot be written; the next start reads the segment instead");
        }
        lock(&self.progress).swaps.push((old, new));
        drop(turn);
        Ok(())
    }
}

/// Whether some record deletes its key.
fn deletes(batch: &Bytes) -> bool {
    let Ok(header) = BatchHeader::parse(batch) else {
        return false;
    };
    if header.is_control() {
        return false;
    }
    let Ok(records) = expand_records(batch, &header, EXPANDED_BYTES_MAX) else {
        return false;
    };
    let mut records = RecordIter::of(&records, &header).map_while(Result::ok);
    records.any(|record| record.value.is_none() && record.key.is_some())
}

/// Whether the log has no older file than this one.
fn is_first_file(dir: &Path, path: &Path) -> bool {
    let files = segment_files(dir);
    files.is_ok_and(|files| files.first().and_then(|first| first.file_name()) == path.file_name())
}

/// How many records a batch of ours has.
fn count_of(batch: &[u8]) -> u32 {
    BatchHeader::parse(batch).map_or(0, |header| header.record_count())
}
