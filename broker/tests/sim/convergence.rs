//! Once everything is well again, everything comes to rest: full in-sync sets, equal logs, no request
//! without its answer.

use std::collections::BTreeMap;

use baton_protocol::batch::BatchHeader;
use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, ProducerId, TopicPartition};
use baton_protocol::metadata::PartitionRecord;

use crate::cluster::World;
use crate::topics::NAMES;

/// Fewer acknowledged batches than this, and the simulation shows nothing.
const BATCHES_MIN: u64 = 100;

pub fn check(world: &World) {
    let state = &world.controller.committed;
    for name in NAMES {
        assert!(
            state.topic_named(name).is_some(),
            "there is no topic {name}"
        );
    }
    for (partition, record) in state.partitions() {
        check_partition(world, partition, record);
    }
    for (id, broker) in &world.brokers {
        let process = broker.process.as_ref().expect("all are up");
        assert!(
            process.requests.is_empty(),
            "broker {id} has not answered {:?}",
            process.requests
        );
        assert!(!state.is_fenced(*id), "broker {id} is held for dead");
    }
    let waiting = world.producers.iter().position(|p| p.is_waiting());
    assert_eq!(waiting, None, "a producer still waits");
    let acknowledged = world.stats.of("batches acknowledged");
    assert!(
        acknowledged >= BATCHES_MIN,
        "too little was produced: {acknowledged} batches"
    );
}

fn check_partition(world: &World, partition: TopicPartition, record: &PartitionRecord) {
    let state = |id: &BrokerId| {
        let broker = &world.brokers[id];
        let disk = broker.disk.lock();
        let damaged = disk.logs.iter().filter(|(_, log)| !log.is_sound());
        let damaged: Vec<String> = damaged
            .map(|(partition, _)| partition.to_string())
            .collect();
        let leads = broker
            .driver(&partition)
            .and_then(|d| d.replica().leading());
        let lost = broker.lost;
        format!(
            "{id}: runs {}, leads {leads:?}, lost {lost}, damaged {damaged:?}; ",
            broker.driver(&partition).is_some()
        )
    };
    let states: String = world.brokers.keys().map(state).collect();
    assert!(
        record.in_sync.len() == record.replicas.len() && record.suspects.is_empty(),
        "{partition}: the set is not whole: {record:?} {states}"
    );
    let leader = record.leader.expect("every partition is led").broker;
    let start = |id: &BrokerId| {
        let disk = world.brokers[id].disk.lock();
        disk.logs.get(&partition).expect("a log").start()
    };
    let starts = record.replicas.iter().map(start);
    let highest = starts.max().unwrap_or_default();
    let entries = |id: &BrokerId| {
        let disk = world.brokers[id].disk.lock();
        let file = disk.logs.get(&partition).expect("a log");
        let entries = file.log().iter();
        entries
            .filter(|entry| entry.end > highest)
            .map(|e| (e.epoch, e.base, e.crc))
            .collect::<Vec<_>>()
    };
    let expected = entries(&leader);
    let is_compacted = world.is_compacted(&partition);
    check_sequences(world, partition, leader);
    for id in &record.replicas {
        assert!(
            is_compacted || entries(id) == expected,
            "{partition}: broker {id} differs from its leader {leader}"
        );
        let wrong = world.wrong_keys(*id, &partition, Offset::MAX);
        assert!(
            wrong.is_empty(),
            "{partition}: broker {id} has other records than count, by key: {wrong:?}"
        );
        assert!(
            start(id) >= start(&leader) || world.flushes_at_intervals(&partition),
            "{partition}: broker {id} starts below its leader {leader}"
        );
        let driver = world.brokers[id].driver(&partition).expect("it runs");
        let log = driver.replica().log();
        let durable_end = match world.flushes_at_intervals(&partition) {
            // The last flush may not have been due yet.
            true => log.end,
            false => log.durable_end,
        };
        assert_eq!(
            (log.high_watermark, durable_end),
            (log.end, log.end),
            "{partition}: broker {id} is not at rest"
        );
    }
}

/// Each producer's batches are in the log in the order of their numbers, and none is left out but for
/// what an election between the two batches around it may have lost.
fn check_sequences(world: &World, partition: TopicPartition, leader: BrokerId) {
    let disk = world.brokers[&leader].disk.lock();
    let file = disk.logs.get(&partition).expect("a log");
    let mut lasts: BTreeMap<ProducerId, (LeaderEpoch, u32)> = BTreeMap::new();
    for entry in file.log() {
        let header = BatchHeader::parse(&file.bytes_of(entry)[4..]).expect("a sound entry");
        let Some(stamp) = header.producer() else {
            continue;
        };
        let last = lasts.get(&stamp.id).copied();
        if last.is_none() && file.start().0 > 0 {
            // What came before may have expired.
            lasts.insert(stamp.id, (entry.epoch, stamp.sequence + stamp.records));
            continue;
        }
        let (epoch, expected) = last.unwrap_or((LeaderEpoch::NONE, 0));
        let lost =
            stamp.sequence > expected && world.oracle.may_have_lost(partition, epoch, entry.epoch);
        assert!(
            stamp.sequence == expected
                || lost
                || world.is_compacted(&partition) && stamp.sequence > expected,
            "{partition}: the batch of producer {:?} at {} has sequence {}, after {expected}",
            stamp.id,
            entry.base,
            stamp.sequence
        );
        lasts.insert(stamp.id, (entry.epoch, stamp.sequence + stamp.records));
    }
}
