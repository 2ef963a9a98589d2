//! The index files: what they spare a start, and that none that is wrong is believed.

mod common;

use std::path::{Path, PathBuf};

use baton_protocol::ids::{Offset, PartitionIndex};
use baton_storage::{Check, Log, LogConfig, LogIdentity, ask_recheck, verify};
use common::{
    CONFIG, FULL, IDENTITY, append, append_at, batch, copy, entries, flush, newest, open,
};

type Entries = Vec<(u32, u64, u64, u64)>;

/// Larger segments, so that an index has something to say.
const LARGE: LogConfig = LogConfig {
    segment_bytes_max: 20_000,
    index_interval_bytes: 400,
    hint_interval_bytes: 4_000,
    check: Check::Tail,
};

fn open_large(dir: &Path) -> (Log, baton_storage::Recovery) {
    Log::open(dir, IDENTITY, LARGE).expect("opens")
}

/// A log of several segments and epochs with a gap and a cut in it, closed.
fn sample(dir: &Path, identity: LogIdentity) -> Entries {
    let (mut log, _) = Log::open(dir, identity, CONFIG).expect("opens");
    for content in 0..25 {
        append(&mut log, 1 + content as u32 / 9, content, 1);
    }
    flush(&mut log);
    log.truncate(Offset(21)).expect("cut");
    append_at(&mut log, 5, Offset(60), 100, 1);
    for content in 101..120 {
        append(&mut log, 5 + content as u32 / 110, content, 2);
    }
    log.close().expect("closed");
    entries(&log)
}

fn indexes(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("listed");
    let mut files: Vec<_> = files.map(|file| file.expect("file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "index"));
    files.sort();
    files
}

/// All that a start finds: where the log starts and ends, its epochs and its entries.
fn found(log: &Log) -> (Offset, Offset, Vec<(u32, u64)>, Entries) {
    let epochs = log.epochs().iter().map(|run| (run.0.0, run.1.0));
    (log.start(), log.end(), epochs.collect(), entries(log))
}

/// Whatever the indexes say, a start finds what one finds that looks at everything, and the next one
/// has right ones to go by.
fn check(dir: &Path, what: &str) {
    let other = copy(dir);
    let (full, recovery) = Log::open(other.path(), IDENTITY, FULL).expect(what);
    assert_eq!(recovery.damage, None, "{what}");
    let (mut log, recovery) = open(dir);
    assert_eq!(recovery.damage, None, "{what}");
    assert_eq!(found(&log), found(&full), "{what}");
    log.close().expect("closed");
    drop(log);
    let (log, _) = open(dir);
    assert_eq!(found(&log), found(&full), "{what}, once more");
}

#[test]
fn a_clean_end_leaves_little_to_check() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    for content in 0..2_000 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    let before = found(&log);
    drop(log);
    let (log, recovery) = open_large(dir.path());
    let segments = verify::verify(dir.path()).expect("readable").segments;
    let all: usize = segments.iter().map(|(_, len)| len).sum();
    let each = LARGE.index_interval_bytes + batch(0, 1).len() + 4;
    assert!(all > 150_000 && segments.len() > 7);
    assert!(
        recovery.scanned_bytes <= (segments.len() * each) as u64,
        "{recovery:?}"
    );
    let headers = 128 * segments.len() as u64;
    let left = log.scrub().bytes_left();
    assert_eq!(left + recovery.scanned_bytes + headers, all as u64);
    assert_eq!(found(&log), before);
    drop(log);
    let config = LogConfig {
        check: Check::All,
        ..LARGE
    };
    let (log, recovery) = Log::open(dir.path(), IDENTITY, config).expect("opens");
    assert_eq!(recovery.scanned_bytes, all as u64);
    assert_eq!((found(&log), log.scrub().bytes_left()), (before, 0));
}

#[test]
fn an_end_at_any_moment_leaves_a_bounded_stretch_to_check() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    let entry = batch(0, 1).len() + 4;
    for content in 0..1_000 {
        append(&mut log, 1, content, 1);
        if content % 10 != 0 {
            continue;
        }
        flush(&mut log);
        if let Some(job) = log.hint_job() {
            job.run();
        }
        // As if the process had ended now.
        let killed = copy(dir.path());
        let (again, recovery) = open_large(killed.path());
        assert_eq!(again.end(), log.end());
        let segments = verify::verify(killed.path()).expect("readable").segments;
        let each = LARGE.index_interval_bytes + entry;
        let most = segments.len() * each + LARGE.hint_interval_bytes + 20 * entry;
        assert!(recovery.scanned_bytes <= most as u64, "{recovery:?}");
    }
}

#[test]
fn what_is_not_known_to_be_durable_is_not_spoken_of() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    for content in 0..500 {
        append(&mut log, 1, content, 1);
    }
    assert!(log.hint_job().is_none());
    let half = log.prepare_flush();
    for content in 500..1_000 {
        append(&mut log, 1, content, 1);
    }
    log.flushed(half.run().expect("flushed")).expect("noted");
    log.hint_job().expect("something is durable").run();
    assert!(log.hint_job().is_none(), "it has been seen to");
    let ends = indexes(dir.path()).into_iter().map(|path| {
        let bytes = std::fs::read(path).expect("read");
        u64::from_be_bytes(bytes[48..56].try_into().expect("eight"))
    });
    assert!(ends.max().is_some_and(|end| (400..=500).contains(&end)));
}

#[test]
fn what_lies_above_the_mark_is_checked_whatever_an_index_says() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    append(&mut log, 1, 0, 1);
    flush(&mut log);
    let mark = std::fs::read(dir.path().join("durable")).expect("read");
    for content in 1..100 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    drop(log);
    // A power cut may leave an older mark, and may have taken what lies above it.
    std::fs::write(dir.path().join("durable"), mark).expect("as it was");
    let path = newest(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[2_000] ^= 1;
    std::fs::write(&path, bytes).expect("torn");
    let (log, recovery) = open_large(dir.path());
    assert_eq!(recovery.damage, None);
    assert!(recovery.torn_bytes > 0 && log.end() < Offset(100));
    assert_eq!(log.scrub().bytes_left(), 0);
}

#[test]
fn an_index_that_is_torn_or_flipped_is_as_good_as_missing() {
    let whole = tempfile::tempdir().expect("dir");
    sample(whole.path(), IDENTITY);
    let names = indexes(whole.path());
    assert!(names.len() >= 4);
    for path in &names {
        let name = path.file_name().expect("a name");
        let good = std::fs::read(path).expect("read");
        let spoil = |bytes: Option<&[u8]>, what: &str| {
            let dir = copy(whole.path());
            let path = dir.path().join(name);
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).expect("spoilt"),
                None => std::fs::remove_file(path).expect("removed"),
            }
            check(dir.path(), &format!("{} {what}", name.display()));
        };
        spoil(None, "missing");
        spoil(Some(b""), "empty");
        spoil(Some(&vec![0; good.len()]), "of zeros");
        for at in (0..good.len()).step_by(7) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            spoil(Some(&bytes), &format!("flipped at {at}"));
            spoil(Some(&good[..at]), &format!("cut at {at}"));
        }
        // Of another segment, and what is no index at all.
        for other in names.iter().filter(|other| *other != path) {
            spoil(Some(&std::fs::read(other).expect("read")), "of another");
        }
        let segment = std::fs::read(path.with_extension("log")).expect("read");
        spoil(Some(&segment), "a segment");
    }
}

#[test]
fn an_index_of_another_log_is_not_believed() {
    let (dir, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    sample(dir.path(), IDENTITY);
    let identity = LogIdentity {
        partition: PartitionIndex(9),
        ..IDENTITY
    };
    sample(other.path(), identity);
    for path in indexes(other.path()) {
        let to = dir.path().join(path.file_name().expect("a name"));
        std::fs::copy(path, to).expect("copied");
    }
    let (log, recovery) = open(dir.path());
    assert_eq!(log.scrub().bytes_left(), 0);
    let segments = verify::verify(dir.path()).expect("readable").segments;
    let all: usize = segments.iter().map(|(_, len)| len).sum();
    assert_eq!(recovery.scanned_bytes, all as u64);
    drop(log);
    check(dir.path(), "of another log");
}

/// An index with this number changed, and a checksum that fits.
fn changed(index: &[u8], at: usize, bytes: usize, change: impl Fn(u64) -> u64) -> Vec<u8> {
    let mut index = index.to_vec();
    let mut number = [0; 8];
    number[8 - bytes..].copy_from_slice(&index[at..at + bytes]);
    let now = change(u64::from_be_bytes(number)).to_be_bytes();
    index[at..at + bytes].copy_from_slice(&now[8 - bytes..]);
    let crc = crc32fast::hash(&[&index[..76], &index[80..]].concat());
    index[76..80].copy_from_slice(&crc.to_be_bytes());
    index
}

#[test]
fn an_index_whose_end_length_or_epochs_are_wrong_is_not_believed() {
    let whole = tempfile::tempdir().expect("dir");
    sample(whole.path(), IDENTITY);
    let entry = batch(0, 1).len() as u64 + 4;
    for path in indexes(whole.path()) {
        let name = path.file_name().expect("a name").to_owned();
        let good = std::fs::read(&path).expect("read");
        let epochs = u32::from_be_bytes(good[36..40].try_into().expect("four")) as usize;
        let last = good.len() - 24;
        let mut wrong = Vec::new();
        for by in [1, entry, 70_000, 1 << 40] {
            wrong.push(changed(&good, 48, 8, |end| end + by));
            wrong.push(changed(&good, 48, 8, |end| end.saturating_sub(by)));
            wrong.push(changed(&good, 56, 8, |len| len + by));
            wrong.push(changed(&good, 56, 8, |len| len.saturating_sub(by)));
            wrong.push(changed(&good, 64, 4, |check| check ^ by));
            wrong.push(changed(&good, last, 8, |base| base + by));
            wrong.push(changed(&good, last + 8, 8, |at| at.saturating_sub(by)));
            wrong.push(changed(&good, last + 8, 8, |at| at + by));
        }
        if epochs > 0 {
            // That of the last entry.
            let at = 80 + 12 * (epochs - 1);
            wrong.push(changed(&good, at, 4, |epoch| epoch + 1));
        }
        for (i, wrong) in wrong.iter().enumerate() {
            let dir = copy(whole.path());
            std::fs::write(dir.path().join(&name), wrong).expect("spoilt");
            check(dir.path(), &format!("{} case {i}", name.display()));
        }
    }
}

#[test]
fn an_index_that_lies_in_its_middle_gives_nothing_wrong_out() {
    let whole = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(whole.path());
    for content in 0..150 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    let expected = found(&log);
    drop(log);
    let path = &indexes(whole.path())[0];
    let good = std::fs::read(path).expect("read");
    // The position of the third entry of the index; no disk could do this.
    for by in [1, 50, 77] {
        let bytes = changed(&good, 80 + 12 + 2 * 24 + 8, 8, |at| at + by);
        let dir = copy(whole.path());
        std::fs::write(dir.path().join(path.file_name().expect("a name")), bytes).expect("spoilt");
        let (log, _) = open_large(dir.path());
        let mut refused = 0;
        for offset in 0..150 {
            match log.read(Offset(offset), 1) {
                Ok(chunk) => assert_eq!(chunk.expect("there").base, Offset(offset)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0);
        drop(log);
        ask_recheck(dir.path(), "a test").expect("asked");
        let (log, recovery) = open_large(dir.path());
        assert_eq!((recovery.damage, found(&log)), (None, expected.clone()));
        assert!(!dir.path().join("recheck").exists());
    }
}

#[test]
fn an_index_from_before_a_cut_is_not_believed_after_it() {
    for (cut, fresh) in [(21, 45), (10, 45), (10, 5), (0, 45), (0, 39), (39, 1)] {
        let dir = tempfile::tempdir().expect("dir");
        let (mut log, _) = open(dir.path());
        for content in 0..40 {
            append(&mut log, 1, content, 1);
        }
        flush(&mut log);
        log.hint_job().expect("segments are full").run();
        log.close().expect("closed");
        drop(log);
        let old: Vec<_> = indexes(dir.path())
            .into_iter()
            .map(|path| (std::fs::read(&path).expect("read"), path))
            .collect();
        assert!(old.len() > 3);
        let (mut log, _) = open(dir.path());
        log.truncate(Offset(cut)).expect("cut");
        let kept = indexes(dir.path());
        assert!(kept.len() < old.len());
        for content in 0..fresh {
            append(&mut log, 2, 1_000 + content, 1);
        }
        flush(&mut log);
        let expected = found(&log);
        drop(log);
        // The disk may bring them back, one or all.
        for some in 0..=old.len() {
            let dir = copy(dir.path());
            for (i, (bytes, path)) in old.iter().enumerate() {
                if some == i || some == old.len() {
                    let name = path.file_name().expect("a name");
                    std::fs::write(dir.path().join(name), bytes).expect("back");
                }
            }
            let what = format!("cut at {cut}, then {fresh}, index {some}");
            let (log, recovery) = open(dir.path());
            assert_eq!(
                (recovery.damage, found(&log)),
                (None, expected.clone()),
                "{what}"
            );
            drop(log);
            check(dir.path(), &what);
            for path in indexes(dir.path()) {
                assert!(path.with_extension("log").exists(), "{what}");
            }
        }
    }
}

#[test]
fn a_cut_that_was_interrupted_is_finished_though_the_indexes_are_there() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..30 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    drop(log);
    let before = copy(dir.path());
    let (mut log, _) = open(dir.path());
    log.truncate(Offset(5)).expect("cut");
    let expected = found(&log);
    drop(log);
    // As if the seal and the mark had been written, and neither indexes nor segments removed.
    for file in std::fs::read_dir(before.path()).expect("listed") {
        let path = file.expect("file").path();
        let to = dir.path().join(path.file_name().expect("a name"));
        if !to.exists() {
            std::fs::copy(&path, to).expect("back");
        }
    }
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, found(&log)), (None, expected));
    assert!(recovery.leftovers > 0);
    drop(log);
    check(dir.path(), "interrupted");
}

#[test]
fn a_job_from_before_a_cut_or_a_close_writes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..25 {
        append(&mut log, 1, content, 1);
    }
    log.give_account(b"account".to_vec());
    flush(&mut log);
    let late = log.hint_job().expect("segments are full");
    log.truncate(Offset(0)).expect("cut");
    late.run();
    assert_eq!(indexes(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(log.load_producers(), None);
    for content in 0..25 {
        append(&mut log, 2, content, 1);
    }
    flush(&mut log);
    let (late, later) = (log.hint_job().expect("again"), log.reader());
    log.close().expect("closed");
    for path in indexes(dir.path()) {
        std::fs::remove_file(path).expect("removed");
    }
    late.run();
    drop((log, later));
    assert_eq!(indexes(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_account_is_kept_once_what_it_speaks_of_is_durable() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    assert!(!log.account_is_due(0));
    for content in 0..100 {
        append(&mut log, 1, content, 1);
    }
    assert!(log.account_is_due(0) && !log.account_is_due(4_000));
    log.give_account(b"as of 100".to_vec());
    assert!(!log.account_is_due(0));
    let flush = log.prepare_flush();
    append(&mut log, 1, 100, 1);
    assert!(log.hint_job().is_none(), "it is not durable yet");
    log.flushed(flush.run().expect("flushed")).expect("noted");
    log.hint_job().expect("it is durable").run();
    assert_eq!(
        log.load_producers(),
        Some((Offset(100), b"as of 100".to_vec()))
    );
    assert!(!log.account_is_due(0));
    log.truncate(Offset(99)).expect("cut");
    assert_eq!(log.load_producers(), None);
    assert!(log.account_is_due(0));
}

#[test]
fn a_scrub_checks_what_a_start_believed_and_leaves_out_what_was_cut() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    for content in 0..600 {
        append(&mut log, 1 + content as u32 / 100, content, 1);
    }
    log.close().expect("closed");
    drop(log);
    let (mut log, recovery) = open_large(dir.path());
    let segments = verify::verify(dir.path()).expect("readable").segments;
    let all: usize = segments.iter().map(|(_, len)| len - 128).sum();
    let mut scrub = log.scrub();
    assert!(scrub.bytes_left() > 0);
    // Where the log is cut away, damage is nobody's.
    let (path, len) = &segments[1];
    let mut bytes = std::fs::read(path).expect("read");
    let at = len - 4_000;
    bytes[at] ^= 1;
    std::fs::write(path, &bytes).expect("damaged");
    log.truncate(Offset(210)).expect("cut");
    let mut checked = recovery.scanned_bytes as usize;
    let mut steps = 0;
    while let Some(read) = scrub.step(1).expect("sound") {
        (checked, steps) = (checked + read, steps + 1);
    }
    assert!(checked < 3 * all && steps > 100, "{checked} in {steps}");
    assert_eq!(scrub.bytes_left(), 0);
    assert_eq!(entries(&log).len(), 210);
    // Nor is there anything to be said of a log that is gone.
    let mut late = log.scrub();
    drop(log);
    assert!(matches!(late.step(1_000), Ok(None)));
}

#[test]
fn what_was_not_finished_or_belongs_to_nothing_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let expected = sample(dir.path(), IDENTITY);
    let stale = [
        dir.path().join(format!("{:020}.index.tmp", 0)),
        dir.path().join(format!("{:020}.index", 7)),
    ];
    let whole = std::fs::read(&indexes(dir.path())[0]).expect("read");
    for path in &stale {
        std::fs::write(path, &whole).expect("written");
    }
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, recovery.leftovers), (None, 0));
    assert_eq!(entries(&log), expected);
    assert!(stale.iter().all(|path| !path.exists()));
}

#[test]
fn an_index_that_was_lost_is_written_again_by_the_next_start() {
    let dir = tempfile::tempdir().expect("dir");
    sample(dir.path(), IDENTITY);
    let before: Vec<_> = indexes(dir.path())
        .into_iter()
        .map(|path| (std::fs::read(&path).expect("read"), path))
        .collect();
    for (_, path) in &before {
        std::fs::remove_file(path).expect("removed");
    }
    let (mut log, recovery) = open(dir.path());
    assert!(recovery.scanned_bytes > 2_000);
    log.hint_job().expect("all are missing").run();
    drop(log);
    for (bytes, path) in &before {
        assert_eq!(&std::fs::read(path).expect("there"), bytes);
    }
}

#[test]
fn an_index_from_before_a_cut_does_not_bring_it_back_though_the_seal_is_lost() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    for content in 0..100 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    drop(log);
    let path = &indexes(dir.path())[0];
    let old = std::fs::read(path).expect("read");
    let (mut log, _) = open_large(dir.path());
    log.truncate(Offset(40)).expect("cut");
    for content in 0..9 {
        append(&mut log, 2, content, 1);
    }
    flush(&mut log);
    let expected = found(&log);
    drop(log);
    // The seal is not there, or not to be read; what was cut lies behind it as it was.
    for seal in [[0; 12], [7; 12]] {
        let dir = copy(dir.path());
        let index = dir.path().join(path.file_name().expect("a name"));
        std::fs::write(&index, &old).expect("back");
        let segment = index.with_extension("log");
        let mut bytes = std::fs::read(&segment).expect("read");
        bytes[64..76].copy_from_slice(&seal);
        std::fs::write(&segment, bytes).expect("lost");
        let (log, recovery) = open_large(dir.path());
        assert_eq!((recovery.damage, found(&log)), (None, expected.clone()));
        drop(log);
        let (log, _) = open_large(dir.path());
        assert_eq!(found(&log), expected);
    }
}

#[test]
fn an_index_is_bound_to_the_bytes_that_it_ends_with() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open_large(dir.path());
    for content in 0..100 {
        append(&mut log, 1, content, 1);
    }
    log.close().expect("closed");
    drop(log);
    let path = &indexes(dir.path())[0];
    let good = std::fs::read(path).expect("read");
    let other = changed(&good, 64, 4, |check| check ^ 1);
    for (bytes, is_believed) in [(good, true), (other, false)] {
        std::fs::write(path, bytes).expect("written");
        let (log, _) = open_large(dir.path());
        assert_eq!(log.scrub().bytes_left() > 0, is_believed);
    }
}
