use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use baton_protocol::ids::{BrokerEpoch, BrokerLife, PartitionVersion};
use baton_protocol::metadata::Flush;
use baton_replication::rules::Rules;
use baton_replication::{Config, LogShape};

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

    fn append_batch(&mut self, _: &[u8], _: Offset, _: LeaderEpoch) -> Result<(), StorageError> {
        unreachable!("nothing is appended")
    }

    fn append_entry(&mut self, _: &[u8]) -> Result<(), StorageError> {
        unreachable!("nothing is appended")
    }

    fn truncate(&mut self, _: Offset, _: LeaderEpoch) -> Result<(), StorageError> {
        unreachable!("nothing is cut")
    }

    fn read(&self, _: Offset, _: usize) -> Result<Option<Chunk>, StorageError> {
        unreachable!("nothing is read")
    }

    fn publish_high_watermark(&mut self, _: Offset) {}

    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError> {
        unreachable!("nothing is flushed")
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

fn on_a_disk_with(room: &Arc<AtomicUsize>) -> Driver {
    let me = BrokerLife {
        broker: BrokerId(1),
        epoch: BrokerEpoch(1),
    };
    let view = PartitionView {
        epoch: LeaderEpoch(1),
        leader: None,
        version: PartitionVersion::default(),
        in_sync: BTreeSet::new(),
        sync_followers_commit: 0,
        sync_followers_elect: 0,
        flush: Flush::Ack,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::ZERO,
        replicas: BTreeMap::new(),
    };
    let (config, rules) = (Config::default(), Rules::default());
    let replica = Replica::new(me, config, rules, LogShape::default(), view, []);
    Driver::new(replica, Box::new(Narrow(room.clone())))
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
