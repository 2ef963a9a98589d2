//! A log whose start moves forward, and one that begins anew: what is found after an end at any moment.

mod common;

use std::path::{Path, PathBuf};

use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_storage::{Log, ReadError, Trust, quarantine, verify};
use common::{
    CONFIG, FULL, IDENTITY, append, append_at, copy, entries, flush, open, read_by_the_book,
};

type Entries = Vec<(u32, u64, u64, u64)>;

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("listed");
    let mut files: Vec<_> = files.map(|file| file.expect("file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "log"));
    files.sort();
    files
}

/// Thirty entries of six epochs in several segments, all durable.
fn sample(dir: &Path) -> Log {
    let (mut log, _) = open(dir);
    for content in 0..30 {
        append(&mut log, 1 + content as u32 / 5, content, 1);
    }
    flush(&mut log);
    run_jobs(&mut log);
    log
}

fn run_jobs(log: &mut Log) {
    if let Some(job) = log.hint_job() {
        job.run();
    }
}

fn from(entries: &Entries, start: u64) -> Entries {
    entries.iter().copied().filter(|e| e.2 > start).collect()
}

fn epoch_before(log: &Log, end: u64) -> u32 {
    let runs = log.epochs().iter().rev();
    let mut runs = runs.filter(|run| run.1 < Offset(end));
    runs.next().map_or(0, |run| run.0.0)
}

/// What a start finds, however much it checks.
fn check(dir: &Path, start: u64, expected: &Entries, epochs: &[(LeaderEpoch, Offset)]) {
    let other = copy(dir);
    let (full, recovery) = Log::open(other.path(), IDENTITY, FULL).expect("opens");
    assert_eq!(recovery.damage, None, "start {start}");
    let (log, recovery) = open(dir);
    assert_eq!(recovery.damage, None, "start {start}");
    for log in [full, log] {
        assert_eq!(log.start(), Offset(start));
        assert_eq!(&entries(&log), expected, "start {start}");
        assert_eq!(log.epochs(), epochs, "start {start}");
    }
}

#[test]
fn a_start_that_moves_takes_whole_segments_along_and_is_found_again() {
    let whole = tempfile::tempdir().expect("dir");
    let all = entries(&sample(whole.path()));
    for start in (0..=30).step_by(2) {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = sample(dir.path());
        let epochs = log.epochs().to_vec();
        let before = epoch_before(&log, start);
        let held = log.read(Offset(0), 400).expect("readable").expect("there");
        let bytes = held.bytes.to_vec();
        log.advance_start(Offset(start), None).expect("moved");
        log.advance_start(Offset(start / 2), None).expect("nothing");
        assert_eq!((log.start(), log.end()), (Offset(start), Offset(30)));
        assert_eq!(entries(&log), from(&all, start));
        assert_eq!(epoch_before(&log, start), before);
        let of_later = |run: &&(LeaderEpoch, Offset)| run.1 >= Offset(start);
        assert!(
            log.epochs()
                .iter()
                .filter(of_later)
                .eq(epochs.iter().filter(of_later))
        );
        // As if the process had ended before the files are gone, and after it.
        let epochs = log.epochs().to_vec();
        let killed = copy(dir.path());
        check(killed.path(), start, &from(&all, start), &epochs);
        run_jobs(&mut log);
        assert_eq!(held.bytes, bytes, "those who hold slices keep them");
        let left = segments(dir.path());
        assert_eq!(left, segments(dir.path()));
        let bases: Vec<u64> = left
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        assert!(
            bases.iter().filter(|base| **base <= start).count() <= 1,
            "{start}: {bases:?}"
        );
        let killed = copy(dir.path());
        check(killed.path(), start, &from(&all, start), &epochs);
        let report = verify::verify(dir.path()).expect("readable");
        assert_eq!((report.start, report.problems), (Offset(start), Vec::new()));
        let mut walked = Vec::new();
        verify::walk(dir.path(), |entry| {
            walked.push(entry.header.base_offset().0)
        })
        .expect("walked");
        assert!(walked.into_iter().eq(start..30));
        log.close().expect("closed");
        drop(log);
        check(dir.path(), start, &from(&all, start), &epochs);
        // And it goes on.
        let (mut log, _) = open(dir.path());
        for content in 30..40 {
            append(&mut log, 7, content, 1);
        }
        flush(&mut log);
        let (expected, epochs) = (entries(&log), log.epochs().to_vec());
        assert_eq!(expected.len() as u64, 40 - start);
        drop(log);
        check(dir.path(), start, &expected, &epochs);
        let book: Vec<_> = expected.iter().map(|e| (e.0, e.1, e.2)).collect();
        assert_eq!(read_by_the_book(dir.path()), book);
    }
}

#[test]
fn files_that_come_back_after_their_removal_are_removed_again() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let all = copy(dir.path());
    log.advance_start(Offset(30), None).expect("moved");
    run_jobs(&mut log);
    assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
    append(&mut log, 6, 30, 1);
    flush(&mut log);
    let (expected, epochs) = (entries(&log), log.epochs().to_vec());
    assert_eq!(epochs, [(LeaderEpoch(6), Offset(29))]);
    drop(log);
    // The directory was not flushed: a power cut brings back some of them.
    for file in segments(all.path())
        .iter()
        .chain(&segments(all.path())[..1])
    {
        std::fs::copy(file, dir.path().join(file.file_name().expect("a name"))).expect("copied");
        let killed = copy(dir.path());
        check(killed.path(), 30, &expected, &epochs);
        let (log, recovery) = open(killed.path());
        assert_eq!(segments(killed.path()).len(), 1);
        assert_eq!((log.start(), recovery.leftovers), (Offset(30), 0));
    }
}

#[test]
fn the_account_of_what_expires_is_durable_before_the_start_is_on_record() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let account = || Some(b"as of 20".to_vec());
    log.advance_start(Offset(20), account()).expect("moved");
    // An end now leaves the log as it was.
    let (old, _) = open(copy(dir.path()).path());
    assert_eq!((old.start(), old.load_producers()), (Offset(0), None));
    let files = segments(dir.path()).len();
    let job = log.start_job().expect("due");
    job.run();
    assert_eq!(segments(dir.path()).len(), files);
    let killed = copy(dir.path());
    let (old, _) = open(killed.path());
    assert_eq!(old.start(), Offset(0));
    assert_eq!(
        old.load_producers(),
        Some((Offset(20), b"as of 20".to_vec()))
    );
    let job = log.start_job().expect("due");
    job.run();
    assert!(log.start_job().is_none());
    assert!(segments(dir.path()).len() < files);
    let killed = copy(dir.path());
    let (new, _) = open(killed.path());
    assert_eq!(new.start(), Offset(20));
    assert_eq!(
        new.load_producers(),
        Some((Offset(20), b"as of 20".to_vec()))
    );
    // A newer one is of more; what is cut takes it along, and leaves this one.
    append(&mut log, 6, 1, 1);
    log.save_producers(b"newer").expect("kept");
    assert_eq!(log.load_producers(), Some((Offset(31), b"newer".to_vec())));
    log.truncate(Offset(20)).expect("cut");
    assert_eq!(
        log.load_producers(),
        Some((Offset(20), b"as of 20".to_vec()))
    );
    drop(log);
    let (mut log, _) = open(dir.path());
    assert_eq!(
        log.load_producers(),
        Some((Offset(20), b"as of 20".to_vec()))
    );
    // A clean end leaves nothing to be done.
    append(&mut log, 7, 1, 1);
    flush(&mut log);
    log.advance_start(Offset(21), Some(b"as of 21".to_vec()))
        .expect("moved");
    log.close().expect("closed");
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!((log.start(), log.end()), (Offset(21), Offset(21)));
    assert_eq!(
        log.load_producers(),
        Some((Offset(21), b"as of 21".to_vec()))
    );
}

#[test]
fn a_log_that_starts_within_a_segment_is_cut_repaired_and_distrusted_as_any_other() {
    for start in (1..30u64).step_by(4) {
        for to in (start..=30).step_by(3) {
            let dir = tempfile::tempdir().expect("dir");
            let mut log = sample(dir.path());
            let all = entries(&log);
            log.advance_start(Offset(start), None).expect("moved");
            if to % 2 == 0 {
                run_jobs(&mut log);
            }
            log.truncate(Offset(to)).expect("cut");
            assert_eq!((log.start(), log.end()), (Offset(start), Offset(to)));
            let mut expected = from(&all, start);
            expected.retain(|entry| entry.1 < to);
            let epochs = log.epochs().to_vec();
            assert_eq!(epoch_before(&log, to), 1 + (to as u32 - 1) / 5);
            let killed = copy(dir.path());
            check(killed.path(), start, &expected, &epochs);
            append_at(&mut log, 9, Offset(to + 5), 99, 1);
            flush(&mut log);
            let (expected, epochs) = (entries(&log), log.epochs().to_vec());
            drop(log);
            check(dir.path(), start, &expected, &epochs);
        }
        // Not trusted above the mark.
        let dir = tempfile::tempdir().expect("dir");
        let mut log = sample(dir.path());
        log.advance_start(Offset(start), None).expect("moved");
        let (expected, epochs) = (entries(&log), log.epochs().to_vec());
        append(&mut log, 7, 30, 1);
        drop(log);
        let (log, ..) =
            Log::open_trusting(dir.path(), IDENTITY, CONFIG, Trust::OnlyTheMark).expect("opens");
        assert_eq!((entries(&log), log.epochs()), (expected, &epochs[..]));
    }
}

#[test]
fn damage_in_a_log_that_starts_later_leaves_it_sound_from_its_start() {
    for start in [7u64, 12, 20] {
        let whole = tempfile::tempdir().expect("dir");
        let mut log = sample(whole.path());
        log.advance_start(Offset(start), None).expect("moved");
        log.close().expect("closed");
        let all = entries(&log);
        drop(log);
        for file in segments(whole.path()) {
            let len = std::fs::metadata(&file).expect("stat").len() as usize;
            for at in (3..len).step_by(181) {
                let dir = copy(whole.path());
                let path = dir.path().join(file.file_name().expect("a name"));
                let mut bytes = std::fs::read(&path).expect("read");
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).expect("damaged");
                // For a start that looks at everything.
                let (log, recovery, note) =
                    Log::open_repaired(dir.path(), IDENTITY, FULL).expect("repaired");
                assert_eq!(recovery.damage, None);
                assert_eq!(log.start(), Offset(start));
                let note = note.map_or(log.end(), |note| note.sound_end);
                assert_eq!(
                    note,
                    log.end(),
                    "start {start}, {}, byte {at}",
                    path.display()
                );
                let left = entries(&log);
                assert_eq!(left, all[..left.len()]);
                let end = log.end().0;
                assert_eq!(epoch_before(&log, end), 1 + (end as u32 - 1) / 5);
                drop(log);
                let (mut log, recovery) = open(dir.path());
                assert_eq!((recovery.damage, entries(&log)), (None, left));
                append(&mut log, 9, 1, 1);
                flush(&mut log);
                drop(log);
                let (log, recovery) = open(dir.path());
                assert_eq!((recovery.damage, log.end().0), (None, end + 1));
            }
        }
    }
}

#[test]
fn a_scrub_of_a_log_that_starts_within_a_segment_finds_it_sound() {
    let whole = tempfile::tempdir().expect("dir");
    drop(sample(whole.path()));
    for start in (1..30u64).step_by(3) {
        let dir = copy(whole.path());
        let (mut log, _) = open(dir.path());
        let scrub = |log: &Log| {
            let mut scrub = log.scrub();
            while scrub.step(100).expect("sound").is_some() {}
        };
        log.advance_start(Offset(start), None).expect("moved");
        scrub(&log);
        log.close().expect("closed");
        drop(log);
        let (log, _) = open(dir.path());
        assert_eq!(log.start(), Offset(start));
        scrub(&log);
    }
}

#[test]
fn a_reader_below_the_start_is_told_both_ends() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let reader = log.reader();
    log.advance_start(Offset(13), None).expect("moved");
    for offset in [0, 12, 31] {
        let error = reader
            .read(Offset(offset), 100, Offset(30))
            .expect_err("outside");
        let ReadError::OutOfRange { start, end, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((start, end), (Offset(13), Offset(30)));
    }
    let chunk = reader.read(Offset(13), 100, Offset(30)).expect("readable");
    assert_eq!(chunk.expect("there").base, Offset(13));
}

/// What is in a directory, as a process that ended now would find it.
fn found(dir: &Path) -> (u64, u64, Vec<(u32, u64)>) {
    let (log, recovery) = open(copy(dir).path());
    assert_eq!(recovery.damage, None);
    let epochs = log.epochs().iter().map(|run| (run.0.0, run.1.0));
    (log.start().0, log.end().0, epochs.collect())
}

#[test]
fn a_log_that_begins_anew_does_so_anywhere() {
    for (start, moved) in [(100, 0), (100, 13), (30, 30), (20, 5), (3, 20), (0, 13)] {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = sample(dir.path());
        log.save_producers(b"old").expect("kept");
        log.advance_start(Offset(moved), None).expect("moved");
        let job = log.hint_job();
        let held = log.read(Offset(moved), 400).expect("readable");
        quarantine::set_aside(&log, Offset(moved), "a test").expect("kept aside");
        let epoch = if start == 0 { 0 } else { 4 };
        log.reset(Offset(start), LeaderEpoch(epoch), Some(b"of the leader"))
            .expect("reset");
        let account = Some((Offset(start), b"of the leader".to_vec()));
        assert_eq!((log.start(), log.end()), (Offset(start), Offset(start)));
        assert_eq!(
            (log.durable_end(), log.load_producers()),
            (Offset(start), account.clone())
        );
        let empty = match start {
            0 => Vec::new(),
            _ => vec![(4, start - 1)],
        };
        assert_eq!(found(dir.path()), (start, start, empty));
        for content in 0..20 {
            append(&mut log, 5, content, 1);
        }
        if let Some(job) = job {
            job.run();
        }
        drop(held);
        flush(&mut log);
        run_jobs(&mut log);
        let (expected, epochs) = (entries(&log), log.epochs().to_vec());
        assert_eq!(expected.len(), 20);
        drop(log);
        check(dir.path(), start, &expected, &epochs);
        let (log, _) = open(dir.path());
        assert_eq!(log.load_producers(), account);
    }
}
