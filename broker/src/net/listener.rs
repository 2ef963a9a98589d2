//! A listening socket with an error that says which setting to change.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}; choose another address with {remedy}")]
pub struct ListenError {
    /// The address.
    pub address: String,
    /// The configuration key it comes from.
    pub key: &'static str,
    /// How to choose another.
    pub remedy: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listens on `address`, which the configuration gives as `key`.
pub fn listen(
    address: &str,
    key: &'static str,
    remedy: &'static str,
) -> Result<TcpListener, ListenError> {
    let attempt = || -> std::io::Result<TcpListener> {
        let address: SocketAddr = std::net::ToSocketAddrs::to_socket_addrs(address)?
            .next()
            .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A restarted broker takes its port back although old connections linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    attempt().map_err(|source| ListenError {
        address: address.to_owned(),
        key,
        remedy,
        source,
    })
}
