//! Which epoch continued which: from it follows what of a stale log was superseded.
//!
//! A leader begins its epoch behind the last entry of its log, which is of an earlier epoch, its
//! parent: right there, or above a gap. So the epochs of a partition form a tree, and every log is a
//! path in it. A leader that is elected although better logs are missing may have missed whole
//! reigns: what it wrote or took in an epoch that was left behind has offsets that later leaders gave
//! to other entries. Those may have been acknowledged and read, and are lost now; their offsets must
//! not come back with other content. So of a log everything is kept below the first offset where,
//! of the reigns later than its last one, the latest that holds anything there holds something else.

use std::collections::BTreeSet;

use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_protocol::metadata::EpochBegin;

/// Most beginnings that are kept. What came before the oldest is taken to be the same in all logs.
const BEGINS_MAX: usize = 256;

/// Notes where a leader begins.
pub fn note(begins: &mut Vec<EpochBegin>, begin: EpochBegin) {
    begins.push(begin);
    let too_many = begins.len().saturating_sub(BEGINS_MAX);
    begins.drain(..too_many);
}

/// How much of a log whose last entry is of `last_epoch` no leader since has superseded.
pub fn kept(begins: &[EpochBegin], last_epoch: LeaderEpoch) -> Offset {
    let own = runs(begins, last_epoch);
    let later = begins.iter().rev().map(|begin| begin.epoch);
    let later = later.take_while(|epoch| *epoch > last_epoch);
    let later: Vec<Vec<Run>> = later.map(|epoch| runs(begins, epoch)).collect();
    // What a log holds changes at these only.
    let changes = begins.iter().flat_map(|b| [b.start, b.parent_end]);
    let changes: BTreeSet<Offset> = changes.chain([Offset::ZERO]).collect();
    let superseded = |at: &Offset| {
        let last_word = later.iter().find_map(|runs| held_at(runs, *at));
        match (held_at(&own, *at), last_word) {
            (Some(own), Some(other)) => own.differs_from(other),
            _ => false,
        }
    };
    changes.into_iter().find(superseded).unwrap_or(Offset::MAX)
}

/// Offsets that entries of one epoch have in a log.
struct Run {
    epoch: LeaderEpoch,
    from: Offset,
    to: Offset,
    /// Whether `epoch` is theirs. Otherwise it is the greatest that may be.
    exact: bool,
}

/// What is in a log whose last entry is of this epoch, as far as is known; newest first.
fn runs(begins: &[EpochBegin], mut epoch: LeaderEpoch) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut to = Offset::MAX;
    for begin in begins.iter().rev() {
        if begin.epoch == epoch {
            runs.push(Run {
                epoch,
                from: begin.start,
                to,
                exact: true,
            });
            (epoch, to) = (begin.parent, to.min(begin.parent_end));
        }
    }
    runs.push(Run {
        epoch,
        from: Offset::ZERO,
        to,
        exact: false,
    });
    runs
}

impl Run {
    fn differs_from(&self, other: &Run) -> bool {
        match (self.exact, other.exact) {
            (true, true) => self.epoch != other.epoch,
            (true, false) => self.epoch > other.epoch,
            (false, true) => other.epoch > self.epoch,
            (false, false) => false,
        }
    }
}

fn held_at(runs: &[Run], at: Offset) -> Option<&Run> {
    runs.iter().find(|run| run.from <= at && at < run.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(epoch: u32, start: u64, parent: u32, parent_end: u64) -> EpochBegin {
        EpochBegin {
            epoch: LeaderEpoch(epoch),
            start: Offset(start),
            parent: LeaderEpoch(parent),
            parent_end: Offset(parent_end),
        }
    }

    /// Of epochs with their start and parent, without gaps.
    fn kept_of(begins: &[(u32, u64, u32)], last_epoch: u32) -> u64 {
        let begins = begins.iter();
        let begins = begins.map(|(epoch, start, parent)| begin(*epoch, *start, *parent, *start));
        kept_among(&begins.collect::<Vec<_>>(), last_epoch)
    }

    fn kept_among(begins: &[EpochBegin], last_epoch: u32) -> u64 {
        match kept(begins, LeaderEpoch(last_epoch)) {
            Offset::MAX => u64::MAX,
            Offset(offset) => offset,
        }
    }

    #[test]
    fn who_followed_the_last_leader_keeps_everything() {
        assert_eq!(kept_of(&[(1, 0, 0), (2, 10, 1)], 2), u64::MAX);
        assert_eq!(kept_of(&[], 0), u64::MAX);
    }

    #[test]
    fn what_a_reign_wrote_beyond_the_next_ones_beginning_is_superseded() {
        let begins = [(1, 0, 0), (2, 10, 1), (3, 20, 2)];
        assert_eq!(kept_of(&begins, 1), 10);
        assert_eq!(kept_of(&begins, 2), 20);
    }

    #[test]
    fn an_epoch_that_nobody_continued_is_superseded_from_its_parents_end_on() {
        // 2 began at 10; 3 did not hear of it and continued 1 up to 15.
        let begins = [(1, 0, 0), (2, 10, 1), (3, 15, 1), (4, 30, 3)];
        assert_eq!(kept_of(&begins, 2), 10);
        assert_eq!(kept_of(&begins, 3), 30);
        assert_eq!(kept_of(&begins, 1), 15);
    }

    #[test]
    fn a_reign_above_a_gap_supersedes_nothing_below() {
        let begins = [begin(1, 0, 0, 0), begin(2, 1_000, 1, 10)];
        assert_eq!(kept_among(&begins, 1), 1_000);
        let of_an_empty_log = [begin(1, 0, 0, 0), begin(2, 1_000, 0, 0)];
        assert_eq!(kept_among(&of_an_empty_log, 1), 1_000);
    }

    #[test]
    fn a_reign_that_was_left_behind_supersedes_too() {
        // 2 gave the offsets from 10 on to other entries, and then was lost.
        let begins = [
            begin(1, 0, 0, 0),
            begin(2, 10, 1, 10),
            begin(3, 1_000, 1, 10),
        ];
        assert_eq!(kept_among(&begins, 1), 10);
        assert_eq!(kept_among(&begins, 2), 1_000);
    }

    #[test]
    fn what_a_later_reign_took_over_is_not_superseded_by_an_earlier_one() {
        // 3 had not heard of 2, and committed what 1 had from 10 to 15.
        let begins = [
            begin(1, 0, 0, 0),
            begin(2, 10, 1, 10),
            begin(3, 15, 1, 15),
            begin(4, 1_000, 0, 0),
        ];
        assert_eq!(kept_among(&begins, 3), 1_000);
    }

    #[test]
    fn what_a_leader_cut_is_not_part_of_what_it_continued() {
        // 4 followed 2 at first, and cut it down to what 3 had left of it: nothing.
        let begins = [
            begin(1, 0, 0, 0),
            begin(2, 10, 1, 10),
            begin(3, 15, 1, 15),
            begin(4, 1_000, 2, 10),
        ];
        assert_eq!(kept_among(&begins, 3), 1_000);
        assert_eq!(kept_among(&begins, 2), 10);
    }

    #[test]
    fn a_cut_may_reach_below_the_beginning_of_the_last_epoch() {
        // 4 followed 2, which began at 12, and cut what 3 had left of it: down to 10.
        let begins = [
            begin(1, 0, 0, 0),
            begin(2, 12, 1, 12),
            begin(3, 10, 1, 10),
            begin(4, 1_000, 2, 10),
        ];
        assert_eq!(kept_among(&begins, 3), 1_000);
    }

    #[test]
    fn a_log_from_before_all_that_is_known_is_kept_up_to_there() {
        let begins = [(7, 70, 6), (8, 80, 7)];
        assert_eq!(kept_of(&begins, 3), 70);
    }

    #[test]
    fn only_the_latest_beginnings_are_kept() {
        let mut begins = Vec::new();
        for epoch in 1..=1_000 {
            let start = u64::from(epoch);
            note(&mut begins, begin(epoch, start, epoch - 1, start));
        }
        assert_eq!(begins.len(), BEGINS_MAX);
        assert_eq!(kept(&begins, LeaderEpoch(999)), Offset(1_000));
    }
}
