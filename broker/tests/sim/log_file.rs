//! One partition's file: what the system shows of it, and what a power cut would leave.
//!
//! Bytes are written to pages in memory. A flush brings pages to the platter; a power cut keeps or
//! loses each page that no flush has reached, one by one. So the last entry can be torn, and a hole
//! can lie before pages that were kept.

use std::collections::BTreeMap;

use baton_protocol::batch::{BatchHeader, EntryIter};
use baton_protocol::ids::{LeaderEpoch, Offset, Tick};
use baton_replication::producers::ProducerTable;

use crate::random::Random;

const PAGE_BYTES: usize = 4 << 10;

/// How often the mark that is written after each flush is made durable itself.
const MARK_SYNC_FLUSHES: u64 = 8;

/// An entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub at: usize,
    pub bytes: usize,
    pub base: Offset,
    pub end: Offset,
    pub epoch: LeaderEpoch,
    /// Its CRC-32: equal entries have equal ones.
    pub crc: u32,
}

impl Stored {
    fn of(at: usize, entry: &[u8], header: &BatchHeader) -> Stored {
        let mut crc = [0; 4];
        crc.copy_from_slice(&entry[..4]);
        Stored {
            at,
            bytes: entry.len(),
            base: header.base_offset(),
            end: header.next_offset(),
            epoch: header.leader_epoch(),
            crc: u32::from_be_bytes(crc),
        }
    }
}

/// Where a log starts, and what is known of what lies below.
#[derive(Clone, Default)]
pub struct Beginning {
    pub start: Offset,
    /// Epoch of the entry before.
    pub epoch: LeaderEpoch,
    pub producers: ProducerTable,
}

/// What was discarded by a cut.
pub struct Quarantined {
    pub from: Offset,
    pub bytes: Vec<u8>,
}

/// Pages to be flushed, each as of a write.
pub struct FlushPages {
    pages: Vec<usize>,
    as_of: u64,
}

/// The file.
#[derive(Default)]
pub struct LogFile {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// Pages that no flush has reached, each with its last write.
    dirty: BTreeMap<usize, u64>,
    writes: u64,
    entries: Vec<Stored>,
    durable_end: Offset,
    /// Entries below the start stay in the file: nobody is shown them.
    beginning: Beginning,
    /// What a power cut leaves of it.
    beginning_on_platter: Beginning,
    /// The recorded durable end: exact after a kill, of some flushes ago after a power cut.
    mark: Offset,
    mark_on_platter: Offset,
    flushes: u64,
    /// When each entry was written here, by its base offset: a file's time survives what the file does.
    written: BTreeMap<Offset, Tick>,
    pub generation: u64,
    pub quarantine: Vec<Quarantined>,
}

impl LogFile {
    pub fn entries(&self) -> &[Stored] {
        &self.entries
    }

    pub fn end(&self) -> Offset {
        let end = self.entries.last().map_or(Offset::ZERO, |entry| entry.end);
        end.max(self.beginning.start)
    }

    pub fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    pub fn start(&self) -> Offset {
        self.beginning.start
    }

    /// Where a power cut would leave the start.
    pub fn durable_start(&self) -> Offset {
        self.beginning_on_platter.start
    }

    /// Whether a power cut would leave the start where it is.
    pub fn start_is_durable(&self) -> bool {
        self.durable_start() == self.start()
    }

    /// When the entry at `base` was written.
    pub fn written_at(&self, base: Offset) -> Tick {
        let written = self.written.get(&base).copied();
        written.unwrap_or(Tick(u64::MAX))
    }

    /// The entries that are part of the log.
    pub fn log(&self) -> &[Stored] {
        &self.entries[self.place_of(self.start())..]
    }

    /// Moves the start.
    pub fn advance_start(&mut self, to: Offset, producers: ProducerTable) {
        assert!(to >= self.start() && to <= self.durable_end, "an odd start");
        let place = self.place_of(to);
        let last = place.checked_sub(1).map(|last| self.entries[last]);
        let last = last.filter(|entry| entry.end > self.start());
        self.beginning = Beginning {
            start: to,
            epoch: last.map_or(self.beginning.epoch, |entry| entry.epoch),
            producers,
        };
    }

    /// Discards everything, with what lies above `keep_from` in quarantine, and begins anew. Returns the
    /// entries discarded that were part of the log.
    pub fn begin_anew(&mut self, beginning: Beginning, keep_from: Offset) -> Vec<Stored> {
        let discarded = self.log().to_vec();
        let place = self.place_of(keep_from.max(self.start()));
        if let Some(first) = self.entries.get(place) {
            self.quarantine.push(Quarantined {
                from: first.base,
                bytes: self.cache[first.at..].to_vec(),
            });
        }
        self.entries.clear();
        self.cut_bytes(0);
        self.generation += 1;
        self.durable_end = beginning.start;
        self.mark = beginning.start;
        self.mark_on_platter = beginning.start;
        self.beginning_on_platter = beginning.clone();
        self.beginning = beginning;
        discarded
    }

    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Whether everything in it is on the platter, so that it can be replaced.
    pub fn is_flushed(&self) -> bool {
        self.dirty.is_empty() && self.platter == self.cache
    }

    /// Puts these entries in the place of those that are there, at once and durably.
    pub fn replace(&mut self, entries: Vec<u8>) {
        let (end, before) = (self.end(), self.position());
        self.platter = entries.clone();
        self.cache = entries;
        self.scan();
        assert_eq!(
            (end, before),
            (self.end(), self.position()),
            "a log ends where it did"
        );
    }

    pub fn bytes_of(&self, entry: &Stored) -> &[u8] {
        &self.cache[entry.at..entry.at + entry.bytes]
    }

    /// Place of the first entry that ends beyond `offset`.
    pub fn place_of(&self, offset: Offset) -> usize {
        self.entries.partition_point(|entry| entry.end <= offset)
    }

    /// Whether a power cut would leave the entry that holds `offset` here, in `epoch`. What lies below the
    /// start counts as held: it was committed, and has expired.
    pub fn holds_durably(&self, offset: Offset, epoch: LeaderEpoch) -> bool {
        if offset < self.start() {
            return true;
        }
        let Some(entry) = self.entries.get(self.place_of(offset)) else {
            return false;
        };
        let range = entry.at..entry.at + entry.bytes;
        // Within an epoch there is no gap but one that a compaction left: what was there is superseded.
        entry.epoch == epoch && self.platter.get(range.clone()) == Some(&self.cache[range])
    }

    /// Whether the entry that holds `offset` is here, in `epoch`, if in memory only.
    pub fn holds(&self, offset: Offset, epoch: LeaderEpoch) -> bool {
        let entry = self.entries.get(self.place_of(offset));
        offset < self.start() || entry.is_some_and(|entry| entry.epoch == epoch)
    }

    /// Epoch of the last entry, and the log's end.
    pub fn position(&self) -> (LeaderEpoch, Offset) {
        let last = self.log().last();
        let start = (self.beginning.epoch, self.start());
        last.map_or(start, |e| (e.epoch, e.end))
    }

    /// Epoch of the last durable entry, and the durable end.
    pub fn durable_position(&self) -> (LeaderEpoch, Offset) {
        let count = self.place_of(self.durable_end);
        let last = count.checked_sub(1).map(|last| self.entries[last]);
        let last = last.filter(|entry| entry.end > self.start());
        let start = (self.beginning.epoch, self.start());
        last.map_or(start, |e| (e.epoch, e.end))
    }

    pub fn append(&mut self, entry: &[u8], now: Tick) -> Stored {
        let header = BatchHeader::parse(&entry[4..]).expect("the driver stores batches");
        let stored = Stored::of(self.cache.len(), entry, &header);
        assert!(stored.base >= self.end(), "entries follow one another");
        self.cache.extend_from_slice(entry);
        self.writes += 1;
        for page in stored.at / PAGE_BYTES..=(self.cache.len() - 1) / PAGE_BYTES {
            self.dirty.insert(page, self.writes);
        }
        self.entries.push(stored);
        self.written.insert(stored.base, now);
        stored
    }

    /// Cuts durably, with what is discarded in quarantine. Returns the entries discarded.
    pub fn truncate(&mut self, to: Offset) -> Vec<Stored> {
        let place = self.place_of(to);
        let discarded = self.entries.split_off(place);
        if let Some(first) = discarded.first() {
            assert!(first.base >= to, "a cut through an entry");
            self.quarantine.push(Quarantined {
                from: first.base,
                bytes: self.cache[first.at..].to_vec(),
            });
            self.cut_bytes(first.at);
        }
        self.generation += 1;
        // A log that is cut within a gap ends where its last entry does.
        let end = self.end().min(to);
        self.durable_end = self.durable_end.min(end);
        self.mark = self.mark.min(end);
        self.mark_on_platter = self.mark_on_platter.min(end);
        discarded
    }

    fn cut_bytes(&mut self, at: usize) {
        self.cache.truncate(at);
        self.platter.truncate(at);
        self.dirty.retain(|page, _| page * PAGE_BYTES < at);
    }

    pub fn pages_to_flush(&self) -> FlushPages {
        FlushPages {
            pages: self.dirty.keys().copied().collect(),
            as_of: self.writes,
        }
    }

    pub fn flush_pages(&mut self, flush: &FlushPages) {
        for page in &flush.pages {
            self.write_page(*page);
            if self
                .dirty
                .get(page)
                .is_some_and(|write| *write <= flush.as_of)
            {
                self.dirty.remove(page);
            }
        }
    }

    /// The system could not write these pages, and takes them for clean from now on: it shows them
    /// as before, and no later flush writes them.
    pub fn drop_pages(&mut self, flush: &FlushPages) {
        for page in &flush.pages {
            self.dirty.remove(page);
        }
    }

    fn write_page(&mut self, page: usize) {
        let from = page * PAGE_BYTES;
        let to = (from + PAGE_BYTES).min(self.cache.len());
        if from < to {
            if self.platter.len() < to {
                self.platter.resize(to, 0);
            }
            self.platter[from..to].copy_from_slice(&self.cache[from..to]);
        }
    }

    pub fn note_flushed(&mut self, end: Offset, generation: u64) {
        if generation == self.generation {
            self.durable_end = self.durable_end.max(end);
            self.mark = self.durable_end;
            self.flushes += 1;
            if self.flushes.is_multiple_of(MARK_SYNC_FLUSHES) {
                self.mark_on_platter = self.mark;
                self.beginning_on_platter = self.beginning.clone();
            }
        }
    }

    /// The machine loses power. Whether entries are gone.
    pub fn lose_power(&mut self, random: &mut Random, kept_per_mille: u64) -> bool {
        let end = self.end();
        for page in std::mem::take(&mut self.dirty).into_keys() {
            if random.chance(kept_per_mille) {
                self.write_page(page);
            }
        }
        self.cache = self.platter.clone();
        self.mark = self.mark_on_platter;
        self.beginning = self.beginning_on_platter.clone();
        self.scan();
        self.durable_end = self.end();
        self.end() < end
    }

    /// What a copy of the platter holds.
    pub fn copy(&self) -> LogFile {
        let mut copy = LogFile {
            cache: self.platter.clone(),
            platter: self.platter.clone(),
            written: self.written.clone(),
            mark: self.mark_on_platter,
            mark_on_platter: self.mark_on_platter,
            beginning: self.beginning_on_platter.clone(),
            beginning_on_platter: self.beginning_on_platter.clone(),
            ..LogFile::default()
        };
        copy.scan();
        copy.durable_end = copy.end();
        copy
    }

    /// Turns a bit of an entry over that is certainly durable. False if there is none.
    pub fn flip_bit(&mut self, random: &mut Random) -> bool {
        let durable = self.place_of(self.mark_on_platter);
        if durable == 0 {
            return false;
        }
        let entry = self.entries[random.below(durable as u64) as usize];
        let at = entry.at + random.below(entry.bytes as u64) as usize;
        let bit = 1 << random.below(8);
        self.cache[at] ^= bit;
        if let Some(byte) = self.platter.get_mut(at) {
            *byte ^= bit;
        }
        self.scan();
        self.durable_end = self.durable_end.min(self.end());
        true
    }

    /// Whether everything that is recorded as durable is there, and what lies below the start, as far as it
    /// is kept: a scan ends at damage wherever it is.
    pub fn is_sound(&self) -> bool {
        let last = self.entries.last().map(|last| last.end);
        last.unwrap_or(self.start()) >= self.mark.max(self.start())
    }

    /// What a process does with a log that it finds: checks every entry, cuts a torn tail or before
    /// damage, makes the rest durable. After a flush that failed, nothing above the recorded durable
    /// end is believed. Whether it was damaged where it had been durable.
    pub fn open(&mut self, flush_failed: bool) -> bool {
        self.scan();
        let damaged = !self.is_sound();
        if flush_failed {
            let believed = self.place_of(self.mark);
            self.entries.truncate(believed);
        }
        self.cut_bytes(self.entries.last().map_or(0, |last| last.at + last.bytes));
        let flush = self.pages_to_flush();
        self.flush_pages(&flush);
        self.durable_end = self.end();
        self.mark = self.durable_end;
        self.mark_on_platter = self.durable_end;
        self.beginning_on_platter = self.beginning.clone();
        self.generation += 1;
        damaged
    }

    fn scan(&mut self) {
        self.entries.clear();
        let mut at = 0;
        for entry in EntryIter::new(&self.cache).map_while(Result::ok) {
            let stored = Stored::of(at, entry.bytes, &entry.header);
            let follows = self
                .entries
                .last()
                .is_none_or(|last| stored.base >= last.end && stored.epoch >= last.epoch);
            if !follows {
                break;
            }
            at += stored.bytes;
            self.entries.push(stored);
        }
    }
}
