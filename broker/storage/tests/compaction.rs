//! Compaction: the newest record of each key stays, whatever is cut off, and nothing else notices.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_protocol::batch::{
    BatchBuilder, BatchHeader, Codec, EntryIter, LeaderStamp, ProducerState, RecordIter,
    control_batch_epoch_start, expand_records,
};
use baton_protocol::ids::{LeaderEpoch, Offset, ProducerId};
use baton_storage::{Compaction, CompactionRules, Log, verify};
use bytes::Bytes;
use common::{FULL, IDENTITY, copy, flush, open, read_by_the_book};

/// Key and value.
type Record<'a> = (&'a str, Option<&'a str>);

/// What a record is: offset, key, value.
type Seen = (u64, String, Option<String>);

const DELETE_RETENTION_MS: u64 = 60_000;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64
}

fn rules() -> CompactionRules {
    CompactionRules {
        now_ms: now_ms(),
        up_to: Offset::MAX,
        delete_retention_ms: DELETE_RETENTION_MS,
        keys_max: 1_000,
    }
}

fn put(log: &mut Log, epoch: u32, records: &[Record<'_>]) {
    put_as(log, epoch, records, Codec::None, None);
}

fn put_as(
    log: &mut Log,
    epoch: u32,
    records: &[Record<'_>],
    codec: Codec,
    producer: Option<ProducerState>,
) {
    let mut builder = BatchBuilder::default();
    for (key, value) in records {
        builder.push(5, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    let batch = builder.build_with(producer, codec).expect("built");
    log.reserve(batch.len() + 4).expect("room");
    log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(epoch)))
        .expect("stored");
}

fn begin_epoch(log: &mut Log, epoch: u32) {
    let batch = control_batch_epoch_start(log.end(), LeaderEpoch(epoch), 7);
    log.reserve(batch.len() + 4).expect("room");
    log.append_batch(&batch, &LeaderStamp::new(log.end(), LeaderEpoch(epoch)))
        .expect("stored");
}

/// All that is written is durable.
fn commit(log: &mut Log) {
    flush(log);
}

/// Every record that consumers are shown.
fn seen(log: &Log) -> Vec<Seen> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut all = Vec::new();
    let mut at = log.start();
    while let Some(chunk) = log.read(at, 400).expect("readable") {
        assert!(chunk.base >= at || chunk.end > at);
        for entry in EntryIter::new(&chunk.bytes) {
            let entry = entry.expect("sound");
            if entry.header.is_control() {
                continue;
            }
            let batch = Bytes::copy_from_slice(entry.batch);
            let records = expand_records(&batch, &entry.header, 1 << 20).expect("expands");
            for record in RecordIter::of(&records, &entry.header) {
                let record = record.expect("sound");
                let key = text(record.key.expect("a key"));
                all.push((record.offset.0, key, record.value.map(text)));
            }
        }
        at = chunk.end;
    }
    all
}

/// The newest record of each key.
fn newest(seen: &[Seen]) -> BTreeMap<String, (u64, Option<String>)> {
    let records = seen.iter().cloned();
    records.map(|(at, key, value)| (key, (at, value))).collect()
}

fn run(pass: &mut Compaction) {
    while pass.step(64).expect("compacted").is_some() {}
}

fn compact(log: &mut Log, rules: &CompactionRules) -> bool {
    let Some(mut pass) = log.compaction(rules) else {
        return false;
    };
    run(&mut pass);
    drop(pass);
    log.adopt_compacted();
    true
}

/// What a start finds, however much it checks, is this log.
fn check_again(log: &Log) {
    let dir = copy(log.dir());
    for config in [FULL, common::CONFIG] {
        let (again, recovery) = Log::open(dir.path(), IDENTITY, config).expect("opens");
        assert_eq!(recovery.damage, None);
        assert_eq!(seen(&again), seen(log));
        assert_eq!(again.epochs(), log.epochs());
        assert_eq!((again.start(), again.end()), (log.start(), log.end()));
    }
    let report = verify::verify(dir.path()).expect("read");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let by_the_book = read_by_the_book(dir.path());
    assert_eq!(by_the_book.last().map(|entry| entry.2), Some(log.end().0));
}

/// Sixty records of seven keys in three epochs and several segments.
fn sample(dir: &Path) -> Log {
    let (mut log, _) = open(dir);
    for number in 0..60u32 {
        if number % 20 == 0 {
            begin_epoch(&mut log, 1 + number / 20);
        }
        let (key, value) = (format!("key {}", number % 7), format!("value {number}"));
        put(&mut log, 1 + number / 20, &[(&key, Some(&value))]);
    }
    commit(&mut log);
    log
}

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset_and_others_go() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let (before, epochs, end) = (seen(&log), log.epochs().to_vec(), log.end());
    let held = log.read(Offset(0), 400).expect("readable").expect("there");
    let bytes = held.bytes.to_vec();
    let segments = log.extents();
    assert!(compact(&mut log, &rules()));
    let after = seen(&log);
    assert!(
        after.len() < before.len() / 2,
        "{} records stay",
        after.len()
    );
    assert_eq!(newest(&after), newest(&before));
    assert!(after.iter().all(|record| before.contains(record)));
    assert_eq!((log.epochs(), log.end()), (&epochs[..], end));
    let ends = |extents: &[baton_storage::SegmentExtent]| {
        extents.iter().map(|extent| extent.end).collect::<Vec<_>>()
    };
    assert_eq!(ends(&log.extents()), ends(&segments));
    assert_eq!(held.bytes, bytes, "who holds a slice keeps it");
    check_again(&log);
    assert!(!compact(&mut log, &rules()), "nothing is due");
    // It goes on as any other log, also after a start.
    put(&mut log, 3, &[("key 0", Some("more"))]);
    commit(&mut log);
    check_again(&log);
    log.close().expect("closed");
    let (mut again, _) = open(dir.path());
    assert_eq!(seen(&again).last().map(|seen| seen.0), Some(end.0));
    assert!(compact(&mut again, &rules()), "what is clean is not known");
    check_again(&again);
}

#[test]
fn a_read_in_a_gap_gives_what_comes_next() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    compact(&mut log, &rules());
    let entries = read_by_the_book(dir.path());
    for offset in 0..log.end().0 {
        let chunk = log
            .read(Offset(offset), 1)
            .expect("readable")
            .expect("there");
        let next = entries.iter().find(|entry| entry.2 > offset).expect("one");
        assert_eq!((chunk.base.0, chunk.end.0), (next.1, next.2), "at {offset}");
    }
}

#[test]
fn what_is_not_committed_or_still_added_to_stays() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let first = log.extents()[0].end;
    let up_to_first = CompactionRules {
        up_to: first,
        ..rules()
    };
    let before = seen(&log);
    assert!(compact(&mut log, &up_to_first));
    let above = |seen: &[Seen]| seen.iter().filter(|s| s.0 >= first.0).count();
    assert_eq!(above(&seen(&log)), above(&before));
    assert_eq!(newest(&seen(&log)), newest(&before));
}

#[test]
fn records_without_a_value_stay_for_their_time_and_then_go() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    begin_epoch(&mut log, 1);
    put(
        &mut log,
        1,
        &[("gone", Some("value")), ("stays", Some("value"))],
    );
    put(&mut log, 1, &[("gone", None)]);
    for number in 0..40 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    commit(&mut log);
    let of = |log: &Log| {
        seen(log)
            .into_iter()
            .filter(|s| s.1 == "gone")
            .collect::<Vec<_>>()
    };
    assert!(compact(&mut log, &rules()));
    assert_eq!(of(&log), [(3, "gone".to_owned(), None)]);
    assert!(log.compaction(&rules()).is_none());
    let mut later = rules();
    later.now_ms += DELETE_RETENTION_MS as i64 / 2;
    assert!(log.compaction(&later).is_none(), "not yet");
    later.now_ms += DELETE_RETENTION_MS as i64;
    assert!(compact(&mut log, &later), "it is time");
    assert_eq!(of(&log), []);
    assert!(newest(&seen(&log)).contains_key("stays"));
    check_again(&log);
    later.now_ms += DELETE_RETENTION_MS as i64 * 10;
    assert!(log.compaction(&later).is_none(), "none is left");
}

/// However old both are: a reader that is slow, or a replica that is being sent the log, has the older one
/// and must not be left without the other.
#[test]
fn who_has_read_a_record_finds_what_deletes_it_for_as_long_as_that_is_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    begin_epoch(&mut log, 1);
    put(&mut log, 1, &[("gone", Some("value"))]);
    for number in 0..40 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    put(&mut log, 1, &[("gone", None)]);
    for number in 40..80 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    commit(&mut log);
    let is_there = |log: &Log| seen(log).iter().any(|s| s.1 == "gone" && s.2.is_none());
    let retention = DELETE_RETENTION_MS as i64;
    let at = |ms: i64| CompactionRules {
        now_ms: now_ms() + ms,
        ..rules()
    };
    assert!(compact(&mut log, &at(5 * retention)), "never before");
    assert!(is_there(&log), "somebody may have read the older one");
    assert!(log.compaction(&at(5 * retention)).is_none());
    assert!(log.compaction(&at(6 * retention - 1_000)).is_none());
    assert!(is_there(&log));
    assert!(compact(&mut log, &at(6 * retention + 1_000)), "it is time");
    assert!(!is_there(&log));
    check_again(&log);
    assert!(
        log.compaction(&at(60 * retention)).is_none(),
        "none is left"
    );
    // A start does not know how long that has been so.
    log.close().expect("closed");
    let (mut again, _) = open(dir.path());
    put(&mut again, 1, &[("39", None)]);
    for number in 80..120 {
        put(&mut again, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    commit(&mut again);
    assert!(compact(&mut again, &at(90 * retention)));
    assert!(seen(&again).iter().any(|s| s.1 == "39" && s.2.is_none()));
}

#[test]
fn what_deletes_a_key_stays_as_long_as_what_has_expired_may_come_back() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    begin_epoch(&mut log, 1);
    put(&mut log, 1, &[("gone", Some("value"))]);
    for number in 0..20 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    put(&mut log, 1, &[("gone", None)]);
    for number in 20..40 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    commit(&mut log);
    let second = log.extents()[0].end;
    assert!(second < Offset(22), "the two are in different segments");
    let before = copy(dir.path());
    log.advance_start(second, None).expect("moved");
    let mut later = rules();
    later.now_ms += 2 * DELETE_RETENTION_MS as i64;
    assert!(!compact(&mut log, &later), "files are in the way");
    let is_deleted = |log: &Log| newest(&seen(log)).get("gone") == Some(&(22, None));
    assert!(is_deleted(&log));
    // Of what has come about since, a power cut leaves the segments that were replaced, and not the mark.
    for file in std::fs::read_dir(dir.path()).expect("listed") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let to = before.path().join(path.file_name().expect("a name"));
            std::fs::copy(&path, to).expect("copied");
        }
    }
    let (again, _) = open(before.path());
    assert_eq!(again.start(), Offset::ZERO);
    assert!(is_deleted(&again));

    log.start_job().expect("due").run();
    later.now_ms += 2 * DELETE_RETENTION_MS as i64;
    assert!(compact(&mut log, &later));
    assert!(!compact(&mut log, &later), "its time begins now");
    assert!(is_deleted(&log));
    later.now_ms += 2 * DELETE_RETENTION_MS as i64;
    assert!(compact(&mut log, &later));
    assert_eq!(newest(&seen(&log)).get("gone"), None);
    check_again(&log);
}

#[test]
fn batches_lose_some_of_their_records_whatever_their_codec() {
    for codec in [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ] {
        if !codec.is_available() {
            continue;
        }
        let dir = tempfile::tempdir().expect("dir");
        let (mut log, _) = open(dir.path());
        begin_epoch(&mut log, 1);
        for round in 0..20 {
            let value = format!("{round} {}", "again ".repeat(20));
            let own = format!("own {round}");
            let records = [
                ("all", Some(value.as_str())),
                (own.as_str(), Some("x")),
                ("all", Some("last of its batch")),
            ];
            put_as(&mut log, 1, &records, codec, None);
        }
        commit(&mut log);
        let before = seen(&log);
        assert!(compact(&mut log, &rules()));
        let after = seen(&log);
        assert_eq!(newest(&after), newest(&before), "{codec}");
        let of_all = after.iter().filter(|s| s.1 == "all").count();
        assert!((1..20).contains(&of_all), "{codec}: {of_all}");
        check_again(&log);
    }
}

#[test]
fn what_is_expanded_counts_as_what_is_read() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    let value = "0".repeat(1 << 20);
    for _ in 0..10 {
        put_as(&mut log, 1, &[("key", Some(&value))], Codec::Gzip, None);
    }
    for number in 0..40 {
        put(&mut log, 1, &[(&format!("{number}"), Some("filler"))]);
    }
    commit(&mut log);
    let mut pass = log.compaction(&rules()).expect("due");
    let mut steps = 0;
    while let Some(spent) = pass.step(1 << 20).expect("compacted") {
        assert!(spent < 3 << 20, "one step for much more than was asked for");
        steps += 1;
    }
    assert!(steps >= 10, "{steps}");
}

#[test]
fn little_memory_takes_several_passes_to_the_same_end() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let before = seen(&log);
    let small = CompactionRules {
        keys_max: 3,
        ..rules()
    };
    let mut passes = 0;
    while compact(&mut log, &small) {
        passes += 1;
        assert_eq!(newest(&seen(&log)), newest(&before));
        assert!(passes < 100, "it comes to an end");
    }
    assert!(passes > 2);
    let other = tempfile::tempdir().expect("dir");
    let mut at_once = sample(other.path());
    compact(&mut at_once, &rules());
    // What is clean then is so with any memory; segments in which it ended may lack a pass more.
    assert!(seen(&log).len() <= seen(&at_once).len() + 7);
    check_again(&log);
}

#[test]
fn the_newest_batches_of_each_producer_keep_their_headers() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut log, _) = open(dir.path());
    begin_epoch(&mut log, 1);
    for number in 0..80u32 {
        let producer = ProducerState {
            id: ProducerId(u64::from(number % 2)),
            epoch: 0,
            sequence: number / 2,
        };
        put_as(
            &mut log,
            1,
            &[("key", Some("x"))],
            Codec::None,
            Some(producer),
        );
    }
    commit(&mut log);
    let stamps = |log: &Log| {
        let mut stamps: BTreeMap<ProducerId, Vec<u32>> = BTreeMap::new();
        let mut at = log.start();
        while let Some(chunk) = log.read(at, 400).expect("readable") {
            for entry in EntryIter::new(&chunk.bytes) {
                let header: BatchHeader = entry.expect("sound").header;
                if let Some(stamp) = header.producer() {
                    assert_eq!(stamp.records, 1);
                    stamps.entry(stamp.id).or_default().push(stamp.sequence);
                }
            }
            at = chunk.end;
        }
        stamps
    };
    let before = stamps(&log);
    assert!(compact(&mut log, &rules()));
    let after = stamps(&log);
    for (id, all) in &before {
        let kept = &after[id];
        assert!(kept.ends_with(&all[all.len() - 5..]));
        assert!(kept.len() < all.len(), "older ones go");
    }
    check_again(&log);
}

/// What is cut off at any step leaves a sound log with the newest record of each key.
#[test]
fn an_end_at_any_moment_leaves_the_newest_records() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let (before, epochs) = (seen(&log), log.epochs().to_vec());
    let mut pass = log.compaction(&rules()).expect("due");
    let mut steps = 0;
    let mut fewest = before.len();
    loop {
        let goes_on = pass.step(1).expect("compacted").is_some();
        let left = copy(dir.path());
        for config in [common::CONFIG, FULL] {
            let (again, recovery) = Log::open(left.path(), IDENTITY, config).expect("opens");
            assert_eq!(recovery.damage, None, "step {steps}");
            let found = seen(&again);
            assert_eq!(newest(&found), newest(&before), "step {steps}");
            assert!(found.len() <= fewest, "step {steps}");
            assert_eq!((again.epochs(), again.end()), (&epochs[..], log.end()));
            fewest = found.len();
        }
        let files = std::fs::read_dir(left.path()).expect("listed");
        let unnamed = files.filter(|f| f.as_ref().is_ok_and(|f| f.path().ends_with("tmp")));
        assert_eq!(unnamed.count(), 0, "nothing is left over");
        if !goes_on {
            break;
        }
        steps += 1;
    }
    assert!(steps > 100 && fewest < before.len() / 2);
    // The log still has what it had, until it takes over.
    assert_eq!(seen(&log), before);
    log.adopt_compacted();
    assert_eq!(seen(&log).len(), fewest);
}

/// An interrupted replacement: the index is gone, or the new file has no name yet.
#[test]
fn what_an_interrupted_replacement_leaves_is_removed_or_made_good() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    log.close().expect("closed");
    drop(log);
    let first = dir.path().join("00000000000000000000");
    std::fs::remove_file(first.with_extension("index")).expect("there is one");
    std::fs::write(first.with_extension("compacted.tmp"), b"half").expect("written");
    let (log, recovery) = open(dir.path());
    assert_eq!(recovery.damage, None);
    assert_eq!(seen(&log).len(), 60);
    assert!(!first.with_extension("compacted.tmp").exists());
}

/// A cut at any step holds: what it discards does not come back, and the pass is over.
#[test]
fn a_cut_at_any_moment_holds() {
    for at in (1..400).step_by(23) {
        for to in [70, 62, 40, 21] {
            let dir = tempfile::tempdir().expect("dir");
            let mut log = sample(dir.path());
            let to = to.min(log.end().0);
            let before = seen(&log);
            let mut pass = log.compaction(&rules()).expect("due");
            for _ in 0..at {
                pass.step(1).expect("compacted");
            }
            log.truncate(Offset(to)).expect("cut");
            assert_eq!(pass.step(1 << 20).expect("void"), None);
            drop(pass);
            let left = seen(&log);
            assert!(log.end().0 <= to && left.iter().all(|s| s.0 < to));
            assert!(left.iter().all(|record| before.contains(record)));
            let dir = copy(dir.path());
            let (again, recovery) = Log::open(dir.path(), IDENTITY, FULL).expect("opens");
            assert_eq!(recovery.damage, None, "step {at}, cut at {to}");
            assert_eq!(seen(&again), left, "step {at}, cut at {to}");
            assert_eq!(again.end(), log.end());
            // And the log goes on.
            begin_epoch(&mut log, 9);
            put(&mut log, 9, &[("new", Some("x"))]);
            commit(&mut log);
            check_again(&log);
        }
    }
}

#[test]
fn a_start_that_moves_or_a_log_that_begins_anew_is_not_undone() {
    for at in (1..400).step_by(37) {
        for start in [20, 45, 63] {
            let dir = tempfile::tempdir().expect("dir");
            let mut log = sample(dir.path());
            let before = newest(&seen(&log));
            let mut pass = log.compaction(&rules()).expect("due");
            for _ in 0..at {
                pass.step(1).expect("compacted");
            }
            log.advance_start(Offset(start), None).expect("moved");
            log.close().expect("closed");
            run(&mut pass);
            let (again, recovery) = open(dir.path());
            assert_eq!(recovery.damage, None, "step {at}, start {start}");
            assert_eq!((again.start(), again.end()), (Offset(start), log.end()));
            for (key, (offset, value)) in &before {
                let found = newest(&seen(&again)).get(key).cloned();
                let expected = (*offset, value.clone());
                assert!(
                    *offset < start || found == Some(expected),
                    "{key}, step {at}"
                );
            }
        }
        let dir = tempfile::tempdir().expect("dir");
        let mut log = sample(dir.path());
        let mut pass = log.compaction(&rules()).expect("due");
        for _ in 0..at {
            pass.step(1).expect("compacted");
        }
        log.reset(Offset(500), LeaderEpoch(3), None).expect("anew");
        run(&mut pass);
        drop(pass);
        log.adopt_compacted();
        assert_eq!(seen(&log), []);
        log.close().expect("closed");
        let (again, recovery) = open(dir.path());
        assert_eq!(recovery.damage, None);
        assert_eq!((again.start(), again.end()), (Offset(500), Offset(500)));
    }
}

/// The epoch of the offset before `end`, by these runs.
fn epoch_before(end: u64, runs: &[(LeaderEpoch, Offset)]) -> Option<LeaderEpoch> {
    let run = runs.iter().rev().find(|run| run.1.0 < end);
    run.map(|run| run.0)
}

#[test]
fn a_start_in_what_is_gone_keeps_the_epoch_of_what_was_there() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let all = log.epochs().to_vec();
    assert!(compact(&mut log, &rules()));
    log.close().expect("closed");
    for start in 1..=log.end().0 {
        let dir = copy(dir.path());
        let expected = epoch_before(start, &all);
        let (mut log, _) = open(dir.path());
        log.advance_start(Offset(start), None).expect("moved");
        assert_eq!(epoch_before(start, log.epochs()), expected, "{start}");
        log.close().expect("closed");
        drop(log);
        let (mut log, _) = open(dir.path());
        assert_eq!(
            epoch_before(start, log.epochs()),
            expected,
            "{start}, opened"
        );
        // Nothing is left but the start: it offers no later epoch than it held.
        log.truncate(Offset(start)).expect("cut");
        log.close().expect("closed");
        drop(log);
        let (log, _) = open(dir.path());
        let last = log.epochs().last().map(|run| run.0);
        assert_eq!((log.end(), last), (Offset(start), expected), "cut");
    }
}

#[test]
fn damage_is_told_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = sample(dir.path());
    let first = dir.path().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&first).expect("read");
    let segments = bytes.len();
    bytes[segments / 2] ^= 4;
    std::fs::write(&first, &bytes).expect("written");
    let mut pass = log.compaction(&rules()).expect("due");
    let error = loop {
        match pass.step(64) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it is not seen"),
            Err(error) => break error,
        }
    };
    assert!(
        error.to_string().contains("00000000000000000000.log"),
        "{error}"
    );
    assert_eq!(pass.step(64).expect("over"), None);
    assert_eq!(std::fs::read(&first).expect("read"), bytes);
    assert!(log.compaction(&rules()).is_none(), "not again at once");
    std::thread::sleep(Duration::from_millis(1));
}
