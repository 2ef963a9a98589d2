//! The start after a flush that failed: only what an earlier flush made durable is believed.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use baton_protocol::batch::EntryIter;
use baton_protocol::ids::Offset;
use baton_storage::{DamageNote, Log, Recovery, Trust, quarantine, verify};
use common::{CONFIG, IDENTITY, append, append_at, entries, flush, newest, open};

fn distrust(dir: &Path) -> (Log, Recovery, Option<DamageNote>) {
    Log::open_trusting(dir, IDENTITY, CONFIG, Trust::OnlyTheMark).expect("opens")
}

/// A log with 30 entries, a gap behind the 20th, of which the first ones are durable.
fn log_durable_to(dir: &Path, durable: u64) -> Vec<(u32, u64, u64, u64)> {
    let (mut log, _) = open(dir);
    for content in 0..30 {
        if content == durable {
            flush(&mut log);
        }
        let base = log.end().plus(if content == 20 { 50 } else { 0 });
        append_at(&mut log, 1 + (content / 20) as u32, base, content, 1);
    }
    if durable == 30 {
        flush(&mut log);
    }
    log.flush_failed();
    log.close().expect_err("failed");
    entries(&log)
}

#[test]
fn what_lies_above_the_mark_is_cut_and_kept_aside() {
    for durable in 0..=30 {
        let dir = tempfile::tempdir().expect("dir");
        let all = log_durable_to(dir.path(), durable);
        let (sound, above) = all.split_at(durable as usize);
        let end = sound.last().map_or(0, |last| last.2);
        let before = sound.last().map(|_| {
            let segments = verify::verify(dir.path()).expect("readable").segments;
            let files = segments.into_iter().map(|(path, _)| path);
            let inode = |path: &Path| std::fs::metadata(path).map(|file| file.ino()).ok();
            files.map(|path| (inode(&path), path)).collect::<Vec<_>>()
        });
        let (log, recovery, note) = distrust(dir.path());
        assert_eq!(
            (recovery.damage, note),
            (None, None),
            "durable to {durable}"
        );
        assert_eq!(entries(&log), sound, "durable to {durable}");
        assert_eq!((log.end(), log.durable_end()), (Offset(end), Offset(end)));
        // No byte of the last segment rests on what the old file has in memory.
        if let Some(before) = before {
            let last = newest(dir.path());
            let was = before.iter().find(|(_, path)| *path == last);
            let now = std::fs::metadata(&last).expect("there").ino();
            assert_ne!(was.expect("there before").0, Some(now));
        }
        let kept = quarantine::list(dir.path()).expect("listed");
        assert_eq!(kept, Vec::from_iter(recovery.not_trusted.clone()));
        assert_eq!(kept.is_empty(), above.is_empty());
        for path in &kept {
            let bytes = std::fs::read(path).expect("read");
            let line = bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .expect("a line");
            let bases = EntryIter::new(&bytes[line + 1..])
                .map(|entry| entry.expect("sound").header.base_offset().0);
            assert!(bases.eq(above.iter().map(|entry| entry.1)));
        }
        drop(log);
        let (mut log, _) = open(dir.path());
        assert_eq!(entries(&log), sound);
        append(&mut log, 7, 7, 1);
        log.close().expect("closed");
        drop(log);
        let (log, recovery, _) = distrust(dir.path());
        assert_eq!((log.end(), recovery.not_trusted), (Offset(end + 1), None));
    }
}

#[test]
fn a_log_that_is_not_there_yet_is_made() {
    let root = tempfile::tempdir().expect("dir");
    let (log, recovery, note) = distrust(&root.path().join("0"));
    assert_eq!((log.end(), recovery.damage, note), (Offset(0), None, None));
}

#[test]
fn without_a_mark_nothing_is_trusted_and_that_is_not_forgotten() {
    let dir = tempfile::tempdir().expect("dir");
    log_durable_to(dir.path(), 9);
    std::fs::remove_file(dir.path().join("durable")).expect("removed");
    let (log, _, note) = distrust(dir.path());
    let note = note.expect("noted");
    assert_eq!((log.end(), note.sound_end), (Offset(0), Offset(0)));
    assert_eq!(note.durable_end, Offset(80));
    assert!(
        quarantine::list(dir.path())
            .expect("listed")
            .contains(&note.set_aside)
    );
}

#[test]
fn damage_below_the_mark_is_repaired_as_ever() {
    let dir = tempfile::tempdir().expect("dir");
    let all = log_durable_to(dir.path(), 25);
    let first = &verify::verify(dir.path()).expect("readable").segments[0].0;
    let mut bytes = std::fs::read(first).expect("read");
    bytes[300] ^= 1;
    std::fs::write(first, bytes).expect("damaged");
    let (log, _, note) = distrust(dir.path());
    let note = note.expect("noted");
    assert_eq!((note.sound_end, note.durable_end), (log.end(), Offset(75)));
    assert!(all.starts_with(&entries(&log)) && log.end() < Offset(9));
}

#[test]
fn damage_above_the_mark_does_not_hide_what_is_not_trusted() {
    let dir = tempfile::tempdir().expect("dir");
    let all = log_durable_to(dir.path(), 5);
    // A segment that contradicts its name, well above.
    let last = newest(dir.path());
    let mut bytes = std::fs::read(&last).expect("read");
    bytes[3] ^= 1;
    std::fs::write(&last, bytes).expect("damaged");
    let (log, _, note) = distrust(dir.path());
    assert_eq!(entries(&log), all[..5]);
    assert_eq!(note.expect("noted").sound_end, Offset(5));
}
