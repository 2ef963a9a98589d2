//! The account of the producers is of the log that it is found with, or is not given out.

mod common;

use std::fs::OpenOptions;

use baton_protocol::ids::Offset;
use common::{append, append_at, batch, flush, newest, open};

#[test]
fn an_account_of_a_tail_that_was_torn_does_not_come_back_when_the_log_has_grown() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..3 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    let mark = std::fs::read(dir.path().join("durable")).expect("read");
    for content in 3..6 {
        append(&mut log, 1, content, 1);
    }
    log.save_producers(b"as of 6").expect("kept");
    drop(log);
    // What a disk may do that does not keep what it said it had; the account stays all the same.
    let entries = 3 * (batch(0, 1).len() + 4) as u64;
    let file = OpenOptions::new().write(true).open(newest(dir.path()));
    file.expect("open").set_len(128 + entries).expect("torn");
    std::fs::write(dir.path().join("durable"), mark).expect("as it was");
    let (mut log, _) = open(dir.path());
    assert_eq!(log.end(), Offset(3));
    for content in 10..15 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, log.end()), (None, Offset(8)));
    assert_eq!(log.load_producers(), None);
}

#[test]
fn an_account_of_another_history_is_refused() {
    let (one, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let (mut log, _) = open(one.path());
    for content in 0..4 {
        append(&mut log, 1, content, 1);
    }
    log.save_producers(b"account").expect("kept");
    assert_eq!(log.load_producers(), Some((Offset(4), b"account".into())));
    // As long, or longer, but the last entry below the account's end is of a later epoch, or none
    // ends there.
    let histories: [&[(u32, u64)]; 3] = [
        &[(1, 0), (1, 1), (1, 2), (2, 3)],
        &[(1, 0), (2, 1), (2, 2), (2, 3), (3, 4)],
        &[(1, 0), (1, 1), (3, 2), (3, 5)],
    ];
    for history in histories {
        std::fs::remove_dir_all(other.path()).expect("removed");
        let (mut log, _) = open(other.path());
        for (epoch, base) in history {
            append_at(&mut log, *epoch, Offset(*base), 9, 1);
        }
        flush(&mut log);
        let account = other.path().join("producers");
        std::fs::copy(one.path().join("producers"), &account).expect("copied");
        assert_eq!(log.load_producers(), None);
        drop(log);
        let (log, _) = open(other.path());
        assert_eq!(log.load_producers(), None);
        assert!(!account.exists(), "it does not wait for a log that fits");
    }
    // With the log that it is of, it stays.
    append(&mut log, 5, 9, 1);
    flush(&mut log);
    drop(log);
    let (log, _) = open(one.path());
    assert_eq!(log.load_producers(), Some((Offset(4), b"account".into())));
}

#[test]
fn an_account_is_kept_of_what_is_durable_only() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    log.save_producers(b"account").expect("kept");
    assert_eq!(log.durable_end(), Offset(1));
}

#[test]
fn an_account_in_a_format_that_is_not_known_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    log.close().expect("closed");
    drop(log);
    let path = dir.path().join("producers");
    for bytes in [&b"BTNPROD1 and more than a head of it"[..], b"short", b""] {
        std::fs::write(&path, bytes).expect("written");
        let (log, _) = open(dir.path());
        assert_eq!(log.load_producers(), None);
        assert!(!path.exists());
    }
}
