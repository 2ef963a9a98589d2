//! Sending records: batches them by partition, and has each partition's lane deliver them.
//!
//! | module | what |
//! | --- | --- |
//! | `builder` | the settings |
//! | `partitioner` | which partition a record goes to |
//! | `topic` | a topic that is sent to, and its intakes |
//! | `intake` | the batches of a partition that wait |
//! | `lane` | their way to the leader |
//! | `fate` | what becomes of them, and who waits for that |

mod builder;
mod fate;
mod intake;
mod lane;
mod partitioner;
mod topic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use baton_protocol::batch::{BATCH_HEADER_BYTES, BatchBuilder, HEADERS_PER_RECORD_MAX, Header};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::builder::ProducerBuilder;
pub use self::fate::Ack;
pub use self::partitioner::{KeyHash, Partitioner, partition_of_key};

use self::builder::ProducerConfig;
use self::fate::Debt;
use self::intake::OpenBatch;
use self::lane::Lane;
use self::topic::Topic;
use crate::client::{Client, no_topic};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, RecordMetadata};

/// Sends records to any topics, idempotently: whatever is repeated on the way, each record is stored
/// once, and those of a partition in the order of their `send`s. (With [`Acks::None`] nothing is
/// repeated, so a record is stored once or not at all.)
///
/// Cheap to clone; clones share everything. When the last one is dropped, what was taken is still
/// delivered, as long as the runtime lives; [`Producer::close`] waits for it.
///
/// [`Acks::None`]: crate::Acks::None
#[derive(Clone)]
pub struct Producer {
    handle: Arc<ProducerHandle>,
}

/// Closes the producer with its last clone.
struct ProducerHandle {
    core: Arc<Core>,
}

impl Drop for ProducerHandle {
    fn drop(&mut self) {
        self.core.close();
    }
}

/// What a producer's clones and lanes share.
pub(crate) struct Core {
    client: Client,
    config: ProducerConfig,
    runtime: Handle,
    room: Semaphore,
    message_bytes_max: usize,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    /// The first failure since the last flush.
    failure: Mutex<Option<Error>>,
    is_closed: AtomicBool,
}

/// A record that was not taken, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct TrySendError {
    /// The record, as it was given.
    pub record: Box<Record>,
    /// [`ErrorKind::BufferFull`], or what `send` would have said.
    #[source]
    pub error: Error,
}

impl Client {
    async fn message_bytes_max(&self) -> Result<usize> {
        let view = self.view();
        let mut last = None;
        for broker in view.brokers.values() {
            match self.connection(&broker.client_address).await {
                Ok(connection) => return Ok(connection.message_bytes_max()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no broker is known")))
    }
}

impl Producer {
    fn new(client: Client, config: ProducerConfig, message_bytes_max: usize) -> Producer {
        let core = Core {
            room: Semaphore::new(config.max_in_flight_bytes),
            client,
            config,
            runtime: Handle::current(),
            message_bytes_max,
            topics: RwLock::default(),
            failure: Mutex::default(),
            is_closed: AtomicBool::new(false),
        };
        let core = Arc::new(core);
        Producer {
            handle: Arc::new(ProducerHandle { core }),
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Takes a record: the first await is room in the buffer, the second, of what comes back, the
    /// broker's answer.
    ///
    /// Cancel-safe: when this future is dropped before it is ready, the record was not taken.
    ///
    /// # Errors
    /// Those of the record itself, at once: [`ErrorKind::UnknownTopic`] (after half a second),
    /// [`ErrorKind::UnknownPartition`], [`ErrorKind::TooLarge`], [`ErrorKind::Refused`] for more
    /// than 1,000 headers; and [`ErrorKind::Closed`]. What happens on the way comes by the [`Ack`].
    #[tracing::instrument(level = "trace", skip_all, fields(topic = &*record.topic))]
    pub async fn send(&self, record: Record) -> Result<Ack> {
        let core = self.core();
        let topic = match core.known(&record.topic) {
            Some(topic) => topic,
            None => core.look_up(&record.topic).await?,
        };
        let parcel = core.prepare(&topic, &record)?;
        let room = match core.room.try_acquire_many(parcel.room) {
            Ok(room) => room,
            Err(_) => {
                let room = core.room.acquire_many(parcel.room).await;
                room.map_err(|_| closed())?
            }
        };
        let ack = core.put(&topic, &record, &parcel)?;
        // Given back by the lane, once the batch is decided.
        room.forget();
        Ok(ack)
    }

    /// The same without waiting for anything. An unknown topic is not looked for, but for what the
    /// client knows of the cluster already.
    ///
    /// # Errors
    /// With [`ErrorKind::BufferFull`] there is no room at the moment. The record comes back with
    /// every error.
    pub fn try_send(&self, record: Record) -> std::result::Result<Ack, TrySendError> {
        self.put_at_once(&record).map_err(|error| TrySendError {
            record: Box::new(record),
            error,
        })
    }

    fn put_at_once(&self, record: &Record) -> Result<Ack> {
        let core = self.core();
        let topic = core.known(&record.topic);
        let topic = topic
            .or_else(|| core.add(&record.topic))
            .ok_or_else(|| no_topic(&record.topic))?;
        let parcel = core.prepare(&topic, record)?;
        let room = core.room.try_acquire_many(parcel.room).map_err(|_| {
            let max = core.config.max_in_flight_bytes;
            let text = format!(
                "the producer's buffer is full: of {max} bytes (max_in_flight_bytes) too few are free"
            );
            Error::new(ErrorKind::BufferFull, text)
        })?;
        let ack = core.put(&topic, record, &parcel)?;
        room.forget();
        Ok(ack)
    }

    /// Sends all, waits until each is decided, and tells where they are, in the same order.
    ///
    /// # Errors
    /// The first one, of a record that was not taken (then those after it were not, either) or not
    /// delivered; those before it are delivered, or have failed with an earlier error.
    pub async fn send_all(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Vec<RecordMetadata>> {
        let mut acks = Vec::new();
        let mut refused = None;
        for record in records {
            match self.send(record).await {
                Ok(ack) => acks.push(ack),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let mut placed = Vec::with_capacity(acks.len());
        let mut failed = None;
        for ack in acks {
            match ack.await {
                Ok(metadata) => placed.push(metadata),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed.or(refused) {
            Some(error) => Err(error),
            None => Ok(placed),
        }
    }

    /// Sends what was taken so far without lingering, and waits until it is decided.
    ///
    /// # Errors
    /// The first error of any record that was decided since the last flush, whether its
    /// acknowledgement was awaited or not. It is told once.
    pub async fn flush(&self) -> Result<()> {
        let core = self.core();
        let topics = core.all_topics();
        let intakes = || topics.iter().flat_map(|topic| &topic.intakes);
        let last: Vec<u64> = intakes().map(|intake| intake.hurry()).collect();
        for (intake, batch) in intakes().zip(last) {
            intake.wait_for(batch).await;
        }
        core.failure().take().map_or(Ok(()), Err)
    }

    /// Takes no more records, from any clone, and waits until all that were taken are decided.
    ///
    /// # Errors
    /// As for [`Producer::flush`].
    pub async fn close(self) -> Result<()> {
        self.core().close();
        self.flush().await
    }

    /// Why records wait at the moment, if some partition gets on with none: the last error on the
    /// way to it. It is tried again until the delivery timeout.
    pub fn trouble(&self) -> Option<Error> {
        let topics = self.core().all_topics();
        let mut intakes = topics.iter().flat_map(|topic| &topic.intakes);
        intakes.find_map(|intake| intake.trouble())
    }

    /// Bytes of records that are neither acknowledged nor given up, by the measure of
    /// [`ProducerBuilder::max_in_flight_bytes`].
    pub fn in_flight_bytes(&self) -> usize {
        let core = self.core();
        let free = core.room.available_permits();
        core.config.max_in_flight_bytes.saturating_sub(free)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the producer is closed")
}

/// A record that may be taken.
struct Parcel {
    partition: usize,
    /// The most that it adds to a batch.
    bytes: usize,
    /// What it takes of the buffer's room.
    room: u32,
}

impl Core {
    /// The topic, if it has been sent to before.
    fn known(&self, name: &str) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.get(name)?;
        (!topic.is_gone.load(Ordering::Relaxed)).then(|| topic.clone())
    }

    async fn look_up(&self, name: &Arc<str>) -> Result<Arc<Topic>> {
        self.client.topic(name).await?;
        self.add(name).ok_or_else(|| no_topic(name))
    }

    /// The topic as the cluster's view shows it now.
    fn add(&self, name: &Arc<str>) -> Option<Arc<Topic>> {
        let view = self.client.view();
        let record = view.topics.get(&**name)?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = topics.get(name) {
            // Another was quicker, or it is one that was deleted.
            let same = known.intakes.first();
            if same.is_some_and(|intake| intake.place.id.topic == record.id) {
                known.is_gone.store(false, Ordering::Relaxed);
                return Some(known.clone());
            }
        }
        let topic = Arc::new(Topic::new(name.clone(), record));
        topics.insert(name.clone(), topic.clone());
        Some(topic)
    }

    fn all_topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().cloned().collect()
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.room.close();
        for topic in self.all_topics() {
            topic.intakes.iter().for_each(|intake| intake.close());
        }
    }

    /// Checks what can be checked of a record before it is taken.
    fn prepare(&self, topic: &Topic, record: &Record) -> Result<Parcel> {
        let refused = |kind, text: String| Err(Error::new(kind, text).in_topic(&topic.name));
        if record.headers.len() > HEADERS_PER_RECORD_MAX as usize {
            let count = record.headers.len();
            let text = format!("a record has {count} headers; at most {HEADERS_PER_RECORD_MAX} go");
            return refused(ErrorKind::Refused, text);
        }
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let bytes = with_headers(record, |headers| {
            BatchBuilder::record_bytes_max(key, value, headers)
        });
        let alone = bytes + BATCH_HEADER_BYTES;
        if alone > self.message_bytes_max {
            let text = format!(
                "a record that takes up to {alone} bytes, {BATCH_HEADER_BYTES} for its batch among them; the brokers take at most {} (limits.message_bytes_max)",
                self.message_bytes_max
            );
            return refused(ErrorKind::TooLarge, text);
        }
        let chosen = record.partition.or_else(|| {
            let partitions = topic.partitions();
            self.config.partitioner.partition(record, partitions)
        });
        let (partition, _) = topic.intake(chosen)?;
        Ok(Parcel {
            partition,
            bytes,
            room: bytes.min(self.config.max_in_flight_bytes) as u32,
        })
    }

    /// Adds a record to its partition's batch. There is room for it.
    fn put(self: &Arc<Self>, topic: &Arc<Topic>, record: &Record, parcel: &Parcel) -> Result<Ack> {
        let intake = &topic.intakes[parcel.partition];
        let timestamp = record.timestamp_ms.unwrap_or_else(now_ms);
        let limit = self.config.batch_bytes.min(self.message_bytes_max);
        let mut state = intake.lock();
        if state.is_closed || self.is_closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        let mut is_news = false;
        let open = state.open.as_ref();
        if open.is_some_and(|open| open.builder.bytes() + parcel.bytes > limit) {
            if let Some(mut full) = state.open.take() {
                full.is_full = true;
                state.bytes_before = limit;
                state.full.push_back(full);
            }
            topic.move_on();
            is_news = true;
        }
        if state.open.is_none() {
            state.opened += 1;
            is_news = true;
            let room = state.bytes_before.max(parcel.bytes + BATCH_HEADER_BYTES);
            state.open = Some(OpenBatch {
                builder: BatchBuilder::with_capacity(room),
                debt: Debt::new(intake.place.clone()),
                opened_at: Instant::now(),
                room: 0,
                is_full: false,
            });
        }
        let Some(open) = state.open.as_mut() else {
            return Err(closed());
        };
        let index = open.builder.records();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        with_headers(record, |headers| {
            open.builder.push(timestamp, key, value, headers);
        });
        open.room += parcel.room as usize;
        let ack = open.debt.ack(index);
        if !state.has_lane {
            state.has_lane = true;
            let lane = Lane::new(self.clone(), topic.clone(), parcel.partition);
            self.runtime.spawn(lane.run());
        }
        drop(state);
        if is_news {
            intake.news.notify_one();
        }
        Ok(ack)
    }
}

/// The headers as a batch takes them. Most records have none.
fn with_headers<T>(record: &Record, then: impl FnOnce(&[Header<'_>]) -> T) -> T {
    if record.headers.is_empty() {
        return then(&[]);
    }
    let headers: Vec<Header<'_>> = record
        .headers
        .iter()
        .map(|(name, value)| Header {
            name,
            value: value.as_deref(),
        })
        .collect();
    then(&headers)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
