//! A member of the Raft group, on threads of its own: nothing that the broker does delays its
//! timers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use baton_controller::state::{ClusterState, Command, Outcome};
use baton_protocol::ids::{BrokerId, ClusterId, MetadataIndex};
use openraft::alias::SnapshotOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::log_store::LogStore;
use crate::network::{
    self, CallError, Identity, Network, Request, RequestBody, Response, read_message, write_message,
};
use crate::state_machine::{AppliedCommand, StateMachine};
use crate::types::{Types, Voter};

/// Entries after which a snapshot is made and the log is purged.
const SNAPSHOT_EVERY: u64 = 5_000;

/// How long a command may take until its outcome counts as unknown: without a majority it could
/// wait for ever.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a member is set up.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Its broker.
    pub broker: BrokerId,
    /// Where it listens, and where the others reach it.
    pub address: String,
    /// How often a leader shows that it lives, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Shortest time without a leader before an election, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Longest time without a leader before an election, in milliseconds.
    pub election_timeout_max_ms: u64,
}

/// The leader of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftLeader {
    /// Its broker.
    pub broker: BrokerId,
    /// Its term.
    pub term: u64,
    /// It is this node, and it has applied everything that was committed before its term.
    pub is_me: bool,
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
    identity: Identity,
    leader: watch::Receiver<Option<RaftLeader>>,
    runtime: Arc<OwnRuntime>,
}

/// The threads that Raft runs on. Its last owner may be on a thread of another runtime, which must
/// not wait for these to end.
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl OwnRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }
}

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
        std::fs::create_dir_all(&config.dir).map_err(storage)?;
        let (node_id, log, machine) = open(&config.dir).map_err(storage)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(storage)?;
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
        runtime.spawn(watch_leader(raft.clone(), node_id, leader_sender));
        let node = RaftNode {
            raft,
            machine,
            identity: Identity {
                node_id,
                broker: config.broker,
                address: config.address,
                formed: false,
            },
            leader,
            runtime: Arc::new(OwnRuntime(Some(runtime))),
        };
        node.runtime.spawn(accept(listener, node.server()));
        Ok(node)
    }

    fn server(&self) -> Server {
        Server {
            raft: self.raft.clone(),
            identity: self.identity.clone(),
        }
    }

    /// Its node id: born with its directory, never used again after that is gone.
    pub fn node_id(&self) -> u64 {
        self.identity.node_id
    }

    /// Who leads, and whether it is this node.
    pub fn leader(&self) -> watch::Receiver<Option<RaftLeader>> {
        self.leader.clone()
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
        ..Config::default()
    };
    let settings = settings
        .validate()
        .map_err(|error| StartError::Raft(error.to_string()))?;
    Ok(Arc::new(settings))
}

/// What the directory holds, or a new member's beginning. A node id stands for the votes and entries
/// that went with it: with those gone it must not be used again, or what a majority acknowledged
/// could be lost, and two leaders be elected in a term.
fn open(dir: &Path) -> io::Result<(u64, LogStore, StateMachine)> {
    let path = dir.join("node-id");
    let known = read_node_id(&path)?;
    let refuse = |what: &str| {
        let text = format!(
            "{what}; if it cannot be restored, remove {} as a whole: \
             the broker is a new Raft node then",
            dir.display()
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if known.is_some() && !LogStore::exists(dir)? {
        return refuse("the log is gone, but the node id is still there");
    }
    let log = LogStore::open(dir)?;
    let machine = StateMachine::open(dir)?;
    if known.is_none() && !(log.is_empty() && machine.applied_index().is_none()) {
        return refuse("the node id is gone, but the log or the snapshot is still there");
    }
    if log.purged_index() > machine.applied_index() {
        return refuse(
            "the snapshot is gone or too old: entries are missing between it and the log",
        );
    }
    let node_id = match known {
        Some(id) => id,
        // The log is there by now: an id without one is never left by a crash.
        None => new_node_id(&path)?,
    };
    Ok((node_id, log, machine))
}

fn read_node_id(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            let text = format!("{}: `{}` is no node id", path.display(), text.trim());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_node_id(path: &Path) -> io::Result<u64> {
    let id = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, format!("{id}\n"))?;
    std::fs::File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(id)
}

/// Keeps `leader` true. This node counts as leader only once an entry of its own term is applied:
/// by then it has applied everything that any leader before it had committed.
async fn watch_leader(
    raft: Raft<Types, StateMachine>,
    me: u64,
    leader: watch::Sender<Option<RaftLeader>>,
) {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let broker = metrics.current_leader.and_then(|id| {
                metrics
                    .membership_config
                    .get_node(&id)
                    .map(|voter| BrokerId(voter.broker))
            });
            let applied_term = metrics.last_applied.map(|id| id.committed_leader_id().term);
            let leads = metrics.current_leader == Some(me) && metrics.state == ServerState::Leader;
            let is_me = leads && applied_term == Some(metrics.current_term);
            broker.filter(|_| is_me || !leads).map(|broker| RaftLeader {
                broker,
                term: metrics.current_term,
                is_me,
            })
        };
        leader.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

struct Server {
    raft: Raft<Types, StateMachine>,
    identity: Identity,
}

async fn accept(listener: TcpListener, server: Server) {
    let server = Arc::new(server);
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = server.serve(socket).await {
                        tracing::debug!(%error, "a Raft connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a Raft connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Server {
    async fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        loop {
            let request: Request = match read_message(&mut socket).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            let response = self.answer(request).await;
            write_message(&mut socket, &response).await?;
        }
    }

    async fn answer(&self, request: Request) -> Response {
        let me = self.identity.node_id;
        if request.to.is_some_and(|to| to != me) {
            return Response::Refused(format!("this is Raft node {me}, not the one that is meant"));
        }
        let result = match request.body {
            RequestBody::Append(rpc) => self
                .raft
                .append_entries(rpc)
                .await
                .map(Response::Append)
                .map_err(|e| e.to_string()),
            RequestBody::Vote(rpc) => self
                .raft
                .vote(rpc)
                .await
                .map(Response::Vote)
                .map_err(|e| e.to_string()),
            RequestBody::PreVote(rpc) => self
                .raft
                .pre_vote(rpc)
                .await
                .map(Response::Vote)
                .map_err(|e| e.to_string()),
            RequestBody::Snapshot {
                vote,
                meta,
                content,
            } => {
                let snapshot = SnapshotOf::<Types, Vec<u8>> {
                    meta,
                    snapshot: content,
                };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                installed.map(Response::Snapshot).map_err(|e| e.to_string())
            }
            RequestBody::Identify => self.identify().await.map(Response::Identity),
            RequestBody::Form {
                cluster_id,
                members,
            } => self
                .form(cluster_id, &members)
                .await
                .map(|()| Response::Formed),
        };
        result.unwrap_or_else(Response::Refused)
    }

    async fn identify(&self) -> Result<Identity, String> {
        let formed = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Identity {
            formed,
            ..self.identity.clone()
        })
    }

    /// Forms a cluster: this node becomes its first leader's candidate, and the cluster's identity
    /// its first command.
    async fn form(&self, cluster_id: ClusterId, members: &[Identity]) -> Result<(), String> {
        let voters: BTreeMap<u64, Voter> = members
            .iter()
            .map(|member| {
                let voter = Voter {
                    broker: member.broker.0,
                    address: member.address.clone(),
                };
                (member.node_id, voter)
            })
            .collect();
        self.raft
            .initialize(voters)
            .await
            .map_err(|error| error.to_string())?;
        let command = Command::FormCluster { cluster_id };
        for _ in 0..100 {
            match self.raft.client_write(command.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::debug!(%error, "the new group has no leader yet"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the voters are joined, but elected no leader within five seconds".to_owned())
    }
}

/// Asks the voter at `address` who it is.
pub async fn identify(address: &str, limit: Duration) -> Result<Identity, CallError> {
    let request = Request {
        to: None,
        body: RequestBody::Identify,
    };
    match network::call(address, &request, limit).await? {
        Response::Identity(identity) => Ok(identity),
        _ => Err(CallError::Refused {
            address: address.to_owned(),
            reason: "an answer to another question".to_owned(),
        }),
    }
}

/// Has the first of `members` form the cluster, with all of them as voters.
pub async fn form(
    cluster_id: ClusterId,
    members: Vec<Identity>,
    limit: Duration,
) -> Result<(), CallError> {
    let Some(first) = members.first() else {
        return Err(CallError::Refused {
            address: "nobody".to_owned(),
            reason: "a cluster has at least one voter".to_owned(),
        });
    };
    let (to, address) = (Some(first.node_id), first.address.clone());
    let body = RequestBody::Form {
        cluster_id,
        members,
    };
    network::call(&address, &Request { to, body }, limit)
        .await
        .map(|_| ())
}
