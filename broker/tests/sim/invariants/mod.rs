//! What must hold at every moment. One file each; all are told of everything that was observed, after
//! every event, and look at no more than that concerns.

mod bounds;
mod consumers;
mod duplicates;
mod durable;
mod equal_entries;
mod leader_acks;
mod leases;
mod losses;
mod offset_limit;
mod offsets;
mod one_leader;
mod quarantine;
mod starts;
mod watermark;

use crate::cluster::World;
use crate::observation::Observation;

/// The invariants, with what each remembers.
#[derive(Default)]
pub struct Invariants {
    equal_entries: equal_entries::EqualEntries,
    one_leader: one_leader::OneLeader,
    watermark: watermark::Watermark,
    consumers: consumers::Consumers,
    offsets: offsets::Offsets,
    duplicates: duplicates::Duplicates,
    losses: losses::Losses,
    leases: leases::Leases,
    starts: starts::Starts,
    offset_limit: offset_limit::OffsetLimit,
}

impl Invariants {
    /// Panics where one does not hold.
    pub fn check(&mut self, world: &World, observed: &[Observation]) {
        for observation in observed {
            bounds::check(world, observation);
            self.equal_entries.check(world, observation);
            self.one_leader.check(world, observation);
            self.watermark.check(world, observation);
            self.consumers.check(world, observation);
            self.offsets.check(observation);
            self.duplicates.check(world, observation);
            self.offset_limit.check(world, observation);
            self.losses.check(world, observation);
            self.leases.check(world, observation);
            self.starts.check(world, observation);
            leader_acks::check(world, observation);
            quarantine::check(world, observation);
            durable::check(world, observation);
        }
    }
}
