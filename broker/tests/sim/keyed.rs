//! What was ever written of each key in topics that are compacted, and what of it counts: the newest that is
//! committed. So nothing goes that nothing newer supersedes, and what was deleted does not come back.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, Tick, TopicPartition};

use crate::cluster::World;
use crate::compaction::{Key, newest, records_of};
use crate::log_file::{LogFile, Stored};
use crate::oracle::{CommittedLog, Oracle};

/// A record, without its value.
struct Written {
    key: Key,
    /// What its value is known by; none if it deletes its key.
    value: Option<u64>,
    /// When the first replica stored it.
    at: Tick,
}

/// The records of a partition.
type Records = BTreeMap<(Offset, LeaderEpoch), Written>;

/// All records of all keys.
#[derive(Default)]
pub struct Keyed {
    written: BTreeMap<TopicPartition, Records>,
    /// Below these offsets records of a key prove nothing: an election lost what superseded some, or a
    /// replica came too late to be sent what deleted them.
    excused: BTreeMap<(TopicPartition, Key), Offset>,
    /// Members of in-sync sets behind which followers compacted their logs.
    pub outrun: BTreeSet<(BrokerId, TopicPartition)>,
}

/// The entry is stored in this log.
pub struct Appended<'a> {
    pub now: Tick,
    pub partition: TopicPartition,
    pub stored: &'a Stored,
    pub file: &'a LogFile,
    pub delete_retention_ms: u64,
}

/// What a value is known by.
fn digest(value: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    value.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Whether a record that deletes `key`, above this offset, was part of the log and may be gone by now: no
/// election that lost it has cut it from here. The log has an entry of its epoch behind it, as the last of each
/// epoch stays.
fn had_deletion(records: &Records, file: &LogFile, key: &Key, above: Offset, before: Tick) -> bool {
    let mut later = records.range((above.plus(1), LeaderEpoch::NONE)..);
    later.any(|((offset, epoch), written)| {
        let behind = file.entries().get(file.place_of(*offset));
        written.key == *key
            && written.value.is_none()
            && written.at < before
            && behind.is_some_and(|entry| entry.epoch == *epoch)
    })
}

impl Keyed {
    /// Takes note of an entry. Whether the log goes without a record from now on that deletes a key of which
    /// the log has a value.
    pub fn appended(&mut self, appended: &Appended<'_>, oracle: &Oracle) -> bool {
        let Appended {
            now,
            partition,
            stored,
            file,
            ..
        } = *appended;
        let place = file.place_of(stored.base);
        if file.entries().get(place) != Some(stored) {
            // It was cut again.
            return false;
        }
        let records = self.written.entry(partition).or_default();
        let mut held = BTreeSet::new();
        for (offset, key, value) in records_of(file.bytes_of(stored)) {
            held.insert(offset);
            records
                .entry((offset, stored.epoch))
                .or_insert_with(|| Written {
                    key,
                    value: value.as_deref().map(digest),
                    at: now,
                });
        }
        match oracle.committed(&partition) {
            Some(committed) => self.note_missed(appended, place, &held, committed),
            None => false,
        }
    }

    /// Deletions of the entry's epoch that lie between it and the one before, or in it, and are not `held`: the
    /// sender has let go of them. That may only be because the log was so long on its way. Where the entry
    /// before is of another epoch nothing lies between: the last entry of each epoch stays, and so does what
    /// begins the next one. What has such offsets in yet another epoch was never part of this log.
    fn note_missed(
        &mut self,
        appended: &Appended<'_>,
        place: usize,
        held: &BTreeSet<Offset>,
        committed: &CommittedLog,
    ) -> bool {
        let Appended { file, stored, .. } = appended;
        let below = &file.entries()[file.place_of(file.start()).min(place)..place];
        let none = (file.beginning().epoch, file.start());
        let (epoch_before, end) = below.last().map_or(none, |last| (last.epoch, last.end));
        let from = match epoch_before == stored.epoch {
            true => end,
            false => stored.base,
        };
        let Some(records) = self.written.get(&appended.partition) else {
            return false;
        };
        let between = (from, LeaderEpoch::NONE)..(stored.end, LeaderEpoch::NONE);
        let mut missed = Vec::new();
        for ((offset, epoch), written) in records.range(between) {
            let is_of_this_log = *epoch == stored.epoch && !held.contains(offset);
            let counts = written.value.is_none() && committed.covers(*offset, *epoch);
            if !counts || !is_of_this_log {
                continue;
            }
            let later = || {
                let later = records.range((offset.plus(1), LeaderEpoch::NONE)..);
                later.filter(|(_, other)| other.key == written.key)
            };
            if later().any(|((at, epoch), _)| committed.covers(*at, *epoch)) {
                continue;
            }
            // It may have been committed, superseded this, and been given up since: such an election is
            // followed by what makes that good. Or it never was, and supersedes nothing.
            let may_be_superseded = later().next().is_some();
            missed.push((*offset, written.key.clone(), written.at, may_be_superseded));
        }
        if missed.is_empty() {
            return false;
        }
        // What lies below the start may come back.
        let from = file.place_of(file.durable_start().min(file.start()));
        let newest = newest(file, &file.entries()[from.min(place)..place]);
        missed.retain(|(_, key, _, _)| newest.get(key).is_some_and(|(_, value)| value.is_some()));
        for (offset, key, at, may_be_superseded) in &missed {
            let age_ms = appended.now.since_ms(*at);
            let is_old = age_ms > appended.delete_retention_ms;
            assert!(
                is_old || *may_be_superseded,
                "{}: what deletes {key:?} at {offset} is gone after {age_ms} ms, and a replica has not had it",
                appended.partition
            );
            if is_old {
                self.excuse(appended.partition, key, offset.plus(1));
            }
        }
        !missed.is_empty()
    }

    /// Records of this key below `to` prove nothing any more.
    fn excuse(&mut self, partition: TopicPartition, key: &Key, to: Offset) {
        let excused = self.excused.entry((partition, key.clone())).or_default();
        *excused = (*excused).max(to);
    }

    /// Whether a record that deletes this key was ever written.
    pub fn was_deleted(&self, partition: &TopicPartition, key: &Key) -> bool {
        let mut records = self.written.get(partition).into_iter().flatten();
        records.any(|(_, written)| written.key == *key && written.value.is_none())
    }

    /// The newest record of each key that is committed, below `end`.
    fn that_count(
        &self,
        partition: &TopicPartition,
        committed: &CommittedLog,
        end: Offset,
    ) -> BTreeMap<&Key, (Offset, &Written)> {
        let records = self.written.get(partition).into_iter().flatten();
        let counts = |((offset, epoch), _): &(&(Offset, LeaderEpoch), &Written)| {
            *offset < end && committed.covers(*offset, *epoch)
        };
        records
            .filter(counts)
            .map(|((offset, _), written)| (&written.key, (*offset, written)))
            .collect()
    }
}

impl World {
    /// The keys of which a broker's log, as far as `end`, does not show what counts, each with what is
    /// wrong.
    pub fn wrong_keys(
        &self,
        id: BrokerId,
        partition: &TopicPartition,
        end: Offset,
    ) -> BTreeMap<Key, String> {
        let disk = self.brokers[&id].disk.lock();
        let (Some(file), Some(committed)) =
            (disk.logs.get(partition), self.oracle.committed(partition))
        else {
            return BTreeMap::new();
        };
        if !self.keyed.written.contains_key(partition) {
            return BTreeMap::new();
        }
        let entries = &file.log()[..file.log().partition_point(|entry| entry.end <= end)];
        let newest = newest(file, entries);
        let mut wrong = BTreeMap::new();
        for (key, (offset, written)) in self.keyed.that_count(partition, committed, end) {
            let excused = self.keyed.excused.get(&(*partition, key.clone()));
            if offset < file.start() || excused.is_some_and(|to| offset < *to) {
                continue;
            }
            let found = newest.get(key);
            let is_right = match found {
                Some((at, _)) if *at > offset => true,
                Some((at, value)) if *at == offset => value.as_deref().map(digest) == written.value,
                Some((_, Some(_))) => false,
                // Whatever deleted it may be gone.
                Some((_, None)) | None => {
                    let retention_ms = self.compacting.delete_retention_ms;
                    let before = Tick(self.schedule.now().0.saturating_sub(retention_ms));
                    let records = &self.keyed.written[partition];
                    written.value.is_none() || had_deletion(records, file, key, offset, before)
                }
            };
            if !is_right {
                let found = found.map(|(at, value)| (*at, value.as_ref().map(Vec::len)));
                let deletes = written.value.is_none();
                let what = format!("{offset} counts (deletes: {deletes}), and {found:?} is found");
                wrong.insert(key.clone(), what);
            }
        }
        wrong
    }

    /// An election lost what superseded records of these keys below `to`.
    pub fn excuse_keys<'a>(
        &mut self,
        partition: TopicPartition,
        keys: impl Iterator<Item = &'a Key>,
        to: Offset,
    ) {
        for key in keys {
            self.keyed.excuse(partition, key, to);
        }
    }
}
