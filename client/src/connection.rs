//! One connection to a broker: requests with their answers, and what the broker pushes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::client::{
    CLIENT_PROTOCOL_VERSION, ClientRequest, RequestBody, ResponseBody, ServerMessage,
};
use baton_protocol::frame::{Decoder, FrameError, RawFrame, encode_header};
use baton_protocol::ids::ClusterId;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};

const READ_BYTES: usize = 64 << 10;

type Answers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<ResponseBody>>>>>>;

/// What a broker sends unasked: the message and its payload.
pub(crate) type Pushed = (ServerMessage, Bytes);

/// A connection. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    out: mpsc::UnboundedSender<(Bytes, Bytes)>,
    answers: Answers,
    next_id: AtomicU64,
    closed: watch::Receiver<bool>,
    message_bytes_max: u32,
    reading: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn lost(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!("broker at {address}: {why}"),
    )
}

/// What listens there is no broker's port for clients.
fn foreign(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotABroker,
        format!("what answers at {address} is no broker's port for clients: {why}"),
    )
}

impl Connection {
    /// Connects and greets, within `limit`. What the broker pushes goes to `pushes`.
    pub async fn open(
        address: &str,
        cluster_id: Option<ClusterId>,
        limit: Duration,
        pushes: mpsc::UnboundedSender<Pushed>,
    ) -> Result<(Connection, ClusterId)> {
        match timeout(limit, Connection::greet(address, cluster_id, pushes)).await {
            Ok(result) => result,
            Err(_) => Err(lost(
                address,
                format!("no answer within {} ms", limit.as_millis()),
            )),
        }
    }

    async fn greet(
        address: &str,
        expected: Option<ClusterId>,
        pushes: mpsc::UnboundedSender<Pushed>,
    ) -> Result<(Connection, ClusterId)> {
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| lost(address, error))?;
        socket
            .set_nodelay(true)
            .map_err(|error| lost(address, error))?;
        let (mut read, mut write) = socket.into_split();
        let hello = ClientRequest {
            id: 0,
            body: RequestBody::Hello {
                version_min: CLIENT_PROTOCOL_VERSION,
                version_max: CLIENT_PROTOCOL_VERSION,
                cluster_id: expected,
                client: concat!("baton-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            },
        };
        let head = encode(&hello, 0)?;
        write
            .write_all(&head)
            .await
            .map_err(|error| lost(address, error))?;
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let frame = read_frame(&mut read, &mut buffer)
            .await
            .map_err(|error| match error {
                ReadError::Lost(why) => lost(address, why),
                ReadError::Malformed(error) => foreign(address, error),
            })?;
        let message = frame
            .message::<ServerMessage>()
            .map_err(|error| foreign(address, error))?;
        let ServerMessage::Response { result, .. } = message else {
            return Err(foreign(address, "it did not answer the greeting"));
        };
        let greeting = result.map_err(|error| {
            Error::from(error).reworded(|error| format!("broker at {address}: {error}"))
        })?;
        let ResponseBody::Hello {
            cluster_id,
            message_bytes_max,
            ..
        } = greeting
        else {
            return Err(foreign(
                address,
                "it answered the greeting with something else",
            ));
        };
        let connection = Connection::start(address, read, write, buffer, pushes, message_bytes_max);
        Ok((connection, cluster_id))
    }

    fn start(
        address: &str,
        read: OwnedReadHalf,
        write: OwnedWriteHalf,
        buffer: BytesMut,
        pushes: mpsc::UnboundedSender<Pushed>,
        message_bytes_max: u32,
    ) -> Connection {
        let (out, queue) = mpsc::unbounded_channel();
        let answers: Answers = Arc::new(Mutex::new(Some(HashMap::new())));
        let (closing, closed) = watch::channel(false);
        let reader = Reader {
            address: address.to_owned(),
            read,
            buffer,
            answers: answers.clone(),
            pushes,
            closing: closing.clone(),
        };
        let reading = tokio::spawn(reader.run()).abort_handle();
        tokio::spawn(write_all(write, queue, closing));
        Connection {
            inner: Arc::new(Inner {
                address: address.to_owned(),
                out,
                answers,
                next_id: AtomicU64::new(1),
                closed,
                message_bytes_max,
                reading,
            }),
        }
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Largest record batch that the broker takes.
    pub fn message_bytes_max(&self) -> usize {
        self.inner.message_bytes_max as usize
    }

    /// Whether it is lost.
    pub fn is_closed(&self) -> bool {
        *self.inner.closed.borrow()
    }

    /// Waits until it is lost.
    pub async fn closed(&self) {
        let mut closed = self.inner.closed.clone();
        // An error means that both tasks are gone: closed, too.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Sends a request; the answer comes by the receiver.
    pub fn send(
        &self,
        body: RequestBody,
        payload: Bytes,
    ) -> Result<oneshot::Receiver<Result<ResponseBody>>> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let head = encode(&ClientRequest { id, body }, payload.len())?;
        let (answer, answered) = oneshot::channel();
        {
            let mut answers = self
                .inner
                .answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match answers.as_mut() {
                Some(answers) => drop(answers.insert(id, answer)),
                None => return Err(lost(self.address(), "the connection is lost")),
            }
        }
        if self.inner.out.send((head, payload)).is_err() {
            return Err(lost(self.address(), "the connection is lost"));
        }
        Ok(answered)
    }

    /// Sends a request that is not answered.
    pub fn tell(&self, body: RequestBody, payload: Bytes) -> Result<()> {
        let head = encode(&ClientRequest { id: 0, body }, payload.len())?;
        let sent = self.inner.out.send((head, payload));
        sent.map_err(|_| lost(self.address(), "the connection is lost"))
    }

    /// Asks, and waits for the answer for `limit` at most.
    pub async fn ask(&self, body: RequestBody, limit: Duration) -> Result<ResponseBody> {
        let answered = self.send(body, Bytes::new())?;
        self.answer_to(answered, limit).await
    }

    /// Waits for the answer to what was sent, for `limit` at most.
    pub async fn answer_to(
        &self,
        answered: oneshot::Receiver<Result<ResponseBody>>,
        limit: Duration,
    ) -> Result<ResponseBody> {
        match timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(lost(self.address(), "the connection was lost")),
            Err(_) => Err(lost(
                self.address(),
                format!("no answer within {} ms", limit.as_millis()),
            )),
        }
    }
}

fn encode(request: &ClientRequest, payload: usize) -> Result<Bytes> {
    let mut head = BytesMut::with_capacity(160);
    encode_header(request, payload, &mut head)
        .map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
    Ok(head.freeze())
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Lost(String),
    #[error("malformed frame: {0}")]
    Malformed(FrameError),
}

async fn read_frame(
    read: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
) -> std::result::Result<RawFrame, ReadError> {
    loop {
        let decoded = Decoder::default()
            .decode(buffer)
            .map_err(ReadError::Malformed)?;
        if let Some(frame) = decoded {
            return Ok(frame);
        }
        buffer.reserve(READ_BYTES);
        match read.read_buf(buffer).await {
            Ok(0) => return Err(ReadError::Lost("the connection was closed".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(ReadError::Lost(error.to_string())),
        }
    }
}

struct Reader {
    address: String,
    read: OwnedReadHalf,
    buffer: BytesMut,
    answers: Answers,
    pushes: mpsc::UnboundedSender<Pushed>,
    closing: watch::Sender<bool>,
}

impl Reader {
    async fn run(mut self) {
        let why = loop {
            let frame = match read_frame(&mut self.read, &mut self.buffer).await {
                Ok(frame) => frame,
                Err(error) => break error.to_string(),
            };
            match frame.message::<ServerMessage>() {
                Ok(ServerMessage::Response { id, result }) => {
                    self.answer(id, result.map_err(Error::from))
                }
                Ok(message) => drop(self.pushes.send((message, frame.payload))),
                Err(error) => break error.to_string(),
            }
        };
        tracing::debug!(address = self.address, why, "connection lost");
        self.closing.send_replace(true);
        let answers = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        for (_, answer) in answers.into_iter().flatten() {
            drop(answer.send(Err(lost(&self.address, &why))));
        }
    }

    fn answer(&self, id: u64, result: Result<ResponseBody>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.as_mut().and_then(|answers| answers.remove(&id)) {
            // Whoever asked may have given up.
            drop(answer.send(result));
        }
    }
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<(Bytes, Bytes)>,
    closing: watch::Sender<bool>,
) {
    while let Some((head, payload)) = queue.recv().await {
        if let Err(error) = write.write_all_buf(&mut head.chain(payload)).await {
            tracing::debug!(%error, "connection lost while writing");
            break;
        }
    }
    closing.send_replace(true);
}
