//! A controller as the rules of election want it, moved by hand.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion,
};
use baton_protocol::metadata::Flush;
use baton_replication::event::{
    FenceAnswer, HandoverProposal, PartitionView, ReplicaView, SetProposal,
};
use baton_replication::offsets::QUANTUM_MIN;
use baton_replication::rules::{Rule, Rules};

/// The metadata of the one partition, and its election.
#[derive(Debug)]
pub struct Controller {
    rules: Rules,
    /// The partition as it is committed.
    pub view: PartitionView,
    /// Every state that the partition has been in, oldest first; brokers learn them in order.
    pub history: Vec<PartitionView>,
    /// Answers to the fence of the election that is on.
    election: Option<BTreeMap<BrokerId, FenceAnswer>>,
    lives: u64,
}

impl Controller {
    /// A partition on the brokers 1 to `brokers`, without a leader yet.
    pub fn new(rules: Rules, brokers: u32, in_sync: BTreeSet<u32>, k: u32, flush: Flush) -> Self {
        let replica = |id: u32| ReplicaView {
            life: BrokerEpoch(u64::from(id)),
            fenced: false,
            suspect: false,
        };
        let view = PartitionView {
            epoch: LeaderEpoch::NONE,
            leader: None,
            version: PartitionVersion(1),
            in_sync: in_sync.into_iter().map(BrokerId).collect(),
            sync_followers_commit: k,
            sync_followers_elect: k,
            flush,
            offset_limit: Offset(QUANTUM_MIN),
            offset_floor: Offset::ZERO,
            lossy_epoch: LeaderEpoch::NONE,
            leader_keeps: Offset::MAX,
            compacted: false,
            replicas: (1..=brokers)
                .map(|id| (BrokerId(id), replica(id)))
                .collect(),
        };
        Controller {
            rules,
            history: vec![view.clone()],
            view,
            election: None,
            lives: u64::from(brokers),
        }
    }

    /// Commits a change of the partition.
    pub fn change(&mut self, change: impl FnOnce(&mut PartitionView)) {
        change(&mut self.view);
        self.view.version = self.view.version.next();
        self.history.push(self.view.clone());
    }

    /// Changes what is known of a broker. The partition's version stays.
    pub fn change_replica(&mut self, id: u32, change: impl FnOnce(&mut ReplicaView)) {
        if let Some(replica) = self.view.replicas.get_mut(&BrokerId(id)) {
            change(replica);
        }
        self.history.push(self.view.clone());
    }

    /// Grants room for offsets. The partition's version stays.
    pub fn change_limit(&mut self, limit: Offset) {
        self.view.offset_limit = self.view.offset_limit.max(limit);
        self.history.push(self.view.clone());
    }

    /// Registers a new life of a broker.
    pub fn register(&mut self, id: u32, suspect: bool) -> BrokerLife {
        self.lives += 1;
        let epoch = BrokerEpoch(self.lives);
        self.change_replica(id, |replica| {
            replica.life = epoch;
            replica.suspect |= suspect;
        });
        BrokerLife {
            broker: BrokerId(id),
            epoch,
        }
    }

    /// The present life of a broker.
    pub fn life(&self, id: u32) -> Option<BrokerEpoch> {
        self.view.replicas.get(&BrokerId(id)).map(|r| r.life)
    }

    /// Whether a broker may have lost what it acknowledged.
    pub fn is_suspect(&self, id: u32) -> bool {
        let replica = self.view.replicas.get(&BrokerId(id));
        replica.is_some_and(|replica| replica.suspect)
    }

    /// Members of the set.
    pub fn members(&self) -> Vec<u32> {
        self.view.in_sync.iter().map(|id| id.0).collect()
    }

    /// Whether an election is on.
    pub fn is_electing(&self) -> bool {
        self.election.is_some()
    }

    /// Begins an election: the next epoch, no leader.
    pub fn begin_election(&mut self) {
        self.change(|view| {
            view.epoch = view.epoch.next();
            view.leader = None;
        });
        self.election = Some(BTreeMap::new());
    }

    /// Takes an answer to the fence. Only one of a broker's present life says anything.
    pub fn take_answer(&mut self, answer: FenceAnswer) {
        if answer.epoch != self.view.epoch
            || self.life(answer.life.broker.0) != Some(answer.life.epoch)
        {
            return;
        }
        if let Some(answers) = &mut self.election {
            answers.insert(answer.life.broker, answer);
        }
    }

    /// The answers that count. Were suspects counted as holders, they would be here as well.
    fn counted(&self) -> Vec<&FenceAnswer> {
        let suspects_count = !self.rules.hold(Rule::SuspectsDoNotCount);
        self.election
            .iter()
            .flat_map(|answers| answers.values())
            .filter(|answer| {
                let id = answer.life.broker;
                self.view.in_sync.contains(&id)
                    && self.life(id.0) == Some(answer.life.epoch)
                    && (suspects_count || !(answer.suspect || self.is_suspect(id.0)))
            })
            .collect()
    }

    /// Names the leader, if the answers suffice: all members but as many as may be lost.
    pub fn decide(&mut self) -> Result<BrokerLife, String> {
        let counted = self.counted();
        let lost_max = self.view.sync_followers_elect as usize;
        let needed = self.view.in_sync.len().saturating_sub(lost_max).max(1);
        let best = counted
            .iter()
            .max_by_key(|answer| {
                let first = std::cmp::Reverse(answer.life.broker);
                (answer.last_epoch, answer.durable_end, first)
            })
            .map(|answer| answer.life);
        match best {
            Some(winner) if counted.len() >= needed => {
                self.grant(winner);
                Ok(winner)
            }
            _ => Err(format!("waits: {} of {needed} answers", counted.len())),
        }
    }

    /// Names the leader.
    pub fn grant(&mut self, winner: BrokerLife) {
        self.election = None;
        self.change(|view| {
            view.leader = Some(winner);
        });
    }

    /// Names a leader that may lack what was committed: alone in the set, above all offsets that
    /// were ever assigned.
    pub fn grant_lossy(&mut self, winner: BrokerLife, kept: Offset) {
        self.election = None;
        self.change(|view| {
            view.leader = Some(winner);
            view.in_sync = [winner.broker].into();
            view.lossy_epoch = view.epoch;
            view.leader_keeps = kept;
            view.offset_floor = view.offset_limit;
            view.offset_limit = view.offset_limit.plus(QUANTUM_MIN);
            if let Some(replica) = view.replicas.get_mut(&winner.broker) {
                replica.suspect = false;
            }
        });
    }

    /// Compares and sets a successor. A refusal raises the version, so that no late copy of the
    /// proposal is accepted after it.
    pub fn apply_handover(&mut self, from: BrokerLife, proposal: &HandoverProposal) -> bool {
        let view = &self.view;
        if view.leader != Some(from)
            || view.epoch != proposal.epoch
            || view.version != proposal.version
        {
            return false;
        }
        let to = proposal.to;
        let replica = view.replicas.get(&to.broker);
        let sound = view.in_sync.contains(&to.broker)
            && replica.is_some_and(|r| r.life == to.epoch && !r.fenced && !r.suspect);
        self.change(|view| {
            if sound {
                view.epoch = view.epoch.next();
                view.leader = Some(to);
            }
        });
        sound
    }

    /// Compares and sets. Whether the proposal was accepted.
    pub fn apply(&mut self, from: BrokerLife, proposal: &SetProposal) -> bool {
        let view = &self.view;
        let current = |life: &BrokerLife| self.life(life.broker.0) == Some(life.epoch);
        let stale = view.leader != Some(from)
            || view.epoch != proposal.epoch
            || view.version != proposal.version
            || !proposal.verified.iter().all(current);
        if stale {
            return false;
        }
        let verified: BTreeSet<BrokerId> = proposal.verified.iter().map(|l| l.broker).collect();
        let replica = |id| view.replicas.get(id).expect("a replica");
        let fenced = verified.iter().any(|id| replica(id).fenced);
        let mut added = proposal.new_set.difference(&view.in_sync);
        let sound = proposal.new_set.contains(&from.broker)
            && proposal.new_set.len() > view.sync_followers_commit as usize
            && verified.is_subset(&proposal.new_set)
            && added.all(|id| verified.contains(id));
        let accepted = sound && !fenced;
        // A refusal for a reason that may pass raises the version all the same, so that no late
        // copy is accepted.
        self.change(|view| {
            if accepted {
                view.in_sync = proposal.new_set.clone();
                if let Some(failures) = proposal.sync_followers_elect {
                    view.sync_followers_elect = failures;
                }
                for id in &verified {
                    if let Some(replica) = view.replicas.get_mut(id) {
                        replica.suspect = false;
                    }
                }
            }
        });
        accepted
    }
}
