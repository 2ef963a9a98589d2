//! What is left when a new segment cannot be made: nothing, and the log goes on without it.

mod common;

use std::path::Path;

use baton_protocol::ids::Offset;
use common::{append, entries, flush, open};

/// More than can be mapped anywhere.
const TOO_MUCH: usize = 1 << 62;

fn names(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir).expect("listed");
    let mut names: Vec<_> = files
        .map(|file| {
            file.expect("file")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_segment_that_cannot_be_made_leaves_no_file_and_the_log_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    let before = names(dir.path());
    log.reserve(TOO_MUCH).expect_err("too much");
    assert_eq!(names(dir.path()), before);
    // There is room in the segment before; then another one is due.
    for content in 2..30 {
        append(&mut log, 1, content, 1);
        log.reserve(TOO_MUCH).expect_err("too much");
    }
    flush(&mut log);
    let expected = entries(&log);
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, recovery.leftovers), (None, 0));
    assert_eq!(entries(&log), expected);
}

#[test]
fn an_empty_segment_stays_in_place_when_a_larger_one_cannot_be_made() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    log.reserve(100).expect("room");
    log.reserve(TOO_MUCH).expect_err("too much");
    append(&mut log, 1, 1, 1);
    flush(&mut log);
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, log.end()), (None, Offset(1)));
}

#[test]
fn an_empty_segment_that_is_too_small_is_replaced_by_a_larger_one() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    log.reserve(100).expect("room");
    log.reserve(200_000).expect("more room");
    assert_eq!(names(dir.path()), ["00000000000000000000.log", "durable"]);
    append(&mut log, 1, 1, 10_000);
    flush(&mut log);
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, log.end()), (None, Offset(10_000)));
}

#[test]
fn a_segment_whose_making_was_cut_off_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    flush(&mut log);
    drop(log);
    let before = names(dir.path());
    let unnamed = dir.path().join("00000000000000000001.log.tmp");
    std::fs::write(unnamed, vec![0; 70_000]).expect("written");
    let (mut log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, recovery.leftovers), (None, 0));
    assert_eq!(names(dir.path()), before);
    append(&mut log, 1, 2, 1);
}
