//! One client's connection: decodes requests, hands them on, and lets the answers be written as
//! they come.
//!
//! Bounded: a request takes its size from the allowances of the connection and of the broker and
//! gives it back when its answer has been written; while none is left the socket is not read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture,
};
use baton_protocol::admin::AdminRequest;
use baton_protocol::client::{
    CLIENT_PROTOCOL_VERSION, ClientRequest, RequestBody, ResponseBody, ServerMessage,
};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::frame::RawFrame;
use baton_protocol::groups::{GROUPS_TOPIC, GroupRequest};
use baton_protocol::ids::{PartitionIndex, TopicId, TopicPartition};
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::actors::answer::Answer;
use crate::actors::coordinator::{AskGroup, Coordinator};
use crate::actors::messages::{AskStatus, LogDamaged};
use crate::actors::subscription::{Subscription, Wanted};
use crate::inspect;
use crate::net::connection::{self, ConnectionError, FrameReader, Outgoing};
use crate::shared::Shared;

use self::produce::Producing;

mod produce;

/// How long a client may be connected before it greets: a connection costs an open file.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A request's least share of the allowance: small ones cost too.
const REQUEST_BYTES_MIN: usize = 256;

/// How much metadata a client is pushed at most, in bytes a second: with thousands of partitions it is
/// megabytes, and both sides have more to do than to look at it.
const PUSHED_BYTES_PER_S: f64 = 10e6;

/// Shorter pauses between pushes are left out.
const PUSH_PAUSE_MIN: Duration = Duration::from_millis(2);

/// The actor of one client connection.
pub struct Session {
    shared: Arc<Shared>,
    out: mpsc::UnboundedSender<Outgoing>,
    greeted: bool,
    subscriptions: HashMap<u32, Subscription>,
    watching: bool,
    reading: tokio::task::AbortHandle,
}

/// A frame the client sent, with its share of the allowance.
#[derive(Message)]
#[rtype(result = "()")]
struct Incoming {
    frame: RawFrame,
    permits: Vec<OwnedSemaphorePermit>,
}

/// The connection ended.
#[derive(Message)]
#[rtype(result = "()")]
struct Ended(Option<ConnectionError>);

impl Session {
    /// Serves `socket` on the arbiter this is called on.
    pub fn serve(socket: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
        connection::prepare(&socket)?;
        let (read, mut write) = socket.into_split();
        let (out, mut queue) = mpsc::unbounded_channel();
        let allowance = Allowance::new(&shared);
        Session::create(|ctx| {
            let address = ctx.address();
            let reading = read_requests(FrameReader::new(read), address.clone(), allowance);
            let reading = actix::spawn(reading).abort_handle();
            actix::spawn(async move {
                let result = connection::write_frames(&mut write, &mut queue).await;
                address.do_send(Ended(result.err().map(ConnectionError::from)));
            });
            Session {
                shared,
                out,
                greeted: false,
                subscriptions: HashMap::new(),
                watching: false,
                reading,
            }
        });
        Ok(())
    }

    fn request(
        &mut self,
        request: ClientRequest,
        payload: Bytes,
        answer: Answer,
        ctx: &mut Context<Self>,
    ) {
        if !self.greeted && !matches!(request.body, RequestBody::Hello { .. }) {
            answer.send(Err(WireError::new(
                ErrorCode::InvalidRequest,
                "the first request of a connection is a hello",
            )));
            return ctx.stop();
        }
        match request.body {
            RequestBody::Hello {
                version_min,
                version_max,
                cluster_id,
                client,
            } => {
                let result = self.greet(version_min, version_max, cluster_id);
                tracing::debug!(client, ok = result.is_ok(), "hello");
                let refused = result.is_err();
                answer.send(result);
                if refused {
                    ctx.stop();
                }
            }
            RequestBody::Metadata { topics } => {
                let view = self.shared.view(topics.as_deref());
                answer.send(view.map(ResponseBody::Metadata).ok_or_else(no_metadata));
            }
            RequestBody::WatchMetadata => self.watch_metadata(answer, ctx),
            RequestBody::InitProducer => self.init_producer(answer),
            RequestBody::Produce {
                topic,
                partition,
                acks,
                timeout_ms,
            } => {
                let id = TopicPartition { topic, partition };
                self.produce(
                    Producing {
                        id,
                        acks,
                        timeout_ms,
                        answer,
                    },
                    payload,
                    ctx,
                );
            }
            RequestBody::PartitionStatus { topic, partition } => {
                self.partition_status(topic, partition, answer);
            }
            RequestBody::OffsetForTime {
                topic,
                partition,
                timestamp_ms,
            } => {
                let id = TopicPartition { topic, partition };
                self.offset_for_time(id, timestamp_ms, answer);
            }
            RequestBody::Subscribe {
                subscription,
                topic,
                partition,
                offset,
                credit_bytes,
            } => {
                let partition = TopicPartition { topic, partition };
                let wanted = Wanted {
                    subscription,
                    partition,
                    offset,
                    credit_bytes,
                };
                self.subscribe(wanted, answer);
            }
            RequestBody::Credit {
                subscription,
                bytes,
            } => {
                answer.forget();
                if let Some(subscription) = self.subscriptions.get(&subscription) {
                    subscription.give(bytes);
                }
            }
            RequestBody::Unsubscribe { subscription } => {
                self.subscriptions.remove(&subscription);
                answer.send(Ok(ResponseBody::Done));
            }
            RequestBody::Group { partition, request } => self.group(partition, request, answer),
            RequestBody::Admin(AdminRequest::MakeGroupsTopic { .. }) => {
                answer.send(Err(WireError::new(
                    ErrorCode::InvalidRequest,
                    "the topic of consumer groups is made by the brokers, when the first consumer of a group comes",
                )));
            }
            RequestBody::Inspect(request) => {
                let shared = self.shared.clone();
                actix::spawn(async move {
                    let answered = inspect::answer(shared, request).await;
                    answer.send(answered.map(ResponseBody::Inspect));
                });
            }
            RequestBody::Admin(request) => {
                let control = self.shared.control.clone();
                actix::spawn(async move {
                    answer.send(control.ask(request).await.map(ResponseBody::Admin));
                });
            }
        }
    }

    fn greet(
        &mut self,
        version_min: u16,
        version_max: u16,
        cluster_id: Option<baton_protocol::ids::ClusterId>,
    ) -> Result<ResponseBody, WireError> {
        let version = CLIENT_PROTOCOL_VERSION;
        if !(version_min..=version_max).contains(&version) {
            let text = format!(
                "this broker speaks protocol version {version}, the client {version_min} to {version_max}"
            );
            return Err(WireError::new(ErrorCode::UnsupportedVersion, text));
        }
        let own = self.shared.cluster_id().ok_or_else(no_metadata)?;
        if let Some(other) = cluster_id
            && other != own
        {
            let text = format!("this broker belongs to cluster {own}, the client expects {other}");
            return Err(WireError::new(ErrorCode::WrongCluster, text));
        }
        self.greeted = true;
        Ok(ResponseBody::Hello {
            version,
            cluster_id: own,
            broker: self.shared.broker,
            message_bytes_max: self.shared.config.limits.message_bytes_max as u32,
        })
    }

    /// Hands a request about a group to its coordinator, if that is here.
    fn group(&self, partition: PartitionIndex, request: GroupRequest, answer: Answer) {
        match self.coordinator(partition) {
            Ok(coordinator) => coordinator.do_send(AskGroup { request, answer }),
            Err(error) => answer.send(Err(error)),
        }
    }

    fn coordinator(&self, partition: PartitionIndex) -> Result<Addr<Coordinator>, WireError> {
        let known = self.shared.known.borrow().clone();
        let topics = known.topics().ok_or_else(no_metadata)?;
        let Some(topic) = topics.named(GROUPS_TOPIC) else {
            return Err(self.shared.groups_topic.ask_for(&self.shared));
        };
        let id = TopicPartition {
            topic: topic.id,
            partition,
        };
        if !topics.has(id) {
            return Err(self.not_here(id));
        }
        let routes = &self.shared.routes;
        let coordinator = routes.with(&id, |hosted| hosted.coordinator.clone());
        coordinator.flatten().ok_or_else(|| {
            let text = format!(
                "broker {} does not coordinate the groups of {}; ask that partition's leader",
                self.shared.broker,
                self.name_of(id)
            );
            WireError::new(ErrorCode::NotCoordinator, text)
        })
    }

    fn partition_status(&self, topic: TopicId, partition: PartitionIndex, answer: Answer) {
        let id = TopicPartition { topic, partition };
        let Some(hosted) = self.shared.routes.get(&id) else {
            return answer.send(Err(self.not_here(id)));
        };
        actix::spawn(async move {
            let result = match hosted.actor.send(AskStatus).await {
                Ok(result) => result.map(ResponseBody::PartitionStatus),
                Err(error) => Err(WireError::new(ErrorCode::Unavailable, error.to_string())),
            };
            answer.send(result);
        });
    }

    /// Looks into the log on a thread that may wait for the disk.
    fn offset_for_time(&self, id: TopicPartition, timestamp_ms: i64, answer: Answer) {
        let Some(hosted) = self.shared.routes.get(&id) else {
            return answer.send(Err(self.not_here(id)));
        };
        actix::spawn(async move {
            let high_watermark = hosted.told.watermark.at();
            let reader = hosted.reader.clone();
            let find = move || reader.offset_for_time(timestamp_ms, high_watermark);
            answer.send(match tokio::task::spawn_blocking(find).await {
                Ok(Ok(offset)) => Ok(ResponseBody::OffsetForTime {
                    offset,
                    high_watermark,
                }),
                Ok(Err(error)) => {
                    let text = error.to_string();
                    hosted.actor.do_send(LogDamaged(text.clone()));
                    Err(WireError::new(ErrorCode::StorageFailed, text))
                }
                Err(error) => Err(WireError::new(ErrorCode::Internal, error.to_string())),
            });
        });
    }

    fn subscribe(&mut self, wanted: Wanted, answer: Answer) {
        let Some(hosted) = self.shared.routes.get(&wanted.partition) else {
            return answer.send(Err(self.not_here(wanted.partition)));
        };
        let (number, name) = (wanted.subscription, self.name_of(wanted.partition));
        let (cold_reads, out) = (self.shared.cold_reads.clone(), self.out.clone());
        match Subscription::start(wanted, &name, &hosted, cold_reads, out, answer) {
            Some(subscription) => {
                self.subscriptions.insert(number, subscription);
            }
            None => {
                self.subscriptions.remove(&number);
            }
        }
    }

    fn watch_metadata(&mut self, answer: Answer, ctx: &mut Context<Self>) {
        let mut changes = self.shared.known.subscribe();
        changes.mark_unchanged();
        let view = self.shared.view(None);
        answer.send(view.map(ResponseBody::Metadata).ok_or_else(no_metadata));
        if std::mem::replace(&mut self.watching, true) {
            return;
        }
        let (shared, out) = (self.shared.clone(), self.out.clone());
        // The next change is encoded when the last one has left: a client that reads slowly is
        // told the newest state, not every one.
        let one_on_its_way = Arc::new(Semaphore::new(1));
        let watch = async move {
            while let Ok(permit) = one_on_its_way.clone().acquire_owned().await {
                if changes.changed().await.is_err() {
                    return;
                }
                if let Some(frame) = shared.push() {
                    let bytes = frame.len() as f64;
                    drop(out.send(frame.holding(vec![permit])));
                    let pause = Duration::from_secs_f64(bytes / PUSHED_BYTES_PER_S);
                    if pause > PUSH_PAUSE_MIN {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        };
        ctx.spawn(watch.into_actor(self).map(|(), _, _| ()));
    }

    fn init_producer(&self, answer: Answer) {
        let shared = self.shared.clone();
        actix::spawn(async move {
            let result = shared.producer_ids.next(&shared.control).await;
            answer.send(result.map(|id| ResponseBody::Producer {
                producer_id: id,
                producer_epoch: 0,
            }));
        });
    }

    /// A partition as people know it.
    fn name_of(&self, id: TopicPartition) -> String {
        self.shared.name_of(id)
    }

    /// Why a partition is not served here, as precisely as this broker knows.
    fn not_here(&self, id: TopicPartition) -> WireError {
        let known = self.shared.known.borrow().clone();
        let Some(state) = known.state else {
            return no_metadata();
        };
        let Some(topic) = state.topics.get(&id.topic) else {
            let text = format!("there is no topic with the id {}", id.topic);
            return WireError::new(ErrorCode::UnknownTopic, text);
        };
        if topic.partition(id.partition).is_none() {
            let count = topic.partitions.len();
            let text = format!(
                "topic {} has no partition {}; it has {count}, numbered from 0",
                topic.name, id.partition
            );
            return WireError::new(ErrorCode::UnknownPartition, text);
        }
        let (me, name) = (self.shared.broker, self.name_of(id));
        let leader = topic.partition(id.partition).and_then(|p| p.leader);
        if leader.is_some_and(|leader| leader.broker == me)
            && let Some(failure) = self.shared.routes.failure(&id)
        {
            let text = format!("broker {me}, which leads {name}, {}", failure.message);
            return WireError::new(failure.code, text);
        }
        WireError::new(
            ErrorCode::NotLeader,
            format!("broker {me} does not lead {name}"),
        )
    }
}

/// Refuses a batch; in silence, where no answer is wanted.
fn no_metadata() -> WireError {
    WireError::new(
        ErrorCode::NoController,
        "this broker has not heard of a controller yet; it may be starting, or the cluster was never formed (baton cluster init)",
    )
}

/// Queues a message that answers nothing.
pub fn push(out: &mpsc::UnboundedSender<Outgoing>, message: &ServerMessage, payload: Bytes) {
    match Outgoing::encode(message, payload) {
        Ok(frame) => drop(out.send(frame)),
        Err(error) => tracing::error!(%error, "a message to a client could not be encoded"),
    }
}

/// What requests may hold at a time: on this connection, and on all of the broker.
struct Allowance {
    connection: Arc<Semaphore>,
    broker: Arc<Semaphore>,
    /// Most that one request is counted as, so that it fits both.
    share_max: usize,
}

impl Allowance {
    fn new(shared: &Shared) -> Self {
        let limits = &shared.config.limits;
        Allowance {
            connection: Arc::new(Semaphore::new(limits.in_flight_bytes_per_connection)),
            broker: shared.in_flight_bytes.clone(),
            share_max: limits
                .in_flight_bytes_per_connection
                .min(limits.in_flight_bytes),
        }
    }

    /// Waits for room; none when the broker ends.
    async fn take(&self, frame: &RawFrame) -> Option<Vec<OwnedSemaphorePermit>> {
        let size = (frame.header.len() + frame.payload.len()).max(REQUEST_BYTES_MIN);
        let share = size.min(self.share_max) as u32;
        // In this order: who waits for its own connection holds nothing of the others'.
        let own = self.connection.clone().acquire_many_owned(share).await;
        let common = self.broker.clone().acquire_many_owned(share).await;
        Some(vec![own.ok()?, common.ok()?])
    }
}

/// Reads requests as long as the allowance lasts; each takes its share along.
async fn read_requests(
    mut reader: FrameReader,
    session: actix::Addr<Session>,
    allowance: Allowance,
) {
    let ended = loop {
        match reader.next().await {
            Ok(Some(frame)) => {
                let Some(permits) = allowance.take(&frame).await else {
                    break None;
                };
                session.do_send(Incoming { frame, permits });
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    session.do_send(Ended(ended));
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(HELLO_TIMEOUT, |session, ctx| {
            if !session.greeted {
                tracing::debug!("a client did not greet in time");
                ctx.stop();
            }
        });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.reading.abort();
        self.shared.release();
    }
}

impl Handler<Incoming> for Session {
    type Result = ();

    fn handle(&mut self, incoming: Incoming, ctx: &mut Self::Context) {
        let Incoming { frame, permits } = incoming;
        match frame.message::<ClientRequest>() {
            Ok(request) => {
                let answer = Answer::new(request.id, self.out.clone(), permits);
                self.request(request, frame.payload, answer, ctx);
            }
            Err(error) => ctx.notify(Ended(Some(error.into()))),
        }
    }
}

impl Handler<Ended> for Session {
    type Result = ();

    fn handle(&mut self, Ended(error): Ended, ctx: &mut Self::Context) {
        if let Some(error) = error {
            tracing::info!(%error, "a client's connection ended");
        }
        ctx.stop();
    }
}
