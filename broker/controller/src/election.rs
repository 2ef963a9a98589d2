//! One election: who has answered the fence, and who wins.

use std::collections::BTreeMap;

use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Tick};
use baton_protocol::metadata::PartitionRecord;

use crate::session::FenceAnswer;
use crate::state::ClusterState;

/// How long an asynchronous partition's election waits for members that could still answer.
const ASYNCHRONOUS_WAIT_MS: u64 = 200;

/// An election that is on.
#[derive(Clone, Debug)]
pub struct Election {
    /// The epoch it began.
    pub epoch: LeaderEpoch,
    /// When.
    pub began_at: Tick,
    /// When the fence was last sent.
    pub asked_at: Tick,
    /// The result has been proposed.
    pub decided: bool,
    answers: BTreeMap<BrokerId, FenceAnswer>,
}

impl Election {
    /// An election for `epoch`, of which nobody has been told yet.
    pub fn new(epoch: LeaderEpoch, now: Tick) -> Self {
        Election {
            epoch,
            began_at: now,
            asked_at: now,
            decided: false,
            answers: BTreeMap::new(),
        }
    }

    /// Whether this member's answer, in its present life, is in.
    pub fn has_answered(&self, state: &ClusterState, id: BrokerId) -> bool {
        self.answers
            .get(&id)
            .is_some_and(|answer| state.is_current(answer.life))
    }

    /// Takes an answer, if it is one to this fence.
    pub fn answer(&mut self, answer: FenceAnswer) {
        if answer.epoch == self.epoch {
            self.answers.insert(answer.life.broker, answer);
        }
    }

    /// The answers that count: of members of the set, in their present lives, free of suspicion.
    fn counted<'a>(
        &'a self,
        state: &'a ClusterState,
        partition: &'a PartitionRecord,
    ) -> impl Iterator<Item = &'a FenceAnswer> {
        self.answers.values().filter(|answer| {
            let id = answer.life.broker;
            partition.in_sync.contains(&id)
                && !partition.suspects.contains(&id)
                && state.is_current(answer.life)
        })
    }

    /// How many answers are needed: of any that many, one holds every committed entry, whichever
    /// `k` members are lost.
    fn needed(partition: &PartitionRecord) -> usize {
        let members = partition.in_sync.len();
        members
            .saturating_sub(partition.sync_followers_elect as usize)
            .max(1)
    }

    /// The winner, once there is one.
    pub fn winner(
        &self,
        state: &ClusterState,
        partition: &PartitionRecord,
        now: Tick,
    ) -> Option<BrokerLife> {
        let answers: Vec<&FenceAnswer> = self.counted(state, partition).collect();
        let enough = if partition.sync_followers_elect == 0 {
            // Asynchronous: what only the lost members had is lost. Those that are alive are
            // waited for, but not for long.
            let all_alive = partition.in_sync.iter().all(|id| {
                state.is_fenced(*id) || answers.iter().any(|answer| answer.life.broker == *id)
            });
            !answers.is_empty()
                && (all_alive || now.since_ms(self.began_at) >= ASYNCHRONOUS_WAIT_MS)
        } else {
            answers.len() >= Election::needed(partition)
        };
        if !enough {
            return None;
        }
        let log = |answer: &FenceAnswer| (answer.last_epoch, answer.durable_end);
        let best = answers.iter().map(|answer| log(answer)).max()?;
        // Equal logs: the preferred leader first. A member that is fenced at the moment answers,
        // so it lives, but it would be deposed at once: if only such have the best log, the
        // election waits until one is taken for alive again.
        let able = answers
            .iter()
            .filter(|answer| log(answer) == best && !state.is_fenced(answer.life.broker));
        able.min_by_key(|answer| {
            partition
                .replicas
                .iter()
                .position(|id| *id == answer.life.broker)
        })
        .map(|answer| answer.life)
    }

    /// What is waited for, in words.
    pub fn reason(&self, state: &ClusterState, partition: &PartitionRecord) -> String {
        let have = self.counted(state, partition).count();
        let needed = Election::needed(partition);
        let missing: Vec<String> = partition
            .in_sync
            .iter()
            .filter(|id| !self.has_answered(state, **id))
            .map(|id| id.to_string())
            .collect();
        let suspects: Vec<String> = partition.suspects.iter().map(|id| id.to_string()).collect();
        let mut reason = format!(
            "election of epoch {}: {have} of {needed} answers",
            self.epoch
        );
        if !missing.is_empty() {
            reason += &format!("; waiting for broker {}", missing.join(" or "));
        }
        if !suspects.is_empty() {
            reason += &format!(
                "; broker {} may have lost data and does not count",
                suspects.join(", ")
            );
        }
        reason
    }
}
