//! Looks after the membership of the group: every second the leader asks the configured voters who
//! they are, and does what [`crate::membership`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_protocol::ids::{BrokerId, ClusterId};
use futures::future::join_all;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Raft, RaftMetrics};

use crate::binding::Binding;
use crate::membership::{ConfiguredVoter, Group, Seen, Step, steps};
use crate::network::{identify, join};
use crate::node::PROPOSE_TIMEOUT;
use crate::state_machine::StateMachine;
use crate::types::{Types, Voter};
use crate::watch;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a voter may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// A member that acknowledged something within this time is alive, whatever its address says; and a
/// leader waits this long before it judges anybody.
const QUIET: Duration = Duration::from_secs(5);

/// A learner this many entries behind has the log: the rest comes while the change is committed.
const LAG_MAX: u64 = 100;

/// The task's state.
pub(crate) struct Keeper {
    pub raft: Raft<Types, StateMachine>,
    pub machine: StateMachine,
    pub binding: Arc<Binding>,
    pub me: BrokerId,
    pub voters: Vec<ConfiguredVoter>,
    /// The term in which this node leads, and since when.
    pub leading: Option<(u64, Instant)>,
    /// What was said last about a broker that cannot join: once is enough.
    pub said: BTreeMap<u32, String>,
}

impl Keeper {
    /// Goes on for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.keep_bound();
            let metrics = self.raft.metrics().borrow_watched().clone();
            let Some(cluster) = self.may_judge(&metrics) else {
                continue;
            };
            let group = group(&metrics);
            let steps = match is_joint(&metrics) {
                // An earlier leader did not come to the end of it.
                true => vec![None],
                false => {
                    let seen = self.look(&metrics, &group).await;
                    let steps = steps(&self.voters, &group, &seen);
                    steps.into_iter().map(Some).collect()
                }
            };
            for step in steps {
                if self.take(cluster, &metrics, &group, step).await {
                    break;
                }
            }
        }
    }

    /// Every member writes down which cluster it is in, once it knows.
    fn keep_bound(&self) {
        if self.binding.get().is_some() {
            return;
        }
        if let Some(cluster) = self.machine.cluster_id()
            && let Err(error) = self.binding.bind(cluster)
        {
            tracing::warn!(%error, "the cluster's id could not be written into Raft's directory");
        }
    }

    /// The cluster, where this node is in a position to judge the others: it has led for a while,
    /// a majority follows it, and the last change of the membership is committed.
    fn may_judge(&mut self, metrics: &RaftMetrics<Types>) -> Option<ClusterId> {
        let leads = watch::leader(metrics).is_some_and(|leader| leader.is_me);
        let term = metrics.current_term;
        self.leading = match self.leading {
            _ if !leads => None,
            Some((known, since)) if known == term => Some((known, since)),
            _ => Some((term, Instant::now())),
        };
        let (_, since) = self.leading?;
        let acked = metrics.last_quorum_acked.as_ref()?;
        let settled =
            metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        let judges = since.elapsed() >= QUIET && acked.elapsed() < QUIET && settled;
        self.machine.cluster_id().filter(|_| judges)
    }

    /// Asks every other configured voter who it is, and every member of its name at the address
    /// that it was known by.
    async fn look(&self, metrics: &RaftMetrics<Types>, group: &Group) -> Seen {
        let mut addresses: BTreeSet<(BrokerId, &str)> = BTreeSet::new();
        for voter in self.voters.iter().filter(|voter| voter.broker != self.me) {
            addresses.insert((voter.broker, &voter.address));
            let members = group.voters.values().chain(group.learners.values());
            for member in members.filter(|member| member.broker == voter.broker.0) {
                addresses.insert((voter.broker, &member.address));
            }
        }
        let asked = addresses.into_iter().map(async |(broker, address)| {
            let identity = identify(address, ASK_TIMEOUT).await.ok()?;
            Some((broker, address, identity))
        });
        let mut seen = Seen::default();
        for (broker, address, identity) in join_all(asked).await.into_iter().flatten() {
            seen.alive.insert(identity.node_id);
            let configured = self.voters.iter().any(|v| v.address == address);
            if configured && identity.broker == broker {
                seen.running.insert(broker, identity.node_id);
            }
        }
        for (id, acked) in metrics.heartbeat.iter().flatten() {
            if acked.as_ref().is_some_and(|at| at.elapsed() < QUIET) {
                seen.alive.insert(*id);
            }
        }
        for (id, matched) in metrics.replication.iter().flatten() {
            let next = matched.map_or(0, |matched| matched.index() + 1);
            let end = metrics.last_log_index.map_or(0, |last| last + 1);
            if end.saturating_sub(next) <= LAG_MAX && next > 0 {
                seen.caught_up.insert(*id);
            }
        }
        seen
    }

    /// Takes a step; none is the end of a change that was left half way. Whether the membership may
    /// have changed.
    async fn take(
        &mut self,
        cluster: ClusterId,
        metrics: &RaftMetrics<Types>,
        group: &Group,
        step: Option<Step>,
    ) -> bool {
        let (changes, what) = match step {
            None => {
                let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
                (nothing, "a change of Raft's voters is completed".to_owned())
            }
            Some(Step::AddLearner(id, voter)) => {
                if !self.invite(cluster, id, &voter).await {
                    return false;
                }
                let what = format!("broker {} is Raft node {id} now, and learns", voter.broker);
                (ChangeMembers::AddNodes([(id, voter)].into()), what)
            }
            Some(Step::Replace(old, new)) => {
                let mut voters: BTreeSet<u64> = group.voters.keys().copied().collect();
                voters.retain(|id| !old.contains(id));
                voters.insert(new);
                let what = format!("Raft node {new} votes in place of {old:?}, which is gone");
                (ChangeMembers::ReplaceAllVoters(voters), what)
            }
            Some(Step::Forget(ids)) => {
                let what = format!("Raft nodes {ids:?} are gone before they had a vote");
                (ChangeMembers::RemoveNodes(ids), what)
            }
        };
        let membership = Precondition::LastMembershipLogId {
            last_membership_log_id: *metrics.membership_config.log_id(),
        };
        // The last entry that a leader has applied is of its own term.
        let leader = metrics
            .last_applied
            .map(|applied| Precondition::CommittedLeaderId {
                committed_leader_id: *applied.committed_leader_id(),
            });
        let preconditions: Vec<_> = [membership].into_iter().chain(leader).collect();
        let change = self
            .raft
            .change_membership_if(changes, false, preconditions);
        match tokio::time::timeout(PROPOSE_TIMEOUT, change).await {
            Ok(Ok(_)) => tracing::info!("{what}"),
            Ok(Err(error)) => tracing::warn!(%error, "Raft's membership could not be changed"),
            Err(_) => tracing::warn!("a change of Raft's membership is not committed yet"),
        }
        true
    }

    /// Whether the node joins: it must have no log, or belong to this cluster.
    async fn invite(&mut self, cluster: ClusterId, id: u64, voter: &Voter) -> bool {
        let Err(error) = join(&voter.address, id, cluster, ASK_TIMEOUT).await else {
            self.said.remove(&voter.broker);
            return true;
        };
        let text = error.to_string();
        if self.said.get(&voter.broker) != Some(&text) {
            tracing::warn!(broker = voter.broker, %error, "a voter that was wiped does not join");
            self.said.insert(voter.broker, text);
        }
        false
    }
}

fn is_joint(metrics: &RaftMetrics<Types>) -> bool {
    metrics.membership_config.get_joint_config().len() > 1
}

fn group(metrics: &RaftMetrics<Types>) -> Group {
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let nodes = metrics.membership_config.nodes();
    let nodes = nodes.map(|(id, node)| (*id, node.clone()));
    let (voters, learners) = nodes.partition(|(id, _)| voters.contains(id));
    Group { voters, learners }
}
