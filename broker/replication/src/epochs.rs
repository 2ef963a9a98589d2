//! The epoch history of a log: which leader epoch wrote which range of offsets.
//!
//! With the rule that a leader appends in its own epoch only, two logs that hold an entry of the
//! same epoch at the same offset are equal up to and including it. So histories stand for logs: no
//! byte needs to be compared to find where two logs part.

use baton_protocol::ids::{LeaderEpoch, Offset};

/// Epochs of a log, oldest first, each with the base offset of its first entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochHistory {
    runs: Vec<(LeaderEpoch, Offset)>,
}

impl EpochHistory {
    /// A history from its runs, oldest first. Epochs and offsets rise.
    pub fn new(runs: Vec<(LeaderEpoch, Offset)>) -> Self {
        assert!(
            runs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1),
            "an epoch history rises: {runs:?}"
        );
        EpochHistory { runs }
    }

    /// The runs, oldest first.
    pub fn runs(&self) -> &[(LeaderEpoch, Offset)] {
        &self.runs
    }

    /// Epoch of the newest entry; `NONE` for an empty log.
    pub fn last(&self) -> LeaderEpoch {
        self.runs.last().map_or(LeaderEpoch::NONE, |run| run.0)
    }

    /// Epoch of the entry that ends at `end` (exclusive), or that holds `end - 1`. `NONE` if the
    /// history does not reach down there.
    pub fn before(&self, end: Offset) -> LeaderEpoch {
        let later = self.runs.partition_point(|run| run.1 < end);
        match later.checked_sub(1) {
            Some(i) => self.runs[i].0,
            None => LeaderEpoch::NONE,
        }
    }

    /// Epoch of the entry at `offset`, if the history reaches there.
    pub fn at(&self, offset: Offset) -> LeaderEpoch {
        self.before(offset.plus(1))
    }

    /// Records that an entry of `epoch` was appended at `base`.
    pub fn append(&mut self, epoch: LeaderEpoch, base: Offset) {
        let last = self.last();
        assert!(epoch >= last, "epoch {epoch} appended after {last}");
        if epoch > last {
            if self.runs.is_empty() {
                // Many a log has one.
                self.runs.reserve_exact(1);
            }
            self.runs.push((epoch, base));
        }
    }

    /// Where the run of an epoch ends, in a log that ends at `log_end`; 0 if there is none.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Offset {
        let place = self.runs.iter().position(|run| run.0 == epoch);
        let next = place.map(|place| self.runs.get(place + 1));
        next.map_or(Offset::ZERO, |next| next.map_or(log_end, |run| run.1))
    }

    /// The history of a log that starts at `start`, behind an entry of this epoch, and has nothing yet.
    pub fn empty_at(start: Offset, before: LeaderEpoch) -> Self {
        let last = start.0.checked_sub(1).map(Offset);
        let last = last.filter(|_| before != LeaderEpoch::NONE);
        EpochHistory {
            runs: last.map(|last| (before, last)).into_iter().collect(),
        }
    }

    /// Forgets everything below `start`, but for the epoch of the entry before it.
    pub fn advance_start(&mut self, start: Offset) {
        let kept = EpochHistory::empty_at(start, self.before(start));
        self.runs.retain(|run| run.1 >= start);
        self.runs.splice(0..0, kept.runs);
    }

    /// Forgets everything at and above `end`.
    pub fn truncate(&mut self, end: Offset) {
        self.runs.retain(|run| run.1 < end);
    }

    /// The newest `runs_max` runs at or below `end`, oldest first: what a follower tells a leader
    /// whose append did not fit.
    pub fn around(&self, end: Offset, runs_max: usize) -> Vec<(LeaderEpoch, Offset)> {
        let upto = self.runs.partition_point(|run| run.1 < end);
        self.runs[upto.saturating_sub(runs_max)..upto].to_vec()
    }

    /// How far this log (ending at `own_end`) is surely equal to another that has the history
    /// piece `other` and ends at `other_end`.
    ///
    /// The newest epoch that both know decides: up to where the shorter of the two runs of it ends
    /// they are equal. If they share none, they part at or below where the piece begins
    /// ([`Divergence::Below`]) and one has to ask further down.
    pub fn diverges_from(
        &self,
        own_end: Offset,
        other: &[(LeaderEpoch, Offset)],
        other_end: Offset,
    ) -> Divergence {
        let run_end = |runs: &[(LeaderEpoch, Offset)], i: usize, end: Offset| {
            runs.get(i + 1).map_or(end, |next| next.1)
        };
        for (i, (epoch, _)) in other.iter().enumerate().rev() {
            if let Ok(own) = self.runs.binary_search_by_key(epoch, |run| run.0) {
                let own_run_end = run_end(&self.runs, own, own_end);
                let other_run_end = run_end(other, i, other_end);
                return Divergence::At(own_run_end.min(other_run_end));
            }
        }
        match other.first() {
            Some((_, start)) => Divergence::Below(*start),
            None => Divergence::Below(Offset::ZERO),
        }
    }
}

/// Where two logs part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// They are equal up to here (exclusive).
    At(Offset),
    /// They are equal at most up to here; the histories at hand say no more.
    Below(Offset),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(runs: &[(u32, u64)]) -> EpochHistory {
        EpochHistory::new(
            runs.iter()
                .map(|(e, o)| (LeaderEpoch(*e), Offset(*o)))
                .collect(),
        )
    }

    #[test]
    fn the_epoch_before_an_offset_is_that_of_the_entry_ending_there() {
        let h = history(&[(1, 0), (3, 10)]);
        assert_eq!(h.before(Offset(0)), LeaderEpoch::NONE);
        assert_eq!(h.before(Offset(10)), LeaderEpoch(1));
        assert_eq!(h.before(Offset(11)), LeaderEpoch(3));
        assert_eq!(h.at(Offset(10)), LeaderEpoch(3));
    }

    #[test]
    fn a_history_that_starts_later_still_tells_the_epoch_before_its_start() {
        let all = history(&[(1, 0), (3, 10), (4, 20)]);
        for start in 0..40 {
            let mut left = all.clone();
            left.advance_start(Offset(start));
            for end in start..50 {
                let end = Offset(end);
                assert_eq!(
                    left.before(end),
                    all.before(end),
                    "before {end} from {start}"
                );
            }
            let again = EpochHistory::new(left.runs().to_vec());
            left.advance_start(Offset(start));
            assert_eq!(left, again);
            left.truncate(Offset(start));
            let empty = EpochHistory::empty_at(Offset(start), all.before(Offset(start)));
            assert_eq!(left, empty);
        }
    }

    #[test]
    fn logs_part_where_the_shorter_run_of_the_newest_common_epoch_ends() {
        let leader = history(&[(1, 0), (2, 10), (5, 20)]);
        let follower = [
            (LeaderEpoch(1), Offset(0)),
            (LeaderEpoch(2), Offset(10)),
            (LeaderEpoch(4), Offset(15)),
        ];
        assert_eq!(
            leader.diverges_from(Offset(30), &follower, Offset(40)),
            Divergence::At(Offset(15))
        );
        // The follower went further in epoch 2 than the leader: what it has above 20 goes.
        assert_eq!(
            leader.diverges_from(Offset(30), &follower[..2], Offset(25)),
            Divergence::At(Offset(20))
        );
    }

    #[test]
    fn without_a_common_epoch_one_asks_further_down() {
        let leader = history(&[(1, 0), (5, 20)]);
        let follower = [(LeaderEpoch(3), Offset(7)), (LeaderEpoch(4), Offset(15))];
        assert_eq!(
            leader.diverges_from(Offset(30), &follower, Offset(40)),
            Divergence::Below(Offset(7))
        );
    }
}
