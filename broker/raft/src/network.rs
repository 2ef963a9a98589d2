//! Raft's messages over TCP: one request, one answer, on connections of their own, so that no data
//! ever delays a vote.
//!
//! `[u32 length][MessagePack]` both ways. Each request names the Raft node it is meant for: a wiped
//! voter comes back as another node, and must not answer for the one it was.

use std::io;
use std::time::Duration;

use baton_protocol::ids::{BrokerId, ClusterId};
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::types::{LogId, SnapshotMeta, Types, Vote, Voter};

/// Most bytes of a message: a snapshot goes in one.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A request, with the node it is meant for (none: whoever is there).
#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    pub to: Option<u64>,
    pub body: RequestBody,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum RequestBody {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        content: Vec<u8>,
    },
    Identify,
    Form {
        cluster_id: ClusterId,
        members: Vec<Identity>,
    },
    /// A leader is about to make the node a member of this cluster.
    Join {
        cluster_id: ClusterId,
    },
    /// Whether the process of the leader that leads by this vote is gone, as the asked voter finds,
    /// and a log that ends there is long enough for it to give its vote.
    IsGone {
        reign: Vote,
        last_log_id: Option<LogId>,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Identity(Identity),
    Formed,
    Joined,
    IsGone(bool),
    Refused(String),
}

/// What a voter says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its Raft node id, born with its `raft/` directory.
    pub node_id: u64,
    /// Its broker.
    pub broker: BrokerId,
    /// Where its Raft port is, as the others are to reach it.
    pub address: String,
    /// Whether it belongs to a cluster already.
    pub formed: bool,
    /// To which, if it knows.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
}

/// A voter could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection failed.
    #[error("{address}: {source}")]
    Io {
        /// Whom.
        address: String,
        /// How.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address}: no answer within {ms} ms")]
    Timeout {
        /// Whom.
        address: String,
        /// How long was waited.
        ms: u128,
    },
    /// It refuses.
    #[error("{address}: {reason}")]
    Refused {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
}

pub(crate) async fn write_message<T: Serialize>(
    socket: &mut TcpStream,
    message: &T,
) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    rmp_serde::encode::write_named(&mut bytes, message).map_err(io::Error::other)?;
    let length = bytes.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    socket.write_all(&bytes).await
}

pub(crate) async fn read_message<T: for<'a> Deserialize<'a>>(
    socket: &mut TcpStream,
) -> io::Result<T> {
    let length = socket.read_u32().await? as usize;
    if length > MESSAGE_BYTES_MAX {
        let text = format!("a message of {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = Vec::new();
    // Room is made as the bytes come, not on the word of the sender.
    let read = socket.take(length as u64).read_to_end(&mut bytes).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    rmp_serde::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn exchange(socket: &mut TcpStream, request: &Request) -> io::Result<Response> {
    write_message(socket, request).await?;
    read_message(socket).await
}

/// Asks whoever listens at `address`.
pub(crate) async fn call(
    address: &str,
    request: &Request,
    limit: Duration,
) -> Result<Response, CallError> {
    let asking = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        exchange(&mut socket, request).await
    };
    let address = address.to_owned();
    match timeout(limit, asking).await {
        Ok(Ok(Response::Refused(reason))) => Err(CallError::Refused { address, reason }),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(source)) => Err(CallError::Io { address, source }),
        Err(_) => Err(CallError::Timeout {
            address,
            ms: limit.as_millis(),
        }),
    }
}

/// Asks the voter at `address` who it is.
pub async fn identify(address: &str, limit: Duration) -> Result<Identity, CallError> {
    let request = Request {
        to: None,
        body: RequestBody::Identify,
    };
    match call(address, &request, limit).await? {
        Response::Identity(identity) => Ok(identity),
        _ => Err(other_answer(address)),
    }
}

fn other_answer(address: &str) -> CallError {
    CallError::Refused {
        address: address.to_owned(),
        reason: "an answer to another question".to_owned(),
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
    call(&address, &Request { to, body }, limit)
        .await
        .map(|_| ())
}

/// Has the node `id` at `address` belong to this cluster from now on, if it belongs to none.
pub(crate) async fn join(
    address: &str,
    id: u64,
    cluster_id: ClusterId,
    limit: Duration,
) -> Result<(), CallError> {
    let to = Some(id);
    let body = RequestBody::Join { cluster_id };
    call(address, &Request { to, body }, limit)
        .await
        .map(|_| ())
}

/// Asks the voter `id` at `address` whether it agrees that the leader of `reign` is gone, and has no
/// longer log than one that ends at `last_log_id`.
pub(crate) async fn ask_whether_gone(
    address: &str,
    id: u64,
    reign: Vote,
    last_log_id: Option<LogId>,
    limit: Duration,
) -> Result<bool, CallError> {
    let to = Some(id);
    let body = RequestBody::IsGone { reign, last_log_id };
    match call(address, &Request { to, body }, limit).await? {
        Response::IsGone(gone) => Ok(gone),
        _ => Err(other_answer(address)),
    }
}

/// Makes connections to voters.
pub(crate) struct Network;

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Voter) -> Peer {
        Peer {
            target,
            address: node.address.clone(),
            socket: None,
        }
    }
}

/// A connection to one voter, made when it is needed.
pub(crate) struct Peer {
    target: u64,
    address: String,
    socket: Option<TcpStream>,
}

impl Peer {
    /// Asks the voter. The connection is kept only if the answer came: one that is given up half
    /// way would take the late answer for that to the next request.
    async fn ask(
        &mut self,
        body: RequestBody,
        option: &RPCOption,
    ) -> Result<Response, Unreachable<Types>> {
        let to = Some(self.target);
        let request = Request { to, body };
        let kept = self.socket.take();
        let asking = async {
            let mut socket = match kept {
                Some(socket) => socket,
                None => {
                    let socket = TcpStream::connect(&self.address).await?;
                    socket.set_nodelay(true)?;
                    socket
                }
            };
            let response = exchange(&mut socket, &request).await?;
            io::Result::Ok((socket, response))
        };
        match timeout(option.hard_ttl(), asking).await {
            Ok(Ok((socket, response))) => {
                self.socket = Some(socket);
                match response {
                    Response::Refused(reason) => Err(Unreachable::from_string(reason)),
                    response => Ok(response),
                }
            }
            Ok(Err(error)) => Err(Unreachable::new(&error)),
            Err(elapsed) => Err(Unreachable::new(&elapsed)),
        }
    }
}

fn unexpected() -> Unreachable<Types> {
    Unreachable::from_string("an answer to another question")
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.ask(RequestBody::Append(rpc), &option).await? {
            Response::Append(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RequestBody::Vote(rpc), &option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RequestBody::PreVote(rpc), &option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let body = RequestBody::Snapshot {
            vote,
            meta: snapshot.meta,
            content: snapshot.snapshot,
        };
        match self.ask(body, &option).await? {
            Response::Snapshot(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }
}
