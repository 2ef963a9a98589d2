//! What the leader does about a voter whose disk was lost. Decides only; [`crate::keeper`] asks and
//! acts.
//!
//! A Raft node id is born with its directory and stands for the votes and entries in it, so an empty
//! disk under an old broker id is a new node, and the group counts the old one as dead for ever. The
//! leader brings the new one in: as a learner first, and, when that has the log, as a voter in place
//! of the old id, by joint consensus. What the old one had acknowledged is safe: the change itself
//! must be committed by a majority of the old voters, who then hold everything before it.
//!
//! Invariants:
//! - Only a broker that is a voter of the group is replaced, and only by itself; the group neither
//!   grows nor shrinks.
//! - A node id that still answers, to anybody, is never removed.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::BrokerId;

use crate::types::Voter;

/// A voter as the configuration lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredVoter {
    /// Its broker.
    pub broker: BrokerId,
    /// Where the other voters reach it.
    pub address: String,
}

/// The members of the group, by node id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub voters: BTreeMap<u64, Voter>,
    pub learners: BTreeMap<u64, Voter>,
}

/// What the leader sees of the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The node that runs as this broker at its configured address.
    pub running: BTreeMap<BrokerId, u64>,
    /// Nodes that answered, wherever, or that acknowledged something lately.
    pub alive: BTreeSet<u64>,
    /// Nodes that have the leader's log, or nearly.
    pub caught_up: BTreeSet<u64>,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send the log to this node, which has no vote.
    AddLearner(u64, Voter),
    /// Give the vote of the first ones, which are dead, to the second.
    Replace(BTreeSet<u64>, u64),
    /// Send these nothing any more: learners that died before they had a vote.
    Forget(BTreeSet<u64>),
}

/// What is to be done for the configured voters, in this order; nothing most of the time.
pub(crate) fn steps(configured: &[ConfiguredVoter], group: &Group, seen: &Seen) -> Vec<Step> {
    configured
        .iter()
        .filter_map(|voter| step(voter, group, seen))
        .collect()
}

fn step(configured: &ConfiguredVoter, group: &Group, seen: &Seen) -> Option<Step> {
    let broker = configured.broker;
    let running = *seen.running.get(&broker)?;
    let others = |nodes: &BTreeMap<u64, Voter>| -> BTreeSet<u64> {
        let same = nodes.iter().filter(|(_, node)| node.broker == broker.0);
        same.map(|(id, _)| *id)
            .filter(|id| *id != running)
            .collect()
    };
    let dead_learners: BTreeSet<u64> = &others(&group.learners) - &seen.alive;
    if !dead_learners.is_empty() {
        return Some(Step::Forget(dead_learners));
    }
    let old = others(&group.voters);
    if group.voters.contains_key(&running) || old.is_empty() || !old.is_disjoint(&seen.alive) {
        return None;
    }
    if !group.learners.contains_key(&running) {
        let voter = Voter {
            broker: broker.0,
            address: configured.address.clone(),
        };
        return Some(Step::AddLearner(running, voter));
    }
    seen.caught_up
        .contains(&running)
        .then_some(Step::Replace(old, running))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(broker: u32) -> Voter {
        Voter {
            broker,
            address: format!("host{broker}:1"),
        }
    }

    /// Brokers 1, 2, 3 are voters as nodes 10, 20, 30, and configured as such.
    fn three() -> (Vec<ConfiguredVoter>, Group, Seen) {
        let configured = (1..=3).map(|broker| ConfiguredVoter {
            broker: BrokerId(broker),
            address: voter(broker).address,
        });
        let group = Group {
            voters: (1..=3).map(|b| (u64::from(b) * 10, voter(b))).collect(),
            learners: BTreeMap::new(),
        };
        let seen = Seen {
            running: (1..=3).map(|b| (BrokerId(b), u64::from(b) * 10)).collect(),
            alive: [10, 20, 30].into(),
            caught_up: [10, 20, 30].into(),
        };
        (configured.collect(), group, seen)
    }

    /// Broker 3 runs as node 31 now.
    fn wiped() -> (Vec<ConfiguredVoter>, Group, Seen) {
        let (configured, group, mut seen) = three();
        seen.running.insert(BrokerId(3), 31);
        seen.alive = [10, 20, 31].into();
        seen.caught_up = [10, 20].into();
        (configured, group, seen)
    }

    #[test]
    fn a_sound_group_is_left_alone() {
        let (configured, group, mut seen) = three();
        assert_eq!(steps(&configured, &group, &seen), []);
        seen.running.remove(&BrokerId(2));
        seen.alive.remove(&20);
        assert_eq!(steps(&configured, &group, &seen), [], "one is down");
    }

    #[test]
    fn a_wiped_voter_is_a_learner_until_it_has_the_log() {
        let (configured, mut group, mut seen) = wiped();
        let add = Step::AddLearner(31, voter(3));
        assert_eq!(steps(&configured, &group, &seen), [add]);
        group.learners.insert(31, voter(3));
        assert_eq!(steps(&configured, &group, &seen), []);
        seen.caught_up.insert(31);
        let replace = Step::Replace([30].into(), 31);
        assert_eq!(steps(&configured, &group, &seen), [replace]);
    }

    #[test]
    fn an_id_that_still_answers_keeps_its_vote() {
        let (configured, mut group, mut seen) = wiped();
        seen.alive.insert(30);
        assert_eq!(steps(&configured, &group, &seen), []);
        group.learners.insert(31, voter(3));
        seen.caught_up.insert(31);
        assert_eq!(steps(&configured, &group, &seen), []);
    }

    #[test]
    fn a_learner_that_was_wiped_in_its_turn_is_forgotten() {
        let (configured, mut group, mut seen) = wiped();
        group.learners.insert(31, voter(3));
        seen.running.insert(BrokerId(3), 32);
        seen.alive = [10, 20, 31].into();
        let add = Step::AddLearner(32, voter(3));
        assert_eq!(steps(&configured, &group, &seen), [add], "it still answers");
        seen.alive.remove(&31);
        let forget = Step::Forget([31].into());
        assert_eq!(steps(&configured, &group, &seen), [forget]);
    }

    #[test]
    fn a_broker_that_was_no_voter_does_not_become_one() {
        let (mut configured, group, mut seen) = three();
        configured.push(ConfiguredVoter {
            broker: BrokerId(4),
            address: voter(4).address,
        });
        seen.running.insert(BrokerId(4), 40);
        seen.alive.insert(40);
        assert_eq!(steps(&configured, &group, &seen), []);
    }

    #[test]
    fn two_wiped_voters_of_five_are_both_brought_in() {
        let (mut configured, mut group, mut seen) = wiped();
        for broker in 4..=5 {
            let address = voter(broker).address;
            let broker = BrokerId(broker);
            configured.push(ConfiguredVoter { broker, address });
            group
                .voters
                .insert(u64::from(broker.0) * 10, voter(broker.0));
        }
        seen.running.insert(BrokerId(4), 41);
        let both = [
            Step::AddLearner(31, voter(3)),
            Step::AddLearner(41, voter(4)),
        ];
        assert_eq!(steps(&configured, &group, &seen), both);
    }
}
