//! A log that has failed is never made good. See also the tests in `flush.rs`.

mod common;

use baton_protocol::ids::Offset;
use common::{append, open};

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
