//! One framed connection: a reading half that yields whole frames, and a writing half that takes
//! frames from a queue and puts as many as are ready into one system call.
//!
//! Payloads are slices of mapped files. They are in memory when they are queued; where the other side
//! takes nothing for a while they may not be any more, and writing them would have the thread wait for the
//! disk, with all that it serves. So what waited is looked at on another thread first.

use std::io::IoSlice;
use std::time::Duration;

use baton_protocol::frame::{self, Decoder, FrameError, RawFrame};
use baton_protocol::peer::{Opening, OpeningReply};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

/// Frames that go into one `writev` at most.
const FRAMES_PER_WRITE_MAX: usize = 64;

/// A socket that has taken nothing for so long has stalled: what is to be written may have left memory.
const STALL_MIN: Duration = Duration::from_millis(100);

/// Bytes that are copied to wait with until a stalled socket takes more.
const PIECE_BYTES: usize = 64 << 10;

/// No page of memory is smaller.
const PAGE_BYTES: usize = 4 << 10;

/// How much is read from the socket at a time, at least.
const READ_BYTES: usize = 64 << 10;

/// With less room than this more is made.
const READ_BYTES_MIN: usize = 4 << 10;

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
            // The decoder has made room up to the end of a large frame: more would move all of it.
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
                self.buffer.reserve(READ_BYTES);
            }
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
pub async fn write_frames<W: AsyncWrite + Unpin>(
    socket: &mut W,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
) -> std::io::Result<()> {
    let mut frames = Vec::with_capacity(FRAMES_PER_WRITE_MAX);
    while queue.recv_many(&mut frames, FRAMES_PER_WRITE_MAX).await > 0 {
        let mut first = 0;
        while first < frames.len() {
            let slices = unsent(&frames[first..]);
            let sent = match timeout(STALL_MIN, socket.write_vectored(&slices)).await {
                Ok(sent) => sent?,
                Err(_) => {
                    let piece = piece_of(&slices);
                    socket.write_all(&piece).await?;
                    // What was to follow has waited as long.
                    while let Ok(frame) = queue.try_recv() {
                        frames.push(frame);
                    }
                    frames = load(frames).await?;
                    piece.len()
                }
            };
            if sent == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            first += advance(&mut frames[first..], sent);
        }
        frames.clear();
    }
    socket.shutdown().await
}

/// What is left of the first frames, for one system call.
fn unsent(frames: &[Outgoing]) -> Vec<IoSlice<'_>> {
    let frames = frames.iter().take(FRAMES_PER_WRITE_MAX);
    let parts = frames.flat_map(|frame| [&frame.head, &frame.payload]);
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(|part| IoSlice::new(part)).collect()
}

/// A copy of the first bytes.
fn piece_of(slices: &[IoSlice<'_>]) -> Vec<u8> {
    let mut piece = Vec::new();
    for slice in slices {
        let room = PIECE_BYTES - piece.len();
        piece.extend_from_slice(&slice[..slice.len().min(room)]);
    }
    piece
}

/// Takes so many bytes off the frames; how many of them have been sent as a whole.
fn advance(frames: &mut [Outgoing], mut bytes: usize) -> usize {
    let mut whole = 0;
    for frame in frames {
        let head = bytes.min(frame.head.len());
        frame.head.advance(head);
        let payload = (bytes - head).min(frame.payload.len());
        frame.payload.advance(payload);
        bytes -= head + payload;
        if !frame.is_empty() {
            break;
        }
        whole += 1;
    }
    whole
}

/// Sees to it that the payloads are in memory: they may be slices of a file that the system has forgotten
/// meanwhile. On a thread that may wait for the disk.
async fn load(frames: Vec<Outgoing>) -> std::io::Result<Vec<Outgoing>> {
    let touch = move || {
        for frame in &frames {
            for page in frame.payload.chunks(PAGE_BYTES) {
                std::hint::black_box(page[0]);
            }
        }
        frames
    };
    Ok(tokio::task::spawn_blocking(touch).await?)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, bytes: usize) -> Outgoing {
        let payload = Bytes::from(vec![number as u8; bytes]);
        Outgoing::encode(&number, payload).expect("encoded")
    }

    #[tokio::test]
    async fn what_waits_for_a_stalled_reader_arrives_whole_and_in_order() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let address = listener.local_addr().expect("an address");
        let (there, here) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut here, there) = (here.expect("accepted").0, there.expect("connected"));
        let (queue, mut queued) = mpsc::unbounded_channel();
        let writing = tokio::spawn(async move { write_frames(&mut here, &mut queued).await });
        // More than the system keeps for a socket, so the writer has to wait; and more while it does.
        let frames = 4 * FRAMES_PER_WRITE_MAX as u64;
        for number in 0..frames {
            if number == frames / 2 {
                tokio::time::sleep(3 * STALL_MIN).await;
            }
            queue.send(frame(number, 200_000)).expect("queued");
        }
        tokio::time::sleep(3 * STALL_MIN).await;
        assert!(!writing.is_finished(), "the socket takes that much");
        drop(queue);

        let mut reader = FrameReader::new(there.into_split().0);
        for number in 0..frames {
            let frame = reader.next().await.expect("sound").expect("a frame");
            assert_eq!(frame.message::<u64>().expect("a message"), number);
            assert_eq!(frame.payload, vec![number as u8; 200_000]);
        }
        assert!(reader.next().await.expect("sound").is_none());
        writing.await.expect("no panic").expect("written");
    }
}
