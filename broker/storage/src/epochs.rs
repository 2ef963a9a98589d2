//! The epoch history of a log: each leader epoch with the log's end before its first entry.
//!
//! A gap belongs to the epoch of the entry behind it. One that an election leaves does so by definition; one
//! that a compaction leaves, because the last entry of each epoch stays. So the epoch of an offset is known
//! whether or not its entry is there, and a start within a gap is as good as any other.
//!
//! A log that does not start at 0 keeps the epoch of the entry before its start, as a run of one offset
//! there: where that epoch began, nobody asks any more.

use baton_protocol::ids::{LeaderEpoch, Offset};

/// An epoch, and where the log ended when its first entry came.
pub(crate) type Run = (LeaderEpoch, Offset);

/// The epoch of the entry that ends at `end`, or that holds the offset before; none if the history does
/// not reach down there.
pub(crate) fn before(end: Offset, epochs: &[Run]) -> LeaderEpoch {
    let run = epochs.iter().rev().find(|run| run.1 < end);
    run.map_or(LeaderEpoch::NONE, |run| run.0)
}

/// The history of a log that starts at `start`, behind an entry of the epoch `before`, and has nothing
/// yet.
pub(crate) fn empty_at(start: Offset, before: LeaderEpoch) -> Vec<Run> {
    match start.0.checked_sub(1) {
        Some(last) if before != LeaderEpoch::NONE => vec![(before, Offset(last))],
        _ => Vec::new(),
    }
}

/// The history from `start` on.
pub(crate) fn from(start: Offset, epochs: &[Run]) -> Vec<Run> {
    let mut kept = empty_at(start, before(start, epochs));
    kept.extend(epochs.iter().filter(|run| run.1 >= start));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(runs: &[(u32, u64)]) -> Vec<Run> {
        let run = |(epoch, at): &(u32, u64)| (LeaderEpoch(*epoch), Offset(*at));
        runs.iter().map(run).collect()
    }

    #[test]
    fn a_start_in_a_gap_forgets_no_epoch_of_what_lies_above() {
        // The entries of epoch 10 lie from 1,000 on, behind one that ends at 500.
        let gap = runs(&[(4, 0), (10, 500)]);
        for start in 501..=1_000 {
            let found = from(Offset(start), &gap);
            assert_eq!(found.last().map(|run| run.0), Some(LeaderEpoch(10)));
            assert_eq!(before(Offset(1_001), &found), LeaderEpoch(10));
        }
    }

    #[test]
    fn what_remains_of_a_history_still_tells_the_epoch_before_the_start() {
        let all = runs(&[(1, 0), (3, 10), (4, 20)]);
        let expected: [(u64, &[(u32, u64)]); 6] = [
            (0, &[(1, 0), (3, 10), (4, 20)]),
            (1, &[(1, 0), (3, 10), (4, 20)]),
            (10, &[(1, 9), (3, 10), (4, 20)]),
            (11, &[(3, 10), (4, 20)]),
            (15, &[(3, 14), (4, 20)]),
            (40, &[(4, 39)]),
        ];
        for (start, left) in expected {
            let found = from(Offset(start), &all);
            assert_eq!(found, runs(left), "from {start}");
            assert_eq!(from(Offset(start), &found), found, "again from {start}");
            for end in start..45 {
                let end = Offset(end);
                assert_eq!(before(end, &found), before(end, &all), "before {end}");
            }
        }
    }
}
