//! Gaps in the offsets: a leader that begins at its offset limit leaves one, and nothing may take
//! it for damage, fill it, or lose its way in it.

mod common;

use baton_protocol::batch::EntryIter;
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_storage::{Log, quarantine, verify};
use common::{append, append_at, entries, flush, open, read_by_the_book};

/// Epoch 1 from 0 to 5, a gap, epoch 4 from 100 to 103.
fn log_with_a_gap(dir: &std::path::Path) -> Log {
    let (mut log, _) = open(dir);
    for content in 0..5 {
        append(&mut log, 1, content, 1);
    }
    append_at(&mut log, 4, Offset(100), 5, 1);
    append(&mut log, 4, 6, 2);
    log
}

fn runs(runs: &[(LeaderEpoch, Offset)]) -> Vec<(u32, u64)> {
    runs.iter().map(|run| (run.0.0, run.1.0)).collect()
}

#[test]
fn a_run_of_an_epoch_is_recorded_where_the_log_ended_before_it() {
    let dir = tempfile::tempdir().expect("dir");
    let log = log_with_a_gap(dir.path());
    assert_eq!(runs(log.epochs()), [(1, 0), (4, 5)]);
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!(runs(log.epochs()), [(1, 0), (4, 5)]);
    let report = verify::verify(dir.path()).expect("readable");
    assert_eq!(runs(&report.epochs), [(1, 0), (4, 5)]);
}

#[test]
fn a_first_entry_above_the_start_is_recorded_at_the_start() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append_at(&mut log, 2, Offset(1 << 20), 1, 1);
    for _ in 0..2 {
        assert_eq!(runs(log.epochs()), [(2, 0)]);
        assert_eq!((log.start(), log.end()), (Offset(0), Offset((1 << 20) + 1)));
        let chunk = log.read(Offset(0), 1).expect("readable").expect("there");
        assert_eq!(chunk.base, Offset(1 << 20));
        drop(log);
        (log, _) = open(dir.path());
    }
    log.truncate(Offset(77)).expect("cut in the gap");
    assert_eq!((log.end(), log.epochs().len()), (Offset(0), 0));
}

#[test]
fn a_read_within_a_gap_gives_the_next_entry_as_far_as_it_may() {
    let dir = tempfile::tempdir().expect("dir");
    let log = log_with_a_gap(dir.path());
    let reader = log.reader();
    for from in [5, 6, 50, 99, 100] {
        let chunk = reader.read(Offset(from), 1, log.end());
        let chunk = chunk.expect("readable").expect("there");
        assert_eq!((chunk.base, chunk.end), (Offset(100), Offset(101)));
        let below = reader.read(Offset(from), 1, Offset(100)).expect("readable");
        assert!(below.is_none(), "the watermark lies in the gap");
    }
    // One chunk may reach over the gap.
    let chunk = reader.read(Offset(4), 10_000, log.end());
    let chunk = chunk.expect("readable").expect("there");
    assert_eq!((chunk.base, chunk.end), (Offset(4), Offset(103)));
}

#[test]
fn a_segment_that_begins_in_a_gap_is_found_again() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    // Every fifth entry lies above a gap: some of these are the first of their segment.
    for i in 0..60u32 {
        let base = log.end().plus(if i % 5 == 0 { 1_000 } else { 0 });
        append_at(&mut log, 1 + i / 5, base, i.into(), 1);
    }
    flush(&mut log);
    let expected = entries(&log);
    assert_eq!(expected.len(), 60);
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!(recovery.damage, None);
    assert_eq!((recovery.torn_bytes, recovery.leftovers), (0, 0));
    assert_eq!(entries(&log), expected);
    let book: Vec<_> = expected.iter().map(|e| (e.0, e.1, e.2)).collect();
    assert_eq!(read_by_the_book(dir.path()), book);
    let mut walked = 0;
    let report = verify::walk(dir.path(), |_| walked += 1).expect("walked");
    assert_eq!((walked, report.problems.len()), (60, 0));
}

#[test]
fn an_entry_as_it_is_may_leave_a_gap_too() {
    let (from, to) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let leader = log_with_a_gap(from.path());
    let (mut follower, _) = open(to.path());
    let chunk = leader.read(Offset(0), 10_000).expect("readable");
    for entry in EntryIter::new(&chunk.expect("there").bytes) {
        let entry = entry.expect("sound");
        follower.reserve(entry.bytes.len()).expect("room");
        follower.append_entry(entry.bytes).expect("stored");
    }
    assert_eq!(entries(&follower), entries(&leader));
    assert_eq!(follower.epochs(), leader.epochs());
}

#[test]
fn an_entry_below_its_predecessors_end_is_no_gap() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = log_with_a_gap(dir.path());
    flush(&mut log);
    drop(log);
    // The last entry again, behind itself: sound in itself, but it goes back.
    let path = common::newest(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    let report = verify::verify(dir.path()).expect("readable");
    let end = report.segments.last().expect("a segment").1;
    let size = common::batch(0, 2).len() + 4;
    bytes.truncate(end);
    bytes.extend_from_within(end - size..);
    std::fs::write(&path, bytes).expect("written");
    let report = verify::verify(dir.path()).expect("readable");
    assert_eq!((report.end, report.problems.len()), (Offset(103), 1));
    let (log, recovery) = open(dir.path());
    assert_eq!(log.end(), Offset(103));
    assert!(recovery.torn_bytes > 0);
}

#[test]
fn a_cut_at_either_side_of_a_gap_or_within_it_ends_the_log_at_its_last_entry() {
    for (to, end) in [
        (5, 5),
        (6, 5),
        (99, 5),
        (100, 5),
        (101, 101),
        (3, 3),
        (0, 0),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = log_with_a_gap(dir.path());
        flush(&mut log);
        log.save_producers(b"account").expect("kept");
        log.truncate(Offset(to)).expect("cut");
        for _ in 0..2 {
            assert_eq!(log.end(), Offset(end), "cut at {to}");
            assert_eq!(log.durable_end(), Offset(end), "cut at {to}");
            assert_eq!(log.load_producers(), None);
            drop(log);
            let (opened, recovery) = open(dir.path());
            assert_eq!(recovery.damage, None, "cut at {to}");
            log = opened;
        }
        append(&mut log, 5, 50, 1);
        assert_eq!(log.end(), Offset(end + 1));
        assert_eq!(log.epochs().last(), Some(&(LeaderEpoch(5), Offset(end))));
        drop(log);
        let (log, _) = open(dir.path());
        assert_eq!(log.end(), Offset(end + 1), "cut at {to}");
    }
}

#[test]
fn a_second_cut_below_a_gap_goes_by_what_the_first_one_left() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = log_with_a_gap(dir.path());
    log.truncate(Offset(3)).expect("cut");
    // The segment in front still holds what was cut off it, at 3 and 4.
    append_at(&mut log, 5, Offset(200), 7, 1);
    log.truncate(Offset(150)).expect("cut");
    assert_eq!(log.end(), Offset(3));
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!(entries(&log).len(), 3);
}

#[test]
fn what_lies_above_a_gap_is_kept_aside_from_anywhere_in_it() {
    for from in [5, 40, 100] {
        let dir = tempfile::tempdir().expect("dir");
        let log = log_with_a_gap(dir.path());
        let path = quarantine::set_aside(&log, Offset(from), "a test").expect("kept aside");
        let bytes = std::fs::read(path).expect("read");
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let kept: Vec<_> = EntryIter::new(&bytes[line.expect("a line") + 1..])
            .map(|entry| entry.expect("sound").header.base_offset().0)
            .collect();
        assert_eq!(kept, [100, 101]);
    }
}
