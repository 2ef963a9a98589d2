//! A flush that failed is never made good.

mod common;

use std::path::Path;

use baton_protocol::ids::Offset;
use baton_storage::{FlushJob, StorageError};
use common::{append, flush, open};

/// Runs the flush of a log whose new segment cannot be made durable: its directory is away.
fn fail(dir: &Path, job: FlushJob) {
    let away = dir.with_extension("away");
    std::fs::rename(dir, &away).expect("moved");
    job.run().expect_err("no directory");
    std::fs::rename(&away, dir).expect("moved back");
}

#[test]
fn a_log_whose_flush_failed_never_says_again_that_it_is_durable() {
    let root = tempfile::tempdir().expect("dir");
    let dir = root.path().join("log");
    let (mut log, _) = open(&dir);
    append(&mut log, 1, 0, 1);
    flush(&mut log);
    let mark = std::fs::read(dir.join("durable")).expect("read");
    for content in 1..30 {
        append(&mut log, 1, content, 1);
    }
    // One flush fails; another one of the same bytes is on its way and does not hear of it.
    let (first, second) = (log.prepare_flush(), log.prepare_flush());
    fail(&dir, first);
    let failed = |result: Result<(), StorageError>| {
        let error = result.expect_err("an error");
        assert!(matches!(error, StorageError::Failed { .. }), "{error}");
    };
    failed(second.run().map(|_| ()));
    failed(log.prepare_flush().run().map(|_| ()));
    failed(log.save_producers(b"account"));
    failed(log.truncate(Offset(5)));
    failed(log.reserve(1));
    failed(log.close());
    failed(log.close());
    assert_eq!(log.durable_end(), Offset(1));
    assert_eq!(std::fs::read(dir.join("durable")).expect("read"), mark);
    assert!(!dir.join("producers").exists());
}

#[test]
fn a_flush_that_succeeded_is_not_believed_when_another_one_failed() {
    let root = tempfile::tempdir().expect("dir");
    let dir = root.path().join("log");
    let (mut log, _) = open(&dir);
    append(&mut log, 1, 0, 1);
    let early = log.prepare_flush();
    let late = log.prepare_flush();
    let done = early.run().expect("flushed");
    log.flush_failed();
    log.flushed(done).expect_err("too late");
    late.run().expect_err("too late");
    assert_eq!(log.durable_end(), Offset(0));
}

#[test]
fn a_damaged_log_does_not_close_in_good_order() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 0, 1);
    log.close().expect("closed");
    log.close().expect("closed already");
    drop(log);
    std::fs::remove_file(common::newest(dir.path())).expect("removed");
    let (mut log, recovery) = open(dir.path());
    assert!(recovery.damage.is_some());
    log.close().expect_err("damaged");
}
