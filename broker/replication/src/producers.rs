//! What the log knows of its idempotent producers: the last batches of each, by sequence.
//!
//! The table is log state: it follows from the entries alone, on every replica alike, and is cut
//! with them. It keeps every batch above the high watermark (these may still be cut) and the
//! newest [`REMEMBERED_BATCHES`] of each producer below it, so that after any legal truncation the
//! table is what it would be had the discarded entries never come.

use std::collections::{BTreeMap, VecDeque};

use baton_protocol::ids::{LeaderEpoch, Offset, ProducerId};
use serde::{Deserialize, Serialize};

/// How many committed batches of each producer are remembered; the number of batches a producer
/// may have in flight on a partition (Kafka's, for the same reason: KAFKA-5494).
pub const REMEMBERED_BATCHES: usize = 5;

/// How many batches of each producer are remembered when the table is rebuilt from a log: then it is
/// not known how far the log is committed, and a log may hold any number of them. A producer has five
/// in flight at most while it waits for commits. Of one that does not wait, more than these may be cut;
/// it is then one that is not known, and has to begin anew.
pub const REBUILT_BATCHES: usize = 256;

/// Sequences count records and wrap after `i32::MAX`, as in Kafka.
const SEQUENCES: u64 = 1 << 31;

/// A batch's mark of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch; a higher one shuts out the lower ones.
    pub epoch: u16,
    /// Sequence of the batch's first record, 0 to `i32::MAX`.
    pub sequence: u32,
    /// Number of records.
    pub records: u32,
}

impl ProducerStamp {
    /// The sequence that the producer's next batch must carry.
    pub fn next_sequence(&self) -> u32 {
        ((u64::from(self.sequence) + u64::from(self.records)) % SEQUENCES) as u32
    }
}

/// A batch that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedBatch {
    /// Its mark.
    pub stamp: ProducerStamp,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub end: Offset,
    /// The epoch it was appended in.
    pub leader_epoch: LeaderEpoch,
}

/// What is to be done with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the producer's next one.
    Fresh,
    /// It is in the log already.
    Duplicate(RememberedBatch),
    /// It leaves a gap, or is older than what is remembered.
    OutOfOrder {
        /// The sequence that was expected.
        expected: u32,
    },
    /// A newer epoch of the producer has written.
    Fenced {
        /// That epoch.
        current: u16,
    },
}

/// What is remembered of one producer, in the order of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Batches(VecDeque<RememberedBatch>);

impl Batches {
    /// Many a producer sends one batch to a partition and no other: it takes the room of one.
    fn add(&mut self, batch: RememberedBatch) {
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.push_back(batch);
    }
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerTable {
    /// Behind pointers: a node of the map has room for eleven, and most partitions have one or two.
    producers: BTreeMap<ProducerId, Box<Batches>>,
}

impl ProducerTable {
    /// Judges a batch that a producer sent. `lossy_epoch` is the last leader epoch whose election
    /// may have lost entries: of a producer that has written nothing since, any sequence that goes
    /// on from what is remembered is taken for its next, since what lay between may be lost.
    pub fn judge(&self, stamp: &ProducerStamp, lossy_epoch: LeaderEpoch) -> Verdict {
        let batches = self.producers.get(&stamp.id);
        let Some((batches, last)) = batches.and_then(|all| Some((&all.0, all.0.back()?))) else {
            return match lossy_epoch {
                LeaderEpoch::NONE => first_of_its_epoch(stamp),
                _ => Verdict::Fresh,
            };
        };
        if stamp.epoch < last.stamp.epoch {
            return Verdict::Fenced {
                current: last.stamp.epoch,
            };
        }
        if stamp.epoch > last.stamp.epoch {
            return first_of_its_epoch(stamp);
        }
        if let Some(same) = batches.iter().find(|batch| batch.stamp == *stamp) {
            return Verdict::Duplicate(same.clone());
        }
        let expected = last.stamp.next_sequence();
        let ahead = (SEQUENCES + u64::from(stamp.sequence) - u64::from(expected)) % SEQUENCES;
        let goes_on = last.leader_epoch < lossy_epoch && ahead < SEQUENCES / 2;
        if stamp.sequence == expected || goes_on {
            Verdict::Fresh
        } else {
            Verdict::OutOfOrder { expected }
        }
    }

    /// Records a batch that was appended. `committed_end` is the high watermark: batches below it
    /// can no longer be cut, and the oldest of them are forgotten.
    pub fn append(&mut self, batch: RememberedBatch, committed_end: Offset) {
        let batches = self.producers.entry(batch.stamp.id).or_default();
        batches.add(batch);
        let batches = &mut batches.0;
        let committed = batches.partition_point(|batch| batch.end <= committed_end);
        for _ in REMEMBERED_BATCHES..committed {
            batches.pop_front();
        }
    }

    /// Records a batch that was found in the log at the start.
    pub fn rebuild(&mut self, batch: RememberedBatch) {
        let batches = self.producers.entry(batch.stamp.id).or_default();
        batches.add(batch);
        let batches = &mut batches.0;
        if batches.len() > REBUILT_BATCHES {
            batches.pop_front();
        }
    }

    /// Forgets the batches at and above `end`.
    pub fn truncate(&mut self, end: Offset) {
        for batches in self.producers.values_mut() {
            while batches.0.back().is_some_and(|batch| batch.end > end) {
                batches.0.pop_back();
            }
        }
        self.producers.retain(|_, batches| !batches.0.is_empty());
    }

    /// What is known of the producers of entries below `end`: for each the newest of its batches there,
    /// where they are still remembered. Together with the entries from `end` on it is what this table
    /// knows.
    pub fn below(&self, end: Offset) -> ProducerTable {
        let mut table = ProducerTable::default();
        for (id, batches) in &self.producers {
            let below = batches.0.partition_point(|batch| batch.end <= end);
            if below > 0 {
                let newest = below.saturating_sub(REMEMBERED_BATCHES)..below;
                table.producers.insert(
                    *id,
                    Box::new(Batches(batches.0.range(newest).cloned().collect())),
                );
            }
        }
        table
    }

    /// The table with the newest batch of each producer only, and of so many producers, those that wrote
    /// last: for a message that has to be of a limited size.
    #[must_use]
    pub fn newest(&self, producers_max: usize) -> ProducerTable {
        let newest = self
            .producers
            .values()
            .filter_map(|batches| batches.0.back());
        let mut newest: Vec<_> = newest.cloned().collect();
        newest.sort_by_key(|batch| std::cmp::Reverse(batch.end));
        newest.truncate(producers_max);
        let one =
            |batch: RememberedBatch| (batch.stamp.id, Box::new(Batches(VecDeque::from([batch]))));
        ProducerTable {
            producers: newest.into_iter().map(one).collect(),
        }
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }
}

fn first_of_its_epoch(stamp: &ProducerStamp) -> Verdict {
    if stamp.sequence == 0 {
        Verdict::Fresh
    } else {
        Verdict::OutOfOrder { expected: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u32, records: u32) -> ProducerStamp {
        ProducerStamp {
            id: ProducerId(7),
            epoch: 0,
            sequence,
            records,
        }
    }

    fn batch(sequence: u32, records: u32, base: u64) -> RememberedBatch {
        RememberedBatch {
            stamp: stamp(sequence, records),
            base: Offset(base),
            end: Offset(base + u64::from(records)),
            leader_epoch: LeaderEpoch(1),
        }
    }

    #[test]
    fn a_repeated_batch_is_found_and_a_gap_refused() {
        let mut table = ProducerTable::default();
        assert_eq!(table.judge(&stamp(0, 3), LeaderEpoch::NONE), Verdict::Fresh);
        table.append(batch(0, 3, 10), Offset(0));
        assert_eq!(
            table.judge(&stamp(0, 3), LeaderEpoch::NONE),
            Verdict::Duplicate(batch(0, 3, 10))
        );
        assert_eq!(table.judge(&stamp(3, 1), LeaderEpoch::NONE), Verdict::Fresh);
        assert_eq!(
            table.judge(&stamp(4, 1), LeaderEpoch::NONE),
            Verdict::OutOfOrder { expected: 3 }
        );
    }

    #[test]
    fn truncation_brings_back_the_state_before_the_discarded_batches() {
        let mut table = ProducerTable::default();
        for i in 0..8u32 {
            table.append(batch(i, 1, u64::from(i)), Offset(2));
        }
        table.truncate(Offset(2));
        assert_eq!(table.judge(&stamp(2, 1), LeaderEpoch::NONE), Verdict::Fresh);
        assert_eq!(
            table.judge(&stamp(1, 1), LeaderEpoch::NONE),
            Verdict::Duplicate(batch(1, 1, 1))
        );
    }

    #[test]
    fn a_rebuilt_table_is_bounded_and_knows_the_newest() {
        let mut table = ProducerTable::default();
        let count = 100 * REBUILT_BATCHES as u32;
        for i in 0..count {
            table.rebuild(batch(i, 1, u64::from(i)));
        }
        assert_eq!(table.producers[&ProducerId(7)].0.len(), REBUILT_BATCHES);
        let judge = |table: &ProducerTable, i| table.judge(&stamp(i, 1), LeaderEpoch::NONE);
        assert_eq!(judge(&table, count), Verdict::Fresh);
        let oldest = count - REBUILT_BATCHES as u32;
        assert!(matches!(judge(&table, oldest), Verdict::Duplicate(_)));
        table.truncate(Offset(u64::from(oldest)));
        let unknown = judge(&table, oldest);
        assert_eq!(unknown, Verdict::OutOfOrder { expected: 0 });
    }

    #[test]
    fn after_a_lossy_election_a_producer_goes_on_where_it_was() {
        let mut table = ProducerTable::default();
        table.append(batch(0, 3, 10), Offset(0));
        let lossy = LeaderEpoch(2);
        assert_eq!(table.judge(&stamp(9, 1), lossy), Verdict::Fresh);
        assert_eq!(
            table.judge(&stamp(0, 3), lossy),
            Verdict::Duplicate(batch(0, 3, 10))
        );
        let older = table.judge(&stamp(1, 1), lossy);
        assert_eq!(older, Verdict::OutOfOrder { expected: 3 });
        let mut since = batch(9, 1, 20);
        since.leader_epoch = lossy;
        table.append(since, Offset(0));
        let gap = table.judge(&stamp(12, 1), lossy);
        assert_eq!(gap, Verdict::OutOfOrder { expected: 10 });
    }

    #[test]
    fn a_sequence_wraps_after_the_greatest_one() {
        let mut table = ProducerTable::default();
        table.append(batch(i32::MAX as u32 - 1, 2, 0), Offset(0));
        assert_eq!(table.judge(&stamp(0, 1), LeaderEpoch::NONE), Verdict::Fresh);
    }
}
