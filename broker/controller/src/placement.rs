//! Where the replicas of a new topic go: leaders and replicas spread evenly over the live brokers. Where
//! there are too few of these, and only then, brokers that are down follow: they catch up when they are
//! back.

use std::collections::BTreeMap;

use baton_protocol::ids::BrokerId;

use crate::state::ClusterState;

/// What a broker has so far.
#[derive(Clone, Copy, Debug)]
struct Load {
    down: bool,
    leads: u32,
    holds: u32,
}

/// The replicas of each of `partitions` partitions, leader first, on distinct brokers that are not
/// draining.
///
/// Each partition is led by the live broker that leads least (by preference) so far, and followed
/// by those that hold fewest replicas. Ties go to the lower id, so the same state always gives the
/// same answer.
///
/// # Panics
/// If no broker is alive, or there are fewer than `replicas`; the caller has checked.
pub fn place(state: &ClusterState, partitions: u32, replicas: u32) -> Vec<Vec<BrokerId>> {
    let brokers = state.brokers.values().filter(|broker| !broker.draining);
    let none = |down| Load {
        down,
        leads: 0,
        holds: 0,
    };
    let mut load: BTreeMap<BrokerId, Load> = brokers
        .map(|broker| (broker.id, none(broker.fenced)))
        .collect();
    assert!(load.len() >= replicas as usize, "not enough brokers");
    assert!(load.values().any(|load| !load.down), "not one live broker");
    for (_, partition) in state.partitions() {
        for (i, id) in partition.replicas.iter().enumerate() {
            if let Some(load) = load.get_mut(id) {
                load.leads += u32::from(i == 0);
                load.holds += 1;
            }
        }
    }
    (0..partitions)
        .map(|_| place_one(&mut load, replicas))
        .collect()
}

fn place_one(load: &mut BTreeMap<BrokerId, Load>, replicas: u32) -> Vec<BrokerId> {
    let mut chosen: Vec<BrokerId> = Vec::new();
    for i in 0..replicas {
        let candidates = load.iter().filter(|(id, _)| !chosen.contains(id));
        let best = candidates.min_by_key(|(id, load)| {
            let leads = if i == 0 { load.leads } else { 0 };
            (load.down, leads, load.holds, **id)
        });
        let Some(id) = best.map(|(id, _)| *id) else {
            break;
        };
        if let Some(load) = load.get_mut(&id) {
            load.leads += u32::from(i == 0);
            load.holds += 1;
        }
        chosen.push(id);
    }
    chosen
}
