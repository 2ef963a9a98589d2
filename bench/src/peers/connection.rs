//! A connection to the node that leads a partition: what is the same for every protocol.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;

use super::ANSWER_TIMEOUT;

/// How long a node of this machine may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Puts records as a protocol has them.
pub trait Encode: Send {
    /// Appends a batch to what is to be sent. Records are counted from the first one on the connection;
    /// `before` came before these.
    fn encode(&mut self, before: u64, values: &[Bytes], out: &mut Vec<u8>);
}

/// Reads acknowledgements as a protocol has them. Every system here acknowledges the records of a
/// connection in their order.
pub trait Answers: Send {
    /// Waits for the next acknowledgement: how many records of the connection are acknowledged now.
    ///
    /// # Errors
    /// If a record was refused, or what comes is not understood.
    fn next(&mut self) -> anyhow::Result<u64>;
}

/// A connection that takes records for one partition.
pub struct Connection {
    pub(super) socket: TcpStream,
    pub(super) encode: Box<dyn Encode>,
    pub(super) answers: Box<dyn Answers>,
    /// Batches that may be unacknowledged.
    pub(super) in_flight: usize,
    sent: u64,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn new(
        socket: TcpStream,
        encode: impl Encode + 'static,
        answers: impl Answers + 'static,
        in_flight: usize,
    ) -> Connection {
        Connection {
            socket,
            encode: Box::new(encode),
            answers: Box::new(answers),
            in_flight,
            sent: 0,
            buffer: Vec::new(),
        }
    }

    /// Sends a record and waits for its acknowledgement, on this thread: nothing is faster.
    ///
    /// # Errors
    /// If it is not acknowledged.
    pub fn send_one(&mut self, value: &Bytes) -> anyhow::Result<()> {
        self.buffer.clear();
        let values = std::slice::from_ref(value);
        self.encode.encode(self.sent, values, &mut self.buffer);
        self.socket.write_all(&self.buffer)?;
        self.sent += 1;
        while self.answers.next()? < self.sent {}
        Ok(())
    }
}

/// A socket to a node of this machine. Reading from it does not wait forever.
pub fn open(port: u16) -> anyhow::Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
    let socket = socket.with_context(|| format!("no connection to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}
