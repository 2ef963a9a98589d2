//! Which epoch continued which: from it follows what of a stale log was superseded.
//!
//! A leader begins its epoch at its log's end, behind an entry of an earlier epoch, its parent. So the
//! epochs of a partition form a tree, and every log is a path in it. A leader that is elected although
//! better logs are missing may have missed whole reigns: what it wrote or took in an epoch that was
//! left behind has offsets that later leaders gave to other entries. Those may have been
//! acknowledged and read, and are lost now; their offsets must not come back with other content.

use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_protocol::metadata::EpochBegin;

/// Most beginnings that are kept. A log that missed more reigns than these is trusted up to the
/// oldest one that is known.
const BEGINS_MAX: usize = 256;

/// Notes where a leader begins.
pub fn note(begins: &mut Vec<EpochBegin>, begin: EpochBegin) {
    begins.push(begin);
    let too_many = begins.len().saturating_sub(BEGINS_MAX);
    begins.drain(..too_many);
}

/// The path from `epoch` back to the oldest beginning that is known, newest first.
fn path(begins: &[EpochBegin], mut epoch: LeaderEpoch) -> Vec<EpochBegin> {
    let mut path = Vec::new();
    for begin in begins.iter().rev() {
        if begin.epoch == epoch {
            path.push(*begin);
            epoch = begin.parent;
        }
    }
    path
}

/// How much of a log whose last entry is of `last_epoch` no leader since has superseded.
pub fn kept(begins: &[EpochBegin], last_epoch: LeaderEpoch) -> Offset {
    let Some(newest) = begins.last() else {
        return Offset::MAX;
    };
    let (own, other) = (path(begins, last_epoch), path(begins, newest.epoch));
    // Where the run of the epoch ends which comes before `after` on its path.
    let run_end = |path: &[EpochBegin], place: usize| match place.checked_sub(1) {
        Some(after) => path[after].start,
        None => Offset::MAX,
    };
    for (place, begin) in other.iter().enumerate() {
        if let Some(own_place) = own.iter().position(|own| own.epoch == begin.epoch) {
            return run_end(&other, place).min(run_end(&own, own_place));
        }
    }
    // Both go back to what is not known any more.
    match (own.last(), other.last()) {
        (own, Some(other)) => own.map_or(other.start, |own| own.start.min(other.start)),
        (_, None) => Offset::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epochs with their start and parent.
    fn tree(begins: &[(u32, u64, u32)]) -> Vec<EpochBegin> {
        let begin = |(epoch, start, parent): &(u32, u64, u32)| EpochBegin {
            epoch: LeaderEpoch(*epoch),
            start: Offset(*start),
            parent: LeaderEpoch(*parent),
        };
        begins.iter().map(begin).collect()
    }

    fn kept_of(begins: &[(u32, u64, u32)], last_epoch: u32) -> u64 {
        match kept(&tree(begins), LeaderEpoch(last_epoch)) {
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
    fn a_log_from_before_all_that_is_known_is_kept_up_to_there() {
        let begins = [(7, 70, 6), (8, 80, 7)];
        assert_eq!(kept_of(&begins, 3), 70);
    }

    #[test]
    fn only_the_latest_beginnings_are_kept() {
        let mut begins = Vec::new();
        for epoch in 1..=1_000 {
            let parent = LeaderEpoch(epoch - 1);
            let (epoch, start) = (LeaderEpoch(epoch), Offset(u64::from(epoch)));
            note(
                &mut begins,
                EpochBegin {
                    epoch,
                    start,
                    parent,
                },
            );
        }
        assert_eq!(begins.len(), BEGINS_MAX);
        assert_eq!(kept(&begins, LeaderEpoch(999)), Offset(1_000));
    }
}
