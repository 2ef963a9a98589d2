//! What a disk can do to what had been made durable, and that a repair keeps what is sound of it.

mod common;

use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;
use baton_storage::{DamageNote, Log, ask_recheck, verify};
use common::{CONFIG, FULL, IDENTITY, append, append_at, entries, flush, open};

type Entries = Vec<(u32, u64, u64, u64)>;

/// A sound, closed log of several segments, with a gap and a cut in it, and its files.
struct Sample {
    entries: Entries,
    files: Vec<(PathBuf, Vec<u8>)>,
    segments: Vec<(PathBuf, usize)>,
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    for content in 0..18 {
        append(&mut log, 1, content, 1);
    }
    flush(&mut log);
    log.truncate(Offset(12)).expect("cut");
    append_at(&mut log, 3, Offset(40), 100, 1);
    for content in 101..120 {
        append(&mut log, 3, content, 2);
    }
    log.close().expect("closed");
    let entries = entries(&log);
    drop(log);
    // Opened once more, as after a kill: the last segment ends with its entries.
    drop(open(dir.path()));
    let report = verify::verify(dir.path()).expect("readable");
    assert!(report.problems.is_empty() && report.segments.len() >= 4);
    let within = |path: &Path| path.strip_prefix(dir.path()).expect("within").to_owned();
    let files = std::fs::read_dir(dir.path()).expect("listed").map(|file| {
        let path = file.expect("file").path();
        (within(&path), std::fs::read(&path).expect("read"))
    });
    Sample {
        entries,
        files: files.collect(),
        segments: report
            .segments
            .iter()
            .map(|(path, len)| (within(path), *len))
            .collect(),
    }
}

impl Sample {
    /// The sample in a fresh directory, with one file changed or, without bytes, missing.
    fn with(&self, file: &Path, bytes: Option<Vec<u8>>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        for (name, content) in &self.files {
            let content = match &bytes {
                _ if name != file => content,
                Some(bytes) => bytes,
                None => continue,
            };
            std::fs::write(dir.path().join(name), content).expect("written");
        }
        dir
    }

    fn bytes(&self, file: &Path) -> Vec<u8> {
        let found = self.files.iter().find(|(name, _)| name == file);
        found.expect("a file of the sample").1.clone()
    }

    /// Repairs; whatever the harm, sound entries only are left, and either all or a note.
    fn check(&self, dir: &Path, what: &str) -> Option<DamageNote> {
        let (log, recovery, note) = Log::open_repaired(dir, IDENTITY, CONFIG).expect(what);
        assert_eq!(recovery.damage, None, "{what}");
        let left = entries(&log);
        assert!(self.entries.starts_with(&left), "{what}: {left:?}");
        let end = left.last().map_or(0, |last| last.2);
        assert_eq!(log.end(), Offset(end), "{what}");
        let runs = |log: &Log| log.epochs().to_vec();
        let before = runs(&log);
        match &note {
            None => assert_eq!(left, self.entries, "{what}: nothing is lost in silence"),
            Some(note) => {
                assert_eq!(note.sound_end, log.end(), "{what}");
                let all = self.entries.last().expect("entries").2;
                if note.durable_end > note.sound_end {
                    assert_eq!(note.durable_end, Offset(all), "{what}");
                }
            }
        }
        // It goes on as any log does, and tells of its damage until that is known.
        drop(log);
        let (mut log, recovery, again) = Log::open_repaired(dir, IDENTITY, CONFIG).expect(what);
        assert_eq!((recovery.torn_bytes, recovery.leftovers), (0, 0), "{what}");
        assert_eq!((&again, runs(&log)), (&note, before), "{what}");
        append(&mut log, 7, 1_000, 1);
        flush(&mut log);
        log.damage_is_known().expect("removed");
        let expected = entries(&log);
        drop(log);
        let (log, _, note_after) = Log::open_repaired(dir, IDENTITY, CONFIG).expect(what);
        assert_eq!((entries(&log), note_after), (expected, None), "{what}");
        note
    }
}

#[test]
fn a_flipped_bit_anywhere_costs_no_more_than_what_follows_it() {
    let sample = sample();
    for (path, len) in &sample.segments {
        let whole = sample.bytes(path);
        for at in (0..*len).step_by(9) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            // A start that checks all finds it, or a scrub does after one that does not.
            for notice in [by_a_full_start, by_a_scrub] {
                let dir = sample.with(path, Some(bytes.clone()));
                let what = format!("{} byte {at}", path.display());
                notice(dir.path(), &sample);
                let note = sample.check(dir.path(), &what);
                if at >= 128 {
                    // An entry was hit; it is kept as it was found.
                    let note = note.expect(&what);
                    let kept = note.set_aside.join(format!("{}.0", path.display()));
                    assert_eq!(std::fs::read(kept).expect(&what), bytes, "{what}");
                    assert!(note.detail.contains(&*path.to_string_lossy()), "{note}");
                }
            }
        }
    }
}

fn by_a_full_start(dir: &Path, _: &Sample) {
    drop(Log::open_repaired(dir, IDENTITY, FULL).expect("repaired"));
}

/// Nothing that is damaged is given out meanwhile.
fn by_a_scrub(dir: &Path, sample: &Sample) {
    let (log, _, note) = Log::open_repaired(dir, IDENTITY, CONFIG).expect("opens");
    if note.is_some() {
        return;
    }
    let mut refused = false;
    for (_, base, end, content) in &sample.entries {
        match log.read(Offset(*base), 1) {
            Ok(chunk) => {
                let chunk = chunk.expect("there");
                assert_eq!((chunk.base.0, chunk.end.0), (*base, *end));
                let tail = &chunk.bytes[chunk.bytes.len() - 9..];
                assert_eq!(tail[..8], content.to_be_bytes());
            }
            Err(_) => refused = true,
        }
    }
    let mut scrub = log.scrub();
    let found = loop {
        match scrub.step(300) {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    assert_eq!(found.is_some(), refused);
    if let Some(why) = found {
        ask_recheck(dir, &why).expect("asked");
    }
}

#[test]
fn a_lost_seal_is_made_good_and_what_was_cut_does_not_come_back() {
    let sample = sample();
    let sealed = sample.segments.iter().map(|(path, _)| path).find(|path| {
        let bytes = sample.bytes(path);
        bytes[64..76].iter().any(|byte| *byte != 0)
    });
    let path = sealed.expect("a sealed segment");
    for at in 64..76 {
        let mut bytes = sample.bytes(path);
        bytes[at] ^= 1;
        let dir = sample.with(path, Some(bytes));
        assert_eq!(sample.check(dir.path(), "a lost seal"), None);
        let (mut log, _) = open(dir.path());
        log.truncate(Offset(12)).expect("cut");
        drop(log);
        let (log, _) = open(dir.path());
        assert_eq!(log.end(), Offset(12), "nothing stale is read");
    }
}

#[test]
fn a_page_of_zeros_is_damage() {
    let sample = sample();
    for (path, len) in &sample.segments {
        let whole = sample.bytes(path);
        for from in [0, 64, 128, 200, len / 2, len - 10] {
            let mut bytes = whole.clone();
            bytes[from..*len].fill(0);
            let dir = sample.with(path, Some(bytes));
            let what = format!("{} zero from {from}", path.display());
            assert!(sample.check(dir.path(), &what).is_some(), "{what}");
        }
    }
}

#[test]
fn a_file_that_is_too_short_is_damage() {
    let sample = sample();
    for (path, len) in &sample.segments {
        for keep in (0..*len).step_by(29) {
            let mut bytes = sample.bytes(path);
            bytes.truncate(keep);
            let dir = sample.with(path, Some(bytes));
            let what = format!("{} cut to {keep}", path.display());
            assert!(sample.check(dir.path(), &what).is_some(), "{what}");
        }
    }
}

#[test]
fn a_missing_segment_is_damage_and_what_came_after_is_kept() {
    let sample = sample();
    for (i, (path, _)) in sample.segments.iter().enumerate() {
        let dir = sample.with(path, None);
        let note = sample.check(dir.path(), "missing").expect("noted");
        let kept = std::fs::read_dir(&note.set_aside).expect("listed").count();
        assert_eq!(kept, sample.segments.len() - i, "the later ones and a note");
    }
}

#[test]
fn a_log_without_any_segment_is_damage_if_it_had_been_durable() {
    let sample = sample();
    let dir = sample.with(Path::new("none"), None);
    for (path, _) in &sample.segments {
        std::fs::remove_file(dir.path().join(path)).expect("removed");
    }
    let note = sample.check(dir.path(), "empty").expect("noted");
    assert_eq!(note.sound_end, Offset(0));
}

#[test]
fn a_mark_that_is_lost_makes_the_log_suspect_but_costs_nothing() {
    let sample = sample();
    let mark = Path::new("durable");
    let zeros = vec![0; sample.bytes(mark).len()];
    for bytes in [None, Some(Vec::new()), Some(zeros)] {
        let dir = sample.with(mark, bytes);
        let note = sample.check(dir.path(), "no mark").expect("noted");
        let all = sample.entries.last().expect("entries").2;
        assert_eq!(note.sound_end, Offset(all));
    }
    // One slot of the two is enough to know that it was a log; it may lag behind.
    for at in [3, 67] {
        let mut bytes = sample.bytes(mark);
        bytes[at] ^= 1;
        let dir = sample.with(mark, Some(bytes));
        let (log, _, _) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("opens");
        assert_eq!(entries(&log), sample.entries);
    }
}

#[test]
fn an_open_without_repair_leaves_a_damaged_log_alone() {
    let sample = sample();
    let (path, _) = &sample.segments[1];
    let mut bytes = sample.bytes(path);
    bytes[200] ^= 1;
    let dir = sample.with(path, Some(bytes));
    let (_, recovery) = open(dir.path());
    assert!(recovery.damage.is_some());
    assert_eq!(DamageNote::read(dir.path()).expect("readable"), None);
    let report = verify::verify(dir.path()).expect("readable");
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    drop(Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired"));
    let report = verify::verify(dir.path()).expect("readable");
    assert!(report.problems[0].contains("damaged before"));
}
