use baton_protocol::batch::{BatchBuilder, ProducerState};
use baton_protocol::ids::{PartitionIndex, ProducerId};
use baton_replication::producers::{ProducerStamp, Verdict};
use uuid::Uuid;

use super::*;

const PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(Uuid::from_u128(9)),
    partition: PartitionIndex(0),
};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn open_in(dir: &Path, expected: bool) -> OpenedReplica {
    let config = Config::default();
    open(dir, PARTITION, expected, Trust::PageCache, &config).expect("opens")
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
            .append_batch(&batch, base, EPOCH)
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
