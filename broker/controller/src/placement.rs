//! Where the replicas of a new topic go: leaders and replicas spread evenly over the live brokers.

use std::collections::BTreeMap;

use baton_protocol::ids::BrokerId;

use crate::state::ClusterState;

/// The replicas of each of `partitions` partitions, leader first, on distinct live brokers.
///
/// Each partition is led by the live broker that leads least (by preference) so far, and followed
/// by those that hold fewest replicas. Ties go to the lower id, so the same state always gives the
/// same answer.
///
/// # Panics
/// If fewer than `replicas` brokers are alive; the caller has checked.
pub fn place(state: &ClusterState, partitions: u32, replicas: u32) -> Vec<Vec<BrokerId>> {
    let mut load: BTreeMap<BrokerId, (u32, u32)> = state
        .brokers
        .values()
        .filter(|broker| !broker.fenced && !broker.draining)
        .map(|broker| (broker.id, (0, 0)))
        .collect();
    assert!(load.len() >= replicas as usize, "not enough live brokers");
    for (_, partition) in state.partitions() {
        for (i, id) in partition.replicas.iter().enumerate() {
            if let Some((leads, holds)) = load.get_mut(id) {
                *leads += u32::from(i == 0);
                *holds += 1;
            }
        }
    }
    (0..partitions)
        .map(|_| place_one(&mut load, replicas))
        .collect()
}

fn place_one(load: &mut BTreeMap<BrokerId, (u32, u32)>, replicas: u32) -> Vec<BrokerId> {
    let mut chosen: Vec<BrokerId> = Vec::new();
    for i in 0..replicas {
        let candidates = load.iter().filter(|(id, _)| !chosen.contains(id));
        let best = candidates.min_by_key(|(id, (leads, holds))| {
            let leads = if i == 0 { *leads } else { 0 };
            (leads, *holds, **id)
        });
        let Some(id) = best.map(|(id, _)| *id) else {
            break;
        };
        if let Some((leads, holds)) = load.get_mut(&id) {
            *leads += u32::from(i == 0);
            *holds += 1;
        }
        chosen.push(id);
    }
    chosen
}
