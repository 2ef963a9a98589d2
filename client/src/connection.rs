//! One connection to a broker: requests with their answers, subscriptions, and what the broker says
//! of the cluster unasked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_protocol::client::{
    CLIENT_PROTOCOL_VERSION, ClientRequest, RequestBody, ResponseBody, ServerMessage,
};
use baton_protocol::frame::{Decoder, FrameError, RawFrame, encode_header};
use baton_protocol::ids::{ClusterId, Offset};
use baton_protocol::metadata::ClusterView;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::error::{Error, ErrorKind, Result};

const READ_BYTES: usize = 64 << 10;

/// With less room than this more is made.
const READ_BYTES_MIN: usize = 4 << 10;

/// A connection that nothing came by for so long is asked whether it lives, and may take as long for
/// the answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);

type Answers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<ResponseBody>>>>>>;

type Subscriptions = Arc<Mutex<HashMap<u32, mpsc::UnboundedSender<Pushed>>>>;

/// What a broker sends for a subscription.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// Stored entries, back to back, and the high watermark as the broker knows it.
    Records(Bytes, Offset),
    /// It ends, for this reason.
    Ended(Error),
}

/// Who a connection is made for.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    /// What the client is called in the broker's log.
    pub client_name: String,
    /// The cluster that is expected, if it is known.
    pub cluster: Option<ClusterId>,
}

/// A connection. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

/// What is to be written.
struct Outgoing {
    head: Bytes,
    payload: Bytes,
    /// Who wants to know when it is.
    written: Option<oneshot::Sender<Result<ResponseBody>>>,
}

struct Inner {
    address: String,
    out: mpsc::UnboundedSender<Outgoing>,
    answers: Answers,
    subscriptions: Subscriptions,
    next_id: AtomicU64,
    next_subscription: AtomicU32,
    closed: watch::Receiver<bool>,
    closing: watch::Sender<bool>,
    heard: Arc<Heard>,
    message_bytes_max: u32,
    reading: tokio::task::AbortHandle,
    writing: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is still to be written is written: an unanswered batch is not lost with its producer.
        self.reading.abort();
    }
}

/// When something last came.
struct Heard {
    begun: Instant,
    at_ms: AtomicU64,
}

impl Heard {
    fn note(&self) {
        let ms = self.begun.elapsed().as_millis() as u64;
        self.at_ms.store(ms, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(at)
    }
}

/// A subscription's number on its connection, and what is pushed for it. Ends it when dropped.
pub(crate) struct Subscription {
    pub number: u32,
    pub pushed: mpsc::UnboundedReceiver<Pushed>,
    connection: Connection,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.connection.subscriptions().remove(&self.number);
        let body = RequestBody::Unsubscribe {
            subscription: self.number,
        };
        // Whether there still is a connection makes no difference.
        drop(self.connection.tell(body, Bytes::new()));
    }
}

fn lost(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!("broker at {address}: {why}"),
    )
}

fn lost_by(address: &str, error: std::io::Error) -> Error {
    lost(address, &error).caused_by(error)
}

/// What listens there is no broker's port for clients.
fn foreign(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotABroker,
        format!("what answers at {address} is no broker's port for clients: {why}"),
    )
}

impl Connection {
    /// Connects and greets, within `limit`. What the broker says of the cluster goes to `views`.
    pub async fn open(
        address: &str,
        greeting: Greeting,
        limit: Duration,
        views: Option<mpsc::UnboundedSender<ClusterView>>,
    ) -> Result<(Connection, ClusterId)> {
        match timeout(limit, Connection::greet(address, greeting, views)).await {
            Ok(result) => result,
            Err(_) => Err(lost(
                address,
                format!("no answer within {} ms", limit.as_millis()),
            )),
        }
    }

    async fn greet(
        address: &str,
        greeting: Greeting,
        views: Option<mpsc::UnboundedSender<ClusterView>>,
    ) -> Result<(Connection, ClusterId)> {
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| lost_by(address, error))?;
        socket
            .set_nodelay(true)
            .map_err(|error| lost_by(address, error))?;
        let (mut read, mut write) = socket.into_split();
        let hello = ClientRequest {
            id: 0,
            body: RequestBody::Hello {
                version_min: CLIENT_PROTOCOL_VERSION,
                version_max: CLIENT_PROTOCOL_VERSION,
                cluster_id: greeting.cluster,
                client: greeting.client_name,
            },
        };
        let head = encode(&hello, 0)?;
        write
            .write_all(&head)
            .await
            .map_err(|error| lost_by(address, error))?;
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
        let connection = Connection::start(address, read, write, buffer, views, message_bytes_max);
        Ok((connection, cluster_id))
    }

    fn start(
        address: &str,
        read: OwnedReadHalf,
        write: OwnedWriteHalf,
        buffer: BytesMut,
        views: Option<mpsc::UnboundedSender<ClusterView>>,
        message_bytes_max: u32,
    ) -> Connection {
        let (out, queue) = mpsc::unbounded_channel();
        let answers: Answers = Arc::new(Mutex::new(Some(HashMap::new())));
        let subscriptions = Subscriptions::default();
        let (closing, closed) = watch::channel(false);
        let heard = Arc::new(Heard {
            begun: Instant::now(),
            at_ms: AtomicU64::new(0),
        });
        let reader = Reader {
            address: address.to_owned(),
            read,
            buffer,
            answers: answers.clone(),
            subscriptions: subscriptions.clone(),
            views,
            heard: heard.clone(),
            closing: closing.clone(),
        };
        let reading = tokio::spawn(reader.run()).abort_handle();
        let writing = tokio::spawn(write_all(write, queue, closing.clone())).abort_handle();
        Connection {
            inner: Arc::new(Inner {
                address: address.to_owned(),
                out,
                answers,
                subscriptions,
                next_id: AtomicU64::new(1),
                next_subscription: AtomicU32::new(1),
                closed,
                closing,
                heard,
                message_bytes_max,
                reading,
                writing,
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

    /// Gives it up: whoever waits for an answer is told so, and what was to be written is dropped.
    pub fn give_up(&self, why: &str) {
        tracing::debug!(address = self.address(), why, "connection given up");
        self.inner.reading.abort();
        self.inner.writing.abort();
        self.inner.closing.send_replace(true);
        end_all(
            self.address(),
            &self.inner.answers,
            &self.inner.subscriptions,
            why,
        );
    }

    /// Sees to it that a connection which died without a word is noticed: where nothing has come for
    /// long, something small is asked for.
    pub fn watch_over(&self) {
        let watched = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                sleep(SILENCE_MAX / 2).await;
                let Some(inner) = watched.upgrade() else {
                    return;
                };
                let connection = Connection { inner };
                if connection.is_closed() {
                    return;
                }
                if connection.inner.heard.silence() < SILENCE_MAX {
                    continue;
                }
                let nothing = RequestBody::Metadata {
                    topics: Some(Vec::new()),
                };
                let answer = connection.ask(nothing, SILENCE_MAX).await;
                if answer.is_err() && connection.inner.heard.silence() >= SILENCE_MAX {
                    connection.give_up("no sign of life");
                }
            }
        });
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<u32, mpsc::UnboundedSender<Pushed>>> {
        let subscriptions = self.inner.subscriptions.lock();
        subscriptions.unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for what will be pushed for a subscription. The broker does not know of it yet.
    pub fn subscription(&self) -> Subscription {
        let next = &self.inner.next_subscription;
        let number = next.fetch_add(1, Ordering::Relaxed);
        let (sender, pushed) = mpsc::unbounded_channel();
        self.subscriptions().insert(number, sender);
        if self.is_closed() {
            // Whoever ended the connection may not have seen it.
            self.subscriptions().clear();
        }
        Subscription {
            number,
            pushed,
            connection: self.clone(),
        }
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
        self.write(head, payload, None)?;
        Ok(answered)
    }

    fn write(
        &self,
        head: Bytes,
        payload: Bytes,
        written: Option<oneshot::Sender<Result<ResponseBody>>>,
    ) -> Result<()> {
        let outgoing = Outgoing {
            head,
            payload,
            written,
        };
        let sent = self.inner.out.send(outgoing);
        sent.map_err(|_| lost(self.address(), "the connection is lost"))
    }

    /// Sends a request that is not answered; once it has been written, `Done` comes by the receiver.
    /// Where that fails, the broker did not get it as a whole.
    pub fn send_unanswered(
        &self,
        body: RequestBody,
        payload: Bytes,
    ) -> Result<oneshot::Receiver<Result<ResponseBody>>> {
        let head = encode(&ClientRequest { id: 0, body }, payload.len())?;
        let (written, is_written) = oneshot::channel();
        self.write(head, payload, Some(written))?;
        Ok(is_written)
    }

    /// Sends a request that is not answered.
    pub fn tell(&self, body: RequestBody, payload: Bytes) -> Result<()> {
        let head = encode(&ClientRequest { id: 0, body }, payload.len())?;
        self.write(head, payload, None)
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
        // The decoder has made room up to the end of a large frame: more would move all of it.
        if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
            buffer.reserve(READ_BYTES);
        }
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
    subscriptions: Subscriptions,
    views: Option<mpsc::UnboundedSender<ClusterView>>,
    heard: Arc<Heard>,
    closing: watch::Sender<bool>,
}

impl Reader {
    async fn run(mut self) {
        let why = loop {
            let frame = match read_frame(&mut self.read, &mut self.buffer).await {
                Ok(frame) => frame,
                Err(error) => break error.to_string(),
            };
            self.heard.note();
            match frame.message::<ServerMessage>() {
                Ok(message) => self.take(message, frame.payload),
                Err(error) => break error.to_string(),
            }
        };
        tracing::debug!(address = self.address, why, "connection lost");
        self.closing.send_replace(true);
        end_all(&self.address, &self.answers, &self.subscriptions, &why);
    }

    fn take(&self, message: ServerMessage, payload: Bytes) {
        match message {
            ServerMessage::Response { id, result } => self.answer(id, result.map_err(Error::from)),
            ServerMessage::Records {
                subscription,
                high_watermark,
            } => self.push(subscription, Pushed::Records(payload, high_watermark)),
            ServerMessage::SubscriptionEnded {
                subscription,
                error,
            } => self.push(subscription, Pushed::Ended(error.into())),
            ServerMessage::Metadata(view) => {
                if let Some(views) = &self.views {
                    // Whoever follows the cluster may have turned to another broker.
                    drop(views.send(view));
                }
            }
        }
    }

    /// What comes for a subscription that is over is dropped.
    fn push(&self, subscription: u32, pushed: Pushed) {
        let subscriptions = self.subscriptions.lock();
        let subscriptions = subscriptions.unwrap_or_else(PoisonError::into_inner);
        if let Some(subscription) = subscriptions.get(&subscription) {
            drop(subscription.send(pushed));
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

/// Nobody is left waiting for what will not come.
fn end_all(address: &str, answers: &Answers, subscriptions: &Subscriptions, why: &str) {
    let answers = answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    for (_, answer) in answers.into_iter().flatten() {
        drop(answer.send(Err(lost(address, why))));
    }
    let subscriptions = subscriptions.lock();
    let mut subscriptions = subscriptions.unwrap_or_else(PoisonError::into_inner);
    subscriptions.clear();
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    closing: watch::Sender<bool>,
) {
    while let Some(outgoing) = queue.recv().await {
        let mut bytes = outgoing.head.chain(outgoing.payload);
        if let Err(error) = write.write_all_buf(&mut bytes).await {
            tracing::debug!(%error, "connection lost while writing");
            break;
        }
        if let Some(written) = outgoing.written {
            // Whoever wanted to know may have given up.
            drop(written.send(Ok(ResponseBody::Done)));
        }
    }
    closing.send_replace(true);
}
