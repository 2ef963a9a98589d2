//! The network between brokers, and from each of them to the controller.
//!
//! Messages between replicas are delayed, lost, repeated and reordered. A cut is one-way; what a
//! partition is made of.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::BrokerId;

use crate::random::Random;

/// How bad it is, in messages of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
}

impl Noise {
    /// What is always there while there is trouble.
    pub const USUAL: Noise = Noise {
        lost: 15,
        repeated: 15,
        late: 40,
    };
}

/// The state of all ways.
#[derive(Default)]
pub struct Network {
    pub noise: Noise,
    /// Ways that carry nothing, with how many faults cut them.
    cuts: BTreeMap<(BrokerId, BrokerId), u32>,
    /// Brokers that do not reach the controller, nor it them.
    controller_cuts: BTreeMap<BrokerId, u32>,
    slow: BTreeSet<BrokerId>,
}

impl Network {
    pub fn cut(&mut self, from: BrokerId, to: BrokerId) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: BrokerId, to: BrokerId) {
        release(&mut self.cuts, (from, to));
    }

    pub fn cut_controller(&mut self, broker: BrokerId) {
        *self.controller_cuts.entry(broker).or_default() += 1;
    }

    pub fn mend_controller(&mut self, broker: BrokerId) {
        release(&mut self.controller_cuts, broker);
    }

    pub fn set_slow(&mut self, broker: BrokerId, slow: bool) {
        if slow {
            self.slow.insert(broker);
        } else {
            self.slow.remove(&broker);
        }
    }

    pub fn carries(&self, from: BrokerId, to: BrokerId) -> bool {
        !self.cuts.contains_key(&(from, to))
    }

    pub fn reaches_controller(&self, broker: BrokerId) -> bool {
        !self.controller_cuts.contains_key(&broker)
    }

    /// The delay of a message between a broker and the controller, in milliseconds.
    pub fn controller_delay(&self, random: &mut Random, broker: BrokerId) -> u64 {
        match self.slow.contains(&broker) {
            true => random.between(1, 400),
            false => random.between(1, 4),
        }
    }

    pub fn heal(&mut self) {
        *self = Network::default();
    }

    /// The delays, in milliseconds, after which copies of a message arrive.
    pub fn copies(&self, random: &mut Random, from: BrokerId, to: BrokerId) -> (u32, [u64; 2]) {
        if !self.carries(from, to) || random.chance(self.noise.lost) {
            return (0, [0; 2]);
        }
        let copies = 1 + u32::from(random.chance(self.noise.repeated));
        let slow = self.slow.contains(&from) || self.slow.contains(&to);
        let mut delay = || match () {
            () if random.chance(self.noise.late) => random.between(5, 900),
            () if slow => random.between(30, 150),
            () => random.between(1, 4),
        };
        (copies, [delay(), delay()])
    }
}

fn release<K: Ord>(cuts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = cuts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            cuts.remove(&key);
        }
    }
}
