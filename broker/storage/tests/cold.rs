//! What is on the disk only is told from what is in memory, and read without being touched first.

mod common;

use std::fs::File;

use baton_protocol::batch::{BatchBuilder, LeaderStamp};
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_storage::{Glance, Log, LogConfig, LogReader};
use common::IDENTITY;

/// Has the system forget what it keeps of the files in a directory. It may be unable to.
fn forget(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let file = File::open(entry.expect("an entry").path()).expect("opens");
        file.sync_all().expect("flushed");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
    }
}

/// Reads what begins at `from`: what a glance shows, before and after a read.
fn read(reader: &LogReader, from: u64, bytes_max: usize) -> (bool, Vec<u8>) {
    let (from, end) = (Offset(from), reader.end());
    let was_away = match reader.glance(from, bytes_max, end).expect("readable") {
        Glance::OnDisk => true,
        Glance::Here(chunk) => {
            assert!(chunk.is_some(), "an entry at {from}");
            false
        }
    };
    let read = reader.read(from, bytes_max, end).expect("readable");
    let read = read.expect("there");
    match reader.glance(from, bytes_max, end).expect("readable") {
        Glance::Here(Some(chunk)) => assert_eq!(chunk.bytes, read.bytes),
        other => panic!("read a moment ago, and now {other:?}"),
    }
    (was_away, read.bytes.to_vec())
}

#[test]
fn what_is_on_the_disk_only_is_there_once_it_was_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut written = Vec::new();
    let (mut log, _) = Log::open(dir.path(), IDENTITY, LogConfig::default()).expect("opens");
    for offset in 0..40u64 {
        // Some are larger than any read asks for.
        let size = if offset % 10 == 5 { 300_000 } else { 3_000 };
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(&vec![b'x'; size]), &[]);
        let batch = builder.build(None);
        log.reserve(batch.len() + 4).expect("room");
        let stored = log.append_batch(&batch, &LeaderStamp::new(Offset(offset), LeaderEpoch(1)));
        stored.expect("stored");
        written.push(batch.len() + 4);
    }
    log.close().expect("closed");
    drop(log);
    let (log, _) = Log::open(dir.path(), IDENTITY, LogConfig::default()).expect("opens");
    forget(dir.path());
    let reader = log.reader();
    let mut at = 0;
    let mut away = 0;
    while at < 40 {
        let (was_away, bytes) = read(&reader, at, 10_000);
        away += u32::from(was_away);
        let mut left = bytes.len();
        while left > 0 {
            left -= written[at as usize];
            at += 1;
        }
    }
    // Some file systems keep all they have in memory.
    println!("{away} reads had to wait");
}
