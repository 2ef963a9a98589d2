//! The log against a model, and against what disks and crashes do to it.

use std::path::Path;

use baton_protocol::batch::{BatchBuilder, EntryIter};
use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use baton_storage::{Log, LogConfig, LogIdentity, Recovery, StorageError, quarantine, verify};
use proptest::prelude::*;
use uuid::Uuid;

const IDENTITY: LogIdentity = LogIdentity {
    topic: TopicId(Uuid::from_u128(77)),
    partition: PartitionIndex(3),
};

/// Small, so that segments roll.
const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 1_000,
    index_interval_bytes: 200,
};

fn open(dir: &Path) -> (Log, Recovery) {
    Log::open(dir, IDENTITY, CONFIG).expect("opens")
}

fn batch(content: u64, records: u32) -> bytes::Bytes {
    let mut builder = BatchBuilder::default();
    for _ in 0..records {
        builder.push(1, None, Some(&content.to_be_bytes()), &[]);
    }
    builder.build(None)
}

fn append(log: &mut Log, epoch: u32, content: u64, records: u32) {
    let batch = batch(content, records);
    log.reserve(batch.len() + 4).expect("room");
    let end = log.end();
    log.append_batch(&batch, end, LeaderEpoch(epoch))
        .expect("stored");
}

fn flush(log: &mut Log) {
    let done = log.prepare_flush().run().expect("flushed");
    log.flushed(done).expect("noted");
}

/// Every entry: epoch, base, end, content.
fn entries(log: &Log) -> Vec<(u32, u64, u64, u64)> {
    let mut all = Vec::new();
    let mut at = log.start();
    while let Some(chunk) = log.read(at, 300).expect("readable") {
        for entry in EntryIter::new(&chunk.bytes) {
            let entry = entry.expect("sound");
            let content = entry.batch[entry.batch.len() - 9..entry.batch.len() - 1].try_into();
            let content = u64::from_be_bytes(content.expect("eight bytes"));
            let header = entry.header;
            all.push((
                header.leader_epoch().0,
                header.base_offset().0,
                header.next_offset().0,
                content,
            ));
        }
        at = chunk.end;
    }
    all
}

#[derive(Clone, Debug)]
enum Act {
    Append(u32),
    NextEpoch,
    Truncate(usize),
    Flush,
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (1u32..4).prop_map(Act::Append),
        1 => Just(Act::NextEpoch),
        2 => (0usize..100).prop_map(Act::Truncate),
        2 => Just(Act::Flush),
        1 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_is_what_was_appended_and_not_cut(acts in acts()) {
        let dir = tempfile::tempdir().expect("dir");
        let (mut log, _) = open(dir.path());
        let mut model: Vec<(u32, u64, u64, u64)> = Vec::new();
        let (mut epoch, mut content) = (1, 0);
        for act in acts {
            match act {
                Act::Append(records) => {
                    content += 1;
                    let base = log.end().0;
                    append(&mut log, epoch, content, records);
                    model.push((epoch, base, base + u64::from(records), content));
                }
                Act::NextEpoch => epoch += 1,
                Act::Truncate(percent) => {
                    let keep = model.len() * percent / 100;
                    let to = keep.checked_sub(1).map_or(0, |last| model[last].2);
                    model.truncate(keep);
                    log.truncate(Offset(to)).expect("cut");
                    // What replaces it is of a later epoch.
                    epoch += 1;
                }
                Act::Flush => {
                    flush(&mut log);
                    prop_assert_eq!(log.durable_end(), log.end());
                }
                Act::Reopen => {
                    drop(log);
                    let (opened, recovery) = open(dir.path());
                    prop_assert_eq!(recovery.damage, None);
                    log = opened;
                }
            }
            prop_assert_eq!(&entries(&log), &model);
            prop_assert_eq!(log.end().0, model.last().map_or(0, |last| last.2));
            let mut epochs: Vec<(u32, u64)> = model.iter().map(|entry| (entry.0, entry.1)).collect();
            epochs.dedup_by_key(|run| run.0);
            let found: Vec<(u32, u64)> = log.epochs().iter().map(|run| (run.0.0, run.1.0)).collect();
            prop_assert_eq!(found, epochs);
            for (_, base, end, _) in &model {
                let chunk = log.read(Offset(end - 1), 1).expect("readable").expect("there");
                prop_assert_eq!(chunk.base.0, *base);
            }
        }
    }
}

/// The newest segment file.
fn newest(dir: &Path) -> std::path::PathBuf {
    let report = verify::verify(dir).expect("readable");
    report.segments.last().expect("a segment").0.clone()
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

/// Reads a partition's directory by `docs/storage.md` alone: no type of the crate is used.
fn read_by_the_book(dir: &Path) -> Vec<(u32, u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("listed")
        .map(|file| file.expect("file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    let mut entries = Vec::new();
    let mut log_end = None;
    for path in files {
        let bytes = std::fs::read(path).expect("read");
        assert_eq!(&bytes[..8], b"BATONSEG");
        let (base, prev_end) = (number(&bytes[40..48]), number(&bytes[48..56]));
        if prev_end != log_end.unwrap_or(base) {
            break;
        }
        let mut end = log_end.unwrap_or(base);
        let sealed = number(&bytes[64..72]) as usize;
        let is_sealed =
            sealed >= 128 && crc32fast::hash(&bytes[64..72]) as u64 == number(&bytes[72..76]);
        let limit = if is_sealed { sealed } else { bytes.len() };
        let mut at = 128;
        while at + 65 <= limit {
            let length = number(&bytes[at + 12..at + 16]) as usize;
            let next = at + 4 + 12 + length;
            if length == 0
                || next > limit
                || number(&bytes[at..at + 4]) != u64::from(crc32fast::hash(&bytes[at + 4..next]))
            {
                break;
            }
            let batch = &bytes[at + 4..next];
            let first = number(&batch[..8]);
            end = first + number(&batch[23..27]) + 1;
            entries.push((number(&batch[12..16]) as u32, first, end));
            at = next;
        }
        log_end = Some(end);
    }
    entries
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
