//! Raft's log and vote on disk: one file of checksummed records, appended and flushed before
//! anything is answered.
//!
//! A record is `[u32 length][u32 CRC-32 of the length][u32 CRC-32 of the rest][MessagePack]`,
//! big-endian; the file begins with an eight-byte magic. The length has a checksum of its own: a
//! damaged one would point behind the end of the file, and everything after it would pass for a
//! torn record. What was purged goes when the file is rewritten. All entries are kept in memory
//! as well: snapshots keep them few.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use serde::{Deserialize, Serialize};

use crate::types::{Entry, LogId, Types, Vote};

const MAGIC: [u8; 8] = *b"BTNRAFT1";

/// The file is rewritten when it is this large and at least half of it is of no use any more.
const REWRITE_BYTES: u64 = 4 << 20;

/// Most bytes of a record.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Bytes of a record before its content.
const HEAD_BYTES: usize = 12;

#[derive(Serialize, Deserialize)]
enum Record {
    Vote(Vote),
    Entry(Box<Entry>),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    live_bytes: u64,
    failed: bool,
}

/// Raft's log. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    inner: Arc<Mutex<Inner>>,
}

fn invalid(path: &Path, detail: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {detail}", path.display()),
    )
}

fn encode(record: &Record, out: &mut Vec<u8>) -> io::Result<()> {
    let body = rmp_serde::to_vec_named(record).map_err(io::Error::other)?;
    if body.len() > RECORD_BYTES_MAX {
        let text = format!(
            "a record of {} bytes; at most {RECORD_BYTES_MAX} are allowed",
            body.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let length = (body.len() as u32).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc32fast::hash(&length).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// A record found at `at`: its end, or why there is none.
enum Found {
    Record(Box<Record>, usize),
    /// The file ends within it, or it was never written whole.
    Torn,
}

fn decode(path: &Path, bytes: &[u8], at: usize) -> io::Result<Found> {
    let damaged = || invalid(path, format!("a record is damaged at byte {at}"));
    let rest = &bytes[at..];
    // A crash can leave the file longer than what was written, with zeros behind.
    if rest.len() < HEAD_BYTES || rest.iter().all(|byte| *byte == 0) {
        return Ok(Found::Torn);
    }
    let word = |i: usize| [rest[i], rest[i + 1], rest[i + 2], rest[i + 3]];
    let length = u32::from_be_bytes(word(0)) as usize;
    if crc32fast::hash(&word(0)).to_be_bytes() != word(4) || length > RECORD_BYTES_MAX {
        return Err(damaged());
    }
    let Some(body) = rest[HEAD_BYTES..].get(..length) else {
        return Ok(Found::Torn);
    };
    let end = at + HEAD_BYTES + length;
    if crc32fast::hash(body).to_be_bytes() != word(8) {
        // The last record can be torn by a crash; one with others behind it has been damaged.
        let last = bytes[end..].iter().all(|byte| *byte == 0);
        return if last {
            Ok(Found::Torn)
        } else {
            Err(damaged())
        };
    }
    let record = rmp_serde::from_slice(body).map_err(|error| {
        invalid(
            path,
            format!("the record at byte {at} is not understood: {error}"),
        )
    })?;
    Ok(Found::Record(Box::new(record), end))
}

impl LogStore {
    /// Whether `dir` holds a log, be it empty.
    pub fn exists(dir: &Path) -> io::Result<bool> {
        match std::fs::metadata(dir.join("log")) {
            Ok(found) => Ok(found.len() >= MAGIC.len() as u64),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether anything was ever written to it.
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.vote.is_none() && inner.purged.is_none() && inner.entries.is_empty()
    }

    /// The index up to which entries are only in the snapshot any more.
    pub fn purged_index(&self) -> Option<u64> {
        self.lock().purged.map(|purged| purged.index())
    }

    /// Opens the log in `dir`, or makes one.
    pub fn open(dir: &Path) -> io::Result<LogStore> {
        let path = dir.join("log");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        let mut end = MAGIC.len();
        if bytes.len() < MAGIC.len() {
            file.set_len(0)?;
            file.write_all(&MAGIC)?;
        } else if bytes[..8] != MAGIC {
            return Err(invalid(
                &path,
                "this is no Raft log, or one of another version",
            ));
        }
        let mut inner = Inner {
            path: path.clone(),
            file,
            file_bytes: 0,
            vote: None,
            purged: None,
            entries: BTreeMap::new(),
            live_bytes: 0,
            failed: false,
        };
        while end < bytes.len() {
            match decode(&path, &bytes, end)? {
                Found::Record(record, next) => {
                    inner.take(*record, (next - end) as u64);
                    end = next;
                }
                Found::Torn => {
                    tracing::info!(path = %path.display(), bytes = bytes.len() - end, "a torn record is cut");
                    inner.file.set_len(end as u64)?;
                    break;
                }
            }
        }
        inner.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        inner.file_bytes = end as u64;
        let inner = Arc::new(Mutex::new(inner));
        Ok(LogStore { inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes a record's effect on what is kept in memory.
    fn take(&mut self, record: Record, bytes: u64) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                self.live_bytes += bytes;
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

    /// Writes records and makes them durable. After a failure nothing is written any more: what the
    /// file holds is not known.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failed {
            return Err(invalid(&self.path, "an earlier write failed"));
        }
        let result = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data());
        self.failed = result.is_err();
        self.file_bytes += bytes.len() as u64;
        result
    }

    fn record(&mut self, record: Record) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(&record, &mut bytes)?;
        self.write(&bytes)?;
        self.take(record, bytes.len() as u64);
        Ok(())
    }

    /// Rewrites the file without what is of no use any more.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        if let Some(vote) = self.vote {
            encode(&Record::Vote(vote), &mut bytes)?;
        }
        if let Some(purged) = self.purged {
            encode(&Record::Purge(purged), &mut bytes)?;
        }
        let before = bytes.len();
        for entry in self.entries.values() {
            encode(&Record::Entry(Box::new(entry.clone())), &mut bytes)?;
        }
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.file_bytes = bytes.len() as u64;
        self.live_bytes = (bytes.len() - before) as u64;
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
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let inner = self.lock();
        let last = inner.entries.values().next_back().map(RaftEntry::log_id);
        Ok(LogState {
            last_purged_log_id: inner.purged,
            last_log_id: last.or(inner.purged),
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
        let mut bytes = Vec::new();
        let mut taken = Vec::new();
        for entry in entries {
            let before = bytes.len();
            let record = Record::Entry(Box::new(entry));
            encode(&record, &mut bytes)?;
            taken.push((record, (bytes.len() - before) as u64));
        }
        let mut inner = self.lock();
        inner.write(&bytes)?;
        for (record, size) in taken {
            inner.take(record, size);
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
        if inner.file_bytes > REWRITE_BYTES {
            inner.rewrite()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderIdExt;

    fn vote(term: u64) -> Vote {
        Vote::new(term, 1)
    }

    fn log_id(index: u64) -> LogId {
        LogId::new(
            openraft::impls::leader_id_adv::LeaderId::new_committed(1, 1),
            index,
        )
    }

    fn entry(index: u64) -> Record {
        Record::Entry(Box::new(Entry::new_blank(log_id(index))))
    }

    #[test]
    fn a_torn_record_is_cut_wherever_it_tore() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        store.lock().record(Record::Vote(vote(3))).expect("written");
        store.lock().record(entry(0)).expect("written");
        let before = store.lock().file_bytes;
        store.lock().record(entry(1)).expect("written");
        let whole = std::fs::read(dir.path().join("log")).expect("read");
        for len in before as usize..whole.len() {
            std::fs::write(dir.path().join("log"), &whole[..len]).expect("cut");
            let store = LogStore::open(dir.path()).expect("opens");
            assert_eq!(store.lock().entries.len(), 1, "cut at {len}");
            assert_eq!(store.lock().vote, Some(vote(3)));
        }
    }

    #[test]
    fn damage_before_the_last_record_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        for index in 0..3 {
            store.lock().record(entry(index)).expect("written");
        }
        let path = dir.path().join("log");
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).expect("damaged");
        let error = LogStore::open(dir.path()).expect_err("refused");
        assert!(error.to_string().contains("damaged at byte 8"), "{error}");
    }

    #[test]
    fn a_damaged_bit_never_passes_for_a_torn_record() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        store.lock().record(Record::Vote(vote(1))).expect("written");
        let first_end = store.lock().file_bytes as usize;
        store.lock().record(Record::Vote(vote(2))).expect("written");
        let path = dir.path().join("log");
        let whole = std::fs::read(&path).expect("read");
        for bit in MAGIC.len() * 8..first_end * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).expect("damaged");
            LogStore::open(dir.path()).expect_err(&format!("bit {bit} is refused"));
            assert_eq!(std::fs::read(&path).expect("read"), bytes, "nothing is cut");
        }
    }

    #[test]
    fn zeros_behind_the_last_record_are_cut() {
        for zeros in [1, 8, 12, 4096] {
            let dir = tempfile::tempdir().expect("dir");
            let store = LogStore::open(dir.path()).expect("opens");
            store.lock().record(Record::Vote(vote(3))).expect("written");
            let end = store.lock().file_bytes;
            let path = dir.path().join("log");
            let file = OpenOptions::new().write(true).open(&path).expect("opens");
            file.set_len(end + zeros).expect("grown");
            let store = LogStore::open(dir.path()).expect("opens");
            assert_eq!(store.lock().vote, Some(vote(3)));
            assert_eq!(file.metadata().expect("size").len(), end);
        }
    }

    #[test]
    fn what_was_purged_or_cut_does_not_come_back() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LogStore::open(dir.path()).expect("opens");
        for index in 0..10 {
            store.lock().record(entry(index)).expect("written");
        }
        store
            .lock()
            .record(Record::TruncateAfter(Some(log_id(7))))
            .expect("cut");
        store
            .lock()
            .record(Record::Purge(log_id(3)))
            .expect("purged");
        store.lock().rewrite().expect("rewritten");
        store.lock().record(entry(8)).expect("written");
        drop(store);
        let store = LogStore::open(dir.path()).expect("opens");
        let indexes: Vec<u64> = store.lock().entries.keys().copied().collect();
        assert_eq!(indexes, [4, 5, 6, 7, 8]);
        assert_eq!(store.lock().purged, Some(log_id(3)));
    }
}
