//! Answers what other members and the command line ask.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_controller::state::Command;
use baton_protocol::ids::ClusterId;
use openraft::Raft;
use openraft::alias::SnapshotOf;
use tokio::net::{TcpListener, TcpStream};

use crate::network::{Identity, Request, RequestBody, Response, read_message, write_message};
use crate::state_machine::StateMachine;
use crate::types::{Types, Voter};

/// One member, as it answers.
pub(crate) struct Server {
    pub raft: Raft<Types, StateMachine>,
    pub identity: Identity,
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
