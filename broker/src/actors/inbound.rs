//! Connections that other brokers open to the peer port: reads what they send and hands it to the
//! partition it is about, on the worker that most of these partitions live on, or, for a control
//! session, hands the connection to the controller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::BrokerLife;
use baton_protocol::peer::{Opening, OpeningReply, PEER_PROTOCOL_VERSION, PeerMessage};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::actors::controller::{ControlConnection, Controller};
use crate::actors::messages::FromPeer;
use crate::actors::workers::Workers;
use crate::net::connection::{self, ConnectionError, FrameReader};
use crate::shared::Shared;

/// How long a connection may take to say what it is for.
const OPENING_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a failed accept: the process is out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of other brokers for as long as the process lives.
pub async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    workers: Workers,
    controller: Addr<Controller>,
) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let shared = shared.clone();
                let workers = workers.clone();
                let controller = controller.clone();
                actix::spawn(async move {
                    let from = socket.peer_addr().ok();
                    note_end(from, serve(socket, shared, &workers, controller).await);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn note_end(from: Option<SocketAddr>, result: Result<(), ConnectionError>) {
    if let Err(error) = result {
        tracing::debug!(?from, %error, "a broker's connection ended");
    }
}

async fn serve(
    socket: TcpStream,
    shared: Arc<Shared>,
    workers: &Workers,
    controller: Addr<Controller>,
) -> Result<(), ConnectionError> {
    connection::prepare(&socket)?;
    let (read, mut write) = socket.into_split();
    let mut reader = FrameReader::new(read);
    let opening = match timeout(OPENING_TIMEOUT, reader.next()).await {
        Ok(frame) => match frame? {
            Some(frame) => frame.message::<Opening>()?,
            None => return Ok(()),
        },
        Err(_) => return Ok(()),
    };
    if let Err(error) = check(&opening, &shared) {
        // One that comes before this broker is registered comes again.
        if error.code == ErrorCode::Unavailable {
            tracing::debug!(%error, "a broker's connection is refused");
        } else {
            tracing::warn!(%error, "a broker's connection is refused");
        }
        return connection::write_one(&mut write, &OpeningReply::Rejected(error)).await;
    }
    match opening {
        Opening::Replication { from, lane, .. } => {
            // It says nothing more before it is welcome, so nothing is left behind in the reader.
            let socket = reader.into_socket(write)?.into_std()?;
            workers.of_lane(lane).arbiter.spawn_fn(move || {
                actix::spawn(async move {
                    let address = socket.peer_addr().ok();
                    note_end(address, receive(socket, &shared, from).await);
                });
            });
            Ok(())
        }
        Opening::Control { .. } => {
            connection::write_one(&mut write, &OpeningReply::Welcome).await?;
            controller.do_send(ControlConnection { reader, write });
            Ok(())
        }
    }
}

/// Whether this broker is who is meant.
fn check(opening: &Opening, shared: &Shared) -> Result<(), WireError> {
    let (version, cluster_id) = match opening {
        Opening::Replication {
            version,
            cluster_id,
            ..
        } => (*version, Some(*cluster_id)),
        Opening::Control {
            version,
            cluster_id,
        } => (*version, *cluster_id),
    };
    if version != PEER_PROTOCOL_VERSION {
        let text = format!(
            "this broker speaks version {PEER_PROTOCOL_VERSION} between brokers, the other {version}"
        );
        return Err(WireError::new(ErrorCode::UnsupportedVersion, text));
    }
    let own = shared.cluster_id();
    if let (Some(own), Some(other)) = (own, cluster_id)
        && own != other
    {
        let text = format!("this broker belongs to cluster {own}, the other to {other}");
        return Err(WireError::new(ErrorCode::WrongCluster, text));
    }
    if let Opening::Replication { to, .. } = opening {
        let me = shared.me().ok_or_else(|| {
            WireError::new(ErrorCode::Unavailable, "this broker is not registered yet")
        })?;
        if me.broker != *to {
            let text = format!("this is broker {}, not broker {to}", me.broker);
            return Err(WireError::new(ErrorCode::InvalidRequest, text));
        }
    }
    Ok(())
}

/// Hands each message to its partition. One for a partition that is not here (yet, or any more) is
/// dropped, as if the network had lost it.
async fn receive(
    socket: std::net::TcpStream,
    shared: &Shared,
    from: BrokerLife,
) -> Result<(), ConnectionError> {
    let (read, mut write) = TcpStream::from_std(socket)?.into_split();
    connection::write_one(&mut write, &OpeningReply::Welcome).await?;
    let mut reader = FrameReader::new(read);
    while let Some(frame) = reader.next().await? {
        let PeerMessage { partition, message } = frame.message()?;
        let payload = frame.payload;
        let known = shared.routes.with(&partition, |hosted| {
            hosted.actor.do_send(FromPeer { message, payload });
        });
        if known.is_none() {
            tracing::trace!(%partition, %from, "a message for a partition that is not here");
        }
    }
    Ok(())
}
