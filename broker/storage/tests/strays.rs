//! Segment files without entries that the log has gone past: of segments that could not be made,
//! left by a version that gave them their names too early.

mod common;

use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;
use baton_storage::verify;
use common::{append, entries, flush, newest, open};

/// An empty segment file of this log at `base`, as it looks on disk.
fn empty_segment(dir: &Path, base: u64) -> Vec<u8> {
    let mut bytes = std::fs::read(newest(dir)).expect("read");
    bytes.truncate(128);
    bytes[40..48].copy_from_slice(&base.to_be_bytes());
    bytes[48..56].copy_from_slice(&base.to_be_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_be_bytes());
    bytes[64..128].fill(0);
    bytes.resize(70_000, 0);
    bytes
}

fn file(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

#[test]
fn a_stray_segment_costs_nothing_and_is_removed() {
    // Where the mark stands, since it may lag behind after a power cut; and what the stray holds.
    for mark_at in [0, 3, 40] {
        for stray in ["empty", "blank", "no bytes"] {
            let dir = tempfile::tempdir().expect("dir");
            let (mut log, _) = open(dir.path());
            let mut mark = Vec::new();
            for content in 0..40 {
                if mark_at == content {
                    flush(&mut log);
                    mark = std::fs::read(dir.path().join("durable")).expect("read");
                }
                append(&mut log, 1, content, 1);
            }
            if mark_at < 40 {
                std::fs::write(dir.path().join("durable"), mark).expect("written");
            } else {
                flush(&mut log);
            }
            let expected = entries(&log);
            drop(log);
            let segments = verify::verify(dir.path()).expect("readable").segments;
            let bases: Vec<u64> = segments
                .iter()
                .map(|(path, _)| {
                    let name = path.file_stem().expect("a name").to_string_lossy();
                    name.parse().expect("a number")
                })
                .collect();
            assert!(bases.len() >= 3);
            // Within the first segment, twice in the second, and within the last.
            let last = bases[bases.len() - 1];
            let at = [bases[1] - 1, bases[1] + 1, bases[1] + 2, last + 1];
            for base in at.into_iter().filter(|base| *base < 40) {
                let bytes = match stray {
                    "empty" => empty_segment(dir.path(), base),
                    "blank" => vec![0; 70_000],
                    _ => Vec::new(),
                };
                std::fs::write(file(dir.path(), base), bytes).expect("written");
            }
            let what = format!("mark at {mark_at}, {stray}");
            let report = verify::verify(dir.path()).expect("readable");
            assert_eq!(report.end, Offset(40), "{what}");
            assert_eq!(report.problems.len(), 1, "{what}: {:?}", report.problems);
            for strays in [true, false] {
                let (log, recovery) = open(dir.path());
                assert_eq!(recovery.damage, None, "{what}");
                assert_eq!(recovery.leftovers > 0, strays, "{what}");
                assert_eq!(entries(&log), expected, "{what}");
            }
        }
    }
}

#[test]
fn an_empty_segment_behind_a_cut_is_no_stray_though_the_seal_is_lost() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..5 {
        append(&mut log, 1, content, 1);
    }
    log.truncate(Offset(3)).expect("cut");
    log.reserve(100).expect("room");
    drop(log);
    let path = file(dir.path(), 0);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[70] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, log.end()), (None, Offset(3)));
}

#[test]
fn entries_that_are_missing_are_no_stray() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..20 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    drop(log);
    let segments = verify::verify(dir.path()).expect("readable").segments;
    let bytes = std::fs::read(&segments[1].0).expect("read");
    // All entries of a segment, and all of it.
    for keep in [128, 0] {
        let mut bytes = bytes.clone();
        bytes[keep..].fill(0);
        std::fs::write(&segments[1].0, bytes).expect("written");
        let (_, recovery) = open(dir.path());
        assert!(recovery.damage.is_some());
        assert!(segments.iter().all(|(path, _)| path.exists()));
    }
}
