//! A member of the Raft group, on threads of its own: nothing that the broker does delays its
//! timers.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use baton_controller::command::{Command, Outcome};
use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerId, ClusterId, MetadataIndex};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, Instant as _, Raft, ServerState, SnapshotPolicy};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::bereaved::{Follower, Loss};
use crate::binding::Binding;
use crate::keeper::Keeper;
use crate::log_store::LogStore;
use crate::member_dir;
use crate::membership::ConfiguredVoter;
use crate::network::{Identity, Network};
use crate::server::{Server, accept};
use crate::state_machine::{AppliedCommand, StateMachine};
use crate::types::Types;
use crate::watch::{RaftFailure, RaftLeader, Shown, SurelyLed, keep_true};

#[cfg(test)]
mod tests;

/// Entries after which a snapshot is made and the log is purged.
const SNAPSHOT_EVERY: u64 = 5_000;

/// How long a command may take until its outcome counts as unknown: without a majority it could
/// wait for ever.
pub(crate) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a member is set up.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Its broker.
    pub broker: BrokerId,
    /// Where it listens, and where the others reach it.
    pub address: String,
    /// The voters of the cluster, this one among them. What it leads of them that lost its disk, it
    /// brings in again; and it forms a cluster only with all of them.
    pub voters: Vec<ConfiguredVoter>,
    /// The cluster that the broker belongs to, if that is known from elsewhere.
    pub cluster_id: Option<ClusterId>,
    /// How often a leader shows that it lives, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Shortest time without a leader before an election, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Longest time without a leader before an election, in milliseconds.
    pub election_timeout_max_ms: u64,
}

/// A member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its files cannot be used.
    #[error("the Raft log in {dir}: {source}")]
    Storage {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its port cannot be had.
    #[error(
        "cannot listen on {address} for Raft: {source}; choose another address with broker.raft_listen or --raft-listen"
    )]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Its threads cannot be had.
    #[error("the threads of Raft cannot start: {0}")]
    Threads(io::Error),
    /// The consensus library says no.
    #[error("Raft cannot start: {0}")]
    Raft(String),
}

/// A command was not committed, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none.
    #[error("this node does not lead")]
    NotLeader,
    /// It was handed over to the group, but lost sight of: it may be committed yet.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// A member of the Raft group. Clones share it.
#[derive(Clone)]
pub struct RaftNode {
    raft: Raft<Types, StateMachine>,
    machine: StateMachine,
    node_id: u64,
    leader: watch::Receiver<Option<RaftLeader>>,
    failure: watch::Receiver<Option<RaftFailure>>,
    /// Keeps its threads.
    _runtime: Arc<OwnRuntime>,
}

/// The threads that Raft runs on. Its last owner may be on a thread of another runtime, which must
/// not wait for these to end.
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl RaftNode {
    /// Starts a member, with what is in its directory or as a new one.
    pub fn start(config: RaftConfig) -> Result<RaftNode, StartError> {
        let storage = |source| StartError::Storage {
            dir: config.dir.clone(),
            source,
        };
        member_dir::make(&config.dir).map_err(storage)?;
        let (node_id, log, machine) = member_dir::open(&config.dir).map_err(storage)?;
        let binding = Binding::open(&config.dir, config.cluster_id).map_err(storage)?;
        Self::start_on(config, node_id, log, machine, binding)
    }

    fn start_on(
        config: RaftConfig,
        node_id: u64,
        log: LogStore,
        machine: StateMachine,
        binding: Binding,
    ) -> Result<RaftNode, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let listener = runtime
            .block_on(TcpListener::bind(&config.address))
            .map_err(|source| StartError::Listen {
                address: config.address.clone(),
                source,
            })?;
        let settings = settings(&config)?;
        let raft = runtime
            .block_on(Raft::new(node_id, settings, Network, log, machine.clone()))
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let (leader_sender, leader) = watch::channel(None);
        let (failure_sender, failure) = watch::channel(None);
        let shown = Shown {
            leader: leader_sender,
            failure: failure_sender,
        };
        runtime.spawn(keep_true(raft.clone(), config.dir, shown));
        let identity = Identity {
            node_id,
            broker: config.broker,
            address: config.address,
            formed: false,
            cluster_id: None,
        };
        let binding = Arc::new(binding);
        let keeper = Keeper {
            raft: raft.clone(),
            machine: machine.clone(),
            binding: binding.clone(),
            me: config.broker,
            voters: config.voters.clone(),
            leading: None,
            said: BTreeMap::new(),
        };
        runtime.spawn(keeper.run());
        let loss = Loss::none();
        let follower = Follower {
            raft: raft.clone(),
            loss: loss.clone(),
        };
        runtime.spawn(follower.run());
        let server = Server {
            raft: raft.clone(),
            machine: machine.clone(),
            binding,
            identity,
            voters: config.voters,
            loss,
            deciding: tokio::sync::Mutex::default(),
        };
        runtime.spawn(accept(listener, server));
        Ok(RaftNode {
            raft,
            machine,
            node_id,
            leader,
            failure,
            _runtime: Arc::new(OwnRuntime(Some(runtime))),
        })
    }

    /// Its node id: born with its directory, never used again after that is gone.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The nodes with a vote, by node id, as far as is known here.
    pub fn voters(&self) -> BTreeMap<u64, BrokerId> {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().committed_membership_config.clone();
        let voters = membership.voter_ids().filter_map(|id| {
            let voter = membership.get_node(&id)?;
            Some((id, BrokerId(voter.broker)))
        });
        voters.collect()
    }

    /// When this node led for sure, last. None if it does not lead, or nobody has acknowledged anything yet.
    /// That it leads, as [`RaftNode::leader`] has it, may be long over.
    pub fn surely_led(&self) -> Option<SurelyLed> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let mut voters = metrics.membership_config.voter_ids();
        // The library's clock tells how long ago something was only. Asked in this order, it is not later
        // than it was.
        let now = Instant::now();
        let at = match voters.all(|id| id == self.node_id) {
            // There is nobody to ask.
            true => now,
            false => now.checked_sub(metrics.last_quorum_acked?.elapsed())?,
        };
        let term = metrics.current_term;
        Some(SurelyLed { term, at })
    }

    /// Who leads, and whether it is this node.
    pub fn leader(&self) -> watch::Receiver<Option<RaftLeader>> {
        self.leader.clone()
    }

    /// Waits until the member has ended without being told to, and says why: it can then neither
    /// vote nor lead, and its process must end too. Waits for ever where it ends in good order.
    pub async fn failed(&self) -> RaftFailure {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await;
        match failed.ok().and_then(|failure| failure.clone()) {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// The state as applied here, and every command after it.
    pub fn follow(&self) -> (ClusterState, mpsc::UnboundedReceiver<AppliedCommand>) {
        self.machine.follow()
    }

    /// Has a command committed and applied; its place in the log, and what it came to. After 5 s
    /// without a majority it gives up with [`ProposeError::Unknown`].
    pub async fn propose(
        &self,
        command: Command,
    ) -> Result<(MetadataIndex, Outcome), ProposeError> {
        let written = tokio::time::timeout(PROPOSE_TIMEOUT, self.raft.client_write(command));
        let Ok(written) = written.await else {
            let text = format!("not committed within {} s", PROPOSE_TIMEOUT.as_secs());
            return Err(ProposeError::Unknown(text));
        };
        match written {
            Ok(response) => Ok((MetadataIndex(response.log_id.index()), response.data)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeError::NotLeader)
            }
            Err(error) => Err(ProposeError::Unknown(error.to_string())),
        }
    }

    /// Ends the member in good order.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end in good order");
        }
    }
}

fn settings(config: &RaftConfig) -> Result<Arc<Config>, StartError> {
    let settings = Config {
        cluster_name: "baton".to_owned(),
        heartbeat_interval: config.heartbeat_interval_ms,
        election_timeout_min: config.election_timeout_min_ms,
        election_timeout_max: config.election_timeout_max_ms,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: SNAPSHOT_EVERY / 5,
        // A node that was cut off must not depose a working leader when it comes back.
        enable_pre_vote: Some(true),
        // A process that led when it ended would go on leading, in the same term and with nobody asked.
        // If its disk was put back to an older state meanwhile, it would write other commands where
        // the others hold committed ones.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let settings = settings
        .validate()
        .map_err(|error| StartError::Raft(error.to_string()))?;
    Ok(Arc::new(settings))
}
