use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use baton_protocol::batch::LeaderStamp;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, PartitionVersion};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Ack;
use baton_replication::by_broker::ByBroker;
use baton_replication::event::ReplicaView;
use baton_replication::rules::Rules;
use baton_replication::{Config, LogShape};
use baton_storage::Chunk;

use super::*;

/// A log on a disk with this much room, for what asks for room only.
struct Narrow(Arc<AtomicUsize>);

impl PartitionLog for Narrow {
    fn reserve(&mut self, bytes: usize) -> Result<(), StorageError> {
        match bytes <= self.0.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(StorageError::Full {
                path: "narrow".into(),
                bytes: bytes as u64,
            }),
        }
    }

    fn append_batch(&mut self, _: &[u8], _: &LeaderStamp) -> Result<(), StorageError> {
        Ok(())
    }

    fn append_entry(&mut self, _: &[u8]) -> Result<(), StorageError> {
        unreachable!("nothing is appended")
    }

    fn truncate(&mut self, _: Offset, _: LeaderEpoch) -> Result<(), StorageError> {
        unreachable!("nothing is cut")
    }

    fn advance_start(&mut self, _: Offset, _: &ProducerTable) -> Result<(), StorageError> {
        unreachable!("nothing expires")
    }

    fn begin_anew(&mut self, _: &Beginning, _: &ProducerTable) -> Result<(), StorageError> {
        unreachable!("nothing is discarded")
    }

    /// Its first entry, which the disk only has.
    fn read(&self, from: Offset, _: usize) -> Result<Found, StorageError> {
        Ok(Found::Away(Box::new(move || {
            let (end, bytes) = (from.plus(1), Bytes::from_static(b"entry"));
            let base = from;
            Ok(Some(Chunk { base, end, bytes }))
        })))
    }

    fn publish_high_watermark(&mut self, _: Offset) {}

    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError> {
        Ok(Box::new(|| unreachable!("nobody runs it")))
    }

    fn flushed(&mut self, _: baton_storage::FlushDone) -> Result<Offset, StorageError> {
        unreachable!("nothing is flushed")
    }

    fn save_producers(&mut self, _: &ProducerTable) -> Result<(), StorageError> {
        Ok(())
    }

    fn damage_is_known(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

fn life(broker: u32) -> BrokerLife {
    BrokerLife {
        broker: BrokerId(broker),
        epoch: BrokerEpoch(u64::from(broker)),
    }
}

/// What brokers 1 and 2 have, led by one of them.
fn led_by(leader: Option<u32>, epoch: u32) -> PartitionView {
    let replica = |broker: u32| ReplicaView {
        life: life(broker).epoch,
        fenced: false,
        suspect: false,
    };
    PartitionView {
        epoch: LeaderEpoch(epoch),
        leader: leader.map(life),
        version: PartitionVersion::default(),
        in_sync: BTreeSet::from([BrokerId(1), BrokerId(2)]),
        sync_followers_commit: 1,
        sync_followers_elect: 1,
        flush: Flush::Ack,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::MAX,
        compacted: false,
        replicas: ByBroker::from([1, 2].map(|id| (BrokerId(id), replica(id)))),
    }
}

/// Broker 1, linked to broker 2.
fn on_a_disk_with(room: &Arc<AtomicUsize>) -> Driver {
    let (config, rules) = (Config::default(), Rules::default());
    let (shape, links) = (LogShape::default(), [BrokerId(2)]);
    let replica = Replica::new(life(1), config, rules, shape, led_by(None, 0), links);
    Driver::new(replica, Box::new(Narrow(room.clone())))
}

/// A leader whose follower has an empty log, and what it has to read for it.
fn about_to_push() -> (Driver, Push, ReadWork) {
    let mut driver = on_a_disk_with(&Arc::new(AtomicUsize::new(10_000)));
    let mut out = Vec::new();
    let now = Tick(1);
    driver.input(now, Input::Metadata(led_by(Some(1), 1).into()), &mut out);
    let empty = Ack {
        epoch: LeaderEpoch(1),
        from: life(2),
        last_epoch: LeaderEpoch::NONE,
        durable_end: Offset::ZERO,
        log_end: Offset::ZERO,
    };
    driver.input(now, Input::Ack(empty), &mut out);
    let mut reads = out.into_iter().filter_map(|output| match output {
        Output::Read(push, work) => Some((push, work)),
        Output::Send { payload, .. } => {
            assert!(payload.is_empty(), "its entries are not there yet");
            None
        }
        _ => None,
    });
    let (push, work) = reads.next().expect("it reads");
    assert!(reads.next().is_none(), "one push at a time");
    drop(reads);
    (driver, push, work)
}

/// How many messages with entries leave.
fn sent(out: &[Output]) -> usize {
    let with_entries =
        |out: &&Output| matches!(out, Output::Send { payload, .. } if !payload.is_empty());
    out.iter().filter(with_entries).count()
}

#[test]
fn entries_that_were_waited_for_are_sent_once() {
    let (mut driver, push, work) = about_to_push();
    let again = Push {
        to: push.to,
        append: push.append.clone(),
    };
    let mut out = Vec::new();
    driver.read(Tick(2), push, work(), &mut out);
    assert_eq!(sent(&out), 1);
    driver.read(Tick(3), again, Ok(None), &mut out);
    assert_eq!(out.len(), 1, "nobody waits for that any more");
}

#[test]
fn entries_that_come_after_the_reign_are_not_sent() {
    let (mut driver, push, work) = about_to_push();
    let mut out = Vec::new();
    driver.input(
        Tick(2),
        Input::Metadata(led_by(Some(2), 2).into()),
        &mut out,
    );
    out.clear();
    driver.read(Tick(3), push, work(), &mut out);
    assert!(out.is_empty());
}

#[test]
fn what_cannot_be_read_counts_only_while_it_is_wanted() {
    let failed = || {
        Err(StorageError::Failed {
            path: "narrow".into(),
        })
    };
    let (mut driver, push, _) = about_to_push();
    let mut out = Vec::new();
    driver.input(Tick(2), Input::LinkDown(BrokerId(2)), &mut out);
    driver.read(Tick(2), push, failed(), &mut out);
    assert!(out.is_empty());
    let (mut driver, push, _) = about_to_push();
    driver.read(Tick(2), push, failed(), &mut out);
    assert!(matches!(out[..], [Output::Broken(_)]));
}

/// A batch of groups says what follows from the log as one reign had it.
#[test]
fn what_one_reign_has_to_append_the_next_one_does_not() {
    let mut builder = batch::BatchBuilder::default();
    builder.push(1, Some(b"key"), Some(b"value"), &[]);
    let own = CheckedBatch::check(builder.build(None), 1_000).expect("sound");
    let mut driver = on_a_disk_with(&Arc::new(AtomicUsize::new(10_000)));
    let mut out = Vec::new();
    driver.input(
        Tick(1),
        Input::Metadata(led_by(Some(1), 1).into()),
        &mut out,
    );
    driver.input(Tick(2), Input::Fence(LeaderEpoch(2)), &mut out);
    driver.input(
        Tick(2),
        Input::Metadata(led_by(Some(1), 2).into()),
        &mut out,
    );
    let end = driver.replica().log().end;
    out.clear();
    driver.append_own(Tick(3), RequestId(1), LeaderEpoch(1), &own, &mut out);
    let [
        Output::Reply {
            result: Err(error), ..
        },
    ] = &out[..]
    else {
        panic!("it is answered, and nothing else is done");
    };
    assert!(!error.is_outcome_unknown());
    assert_eq!(driver.replica().log().end, end);
    driver.append_own(Tick(3), RequestId(2), LeaderEpoch(2), &own, &mut out);
    assert_eq!(driver.replica().log().end, end.plus(1));
}

#[test]
fn a_full_disk_lacks_room_until_what_was_refused_fits() {
    let room = Arc::new(AtomicUsize::new(10));
    let mut driver = on_a_disk_with(&room);
    driver.reserve(10).expect("there is room");
    assert_eq!(driver.lacks_room(), None);
    driver.reserve(11).expect_err("the disk is full");
    driver.reserve(0).expect("nothing always fits");
    assert_eq!(driver.lacks_room(), Some(Shortage::Disk));
    room.store(11, Ordering::Relaxed);
    assert_eq!(driver.lacks_room(), None);
}

#[test]
fn a_leader_knows_what_members_of_the_set_lack() {
    let (mut driver, push, work) = about_to_push();
    let mut out = Vec::new();
    assert_eq!(driver.replica().lacked_from(), Some(Offset::ZERO));
    driver.read(Tick(2), push, work(), &mut out);
    assert_eq!(driver.replica().lacked_from(), Some(Offset(1)));
    let mut alone = led_by(Some(1), 1);
    alone.version = PartitionVersion(1);
    alone.in_sync.remove(&BrokerId(2));
    driver.input(Tick(3), Input::Metadata(alone.into()), &mut out);
    assert_eq!(driver.replica().lacked_from(), None);

    let (mut driver, ..) = about_to_push();
    let other = led_by(Some(2), 2).into();
    driver.input(Tick(2), Input::Metadata(other), &mut out);
    assert_eq!(driver.replica().lacked_from(), None);
}
