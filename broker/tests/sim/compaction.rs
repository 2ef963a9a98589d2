//! Compaction of a simulated log: in simulations in which topics are compacted, a record's number says which
//! key it is of, and whether it deletes that. The topic of groups always is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_protocol::batch::{
    BatchHeader, EntryIter, RecordIter, RecordRef, entry_crc, retain_records,
};
use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, ProducerId, Tick, TopicPartition};
use baton_protocol::policy::DELETE_RETENTION_MS;
use bytes::Bytes;

use crate::cluster::{QUIET_FROM, World};
use crate::log_file::{LogFile, Stored};
use crate::oracle::RecordId;
use crate::random::Random;
use crate::switches::HostRule;

/// In so many simulations of a thousand topics are compacted.
const COMPACTING: u64 = 300;

/// Keys that are written all the time.
const BUSY_KEYS: u64 = 6;

/// One record in so many is of a key that is written now and then, and after a while no more. What goes
/// wrong with such a key no later record makes good.
const RARELY: u64 = 4;

/// Keys of that kind at a time.
const RARE_KEYS: u64 = 6;

/// After so many records there are other keys of that kind.
const ERA_RECORDS: u64 = 400;

/// In so many simulations of a thousand, of those in which topics are compacted, followers lag.
const LAGGING: u64 = 500;

/// How often a replica of the topic of groups is compacted at a tick.
const PER_MILLE: u64 = 6;

/// How topics are compacted in a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Compacting {
    /// Whether those of clients are.
    pub is_on: bool,
    /// How often a replica of these is compacted at a tick.
    per_mille: u64,
    /// How long records that delete a key stay.
    pub delete_retention_ms: u64,
    /// Followers lag, are sent an entry at a time, and so are found between an entry and what supersedes it;
    /// and more is lost with leaders.
    lags: bool,
}

/// Which records that delete their key may go.
#[derive(Clone, Copy, Debug)]
pub struct Deletions {
    /// Those that were written before.
    before: Tick,
    /// Only once no power cut brings back what has expired.
    await_start: bool,
}

impl Deletions {
    fn may_go(&self, file: &LogFile, stored: &Stored) -> bool {
        let is_due = file.written_at(stored.base) < self.before;
        is_due && (file.start_is_durable() || !self.await_start)
    }
}

impl Compacting {
    pub fn new(seed: u64) -> Compacting {
        let mut random = Random::new(seed, 0xc0);
        Compacting {
            is_on: random.chance(COMPACTING),
            per_mille: random.pick(&[6, 30, 100]),
            delete_retention_ms: random.pick(&[500, 2_000, 6_000]),
            lags: random.chance(LAGGING),
        }
    }

    /// Whether topics are compacted, and followers lag.
    pub fn lags(&self) -> bool {
        self.is_on && self.lags
    }
}

/// So many of each producer's batches keep at least their headers.
const HEADERS_PER_PRODUCER: usize = 5;

/// A key.
pub type Key = Vec<u8>;

/// The newest offset of each key, and the value there.
pub type Newest = BTreeMap<Key, (Offset, Option<Vec<u8>>)>;

/// Which key a client's record is of.
pub fn key_of(record: RecordId) -> Key {
    match record.0 % RARELY {
        0 => vec![
            (record.0 / ERA_RECORDS) as u8,
            (record.0 / RARELY % RARE_KEYS) as u8,
        ],
        _ => vec![(record.0 % BUSY_KEYS) as u8],
    }
}

/// Whether a client's record deletes its key.
pub fn deletes(record: RecordId) -> bool {
    match record.0 % RARELY {
        0 => record.0 / RARELY / RARE_KEYS % 2 == 1,
        _ => record.0 / BUSY_KEYS % 4 == 3,
    }
}

/// A client's record is known by its timestamp: it may be without a value.
pub fn id_of(record: &RecordRef<'_>) -> RecordId {
    let id = RecordId(u64::try_from(record.timestamp).expect("a number"));
    let value = record.value.and_then(|value| value.get(..8));
    assert!(
        value.is_none_or(|value| value == id.0.to_be_bytes()),
        "the value of another record than {}",
        id.0
    );
    id
}

/// The keys and values of an entry; none of one that is not for consumers.
pub fn records_of(bytes: &[u8]) -> Vec<(Offset, Key, Option<Vec<u8>>)> {
    let entry = EntryIter::new(bytes).next().expect("an entry");
    let entry = entry.expect("a sound entry");
    if entry.header.is_control() {
        return Vec::new();
    }
    let records = RecordIter::new(entry.batch, &entry.header);
    let record = |record: RecordRef<'_>| {
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
pub fn compacted(file: &LogFile, closed: Offset, deletions: Deletions) -> Vec<u8> {
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
        let is_due = deletions.may_go(file, stored);
        let fewer = retain_records(&batch, &header, 1 << 20, |record| {
            let newest = newest.get(record.key.expect("a key"));
            let is_superseded = newest.is_some_and(|newest| newest.0 > record.offset);
            !is_superseded && (record.value.is_some() || !is_due)
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

impl World {
    /// Whether a partition is of a topic that is compacted.
    pub fn is_compacted(&self, partition: &TopicPartition) -> bool {
        let topic = self.controller.committed.topics.get(&partition.topic);
        topic.is_some_and(|topic| topic.config.policy.cleanup().compacts())
    }

    /// How long what deletes a key stays in a topic: in that of groups for a day, so longer than any broker is
    /// away in a simulation.
    fn delete_retention_ms(&self, partition: &TopicPartition) -> u64 {
        let topic = self.controller.committed.topics.get(&partition.topic);
        let set = topic.and_then(|topic| topic.config.policy.delete_retention_ms);
        set.unwrap_or(DELETE_RETENTION_MS)
    }

    /// Whether a replica may discard its log, to be sent all of it again: in a topic that is compacted, after
    /// an election that may have lost what superseded something.
    pub fn may_start_over(&self, partition: &TopicPartition) -> bool {
        let record = self.controller.committed.partition(partition);
        let compacts = self.compacting.is_on || self.is_compacted(partition);
        compacts && record.is_none_or(|record| record.lossy_epoch > LeaderEpoch::NONE)
    }

    /// Now and then, a replica's log is compacted.
    pub fn compact(&mut self, id: BrokerId, partition: TopicPartition) {
        let wanted = self.is_compacted(&partition);
        let now = self.schedule.now();
        let per_mille = match self.compacting.is_on {
            true => self.compacting.per_mille,
            false => PER_MILLE,
        };
        if !wanted || now >= QUIET_FROM || !self.random.chance(per_mille) {
            return;
        }
        let retention_ms = self.delete_retention_ms(&partition);
        let deletions = Deletions {
            before: Tick(now.0.saturating_sub(retention_ms)),
            await_start: self.rules.hold(HostRule::DeletionsAwaitTheStart),
        };
        let mut disk = self.brokers[&id].disk.lock();
        disk.compacts.insert(partition, deletions);
        drop(disk);
        self.drive(id, partition, |driver, now, out| driver.expire(now, out));
        let mut disk = self.brokers[&id].disk.lock();
        if disk.compacts.remove(&partition).is_none() {
            self.stats.count("compactions");
        }
        let deletions = std::mem::take(&mut disk.deletions_gone);
        let up_to = disk.compacted_to.take();
        drop(disk);
        self.stats.add("deletions gone for their age", deletions);
        if let Some(up_to) = up_to {
            self.note_outrun(id, partition, up_to);
        }
    }

    /// A follower compacts its log without knowing how far the other members of the in-sync set have come.
    /// When it leads, those that lagged may be sent neither an entry nor yet what supersedes it.
    fn note_outrun(&mut self, id: BrokerId, partition: TopicPartition, up_to: Offset) {
        let driver = self.brokers[&id].driver(&partition);
        let leads = driver.is_some_and(|driver| driver.replica().leading().is_some());
        let record = self.controller.committed.partition(&partition);
        let Some(record) = record.filter(|_| !leads) else {
            return;
        };
        let lags = |other: &&BrokerId| {
            let disk = self.brokers[other].disk.lock();
            let end = disk.logs.get(&partition).map(LogFile::end);
            end.unwrap_or_default() < up_to
        };
        let outrun: Vec<BrokerId> = record.in_sync.iter().filter(lags).copied().collect();
        for other in outrun {
            self.keyed.outrun.insert((other, partition));
        }
    }
}
