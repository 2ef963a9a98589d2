//! One election: who has answered the fence, and who wins.

use std::collections::BTreeMap;

use baton_protocol::admin::{ElectionMember, ElectionStatus};
use baton_protocol::ids::{BrokerId, LeaderEpoch, Tick};
use baton_protocol::metadata::PartitionRecord;

use crate::command::Grade;
use crate::rules::Rule;
use crate::session::FenceAnswer;
use crate::state::ClusterState;

/// After how long a fence that was not answered is sent again, in milliseconds. Twice as long after
/// each time: whoever has thousands to answer is not helped by more.
const FENCE_RETRY_MS: u64 = 200;

/// The longest that becomes, in milliseconds.
const FENCE_RETRY_MAX_MS: u64 = 3_200;

/// How long an asynchronous partition's election waits for members that could still answer.
const ASYNCHRONOUS_WAIT_MS: u64 = 200;

/// How long the election of a topic that allows unclean ones waits for a clean one.
const UNCLEAN_WAIT_MS: u64 = 10_000;

/// Whether an election may end with a loss by itself, after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Only an operator ends it so.
    Endless,
    /// The topic allows it.
    Ends,
}

/// An election that is on.
#[derive(Clone, Debug)]
pub struct Election {
    /// The epoch it began.
    pub epoch: LeaderEpoch,
    /// When.
    pub began_at: Tick,
    /// When the fence was last sent.
    asked_at: Tick,
    /// How long to wait for answers before it is sent again, in milliseconds.
    patience_ms: u64,
    /// The result has been proposed.
    pub decided: bool,
    /// An operator wants it to end, whatever is lost.
    pub unclean: bool,
    answers: BTreeMap<BrokerId, FenceAnswer>,
}

impl Election {
    /// An election for `epoch`, of which nobody has been told yet.
    pub fn new(epoch: LeaderEpoch, now: Tick) -> Self {
        Election {
            epoch,
            began_at: now,
            asked_at: now,
            patience_ms: FENCE_RETRY_MS,
            decided: false,
            unclean: false,
            answers: BTreeMap::new(),
        }
    }

    /// Whether the fence is to be sent again to those who have not answered; then it has been.
    pub fn ask_again(&mut self, now: Tick) -> bool {
        let due = now.since_ms(self.asked_at) >= self.patience_ms;
        if due {
            self.asked_at = now;
            self.patience_ms = (2 * self.patience_ms).min(FENCE_RETRY_MAX_MS);
        }
        due
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

    /// The answers of members of the set, in their present lives.
    fn present<'a>(
        &'a self,
        state: &'a ClusterState,
        partition: &'a PartitionRecord,
    ) -> impl Iterator<Item = &'a FenceAnswer> {
        self.answers.values().filter(|answer| {
            partition.in_sync.contains(&answer.life.broker) && state.is_current(answer.life)
        })
    }

    /// Those of them that are votes: of members free of suspicion.
    fn votes<'a>(
        &'a self,
        state: &'a ClusterState,
        partition: &'a PartitionRecord,
    ) -> impl Iterator<Item = &'a FenceAnswer> {
        self.present(state, partition).filter(|answer| {
            !is_suspect(partition, answer) || !state.rules.hold(Rule::SuspectsHaveNoVote)
        })
    }

    /// How many votes are needed: of any that many, one holds every committed entry, whichever
    /// `k` members are lost.
    fn needed(state: &ClusterState, partition: &PartitionRecord) -> usize {
        if !state.rules.hold(Rule::ElectionNeedsAnswers) {
            return 1;
        }
        let members = partition.in_sync.len();
        members
            .saturating_sub(partition.sync_followers_elect as usize)
            .max(1)
    }

    /// The winner with its answer, once there is one, and what may be lost by it.
    pub fn winner(
        &self,
        state: &ClusterState,
        partition: &PartitionRecord,
        patience: Patience,
        now: Tick,
    ) -> Option<(FenceAnswer, Grade)> {
        let votes: Vec<&FenceAnswer> = self.votes(state, partition).collect();
        if votes.len() >= Election::needed(state, partition) {
            return Some((best(state, partition, &votes)?, Grade::Clean));
        }
        let answers: Vec<&FenceAnswer> = self.present(state, partition).collect();
        let waited_ms = now.since_ms(self.began_at);
        if partition.sync_followers_elect == 0 && !votes.is_empty() {
            // Asynchronous: what only the lost members had is lost. Those that are alive are
            // waited for, but not for long.
            let all_alive = partition
                .in_sync
                .iter()
                .all(|id| state.is_fenced(*id) || self.has_answered(state, *id));
            return if all_alive || waited_ms >= ASYNCHRONOUS_WAIT_MS {
                Some((best(state, partition, &answers)?, Grade::Asynchronous))
            } else {
                None
            };
        }
        // Too few votes. There is nothing better to wait for once every member has answered: the
        // best log that is left wins, be it a suspect's.
        let all_answered = answers.len() == partition.in_sync.len();
        let impatient = patience == Patience::Ends && waited_ms >= UNCLEAN_WAIT_MS;
        if all_answered || impatient || self.unclean {
            return Some((best(state, partition, &answers)?, Grade::Unclean));
        }
        None
    }

    /// How it stands, for an operator.
    pub fn status(&self, state: &ClusterState, partition: &PartitionRecord) -> ElectionStatus {
        let answers: Vec<&FenceAnswer> = self.present(state, partition).collect();
        let member = |id: &BrokerId| {
            let answer = answers.iter().find(|answer| answer.life.broker == *id);
            ElectionMember {
                broker: *id,
                suspect: partition.suspects.contains(id) || answer.is_some_and(|a| a.suspect),
                log: answer.map(|answer| (answer.last_epoch, answer.durable_end)),
            }
        };
        ElectionStatus {
            epoch: self.epoch,
            needed: Election::needed(state, partition) as u32,
            members: partition.in_sync.iter().map(member).collect(),
            candidate: best(state, partition, &answers).map(|answer| answer.life.broker),
        }
    }

    /// What is waited for, in words.
    pub fn reason(&self, state: &ClusterState, partition: &PartitionRecord) -> String {
        let have = self.votes(state, partition).count();
        let needed = Election::needed(state, partition);
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

fn is_suspect(partition: &PartitionRecord, answer: &FenceAnswer) -> bool {
    answer.suspect || partition.suspects.contains(&answer.life.broker)
}

/// The best log among these: the greatest (last epoch, end). Of equal ones that of a member free of
/// suspicion comes first, then the preferred leader's. A member that is fenced at the moment answers,
/// so it lives, but it would be deposed at once: if only such have the best log, the election waits
/// until one is taken for alive again.
fn best(
    state: &ClusterState,
    partition: &PartitionRecord,
    answers: &[&FenceAnswer],
) -> Option<FenceAnswer> {
    let log = |answer: &FenceAnswer| (answer.last_epoch, answer.durable_end);
    let best = answers.iter().map(|answer| log(answer)).max()?;
    let able = answers
        .iter()
        .filter(|answer| log(answer) == best && !state.is_fenced(answer.life.broker));
    able.min_by_key(|answer| {
        let mut replicas = partition.replicas.iter();
        let rank = replicas.position(|id| *id == answer.life.broker);
        (is_suspect(partition, answer), rank)
    })
    .map(|answer| **answer)
}
