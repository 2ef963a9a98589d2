//! Where a log starts is on record, and not what the first segment file says.

mod common;

use std::path::Path;

use baton_protocol::ids::Offset;
use baton_storage::{Log, verify};
use common::{CONFIG, IDENTITY, append, append_at, entries, flush, open};

/// Has a log start here: nothing but the mark is there yet.
fn start_at(dir: &Path, start: u64) {
    let mut slot = [0; 64];
    slot[..8].copy_from_slice(b"BTNMARK2");
    slot[8..16].copy_from_slice(&4u64.to_be_bytes());
    slot[16..24].copy_from_slice(&start.to_be_bytes());
    slot[24..32].copy_from_slice(&start.to_be_bytes());
    let crc = crc32fast::hash(&slot[..60]);
    slot[60..].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(dir.join("durable"), slot).expect("written");
}

#[test]
fn a_missing_first_segment_is_damage_and_no_later_start() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..30 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    drop(log);
    let report = verify::verify(dir.path()).expect("readable");
    std::fs::remove_file(&report.segments[0].0).expect("removed");
    let report = verify::verify(dir.path()).expect("readable");
    assert_eq!((report.start, report.problems.len()), (Offset(0), 1));
    assert_eq!(report.identity, Some(IDENTITY));
    let (log, recovery) = open(dir.path());
    assert_eq!(recovery.damage.expect("noticed").sound_end, Offset(0));
    assert_eq!((log.start(), log.end()), (Offset(0), Offset(0)));
    drop(log);
    let (log, _, note) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
    assert_eq!(note.expect("noted").durable_end, Offset(30));
    assert_eq!((log.start(), log.end()), (Offset(0), Offset(0)));
}

#[test]
fn a_log_that_starts_later_is_cut_to_its_start_and_starts_there_again() {
    let dir = tempfile::tempdir().expect("dir");
    start_at(dir.path(), 500);
    for _ in 0..3 {
        let (mut log, recovery) = open(dir.path());
        assert_eq!(recovery.damage, None);
        assert_eq!((log.start(), log.end()), (Offset(500), Offset(500)));
        for content in 0..30 {
            append(&mut log, 1, content, 1);
        }
        flush(&mut log);
        let expected = entries(&log);
        drop(log);
        let (mut log, recovery) = open(dir.path());
        assert_eq!(recovery.damage, None);
        assert_eq!((log.start(), log.end()), (Offset(500), Offset(530)));
        assert_eq!(entries(&log), expected);
        log.truncate(Offset(500)).expect("cut");
        assert_eq!((log.start(), log.end()), (Offset(500), Offset(500)));
    }
}

#[test]
fn a_log_that_starts_later_keeps_its_start_through_a_gap_and_a_repair() {
    let dir = tempfile::tempdir().expect("dir");
    start_at(dir.path(), 500);
    let (mut log, _) = open(dir.path());
    append_at(&mut log, 2, Offset(600), 1, 1);
    flush(&mut log);
    assert_eq!(log.epochs()[0].1, Offset(500));
    drop(log);
    let path = common::newest(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).expect("damaged");
    let (log, _, note) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
    assert_eq!(note.expect("noted").sound_end, Offset(500));
    assert_eq!((log.start(), log.end()), (Offset(500), Offset(500)));
    drop(log);
    let (mut log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, log.start()), (None, Offset(500)));
    append(&mut log, 3, 1, 1);
    assert_eq!(log.end(), Offset(501));
}
