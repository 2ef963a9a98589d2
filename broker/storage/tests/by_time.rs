//! Offsets by timestamps, and what expires by them.

mod common;

use std::path::Path;

use baton_protocol::batch::{BatchBuilder, LeaderStamp, RecordIter};
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_storage::{Check, Log, LogConfig, Retention, start_wanted, verify};
use common::{CONFIG, IDENTITY, flush};

/// Appends a batch of records with these timestamps.
fn append(log: &mut Log, timestamps: &[i64]) {
    let mut builder = BatchBuilder::default();
    for timestamp in timestamps {
        builder.push(*timestamp, None, Some(b"content"), &[]);
    }
    let batch = builder.build(None);
    log.reserve(batch.len() + 4).expect("room");
    log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(1)))
        .expect("stored");
}

/// Timestamps that rise, but not always.
fn timestamp(i: i64) -> i64 {
    i * 10 + (i * 7 % 5) * 13 - (i % 11) * 9
}

fn sample(dir: &Path) -> Log {
    let (mut log, _) = Log::open(dir, IDENTITY, CONFIG).expect("opens");
    for i in 0..60 {
        let stamps: Vec<_> = (0..1 + i % 4).map(|k| timestamp(4 * i + k)).collect();
        append(&mut log, &stamps);
    }
    flush(&mut log);
    log
}

/// What a reader of all of it would say.
fn expected(dir: &Path, timestamp: i64, from: u64, up_to: u64) -> Option<Offset> {
    let mut found = None;
    verify::walk(dir, |entry| {
        if entry.header.next_offset().0 > up_to {
            return;
        }
        for record in RecordIter::new(entry.batch, &entry.header) {
            let record = record.expect("sound");
            if record.timestamp >= timestamp && record.offset.0 >= from && found.is_none() {
                found = Some(record.offset);
            }
        }
    })
    .expect("walked");
    found
}

fn check(log: &Log, dir: &Path) {
    let reader = log.reader();
    let start = log.start().0;
    for stamp in (-50..2_600).step_by(37) {
        for up_to in [log.end().0, 75, start] {
            let found = reader
                .offset_for_time(stamp, Offset(up_to))
                .expect("readable");
            assert_eq!(
                found,
                expected(dir, stamp, start, up_to),
                "{stamp} up to {up_to}"
            );
        }
    }
}

#[test]
fn the_first_record_that_is_not_older_is_found_after_any_start_too() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    check(&log, dir.path());
    log.advance_start(Offset(20), None).expect("moved");
    log.close().expect("closed");
    check(&log, dir.path());
    drop(log);
    for checked in [Check::Tail, Check::All] {
        let config = LogConfig {
            check: checked,
            ..CONFIG
        };
        let (log, recovery) = Log::open(dir.path(), IDENTITY, config).expect("opens");
        assert_eq!(recovery.damage, None);
        check(&log, dir.path());
    }
}

#[test]
fn what_a_start_finds_expires_as_what_was_written() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let written = log.extents();
    assert!(written.len() > 4);
    log.close().expect("closed");
    drop(log);
    let (mut log, _) = Log::open(dir.path(), IDENTITY, CONFIG).expect("opens");
    assert_eq!(log.extents(), written);
    let retention = Retention {
        ms: Some(500),
        bytes: None,
    };
    let start = start_wanted(&written, &retention, 2_000).expect("something is old");
    log.advance_start(start, None).expect("moved");
    let kept = log.extents();
    assert!(kept[0].newest_ms >= Some(1_500));
    assert!(kept.len() < written.len());
}

#[test]
fn a_segment_ends_when_it_is_old_enough_and_only_then() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = common::open(dir.path());
    log.end_segment_from_before(i64::MAX);
    append(&mut log, &[100]);
    log.end_segment_from_before(100);
    append(&mut log, &[200]);
    assert_eq!(log.extents().len(), 1);
    log.end_segment_from_before(101);
    assert_eq!(log.extents().len(), 1, "nothing is made for nothing");
    append(&mut log, &[300]);
    append(&mut log, &[400]);
    let ends: Vec<_> = log.extents().iter().map(|extent| extent.end.0).collect();
    assert_eq!(ends, [2, 4]);
}

#[test]
fn entries_without_timestamps_are_as_old_as_their_file() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = common::open(dir.path());
    append(&mut log, &[-1]);
    let newest = log.extents()[0].newest_ms.expect("the file's");
    assert!(newest > 1_600_000_000_000);
}

#[test]
fn records_with_the_time_of_their_append_are_found_by_it_after_a_start_too() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = Log::open(dir.path(), IDENTITY, CONFIG).expect("opens");
    for i in 0..60 {
        let mut builder = BatchBuilder::default();
        for record in 0..3 {
            // Whatever their producer says.
            builder.push(9_000 - 7 * i + record, None, Some(b"content"), &[]);
        }
        let batch = builder.build(None);
        log.reserve(batch.len() + 4).expect("room");
        let stamp = LeaderStamp {
            append_time_ms: Some(10 * i),
            ..LeaderStamp::new(log.end(), LeaderEpoch(1))
        };
        log.append_batch(&batch, &stamp).expect("stored");
    }
    flush(&mut log);
    let check = |log: &Log| {
        let reader = log.reader();
        for ms in 0..650 {
            let found = reader.offset_for_time(ms, log.end()).expect("readable");
            let first = (ms as u64).div_ceil(10);
            assert_eq!(found, (first < 60).then_some(Offset(3 * first)), "{ms}");
        }
    };
    check(&log);
    log.close().expect("closed");
    drop(log);
    let (log, _) = Log::open(dir.path(), IDENTITY, CONFIG).expect("opens");
    check(&log);
}
