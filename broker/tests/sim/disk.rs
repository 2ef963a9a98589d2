//! A broker's disk, and the log on it that the driver works on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use baton::driver::{self, FlushWork, Found, PartitionLog, shape_of};
use baton_protocol::batch::{BatchHeader, LeaderStamp, assign, entry_crc};
use baton_protocol::ids::{BrokerEpoch, DirectoryId, LeaderEpoch, Offset, Tick, TopicPartition};
use baton_replication::LogShape;
use baton_replication::epochs::EpochHistory;
use baton_replication::producers::{ProducerTable, RememberedBatch};
use baton_storage::{Chunk, FlushDone, StorageError};
use bytes::Bytes;

use crate::compaction::{Deletions, compacted, newest};
use crate::log_file::{Beginning, LogFile, Stored};
use crate::random::Random;
use crate::switches::{HostRule, Switches};

/// In so many reads of a thousand that a push takes, something is not in memory. Small logs are, in life.
const COLD_READS: u64 = 100;

/// A flush is due, at intervals too, after so many entries.
const FLUSH_ENTRIES: usize = 6;

/// What happened to a log, for those who watch.
pub enum News {
    Appended(TopicPartition, Stored),
    Truncated {
        partition: TopicPartition,
        to: Offset,
        discarded: Vec<Stored>,
    },
    /// The start moved.
    Started(TopicPartition),
    BeganAnew {
        partition: TopicPartition,
        start: Offset,
        discarded: Vec<Stored>,
    },
    Flushed(TopicPartition),
}

/// What is on a disk.
#[derive(Default)]
pub struct Content {
    pub directory: DirectoryId,
    pub logs: BTreeMap<TopicPartition, LogFile>,
    pub news: Vec<News>,
    pub full: bool,
    /// The next flush fails.
    pub flush_fails: bool,
    /// A process left this behind because it could not trust the disk.
    pub failed: bool,
    /// The last life that was written to it.
    pub shown_life: Option<BrokerEpoch>,
    /// The machine lost power since the last process, and no registration has said so yet.
    pub unclean_restart: bool,
    /// Notes that logs were damaged or missing, each until the metadata knows.
    pub damage_notes: BTreeSet<TopicPartition>,
    /// Logs that a fault removed, for those who watch: until the host has noted it.
    pub lost_logs: BTreeSet<TopicPartition>,
    /// Decides what is in memory.
    pub chance: Random,
    /// What a host finds expired when it looks next.
    pub expired: BTreeMap<TopicPartition, Offset>,
    /// Logs that are compacted when a host looks next.
    pub compacts: BTreeMap<TopicPartition, Deletions>,
    /// How far the last one went.
    pub compacted_to: Option<Offset>,
    /// How many records went that delete a key, and that nothing superseded.
    pub deletions_gone: u64,
    /// The time, as files show it.
    pub now: Tick,
}

impl Content {
    /// Whole entries of a log, as a reader finds them: if it was cut meanwhile, others than were asked for,
    /// or none.
    fn read(&self, partition: TopicPartition, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let file = self.logs.get(&partition)?;
        let first = file.place_of(from);
        let base = file.entries().get(first)?.base;
        let mut bytes = Vec::new();
        let mut end = base;
        for entry in &file.entries()[first..] {
            if !bytes.is_empty() && bytes.len() + entry.bytes > bytes_max {
                break;
            }
            bytes.extend_from_slice(file.bytes_of(entry));
            end = entry.end;
        }
        let bytes = Bytes::from(bytes);
        Some(Chunk { base, end, bytes })
    }

    /// A copy as a backup makes it: of what is on the platter.
    pub fn copy(&self) -> Content {
        Content {
            directory: self.directory,
            logs: self
                .logs
                .iter()
                .map(|(id, log)| (*id, log.copy()))
                .collect(),
            shown_life: self.shown_life,
            damage_notes: self.damage_notes.clone(),
            chance: self.chance.clone(),
            ..Content::default()
        }
    }
}

/// A disk; the simulation and the logs on it share it.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Content>>);

impl Disk {
    pub fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("a simulation is one thread")
    }

    /// Opens a partition's log as a starting process does, and rebuilds what follows from it. One
    /// that is damaged is cut before the damage; one that is missing although it is `expected` is
    /// made anew. Either is noted.
    pub fn open(
        &self,
        partition: TopicPartition,
        expected: bool,
        rules: Switches,
    ) -> (DiskLog, LogShape) {
        let mut content = self.lock();
        let believes = content.failed && rules.hold(HostRule::FailedFlushIsFinal);
        let missing = expected && !content.logs.contains_key(&partition);
        let file = content.logs.entry(partition).or_default();
        let damaged = file.open(believes);
        if missing || damaged {
            content.damage_notes.insert(partition);
            content.lost_logs.remove(&partition);
        }
        let lossy =
            content.damage_notes.contains(&partition) && rules.hold(HostRule::LossIsReported);
        let file = &content.logs[&partition];
        let mut epochs = EpochHistory::default();
        let Beginning {
            start,
            epoch,
            mut producers,
        } = file.beginning().clone();
        // Below the start it is enough to know in which order epochs came.
        let below = file
            .entries()
            .first()
            .is_some_and(|entry| entry.base < start);
        let mut before = if below { Offset::ZERO } else { start };
        for entry in file.entries() {
            epochs.append(entry.epoch, before);
            before = entry.end;
            let header = BatchHeader::parse(&file.bytes_of(entry)[4..]).expect("it was checked");
            let shape = shape_of(&header);
            if let Some(stamp) = shape.producer.filter(|_| shape.base >= start) {
                let batch = RememberedBatch {
                    stamp,
                    base: shape.base,
                    end: shape.end,
                    leader_epoch: shape.epoch,
                };
                producers.rebuild(batch);
            }
        }
        let epochs = epochs_from(start, epoch, epochs);
        let shape = LogShape {
            start,
            end: file.end(),
            durable_end: file.durable_end(),
            high_watermark: start,
            epochs,
            producers,
            lossy,
        };
        let log = DiskLog {
            disk: self.clone(),
            partition,
            unflushed: 0,
        };
        (log, shape)
    }
}

/// The history of a log that starts here, behind an entry of the epoch `before`, by all that is in its
/// file: that may be less, or nothing below the start.
fn epochs_from(start: Offset, before: LeaderEpoch, found: EpochHistory) -> EpochHistory {
    let mut known = EpochHistory::empty_at(start, before);
    let runs = found.runs();
    for (i, (epoch, at)) in runs.iter().enumerate() {
        // In a log with gaps the entries of a run may all lie above the start, though it follows an entry
        // that ends below.
        let is_above = runs.get(i + 1).is_none_or(|next| next.1 > start);
        if is_above && *epoch > known.last() {
            known.append(*epoch, (*at).max(start));
        }
    }
    known
}

/// One partition's log on a disk.
pub struct DiskLog {
    disk: Disk,
    partition: TopicPartition,
    /// Entries since a flush was prepared last.
    unflushed: usize,
}

impl DiskLog {
    fn change<T>(&self, act: impl FnOnce(&mut LogFile, &mut Vec<News>) -> T) -> T {
        let mut content = self.disk.lock();
        let Content { logs, news, .. } = &mut *content;
        act(logs.entry(self.partition).or_default(), news)
    }
}

fn path() -> PathBuf {
    PathBuf::from("simulated")
}

impl PartitionLog for DiskLog {
    fn reserve(&mut self, bytes: usize) -> Result<(), StorageError> {
        if self.disk.lock().full {
            return Err(StorageError::Full {
                path: path(),
                bytes: bytes as u64,
            });
        }
        Ok(())
    }

    fn append_batch(&mut self, batch: &[u8], stamp: &LeaderStamp) -> Result<(), StorageError> {
        let mut entry = vec![0; 4];
        entry.extend_from_slice(batch);
        assign(&mut entry[4..], stamp);
        let crc = entry_crc(&entry[4..]).to_be_bytes();
        entry[..4].copy_from_slice(&crc);
        self.append_entry(&entry)
    }

    fn append_entry(&mut self, entry: &[u8]) -> Result<(), StorageError> {
        let partition = self.partition;
        let now = self.disk.lock().now;
        self.change(|file, news| {
            let stored = file.append(entry, now);
            news.push(News::Appended(partition, stored));
        });
        self.unflushed += 1;
        Ok(())
    }

    fn truncate(&mut self, to: Offset, _: LeaderEpoch) -> Result<(), StorageError> {
        let partition = self.partition;
        self.change(|file, news| {
            let discarded = file.truncate(to);
            news.push(News::Truncated {
                partition,
                to,
                discarded,
            });
        });
        Ok(())
    }

    fn advance_start(&mut self, to: Offset, below: &ProducerTable) -> Result<(), StorageError> {
        let partition = self.partition;
        self.change(|file, news| {
            file.advance_start(to, below.clone());
            news.push(News::Started(partition));
        });
        Ok(())
    }

    fn begin_anew(
        &mut self,
        at: &driver::Beginning,
        below: &ProducerTable,
    ) -> Result<(), StorageError> {
        let partition = self.partition;
        let beginning = Beginning {
            start: at.start,
            epoch: at.epoch_before,
            producers: below.clone(),
        };
        self.change(|file, news| {
            let discarded = file.begin_anew(beginning, at.keep_from);
            news.push(News::BeganAnew {
                partition,
                start: at.start,
                discarded,
            });
        });
        Ok(())
    }

    fn compact(&mut self, _: i64, up_to: Offset) {
        let partition = self.partition;
        let mut content = self.disk.lock();
        let Content {
            logs,
            news,
            compacts,
            compacted_to,
            deletions_gone,
            chance,
            ..
        } = &mut *content;
        let Some(file) = logs.get_mut(&partition).filter(|file| file.is_flushed()) else {
            return;
        };
        // Segments end somewhere.
        let up_to = up_to.min(file.durable_end());
        let place = file.place_of(up_to);
        let closed = &file.entries()[..place];
        if place == 0 {
            return;
        }
        let Some(deletions) = compacts.remove(&partition) else {
            return;
        };
        let closed = match chance.chance(500) {
            true => up_to,
            false => closed[chance.below(place as u64) as usize].end,
        };
        *compacted_to = Some(closed);
        let mut before = newest(file, file.log());
        let left = compacted(file, closed, deletions);
        file.replace(left);
        let after = newest(file, file.log());
        let keys = before.len();
        before.retain(|key, (_, value)| value.is_some() || after.contains_key(key));
        assert_eq!(after, before, "the newest records stay");
        *deletions_gone += (keys - before.len()) as u64;
        news.push(News::Started(partition));
    }

    fn expired(&mut self, _: i64) -> Option<Offset> {
        self.disk.lock().expired.remove(&self.partition)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Found, StorageError> {
        let (disk, partition) = (self.disk.clone(), self.partition);
        let mut content = disk.lock();
        let cold = content.chance.chance(COLD_READS);
        if !cold {
            return Ok(Found::Here(content.read(partition, from, bytes_max)));
        }
        drop(content);
        Ok(Found::Away(Box::new(move || {
            Ok(disk.lock().read(partition, from, bytes_max))
        })))
    }

    fn is_flush_due(&self) -> bool {
        self.unflushed >= FLUSH_ENTRIES
    }

    fn publish_high_watermark(&mut self, _: Offset) {}

    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError> {
        let partition = self.partition;
        let disk = self.disk.clone();
        self.unflushed = 0;
        let (pages, done) = self.change(|file, _| {
            let done = FlushDone {
                end: file.end(),
                generation: file.generation,
            };
            (file.pages_to_flush(), done)
        });
        Ok(Box::new(move || {
            let mut content = disk.lock();
            let fails = std::mem::take(&mut content.flush_fails);
            let file = content.logs.entry(partition).or_default();
            if fails {
                file.drop_pages(&pages);
                return Err(StorageError::Io {
                    path: path(),
                    action: "flush",
                    source: std::io::Error::other("injected"),
                });
            }
            file.flush_pages(&pages);
            Ok(done)
        }))
    }

    fn flushed(&mut self, done: FlushDone) -> Result<Offset, StorageError> {
        let partition = self.partition;
        Ok(self.change(|file, news| {
            file.note_flushed(done.end, done.generation);
            news.push(News::Flushed(partition));
            file.durable_end()
        }))
    }

    fn save_producers(&mut self, _: &ProducerTable) -> Result<(), StorageError> {
        Ok(())
    }

    fn damage_is_known(&mut self) -> Result<(), StorageError> {
        self.disk.lock().damage_notes.remove(&self.partition);
        Ok(())
    }

    fn close(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}
