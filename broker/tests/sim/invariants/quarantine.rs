//! Every suffix that is discarded is in quarantine, entry for entry, and no member of the in-sync set
//! discards anything committed. Who is not in the set may do so: it may not have heard of the leader yet
//! that committed it, and still follow the one before.

use baton_protocol::batch::EntryIter;

use crate::cluster::World;
use crate::disk::News;
use crate::observation::Observation;

pub fn check(world: &World, observation: &Observation) {
    let Observation::Disk(
        id,
        News::Truncated {
            partition,
            to,
            discarded,
        },
    ) = observation
    else {
        return;
    };
    let Some(first) = discarded.first() else {
        return;
    };
    let record = world.controller.committed.partition(partition);
    let is_member = record.is_some_and(|record| record.in_sync.contains(id));
    if let Some(committed) = world.oracle.committed(partition).filter(|_| is_member) {
        for entry in discarded {
            assert!(
                !committed.covers(entry.base, entry.epoch),
                "broker {id}, {partition}: a cut at {to} discards {}, which is committed",
                entry.base
            );
        }
    }
    let disk = world.brokers[id].disk.lock();
    let Some(file) = disk.logs.get(partition) else {
        return;
    };
    let kept = file.quarantine.iter().rev();
    let kept = kept.flat_map(|event| {
        let entries = EntryIter::new(&event.bytes).map_while(Result::ok);
        entries.map(|entry| (entry.header.base_offset(), entry.header.leader_epoch()))
    });
    let expected = discarded.iter().map(|entry| (entry.base, entry.epoch));
    assert!(
        file.quarantine.iter().any(|event| event.from == first.base)
            && kept.take(discarded.len()).eq(expected),
        "broker {id}, {partition}: what was cut at {to} is not in quarantine"
    );
}
