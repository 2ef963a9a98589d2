//! Compaction of a simulated log, and what is held of each key: in simulations in which topics are
//! compacted, a record's number says which key it is of. The topic of groups always is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_protocol::batch::{BatchHeader, EntryIter, RecordIter, entry_crc, retain_records};
use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::cluster::{QUIET_FROM, World};
use crate::log_file::{LogFile, Stored};
use crate::oracle::{RecordId, Told};

/// How many keys there are.
const KEYS: u64 = 6;

/// How often a replica is compacted at a tick, where topics are.
const PER_MILLE: u64 = 6;

/// So many of each producer's batches keep at least their headers.
const HEADERS_PER_PRODUCER: usize = 5;

/// A key.
pub type Key = Vec<u8>;

/// The newest offset of each key, and the value there.
pub type Newest = BTreeMap<Key, (Offset, Option<Vec<u8>>)>;

/// Which key a client's record is of.
pub fn key_of(record: RecordId) -> Key {
    vec![(record.0 % KEYS) as u8]
}

/// The keys and values of an entry; none of one that is not for consumers.
fn records_of(bytes: &[u8]) -> Vec<(Offset, Key, Option<Vec<u8>>)> {
    let entry = EntryIter::new(bytes).next().expect("an entry");
    let entry = entry.expect("a sound entry");
    if entry.header.is_control() {
        return Vec::new();
    }
    let records = RecordIter::new(entry.batch, &entry.header);
    let record = |record: baton_protocol::batch::RecordRef<'_>| {
        let key = record.key.expect("a key").to_vec();
        (record.offset, key, record.value.map(<[u8]>::to_vec))
    };
    records.map(|found| record(found.expect("sound"))).collect()
}

/// The newest record of each key in these entries.
pub fn newest(file: &LogFile, entries: &[Stored]) -> Newest {
    let all = entries.iter();
    let all = all.flat_map(|stored| records_of(file.bytes_of(stored)));
    all.map(|(at, key, value)| (key, (at, value))).collect()
}

/// The entries as a compaction leaves them, which may look at those that end at or below `closed`: bytes, back
/// to back.
pub fn compacted(file: &LogFile, closed: Offset) -> Vec<u8> {
    let all = file.entries();
    let from = file.place_of(file.start());
    let to = file.place_of(closed).max(from);
    let newest = newest(file, &all[from..to]);
    let stay = staying(file, &all[from..to]);
    let mut left = Vec::new();
    for (at, stored) in all.iter().enumerate() {
        let bytes = file.bytes_of(stored);
        let header = BatchHeader::parse(&bytes[4..]).expect("a sound entry");
        if !(from..to).contains(&at) || header.is_control() {
            left.extend_from_slice(bytes);
            continue;
        }
        let batch = Bytes::copy_from_slice(&bytes[4..]);
        let goes = |offset: Offset, key: Option<&[u8]>| {
            let newest = newest.get(key.expect("a key"));
            newest.is_some_and(|newest| newest.0 > offset)
        };
        let fewer = retain_records(&batch, &header, 1 << 20, |record| {
            !goes(record.offset, record.key)
        });
        let batch = fewer.expect("readable").unwrap_or_else(|| batch.to_vec());
        let count = BatchHeader::parse(&batch).expect("sound").record_count();
        if count > 0 || stay.contains(&stored.base) {
            left.extend_from_slice(&entry_crc(&batch).to_be_bytes());
            left.extend_from_slice(&batch);
        }
    }
    left
}

/// Which of these entries stay, if without a record: the last of each epoch and of them all, and the newest
/// of each producer.
fn staying(file: &LogFile, entries: &[Stored]) -> BTreeSet<Offset> {
    let mut stay: BTreeSet<Offset> = entries.last().map(|last| last.base).into_iter().collect();
    let parts = entries
        .windows(2)
        .filter(|pair| pair[0].epoch != pair[1].epoch);
    stay.extend(parts.map(|pair| pair[0].base));
    let mut producers: BTreeMap<ProducerId, VecDeque<Offset>> = BTreeMap::new();
    for stored in entries {
        let header = BatchHeader::parse(&file.bytes_of(stored)[4..]).expect("a sound entry");
        if let Some(stamp) = header.producer() {
            let newest = producers.entry(stamp.id).or_default();
            newest.push_back(stored.base);
            if newest.len() > HEADERS_PER_PRODUCER {
                newest.pop_front();
            }
        }
    }
    stay.extend(producers.into_values().flatten());
    stay
}

/// Whether all records of an acknowledged batch are held, or newer ones of their keys.
pub fn holds(file: &LogFile, newest: &Newest, told: &Told) -> bool {
    let first = file.place_of(told.base);
    let held: BTreeMap<Offset, Option<Vec<u8>>> = file
        .entries()
        .get(first)
        .map_or_else(Vec::new, |stored| records_of(file.bytes_of(stored)))
        .into_iter()
        .map(|(at, _, value)| (at, value))
        .collect();
    (0..u64::from(told.records)).all(|i| {
        let (offset, record) = (told.base.plus(i), RecordId(told.first.0 + i));
        let newer = newest.get(&key_of(record)).is_some_and(|n| n.0 > offset);
        let value = held.get(&offset).cloned().flatten();
        newer || value.is_some_and(|value| value.starts_with(&record.0.to_be_bytes()))
    })
}

impl World {
    /// Whether a partition is of a topic that is compacted.
    pub fn is_compacted(&self, partition: &TopicPartition) -> bool {
        let topic = self.controller.committed.topics.get(&partition.topic);
        topic.is_some_and(|topic| topic.config.policy.cleanup().compacts())
    }

    /// Whether a replica may discard its log, to be sent all of it again: in a topic that is compacted, after
    /// an election that may have lost what superseded something.
    pub fn may_start_over(&self, partition: &TopicPartition) -> bool {
        let record = self.controller.committed.partition(partition);
        let compacts = self.compacts || self.is_compacted(partition);
        compacts && record.is_none_or(|record| record.lossy_epoch > LeaderEpoch::NONE)
    }

    /// Now and then, a replica's log is compacted.
    pub fn compact(&mut self, id: BrokerId, partition: TopicPartition) {
        let wanted = self.is_compacted(&partition);
        let quiet = self.schedule.now() >= QUIET_FROM;
        if !wanted || quiet || !self.random.chance(PER_MILLE) {
            return;
        }
        let mut disk = self.brokers[&id].disk.lock();
        disk.compacts.insert(partition);
        drop(disk);
        self.drive(id, partition, |driver, now, out| driver.expire(now, out));
        if !self.brokers[&id].disk.lock().compacts.remove(&partition) {
            self.stats.count("compactions");
        }
    }

    /// The acknowledged batches of which this broker lacks a record, and a newer one of its key.
    pub fn lacking(
        &self,
        id: BrokerId,
        partition: &TopicPartition,
        end: Offset,
    ) -> BTreeSet<Offset> {
        let disk = self.brokers[&id].disk.lock();
        let Some(file) = disk.logs.get(partition) else {
            return BTreeSet::new();
        };
        let entries = &file.log()[..file.log().partition_point(|entry| entry.end <= end)];
        let newest = newest(file, entries);
        let told = self.oracle.acknowledged(partition);
        let told = told.filter(|told| told.base >= file.start() && told.base < end);
        told.filter(|told| !holds(file, &newest, told))
            .map(|told| told.base)
            .collect()
    }
}
