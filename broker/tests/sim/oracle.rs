//! What was promised to whom: which batch was acknowledged, with what, how firmly; and what leaders
//! held for committed.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use baton_replication::LogShape;
use baton_replication::epochs::EpochHistory;

/// A record, unique in a simulation. Stored as its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId(pub u64);

/// An acknowledged batch.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub base: Offset,
    /// The epoch that the answer named.
    pub epoch: LeaderEpoch,
    /// Its records are numbered on from this one.
    pub first: RecordId,
    pub records: u32,
}

/// What leaders of a partition declared committed.
#[derive(Clone, Debug, Default)]
pub struct CommittedLog {
    pub end: Offset,
    pub epochs: EpochHistory,
    /// The end of everything that was ever committed, given up or not.
    pub ever_end: Offset,
    /// Offsets from..to of what elections gave up.
    given_up: Vec<(Offset, Offset)>,
}

impl CommittedLog {
    /// Whether the entry that holds `offset` in `epoch` is committed.
    pub fn covers(&self, offset: Offset, epoch: LeaderEpoch) -> bool {
        offset < self.end && self.epochs.at(offset) == epoch
    }
}

impl CommittedLog {
    /// Whether what was at this offset was given up by an election.
    pub fn is_given_up(&self, offset: Offset) -> bool {
        let mut given_up = self.given_up.iter();
        given_up.any(|(from, to)| (*from..*to).contains(&offset))
    }
}

/// Everything that was promised.
#[derive(Default)]
pub struct Oracle {
    acknowledged: BTreeMap<TopicPartition, BTreeMap<Offset, Told>>,
    committed: BTreeMap<TopicPartition, CommittedLog>,
    /// Elections that may have lost entries.
    lossy: BTreeSet<(TopicPartition, LeaderEpoch)>,
}

impl Oracle {
    /// Whether an election after `earlier`, up to `later`, may have lost entries.
    pub fn may_have_lost(
        &self,
        partition: TopicPartition,
        earlier: LeaderEpoch,
        later: LeaderEpoch,
    ) -> bool {
        let mut between = self.lossy.range((partition, earlier)..=(partition, later));
        between.any(|(_, epoch)| *epoch > earlier)
    }

    pub fn acknowledge(&mut self, partition: TopicPartition, told: Told) {
        self.acknowledged
            .entry(partition)
            .or_default()
            .insert(told.base, told);
    }

    /// What was acknowledged in a partition, by offset.
    pub fn acknowledged(&self, partition: &TopicPartition) -> impl Iterator<Item = &Told> {
        self.acknowledged
            .get(partition)
            .into_iter()
            .flat_map(|by_offset| by_offset.values())
    }

    pub fn committed(&self, partition: &TopicPartition) -> Option<&CommittedLog> {
        self.committed.get(partition)
    }

    /// A leader with this log declares everything below `end` committed.
    pub fn commit(&mut self, partition: TopicPartition, end: Offset, log: &LogShape) {
        let committed = self.committed.entry(partition).or_default();
        if end <= committed.end {
            return;
        }
        for (epoch, start) in log.epochs.runs().iter().filter(|(_, start)| *start < end) {
            if *epoch > committed.epochs.last() {
                committed.epochs.append(*epoch, *start);
            }
        }
        committed.end = end;
        committed.ever_end = committed.ever_end.max(end);
    }

    /// A leader whose word has been given up already declares everything below `end` committed: it
    /// may be read, and that is all.
    pub fn commit_in_vain(&mut self, partition: TopicPartition, end: Offset) {
        let committed = self.committed.entry(partition).or_default();
        committed.ever_end = committed.ever_end.max(end);
    }

    /// An election that may lose entries named a leader that holds what is committed only up to
    /// `kept`, and begins `epoch` at `floor`.
    pub fn give_up(
        &mut self,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        kept: Offset,
        floor: Offset,
    ) -> u64 {
        self.lossy.insert((partition, epoch));
        let committed = self.committed.entry(partition).or_default();
        committed.given_up.push((kept, floor));
        committed.end = committed.end.min(kept);
        committed.epochs.truncate(committed.end);
        let acknowledged = self.acknowledged.entry(partition).or_default();
        let before = acknowledged.len();
        acknowledged.retain(|base, _| *base < kept);
        (before - acknowledged.len()) as u64
    }
}
