//! What a leader alone vouches for is on its disk, as firmly as its topic asks.

use baton_protocol::batch::{EntryIter, RecordIter};
use baton_protocol::ids::Offset;

use crate::cluster::World;
use crate::compaction::{id_of, key_of, newest};
use crate::log_file::{LogFile, Stored};
use crate::observation::Observation;
use crate::oracle::RecordId;

pub fn check(world: &World, observation: &Observation) {
    let Observation::AcknowledgedByLeader {
        broker,
        partition,
        first,
    } = observation
    else {
        return;
    };
    // How firmly a topic wants it is gone with the topic.
    if world.controller.committed.partition(partition).is_none() {
        return;
    }
    let disk = world.brokers[broker].disk.lock();
    let Some(file) = disk.logs.get(partition) else {
        return;
    };
    // It is among the newest.
    let mut entries = file.entries().iter().rev();
    let found = entries.find(|stored| first_record(file, stored) == Some(*first));
    let held = found.is_some_and(|stored| {
        world.flushes_at_intervals(partition) || file.holds_durably(stored.base, stored.epoch)
    });
    // A batch that is repeated may have been superseded since, by what is gone itself if it deleted its key.
    let key = key_of(*first);
    let superseded = found.is_none()
        && world.is_compacted(partition)
        && (newest(file, file.log()).contains_key(&key)
            || world.keyed.was_deleted(partition, &key));
    // Or it has expired: it was committed then, and the leader knows its producer.
    let entries = file.entries();
    let began_anew = entries.first().is_none_or(|e| e.base >= file.start());
    let expired = found.is_none() && file.start() > Offset::ZERO && began_anew;
    assert!(
        held || superseded || expired,
        "broker {broker}, {partition}: record {} is acknowledged by its leader, which does not hold it",
        first.0
    );
}

/// The first record of an entry, if it is one of a producer.
fn first_record(file: &LogFile, stored: &Stored) -> Option<RecordId> {
    let entry = EntryIter::new(file.bytes_of(stored)).next()?.ok()?;
    if entry.header.is_control() {
        return None;
    }
    let record = RecordIter::new(entry.batch, &entry.header).next()?.ok()?;
    Some(id_of(&record))
}
