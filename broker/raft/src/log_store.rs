//! Raft's log and vote on disk, appended and flushed before anything is answered.
//!
//! A [`RecordFile`] holds what happened, in order: votes, entries, cuts. What was purged goes when
//! the file is rewritten. All entries are kept in memory as well: snapshots keep them few.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use serde::{Deserialize, Serialize};

use crate::record_file::{Frames, RecordFile};
use crate::types::{Entry, LogId, Types, Vote};

/// A file smaller than this is not worth rewriting.
const REWRITE_BYTES: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
enum Record {
    Vote(Vote),
    Entry(Box<Entry>),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

/// What the records come to.
#[derive(Debug, Default)]
struct Content {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Inner {
    content: Content,
    file: RecordFile,
    /// The size at which the file is rewritten: twice what was of use the last time.
    rewrite_bytes: u64,
}

/// Raft's log. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    inner: Arc<Mutex<Inner>>,
}

impl LogStore {
    /// Whether `dir` holds a log, be it empty.
    pub fn exists(dir: &Path) -> io::Result<bool> {
        dir.join("log").try_exists()
    }

    /// Whether anything was ever written to it.
    pub fn is_empty(&self) -> bool {
        let Content {
            vote,
            purged,
            entries,
        } = &self.lock().content;
        vote.is_none() && purged.is_none() && entries.is_empty()
    }

    /// The index up to which entries are only in the snapshot any more.
    pub fn purged_index(&self) -> Option<u64> {
        self.lock().content.purged.map(|purged| purged.index())
    }

    /// Opens the log in `dir`, or makes one.
    pub fn open(dir: &Path) -> io::Result<LogStore> {
        let mut content = Content::default();
        let file = RecordFile::open(&dir.join("log"), |record| content.take(record))?;
        let inner = Inner {
            content,
            file,
            rewrite_bytes: REWRITE_BYTES,
        };
        Ok(LogStore {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// Has every write fail from now on.
    #[cfg(test)]
    pub fn fail(&self) {
        self.lock().file.fail();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn take(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                self.entries.insert(entry.index(), *entry);
            }
            Record::TruncateAfter(last) => {
                let keep = last.map_or(0, |last| last.index() + 1);
                self.entries.split_off(&keep);
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index() + 1));
                self.purged = Some(upto);
            }
        }
    }

    fn frames(&self) -> io::Result<Frames> {
        let mut frames = Frames::default();
        if let Some(vote) = self.vote {
            frames.push(&Record::Vote(vote))?;
        }
        if let Some(purged) = self.purged {
            frames.push(&Record::Purge(purged))?;
        }
        for entry in self.entries.values() {
            frames.push(&Record::Entry(Box::new(entry.clone())))?;
        }
        Ok(frames)
    }
}

impl Inner {
    fn record(&mut self, record: Record) -> io::Result<()> {
        let mut frames = Frames::default();
        frames.push(&record)?;
        self.file.append(&frames)?;
        self.content.take(record);
        Ok(())
    }

    /// Rewrites the file without what is of no use any more. It is housekeeping: where it fails and
    /// the file is none the worse, the log goes on.
    fn rewrite(&mut self) -> io::Result<()> {
        let frames = self.content.frames()?;
        match self.file.replace(&frames) {
            Ok(()) => self.rewrite_bytes = REWRITE_BYTES.max(2 * self.file.bytes()),
            Err(error) if self.file.has_failed() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the Raft log could not be rewritten; it goes on growing");
                self.rewrite_bytes = self.file.bytes() + REWRITE_BYTES;
            }
        }
        Ok(())
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self
            .lock()
            .content
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().content.vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let Content {
            purged, entries, ..
        } = &self.lock().content;
        let last = entries.values().next_back().map(RaftEntry::log_id);
        Ok(LogState {
            last_purged_log_id: *purged,
            last_log_id: last.or(*purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.lock().record(Record::Vote(*vote))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut frames = Frames::default();
        let mut records = Vec::new();
        for entry in entries {
            let record = Record::Entry(Box::new(entry));
            frames.push(&record)?;
            records.push(record);
        }
        let mut inner = self.lock();
        inner.file.append(&frames)?;
        for record in records {
            inner.content.take(record);
        }
        drop(inner);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.lock().record(Record::TruncateAfter(last_log_id))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut inner = self.lock();
        inner.record(Record::Purge(log_id))?;
        if inner.file.bytes() > inner.rewrite_bytes {
            inner.rewrite()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderIdExt;

    fn log_id(index: u64) -> LogId {
        LogId::new(
            openraft::impls::leader_id_adv::LeaderId::new_committed(1, 1),
            index,
        )
    }

    #[test]
    fn what_was_purged_or_cut_does_not_come_back() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        let record = |record| store.lock().record(record).expect("written");
        let entry = |index| Record::Entry(Box::new(Entry::new_blank(log_id(index))));
        record(Record::Vote(Vote::new(3, 1)));
        for index in 0..10 {
            record(entry(index));
        }
        record(Record::TruncateAfter(Some(log_id(7))));
        record(Record::Purge(log_id(3)));
        let before = store.lock().file.bytes();
        store.lock().rewrite().expect("rewritten");
        assert!(store.lock().file.bytes() < before);
        record(entry(8));
        drop(store);
        let store = LogStore::open(dir.path()).expect("opens");
        let inner = store.lock();
        let indexes: Vec<u64> = inner.content.entries.keys().copied().collect();
        assert_eq!(indexes, [4, 5, 6, 7, 8]);
        assert_eq!(inner.content.purged, Some(log_id(3)));
        assert_eq!(inner.content.vote, Some(Vote::new(3, 1)));
    }

    #[test]
    fn a_rewrite_that_cannot_begin_leaves_the_log_as_it_was() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        let record = |record| store.lock().record(record).expect("written");
        record(Record::Vote(Vote::new(3, 1)));
        std::fs::create_dir(dir.path().join("log.tmp")).expect("in the way");
        store.lock().rewrite().expect("is put off");
        record(Record::Vote(Vote::new(4, 1)));
        drop(store);
        let store = LogStore::open(dir.path()).expect("opens");
        assert_eq!(store.lock().content.vote, Some(Vote::new(4, 1)));
    }
}
