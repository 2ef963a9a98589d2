//! One framed connection: a reading half that yields whole frames, and a writing half that takes
//! frames from a queue and puts as many as are ready into one system call.

use std::io::IoSlice;

use baton_protocol::frame::{self, Decoder, FrameError, RawFrame};
use baton_protocol::peer::{Opening, OpeningReply};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Frames that go into one `writev` at most.
const FRAMES_PER_WRITE_MAX: usize = 64;

/// How much is read from the socket at a time, at least.
const READ_BYTES: usize = 64 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// The other side sent what is no frame, or no message.
    #[error("malformed frame: {0}")]
    Frame(#[from] FrameError),
    /// The other side closed in the middle of a frame.
    #[error("connection closed within a frame")]
    Truncated,
    /// The other side sent something before it was its turn.
    #[error("something was sent before the connection was welcome")]
    TooEarly,
}

/// The reading half.
pub struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    decoder: Decoder,
}

impl FrameReader {
    /// Reads frames from `socket`.
    pub fn new(socket: OwnedReadHalf) -> Self {
        FrameReader {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            decoder: Decoder::default(),
        }
    }

    /// The socket, to be served elsewhere.
    ///
    /// # Errors
    /// If the other side has sent more than was read.
    pub fn into_socket(self, write: OwnedWriteHalf) -> Result<TcpStream, ConnectionError> {
        if !self.buffer.is_empty() {
            return Err(ConnectionError::TooEarly);
        }
        let socket = self.socket.reunite(write);
        socket.map_err(|_| ConnectionError::TooEarly)
    }

    /// The next frame; none when the other side has closed properly. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<RawFrame>, ConnectionError> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(ConnectionError::Truncated)
                };
            }
        }
    }
}

/// A frame that is ready to be written: its head (lengths and header) and its payload, which may
/// be a slice of a mapped segment.
#[derive(Debug)]
pub struct Outgoing {
    head: Bytes,
    payload: Bytes,
    /// What it takes of an allowance until it has left.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// What follows the header.
    #[cfg(test)]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Where its head is in memory.
    #[cfg(test)]
    pub fn place(&self) -> *const u8 {
        self.head.as_ptr()
    }

    /// The same frame once more, to be sent to somebody else; it takes nothing of an allowance.
    pub fn again(&self) -> Outgoing {
        Outgoing {
            head: self.head.clone(),
            payload: self.payload.clone(),
            permits: Vec::new(),
        }
    }

    /// Encodes a message with its payload.
    pub fn encode<T: Serialize>(message: &T, payload: Bytes) -> Result<Self, FrameError> {
        let mut head = BytesMut::with_capacity(256);
        frame::encode_header(message, payload.len(), &mut head)?;
        Ok(Outgoing {
            head: head.freeze(),
            payload,
            permits: Vec::new(),
        })
    }

    /// Holds `permits` until it has been written to the socket, or the connection ended: so a
    /// client that does not read runs out of its allowance, and is not read from any more.
    pub fn holding(mut self, permits: Vec<OwnedSemaphorePermit>) -> Self {
        self.permits = permits;
        self
    }

    /// Its size on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Whether it is empty, which no frame is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes what comes out of `queue`, until the queue is closed and drained or the socket fails.
/// `written` is told the size of each frame that has left.
pub async fn write_frames<W: AsyncWrite + Unpin>(
    socket: &mut W,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    mut written: impl FnMut(usize),
) -> std::io::Result<()> {
    let mut frames = Vec::with_capacity(FRAMES_PER_WRITE_MAX);
    while queue.recv_many(&mut frames, FRAMES_PER_WRITE_MAX).await > 0 {
        let size: usize = frames.iter().map(Outgoing::len).sum();
        write_all(socket, &mut frames).await?;
        written(size);
    }
    socket.shutdown().await
}

async fn write_all<W: AsyncWrite + Unpin>(
    socket: &mut W,
    frames: &mut Vec<Outgoing>,
) -> std::io::Result<()> {
    let mut first = 0;
    while first < frames.len() {
        let slices: Vec<IoSlice<'_>> = frames[first..]
            .iter()
            .flat_map(|frame| [&frame.head, &frame.payload])
            .filter(|part| !part.is_empty())
            .map(|part| IoSlice::new(part))
            .collect();
        let mut left = socket.write_vectored(&slices).await?;
        if left == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        for frame in &mut frames[first..] {
            let head = left.min(frame.head.len());
            frame.head.advance(head);
            let payload = (left - head).min(frame.payload.len());
            frame.payload.advance(payload);
            left -= head + payload;
            if !frame.is_empty() {
                break;
            }
            first += 1;
        }
    }
    frames.clear();
    Ok(())
}

/// Makes a socket ready for small messages that must not wait for company.
pub fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)
}

/// Writes one frame without a queue: for greetings.
pub async fn write_one<W: AsyncWrite + Unpin, T: Serialize>(
    socket: &mut W,
    message: &T,
) -> Result<(), ConnectionError> {
    let frame = Outgoing::encode(message, Bytes::new())?;
    socket.write_all(&frame.head).await?;
    Ok(())
}

/// Opens a connection to a peer port: says what it is for and reads the answer.
pub async fn open<W: AsyncWrite + Unpin>(
    socket: &mut W,
    reader: &mut FrameReader,
    opening: &Opening,
) -> Result<OpeningReply, ConnectionError> {
    write_one(socket, opening).await?;
    match reader.next().await? {
        Some(frame) => Ok(frame.message()?),
        None => Err(ConnectionError::Truncated),
    }
}
