//! The log against a model, and against what disks and crashes do to it.

mod common;

use baton_protocol::batch::EntryIter;
use baton_protocol::ids::{Offset, PartitionIndex};
use baton_storage::{Log, LogIdentity, StorageError, quarantine, verify};
use common::{
    CONFIG, FULL, IDENTITY, append, append_at, copy, entries, flush, newest, open, read_by_the_book,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Append(u32),
    NextEpoch,
    /// A new epoch begins this far above the log's end.
    Gap(u64),
    /// Keep this percentage of the entries; cut this far into the gap behind them, in percent.
    Truncate(usize, u64),
    Flush,
    /// Make a job of the hints that are due.
    HintJob,
    /// Run the oldest job that was made.
    RunJob,
    /// Opened anew, after a proper end or none.
    Reopen {
        closed: bool,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (1u32..4).prop_map(Act::Append),
        1 => Just(Act::NextEpoch),
        1 => (1u64..200).prop_map(Act::Gap),
        2 => (0usize..100, 0u64..=100).prop_map(|(keep, into)| Act::Truncate(keep, into)),
        2 => Just(Act::Flush),
        2 => Just(Act::HintJob),
        1 => Just(Act::RunJob),
        2 => any::<bool>().prop_map(|closed| Act::Reopen { closed }),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_log_is_what_was_appended_and_not_cut(acts in acts()) {
        let dir = tempfile::tempdir().expect("dir");
        let (mut log, _) = open(dir.path());
        let mut model: Vec<(u32, u64, u64, u64)> = Vec::new();
        let (mut epoch, mut content) = (1, 0);
        let mut jobs = std::collections::VecDeque::new();
        for act in acts {
            match act {
                Act::Append(records) => {
                    content += 1;
                    let base = log.end().0;
                    append(&mut log, epoch, content, records);
                    model.push((epoch, base, base + u64::from(records), content));
                }
                Act::NextEpoch => epoch += 1,
                Act::Gap(above) => {
                    (epoch, content) = (epoch + 1, content + 1);
                    let base = log.end().0 + above;
                    append_at(&mut log, epoch, Offset(base), content, 1);
                    model.push((epoch, base, base + 1, content));
                }
                Act::Truncate(percent, into) => {
                    let keep = model.len() * percent / 100;
                    let end = keep.checked_sub(1).map_or(0, |last| model[last].2);
                    let next = model.get(keep).map_or(end, |next| next.1);
                    model.truncate(keep);
                    log.truncate(Offset(end + (next - end) * into / 100)).expect("cut");
                    // What replaces it is of a later epoch.
                    epoch += 1;
                }
                Act::Flush => {
                    flush(&mut log);
                    prop_assert_eq!(log.durable_end(), log.end());
                }
                Act::HintJob => jobs.extend(log.hint_job()),
                Act::RunJob => {
                    if let Some(job) = jobs.pop_front() {
                        job.run();
                    }
                }
                Act::Reopen { closed } => {
                    if closed {
                        log.close().expect("closed");
                    }
                    drop(log);
                    let (opened, recovery) = open(dir.path());
                    prop_assert_eq!(recovery.damage, None);
                    log = opened;
                }
            }
            prop_assert_eq!(&entries(&log), &model);
            prop_assert_eq!(log.end().0, model.last().map_or(0, |last| last.2));
            let ends = std::iter::once(0).chain(model.iter().map(|entry| entry.2));
            let mut epochs: Vec<(u32, u64)> = model.iter().map(|entry| entry.0).zip(ends).collect();
            epochs.dedup_by_key(|run| run.0);
            let found: Vec<(u32, u64)> = log.epochs().iter().map(|run| (run.0.0, run.1.0)).collect();
            prop_assert_eq!(found, epochs);
            let mut before = 0;
            for (_, base, end, _) in &model {
                // From the gap in front of it, from its first record and from its last.
                for from in [before, *base, end - 1] {
                    let chunk = log.read(Offset(from), 1).expect("readable").expect("there");
                    prop_assert_eq!((chunk.base.0, chunk.end.0), (*base, *end));
                }
                before = *end;
            }
            // Were the process to end here, two starts would find the same, whatever each looks at.
            for config in [CONFIG, FULL] {
                let dir = copy(dir.path());
                let (found, recovery) = Log::open(dir.path(), IDENTITY, config).expect("opens");
                prop_assert_eq!(recovery.damage, None);
                prop_assert_eq!(&entries(&found), &model);
                prop_assert_eq!((found.end(), found.epochs()), (log.end(), log.epochs()));
                let mut scrub = found.scrub();
                while scrub.step(500).expect("sound").is_some() {}
            }
            let by_the_book: Vec<_> = model.iter().map(|entry| (entry.0, entry.1, entry.2)).collect();
            prop_assert_eq!(read_by_the_book(dir.path()), by_the_book);
            let report = verify::verify(dir.path()).expect("readable");
            prop_assert_eq!(report.problems, Vec::<String>::new());
            prop_assert_eq!(&report.epochs[..], log.epochs());
        }
    }
}

#[test]
fn a_torn_tail_is_cut_wherever_it_tore() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    flush(&mut log);
    append(&mut log, 1, 2, 1);
    let before = entries(&log)[..1].to_vec();
    drop(log);
    let path = newest(dir.path());
    let whole = std::fs::read(&path).expect("read");
    let mark = std::fs::read(dir.path().join("durable")).expect("read");
    let first_end = 128 + (whole[128 + 4 + 11] as usize) + 4 + 12;
    let last_end = whole.iter().rposition(|byte| *byte != 0).expect("written") + 1;
    for keep in first_end..last_end {
        let mut torn = whole.clone();
        torn[keep..].fill(0);
        std::fs::write(&path, &torn).expect("torn");
        std::fs::write(dir.path().join("durable"), &mark).expect("as it was");
        let (mut log, recovery) = open(dir.path());
        assert_eq!(recovery.damage, None, "torn at {keep}");
        assert_eq!(entries(&log), before, "torn at {keep}");
        append(&mut log, 2, 9, 1);
        drop(log);
        let (log, _) = open(dir.path());
        assert_eq!(
            entries(&log).len(),
            2,
            "nothing stale is read behind the new end"
        );
    }
}

#[test]
fn damage_of_what_was_durable_is_reported_and_nothing_is_touched() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..30 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    drop(log);
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .expect("listed")
            .map(|f| f.expect("file").path())
            .collect();
        files.sort();
        files
            .into_iter()
            .map(|path| std::fs::read(path).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let report = verify::verify(dir.path()).expect("readable");
    assert!(report.segments.len() > 2);
    let path = &report.segments[1].0;
    let mut bytes = std::fs::read(path).expect("read");
    bytes[200] ^= 4;
    std::fs::write(path, bytes).expect("damaged");
    let before = files();
    let (mut log, recovery) = open(dir.path());
    let damage = recovery.damage.expect("noticed");
    assert_eq!(&damage.path, path);
    assert!(matches!(log.reserve(1), Err(StorageError::Failed { .. })));
    assert_eq!(files(), before);
}

#[test]
fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..30 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    drop(log);
    let report = verify::verify(dir.path()).expect("readable");
    std::fs::remove_file(&report.segments[1].0).expect("removed");
    let (_, recovery) = open(dir.path());
    assert!(recovery.damage.is_some());
    for (path, _) in report.segments.iter().skip(2) {
        assert!(path.exists(), "nothing is removed");
    }
}

#[test]
fn a_truncation_that_was_interrupted_is_finished() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..30 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    let later: Vec<_> = verify::verify(dir.path())
        .expect("readable")
        .segments
        .split_off(2);
    let kept: Vec<_> = later
        .iter()
        .map(|(path, _)| (path.clone(), std::fs::read(path).expect("read")))
        .collect();
    log.truncate(Offset(5)).expect("cut");
    let expected = entries(&log);
    drop(log);
    // As if the process had ended when the seal was written and nothing was removed yet.
    for (path, bytes) in kept {
        std::fs::write(path, bytes).expect("back");
    }
    let (log, recovery) = open(dir.path());
    assert_eq!(recovery.damage, None);
    assert!(recovery.leftovers > 0);
    assert_eq!(entries(&log), expected);
}

#[test]
fn a_reader_keeps_what_it_holds_though_it_is_cut_and_replaced() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..5 {
        append(&mut log, 1, content, 1);
    }
    let reader = log.reader();
    let held = reader
        .read(Offset(3), 1, Offset(5))
        .expect("readable")
        .expect("there");
    let copy = held.bytes.to_vec();
    log.truncate(Offset(2)).expect("cut");
    for content in 100..120 {
        append(&mut log, 2, content, 1);
    }
    assert_eq!(held.bytes, copy);
    let now = reader
        .read(Offset(3), 1, Offset(22))
        .expect("readable")
        .expect("there");
    assert_ne!(now.bytes, copy);
    assert!(
        reader.read(Offset(23), 1, Offset(30)).is_err(),
        "beyond the end"
    );
}

#[test]
fn a_flush_from_before_a_cut_does_not_speak_of_what_came_after() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..5 {
        append(&mut log, 1, content, 1);
    }
    let job = log.prepare_flush();
    log.truncate(Offset(2)).expect("cut");
    for content in 10..20 {
        append(&mut log, 2, content, 1);
    }
    log.flushed(job.run().expect("flushed")).expect("noted");
    assert!(log.durable_end() <= Offset(2));
    flush(&mut log);
    assert_eq!(log.durable_end(), log.end());
}

#[test]
fn readers_see_whole_entries_while_the_log_is_written() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    let reader = log.reader();
    let reading = std::thread::spawn(move || {
        let mut at = Offset::ZERO;
        while at < Offset(2_000) {
            let end = reader.end();
            if let Some(chunk) = reader.read(at, 500, end).expect("readable") {
                assert!(EntryIter::new(&chunk.bytes).all(|entry| entry.is_ok()));
                assert!(chunk.end <= reader.end());
                at = chunk.end;
            }
        }
    });
    for content in 0..2_000 {
        append(&mut log, 1, content, 1);
    }
    reading.join().expect("read all");
}

#[test]
fn another_partitions_directory_and_a_newer_format_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);
    drop(log);
    let other = LogIdentity {
        partition: PartitionIndex(4),
        ..IDENTITY
    };
    let error = Log::open(dir.path(), other, CONFIG).expect_err("refused");
    assert!(
        matches!(error, StorageError::WrongPartition { .. }),
        "{error}"
    );
    let path = newest(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[9] = 9;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(&path, bytes).expect("written");
    let error = Log::open(dir.path(), IDENTITY, CONFIG).expect_err("refused");
    assert!(
        matches!(error, StorageError::NewerVersion { found: 9, .. }),
        "{error}"
    );
}

#[test]
fn what_is_cut_can_be_kept_aside_and_the_producers_account_goes_with_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..10 {
        append(&mut log, 1, content, 1);
    }
    log.save_producers(b"account").expect("kept");
    assert_eq!(
        log.load_producers(),
        Some((Offset(10), b"account".to_vec()))
    );
    let path = quarantine::set_aside(&log, Offset(4), "a test").expect("kept aside");
    log.truncate(Offset(4)).expect("cut");
    assert_eq!(log.load_producers(), None);
    assert_eq!(
        quarantine::list(dir.path()).expect("listed"),
        std::slice::from_ref(&path)
    );
    let bytes = std::fs::read(path).expect("read");
    let line = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line");
    let head = String::from_utf8(bytes[..line].to_vec()).expect("text");
    assert!(
        head.contains("\"from\":4") && head.contains("\"to\":10"),
        "{head}"
    );
    assert_eq!(
        EntryIter::new(&bytes[line + 1..])
            .filter(|entry| entry.is_ok())
            .count(),
        6
    );
}

#[test]
fn the_documented_format_is_what_is_written() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..20 {
        append(&mut log, 1, content, 2);
    }
    log.truncate(Offset(14)).expect("cut");
    for content in 50..70 {
        append(&mut log, 3, content, 1);
    }
    let expected: Vec<_> = entries(&log)
        .iter()
        .map(|entry| (entry.0, entry.1, entry.2))
        .collect();
    assert_eq!(read_by_the_book(dir.path()), expected);
}
