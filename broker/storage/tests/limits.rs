//! A process that may open no more files, or map no more: the log refuses what needs one, and nothing
//! else. One test, since the limits are those of the whole process.

mod common;

use std::fs::File;
use std::path::Path;

use baton_storage::{Log, LogConfig, MARKS_OPEN_MAX, Shortage, StorageError};
use common::{CONFIG, IDENTITY, append, batch, entries, flush, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than can be mapped anywhere, and still a length that a map may have.
const TOO_MUCH: usize = 1 << 60;

/// Opens files until the system refuses.
fn use_up() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Appends for as long as the present segment has room.
fn fill_up(log: &mut Log) -> StorageError {
    loop {
        let batch = batch(7, 1);
        match log.reserve(batch.len() + 4) {
            Ok(()) => append(log, 1, 7, 1),
            Err(error) => return error,
        }
    }
}

fn has_no_half_made_segment(dir: &Path) -> bool {
    let mut files = std::fs::read_dir(dir).expect("listed");
    files.all(|file| file.expect("file").path().extension() != Some("tmp".as_ref()))
}

fn limit_files(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(current);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("set");
}

/// The mark of a log that was not written for long is not open any more, and has to be opened when there
/// is nothing left to open it with.
fn a_mark_finds_a_file_where_there_is_none_left() {
    limit_files(MARKS_OPEN_MAX as u64 + 64);
    let dir = tempfile::tempdir().expect("dir");
    let (mut first, _) = open(&dir.path().join("first"));
    append(&mut first, 1, 1, 1);
    let others: Vec<Log> = (0..MARKS_OPEN_MAX)
        .map(|i| open(&dir.path().join(i.to_string())).0)
        .collect();
    let files = use_up();
    flush(&mut first);
    assert_eq!(first.durable_end(), first.end());
    drop((files, others));
    first.close().expect("closed");
}

#[test]
fn without_open_files_or_maps_only_a_new_segment_is_refused() {
    a_mark_finds_a_file_where_there_is_none_left();
    limit_files(64);
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    append(&mut log, 1, 1, 1);

    let files = use_up();
    let error = fill_up(&mut log);
    assert_eq!(error.shortage(), Some(Shortage::OpenFiles), "{error}");
    assert!(error.to_string().contains("cannot open"), "{error}");
    // The segment is a new one, so its directory is flushed with it.
    flush(&mut log);
    let before = entries(&log);
    let other = Log::open(&dir.path().join("other"), IDENTITY, CONFIG);
    let error = other.expect_err("no files left");
    assert_eq!(error.shortage(), Some(Shortage::OpenFiles), "{error}");
    drop(files);
    assert!(has_no_half_made_segment(dir.path()));

    // As soon as there are some again, it goes on.
    append(&mut log, 1, 8, 1);
    flush(&mut log);
    log.close().expect("closed");
    drop(log);
    let (log, recovery) = open(dir.path());
    assert_eq!((recovery.damage, recovery.leftovers), (None, 0));
    assert_eq!(entries(&log)[..before.len()], before);
    assert_eq!(entries(&log).len(), before.len() + 1);
    Log::open(&dir.path().join("other"), IDENTITY, CONFIG).expect("opens");

    // What the system says of too many maps, and of one that is too large.
    let config = LogConfig {
        segment_bytes_max: TOO_MUCH,
        ..CONFIG
    };
    let (mut log, _) = Log::open(&dir.path().join("huge"), IDENTITY, config).expect("opens");
    let error = log.reserve(100).expect_err("cannot be mapped");
    assert_eq!(error.shortage(), Some(Shortage::Maps), "{error}");
    assert!(has_no_half_made_segment(&dir.path().join("huge")));
}
