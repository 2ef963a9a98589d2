use baton_protocol::batch::{BatchBuilder, LeaderStamp, ProducerState};
use std::collections::BTreeSet;

use baton_protocol::ids::{BrokerEpoch, PartitionIndex, PartitionVersion, ProducerId, Tick};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Ack;
use baton_replication::Input;
use baton_replication::by_broker::ByBroker;
use baton_replication::event::ReplicaView;
use baton_replication::producers::{ProducerStamp, Verdict};
use uuid::Uuid;

use super::*;
use crate::driver::{BrokenReason, Output};
use crate::failure::Failure;

const PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(Uuid::from_u128(9)),
    partition: PartitionIndex(0),
};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn open_in(dir: &Path, expected: bool) -> OpenedReplica {
    open_as(&Config::default(), dir, expected)
}

fn open_as(config: &Config, dir: &Path, expected: bool) -> OpenedReplica {
    let caretaker = Caretaker::start(0, 1 << 20, Failure::new(dir)).expect("a thread");
    open(
        dir,
        PARTITION,
        expected,
        Trust::PageCache,
        config,
        &caretaker,
    )
    .expect("opens")
}

fn batch_of(sequence: u32) -> Vec<u8> {
    let mut builder = BatchBuilder::with_capacity(64);
    builder.push(1, None, Some(b"value"), &[]);
    let state = ProducerState {
        id: ProducerId(7),
        epoch: 0,
        sequence,
    };
    builder.build(Some(state)).to_vec()
}

fn append(opened: &mut OpenedReplica, sequences: std::ops::Range<u32>) {
    for sequence in sequences {
        let batch = batch_of(sequence);
        opened.log.reserve(2 * batch.len()).expect("there is room");
        let base = Offset(u64::from(sequence));
        opened
            .log
            .append_batch(&batch, &LeaderStamp::new(base, EPOCH))
            .expect("stored");
    }
}

fn verdict(opened: &OpenedReplica, sequence: u32) -> Verdict {
    let stamp = ProducerStamp {
        id: ProducerId(7),
        epoch: 0,
        sequence,
        records: 1,
    };
    opened.shape.producers.judge(&stamp, LeaderEpoch::NONE)
}

#[test]
fn what_is_cut_is_put_into_quarantine_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut opened = open_in(dir.path(), false);
    append(&mut opened, 0..3);
    opened.log.truncate(Offset(1), LeaderEpoch(2)).expect("cut");
    let aside = directory(dir.path(), PARTITION).join("quarantine");
    let kept = std::fs::read_dir(aside).expect("it is there").count();
    assert!(kept > 0, "nothing is kept of what was cut");
    drop(opened);
    assert_eq!(open_in(dir.path(), true).shape.end, Offset(1));
}

#[test]
fn producers_are_known_again_from_the_log_and_from_the_last_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut opened = open_in(dir.path(), false);
    append(&mut opened, 0..3);
    drop(opened);
    let mut opened = open_in(dir.path(), true);
    assert!(matches!(verdict(&opened, 2), Verdict::Duplicate(_)));
    assert_eq!(verdict(&opened, 3), Verdict::Fresh);
    // A snapshot as of here, and more after it.
    let producers = opened.shape.producers.clone();
    opened.log.save_producers(&producers).expect("saved");
    append(&mut opened, 3..5);
    drop(opened);
    let opened = open_in(dir.path(), true);
    for known in 0..5 {
        let known = verdict(&opened, known);
        assert!(matches!(known, Verdict::Duplicate(_)), "{known:?}");
    }
    assert_eq!(verdict(&opened, 5), Verdict::Fresh);
}

#[test]
fn a_log_that_is_expected_and_not_there_is_lossy_and_a_new_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(!open_in(dir.path(), false).shape.lossy);
    let other = tempfile::tempdir().expect("a directory");
    assert!(open_in(other.path(), true).shape.lossy);
    // Until the metadata knows: also for the next process.
    let mut opened = open_in(other.path(), true);
    assert!(opened.shape.lossy);
    opened.log.damage_is_known().expect("noted");
    drop(opened);
    assert!(!open_in(other.path(), true).shape.lossy);
}

fn flush(opened: &mut OpenedReplica) {
    let done = opened.log.prepare_flush().expect("prepared")().expect("flushed");
    opened.log.flushed(done).expect("noted");
}

#[test]
fn a_flush_is_due_after_so_many_bytes() {
    let mut config = Config::default();
    let mut due_after = |bytes| {
        config.log.flush_bytes = bytes;
        let dir = tempfile::tempdir().expect("a directory");
        let mut opened = open_as(&config, dir.path(), false);
        let mut due = Vec::new();
        for sequence in 0..6 {
            append(&mut opened, sequence..sequence + 1);
            if opened.log.is_flush_due() {
                due.push(sequence);
                // It counts from where a flush begins.
                let work = opened.log.prepare_flush().expect("prepared");
                assert!(!opened.log.is_flush_due());
                opened.log.flushed(work().expect("flushed")).expect("noted");
            }
        }
        due
    };
    assert_eq!(due_after(2 * batch_of(0).len()), [1, 3, 5]);
    assert_eq!(due_after(1), [0, 1, 2, 3, 4, 5]);
    assert!(due_after(0).is_empty());
}

fn is_there_soon(path: &Path) -> bool {
    (0..1_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        path.exists()
    })
}

#[test]
fn a_log_that_is_written_has_its_producers_kept_now_and_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut opened = open_in(dir.path(), false);
    append(&mut opened, 0..3);
    let none = ProducerTable::default();
    // Told from what the log says by what is not in the log.
    let mut table = ProducerTable::default();
    let mut absent = RememberedBatch {
        stamp: ProducerStamp {
            id: ProducerId(8),
            epoch: 0,
            sequence: 0,
            records: 1,
        },
        base: Offset(2),
        end: Offset(3),
        leader_epoch: EPOCH,
    };
    table.rebuild(absent.clone());
    opened.log.note_producers(Offset(3), &table);
    flush(&mut opened);
    let kept = directory(dir.path(), PARTITION).join("producers");
    assert!(!kept.exists(), "so little is read again");
    let mut builder = BatchBuilder::with_capacity(64);
    builder.push(1, None, Some(&vec![7; 17 << 20]), &[]);
    let large = builder.build(None);
    opened.log.reserve(large.len() + 4).expect("there is room");
    let stored = opened
        .log
        .append_batch(&large, &LeaderStamp::new(Offset(3), EPOCH));
    stored.expect("stored");
    absent.stamp.sequence = 1;
    table.rebuild(absent.clone());
    opened.log.note_producers(Offset(9), &none);
    opened.log.note_producers(Offset(4), &table);
    append(&mut opened, 4..5);
    opened.log.note_producers(Offset(5), &none);
    flush(&mut opened);
    assert!(is_there_soon(&kept));
    drop(opened);
    let opened = open_in(dir.path(), true);
    let judged = opened
        .shape
        .producers
        .judge(&absent.stamp, LeaderEpoch::NONE);
    assert!(matches!(judged, Verdict::Duplicate(_)), "{judged:?}");
    assert_eq!(verdict(&opened, 4), Verdict::Duplicate(remembered(4)));
    // Without it the log has to be read, once.
    drop(opened);
    std::fs::remove_file(&kept).expect("removed");
    drop(open_in(dir.path(), true));
    let opened = open_in(dir.path(), true);
    assert_eq!(verdict(&opened, 4), Verdict::Duplicate(remembered(4)));
    assert!(is_there_soon(&kept));
}

fn remembered(sequence: u32) -> RememberedBatch {
    RememberedBatch {
        stamp: ProducerStamp {
            id: ProducerId(7),
            epoch: 0,
            sequence,
            records: 1,
        },
        base: Offset(u64::from(sequence)),
        end: Offset(u64::from(sequence) + 1),
        leader_epoch: EPOCH,
    }
}

#[test]
fn damage_that_shows_while_a_log_is_opened_is_repaired_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut opened = open_in(dir.path(), false);
    append(&mut opened, 0..300);
    opened.log.close().expect("closed");
    drop(opened);
    let log = directory(dir.path(), PARTITION);
    let segment = log.join(format!("{:020}.log", 0));
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[900] ^= 1;
    std::fs::write(&segment, bytes).expect("damaged");
    // There is no account of the producers, so the log is read for it.
    assert!(!log.join("producers").exists());
    let opened = open_in(dir.path(), true);
    let damage = opened.damage.as_ref().expect("noticed");
    assert!(opened.shape.lossy && opened.shape.end == damage.sound_end);
    assert!(damage.sound_end < Offset(20) && damage.durable_end == Offset(300));
    assert!(!log.join("recheck").exists());
}

#[test]
fn what_a_follower_does_not_take_is_looked_at_before_it_is_sent_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let opened = open_in(dir.path(), false);
    let follower = BrokerId(2);
    let me = BrokerLife {
        broker: BrokerId(1),
        epoch: BrokerEpoch(1),
    };
    let life = |epoch: u64| ReplicaView {
        life: BrokerEpoch(epoch),
        fenced: false,
        suspect: false,
    };
    let view = PartitionView {
        epoch: LeaderEpoch(1),
        leader: Some(me),
        version: PartitionVersion::default(),
        in_sync: BTreeSet::from([me.broker, follower]),
        sync_followers_commit: 1,
        sync_followers_elect: 1,
        flush: Flush::Ack,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::MAX,
        compacted: false,
        replicas: ByBroker::from([(me.broker, life(1)), (follower, life(2))]),
    };
    let before = PartitionView {
        epoch: LeaderEpoch::NONE,
        leader: None,
        ..view.clone()
    };
    let config = baton_replication::Config::default();
    let resend_ms = config.resend_timeout_ms;
    let mut driver = opened.into_driver(me, config, before, vec![follower]);
    let sent = |driver: &mut Driver, now: u64, input: Input| {
        let mut outputs = Vec::new();
        driver.input(Tick(now), input, &mut outputs);
        let entries =
            |output: &Output| matches!(output, Output::Send { payload, .. } if !payload.is_empty());
        let damage = |output: &Output| {
            let Output::Broken(BrokenReason::Storage(error)) = output else {
                return false;
            };
            matches!(error, StorageError::Corrupt { .. })
        };
        (
            outputs.iter().filter(|output| entries(output)).count(),
            outputs.iter().any(damage),
        )
    };
    // It answers, and lacks what it was sent.
    let still_empty = Input::Ack(Ack {
        epoch: LeaderEpoch(1),
        from: BrokerLife {
            broker: follower,
            epoch: BrokerEpoch(2),
        },
        last_epoch: LeaderEpoch::NONE,
        durable_end: Offset::ZERO,
        log_end: Offset::ZERO,
    });
    assert_eq!(
        sent(&mut driver, 1, Input::Metadata(view.into())),
        (0, false)
    );
    let mut now = 2;
    for _ in 0..2 {
        let answer = still_empty.clone();
        assert_eq!(sent(&mut driver, now, answer), (1, false));
        now += 9 * resend_ms;
        assert_eq!(sent(&mut driver, now, Input::Tick), (0, false));
    }
    // The disk gives something else now than it was given.
    let segment = directory(dir.path(), PARTITION).join(format!("{:020}.log", 0));
    let segment = std::fs::File::options().write(true).open(segment);
    let segment = segment.expect("there");
    std::os::unix::fs::FileExt::write_all_at(&segment, &[9], 128 + 70).expect("changed");
    assert_eq!(sent(&mut driver, now, still_empty), (0, true));
}
