//! What the tests of the log share.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::Path;

use baton_protocol::batch::{BatchBuilder, EntryIter, LeaderStamp};
use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use baton_storage::{Check, Log, LogConfig, LogIdentity, Recovery, verify};
use uuid::Uuid;

pub const IDENTITY: LogIdentity = LogIdentity {
    topic: TopicId(Uuid::from_u128(77)),
    partition: PartitionIndex(3),
};

/// Small, so that segments roll.
pub const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 1_000,
    index_interval_bytes: 200,
    hint_interval_bytes: 150,
    check: Check::Tail,
};

/// For a start that looks at every entry.
pub const FULL: LogConfig = LogConfig {
    check: Check::All,
    ..CONFIG
};

pub fn open(dir: &Path) -> (Log, Recovery) {
    Log::open(dir, IDENTITY, CONFIG).expect("opens")
}

pub fn batch(content: u64, records: u32) -> bytes::Bytes {
    let mut builder = BatchBuilder::default();
    for _ in 0..records {
        builder.push(1, None, Some(&content.to_be_bytes()), &[]);
    }
    builder.build(None)
}

pub fn append(log: &mut Log, epoch: u32, content: u64, records: u32) {
    append_at(log, epoch, log.end(), content, records);
}

pub fn append_at(log: &mut Log, epoch: u32, base: Offset, content: u64, records: u32) {
    let batch = batch(content, records);
    log.reserve(batch.len() + 4).expect("room");
    log.append_batch(&batch, &LeaderStamp::new(base, LeaderEpoch(epoch)))
        .expect("stored");
}

pub fn flush(log: &mut Log) {
    let done = log.prepare_flush().run().expect("flushed");
    log.flushed(done).expect("noted");
}

/// Every entry: epoch, base, end, content.
pub fn entries(log: &Log) -> Vec<(u32, u64, u64, u64)> {
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

/// The files of a log, in another directory: as a process that ended now would leave them.
pub fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("dir");
    for file in std::fs::read_dir(from).expect("listed") {
        let path = file.expect("file").path();
        if path.is_file() {
            std::fs::copy(&path, to.path().join(path.file_name().expect("a name")))
                .expect("copied");
        }
    }
    to
}

/// The newest segment file.
pub fn newest(dir: &Path) -> std::path::PathBuf {
    let report = verify::verify(dir).expect("readable");
    report.segments.last().expect("a segment").0.clone()
}

/// Reads a partition's directory by `docs/storage.md` alone: no type of the crate is used.
pub fn read_by_the_book(dir: &Path) -> Vec<(u32, u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("listed")
        .map(|file| file.expect("file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    let mark = std::fs::read(dir.join("durable")).expect("read");
    let slots = mark.chunks_exact(64).filter(|slot| {
        slot.starts_with(b"BTNMARK2")
            && u64::from(crc32fast::hash(&slot[..60])) == number(&slot[60..])
    });
    let newest = slots.max_by_key(|slot| number(&slot[8..16]));
    let newest = newest.expect("a sound slot");
    let (durable_end, start) = (number(&newest[16..24]), number(&newest[24..32]));
    let mut entries = Vec::new();
    // The last one with entries that is named after the start or an offset below it comes first.
    let is_first = |path: &std::path::PathBuf| {
        let base: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let bytes = std::fs::read(path).expect("read");
        base <= start && bytes.iter().skip(128).any(|byte| *byte != 0)
    };
    let first = files.iter().rposition(is_first);
    let files = files.split_off(first.unwrap_or(0));
    let mut log_end = start;
    if let (Some(_), Some(path)) = (first, files.first()) {
        log_end = number(&std::fs::read(path).expect("read")[48..56]);
    }
    for path in files {
        let bytes = std::fs::read(path).expect("read");
        assert_eq!(&bytes[..8], b"BATONSEG");
        let prev_end = number(&bytes[48..56]);
        if prev_end < log_end && bytes[128..].iter().all(|byte| *byte == 0) {
            continue;
        }
        if prev_end != log_end {
            break;
        }
        let mut end = log_end;
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
        log_end = end;
    }
    assert!(log_end.max(start) >= durable_end, "the log is damaged");
    entries.retain(|entry: &(u32, u64, u64)| entry.2 > start);
    entries
}
