//! Answers what other members and the command line ask.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_controller::command::Command;
use baton_protocol::ids::ClusterId;
use openraft::Raft;
use openraft::alias::SnapshotOf;
use tokio::net::{TcpListener, TcpStream};

use crate::bereaved::{self, Loss};
use crate::binding::Binding;
use crate::membership::ConfiguredVoter;
use crate::network::{
    Identity, Request, RequestBody, Response, identify, read_message, write_message,
};
use crate::state_machine::StateMachine;
use crate::types::{Types, Voter};

/// How long another voter may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// One member, as it answers.
pub(crate) struct Server {
    pub raft: Raft<Types, StateMachine>,
    pub machine: StateMachine,
    pub binding: Arc<Binding>,
    pub identity: Identity,
    pub voters: Vec<ConfiguredVoter>,
    pub loss: Loss,
    /// Held while it is decided which cluster this node belongs to.
    pub deciding: tokio::sync::Mutex<()>,
}

/// Takes connections for ever.
pub(crate) async fn accept(listener: TcpListener, server: Server) {
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
            RequestBody::Vote(rpc) => {
                let rpc = bereaved::judge(&self.raft, &self.loss, rpc).await;
                let voted = self.raft.vote(rpc).await;
                voted.map(Response::Vote).map_err(|e| e.to_string())
            }
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
            RequestBody::Join { cluster_id } => {
                self.join(cluster_id).await.map(|()| Response::Joined)
            }
            RequestBody::IsGone { reign, last_log_id } => {
                let gone = bereaved::agrees(&self.raft, &self.loss, &reign, last_log_id).await;
                Ok(Response::IsGone(gone))
            }
        };
        result.unwrap_or_else(Response::Refused)
    }

    async fn is_initialized(&self) -> Result<bool, String> {
        let initialized = self.raft.is_initialized().await;
        initialized.map_err(|error| error.to_string())
    }

    /// The cluster it belongs to, if it knows of one.
    fn cluster(&self) -> Option<ClusterId> {
        self.binding.get().or_else(|| self.machine.cluster_id())
    }

    async fn identify(&self) -> Result<Identity, String> {
        let cluster_id = self.cluster();
        Ok(Identity {
            formed: cluster_id.is_some() || self.is_initialized().await?,
            cluster_id,
            ..self.identity.clone()
        })
    }

    /// Belongs to this cluster from now on: it may be sent that cluster's log. A node that was sent
    /// anything before it knew from whom takes no part in a second cluster.
    async fn join(&self, cluster_id: ClusterId) -> Result<(), String> {
        let _deciding = self.deciding.lock().await;
        if self.cluster().is_none() && self.is_initialized().await? {
            return Err("it belongs to a cluster whose id it does not know yet".to_owned());
        }
        let cluster = match self.machine.cluster_id() {
            Some(cluster) => cluster,
            None => self.binding.bind(cluster_id).map_err(|e| e.to_string())?,
        };
        if cluster != cluster_id {
            return Err(format!(
                "it belongs to cluster {cluster}, not to cluster {cluster_id}; \
                 a broker joins another cluster with an empty data directory"
            ));
        }
        Ok(())
    }

    /// Whether a cluster may be formed of these. A voter that was wiped knows nothing of the cluster
    /// that it belongs to, but the other voters of its configuration do: all of them must take part,
    /// and none may have been formed.
    async fn check_forming(&self, members: &[Identity]) -> Result<(), String> {
        if let Some(cluster) = self.cluster() {
            return Err(format!("this broker belongs to cluster {cluster} already"));
        }
        let me = self.identity.broker;
        for voter in self.voters.iter().filter(|voter| voter.broker != me) {
            let ConfiguredVoter { broker, address } = voter;
            let Some(member) = members.iter().find(|member| member.broker == *broker) else {
                return Err(format!(
                    "a cluster is formed of all voters that are configured (cluster.voters), \
                     and broker {broker} at {address} is not among these"
                ));
            };
            let found = identify(address, ASK_TIMEOUT).await;
            let found = found.map_err(|error| error.to_string())?;
            if found.formed {
                return Err(format!(
                    "broker {broker} at {address} is in a cluster already"
                ));
            }
            if found.node_id != member.node_id {
                return Err(format!(
                    "at {address} there is Raft node {}, not {}",
                    found.node_id, member.node_id
                ));
            }
        }
        Ok(())
    }

    /// Forms a cluster: this node becomes its first leader's candidate, and the cluster's identity
    /// its first command.
    async fn form(&self, cluster_id: ClusterId, members: &[Identity]) -> Result<(), String> {
        let _deciding = self.deciding.lock().await;
        self.check_forming(members).await?;
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
