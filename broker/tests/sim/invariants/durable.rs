//! What is committed survives the loss of any k members of the in-sync set: so many hold it durably,
//! and whoever could win an election now is one of them.

use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use baton_protocol::metadata::PartitionRecord;

use crate::cluster::World;
use crate::disk::News;
use crate::log_file::LogFile;
use crate::observation::Observation;

pub fn check(world: &World, observation: &Observation) {
    match observation {
        Observation::HighWatermark(id, partition, to) => {
            check_watermark(world, *id, *partition, *to)
        }
        Observation::Disk(
            _,
            News::Truncated { partition, .. }
            | News::BeganAnew { partition, .. }
            | News::Started(partition)
            | News::Flushed(partition),
        ) => {
            check_partition(world, *partition);
        }
        Observation::DiskChanged | Observation::MetadataChanged => {
            for (partition, _) in world.controller.committed.partitions() {
                check_partition(world, partition);
            }
        }
        Observation::Shrunk(partition, record) => check_shrunk(world, *partition, record),
        Observation::Leads(id, partition, epoch) => check_leader(world, *id, *partition, *epoch),
        _ => {}
    }
}

/// Others than the leader that commits learn of it later: nothing new then.
fn check_watermark(world: &World, id: BrokerId, partition: TopicPartition, to: Offset) {
    if world.oracle.committed(&partition).map(|log| log.end) == Some(to) {
        check_partition(world, partition);
        check_commit(world, id, partition, to);
    }
}

/// The end of what is committed in a partition, and the epoch of the last entry of that.
fn committed(world: &World, partition: &TopicPartition) -> Option<(Offset, LeaderEpoch)> {
    let log = world.oracle.committed(partition)?;
    let last = log.end.0.checked_sub(1)?;
    Some((Offset(last), log.epochs.at(Offset(last))))
}

fn holds(
    world: &World,
    id: BrokerId,
    partition: &TopicPartition,
    last: (Offset, LeaderEpoch),
) -> bool {
    let in_memory = world.flushes_at_intervals(partition);
    let disk = world.brokers[&id].disk.lock();
    disk.logs.get(partition).is_some_and(|file| {
        if in_memory {
            file.holds(last.0, last.1)
        } else {
            file.holds_durably(last.0, last.1)
        }
    })
}

fn check_partition(world: &World, partition: TopicPartition) {
    let Some(record) = world.controller.committed.partition(&partition) else {
        return;
    };
    let Some(last) = committed(world, &partition) else {
        return;
    };
    let members = record.in_sync.iter().copied();
    let (lost, reliable): (Vec<BrokerId>, Vec<BrokerId>) =
        members.partition(|id| world.has_lost(*id, &partition));
    let holders = reliable
        .iter()
        .filter(|id| holds(world, **id, &partition, last));
    let holders: Vec<BrokerId> = holders.copied().collect();
    // A set that an election began anew is smaller, until others have caught up.
    let promised = (record.sync_followers_elect as usize + 1).min(record.in_sync.len());
    let needed = promised.saturating_sub(lost.len());
    assert!(
        holders.len() >= needed,
        "{partition}: {} is committed in epoch {}, but of {:?} only {holders:?} hold it, and {lost:?} lost what they had",
        last.0,
        last.1,
        record.in_sync
    );
    check_elections(world, partition, record, &reliable, &holders);
}

/// Whoever does not hold everything must be outvoted by those that do: in no set of members that is
/// large enough for an election is it the best.
fn check_elections(
    world: &World,
    partition: TopicPartition,
    record: &PartitionRecord,
    reliable: &[BrokerId],
    holders: &[BrokerId],
) {
    if record.sync_followers_elect == 0 {
        // An asynchronous election may lose what only others hold.
        return;
    }
    let in_memory = world.flushes_at_intervals(&partition);
    // As few as one, where an election began the set anew.
    let failures = record.sync_followers_elect as usize;
    let enough = record.in_sync.len().saturating_sub(failures).max(1);
    let position = |id: &BrokerId| {
        let disk = world.brokers[id].disk.lock();
        let file = disk.logs.get(&partition);
        let held = |file: &LogFile| match in_memory {
            true => file.position(),
            false => file.durable_position(),
        };
        file.map_or((LeaderEpoch::NONE, Offset::ZERO), held)
    };
    for id in reliable.iter().filter(|id| !holders.contains(id)) {
        let own = position(id);
        let beaten = reliable.iter().filter(|other| position(other) <= own);
        assert!(
            beaten.count() < enough,
            "{partition}: broker {id} at {own:?} could be elected without what is committed; {holders:?} hold it"
        );
    }
}

/// At the moment of a commit, so many members hold it that the leader does not hold for suspect. A
/// loss that it cannot know of yet is not held against it.
fn check_commit(world: &World, id: BrokerId, partition: TopicPartition, to: Offset) {
    let driver = world.brokers[&id].driver(&partition);
    let Some(driver) = driver.filter(|driver| driver.replica().leading().is_some()) else {
        return;
    };
    let (Some(record), Some(last)) = (
        world.controller.committed.partition(&partition),
        committed(world, &partition),
    ) else {
        return;
    };
    let view = driver.replica().view();
    // A leader that was deposed without knowing it knows nothing of the set either: what it commits
    // was in the answers to the fence.
    if view.epoch != record.epoch {
        return;
    }
    let mut counted = 0;
    let mut members = String::new();
    for member in &record.in_sync {
        let suspect = view.replicas.get(member).is_none_or(|r| r.suspect);
        let lost = world.has_lost(*member, &partition);
        let holds = holds(world, *member, &partition, last);
        counted += u32::from(!suspect && (lost || holds));
        members += &format!("; {member}: suspect {suspect}, lost {lost}, holds {holds}");
    }
    assert!(
        counted > view.sync_followers_commit,
        "{partition}: broker {id} commits {to}, which only {counted} hold that count{members}"
    );
}

/// When members leave, so many of those that stay hold everything that is committed, and may vote. A
/// loss that the leader cannot know of yet is not held against it.
fn check_shrunk(world: &World, partition: TopicPartition, record: &PartitionRecord) {
    // The topic may be gone again: one event can commit what several proposed.
    let state = &world.controller.committed;
    let (Some(_), Some(last)) = (state.partition(&partition), committed(world, &partition)) else {
        return;
    };
    let counts = |id: &&BrokerId| {
        !record.suspects.contains(id)
            && (world.has_lost(**id, &partition) || holds(world, **id, &partition, last))
    };
    let counted = record.in_sync.iter().filter(counts).count();
    assert!(
        counted > record.sync_followers_commit as usize,
        "{partition}: of the set that stays, {:?}, only {counted} hold {} and are no suspects: {:?}",
        record.in_sync,
        last.0,
        record.suspects
    );
}

/// A leader that the metadata names holds everything that was acknowledged.
fn check_leader(world: &World, id: BrokerId, partition: TopicPartition, epoch: LeaderEpoch) {
    // One that was frozen may take up an office that has passed. It leads nobody.
    let record = world.controller.committed.partition(&partition);
    if record.is_none_or(|record| record.epoch != epoch) {
        return;
    }
    if world.is_compacted(&partition) {
        let end = world.oracle.committed(&partition).map(|log| log.ever_end);
        let wrong = world.wrong_keys(id, &partition, end.unwrap_or_default());
        assert!(
            wrong.is_empty(),
            "{partition}: broker {id} leads epoch {epoch} with other records than count, by key: {wrong:?}"
        );
        return;
    }
    let disk = world.brokers[&id].disk.lock();
    let file = disk.logs.get(&partition);
    let start = file.map_or(Offset::ZERO, LogFile::start);
    let mut held = file.map_or([].as_slice(), LogFile::log).iter();
    let kept = world.oracle.acknowledged(&partition);
    for told in kept.filter(|told| told.base >= start) {
        assert!(
            held.any(|entry| entry.base == told.base && entry.epoch == told.epoch),
            "{partition}: broker {id} leads epoch {epoch} without {} of epoch {}, which was acknowledged",
            told.base,
            told.epoch
        );
    }
}
