//! What a producer's clones and lanes share: the topics, the room for records, and the way of a record
//! into its partition's batch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use baton_protocol::batch::{BATCH_HEADER_BYTES, BatchBuilder, HEADERS_PER_RECORD_MAX, Header};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::builder::ProducerConfig;
use super::fate::{Ack, Debt};
use super::intake::OpenBatch;
use super::lane::Lane;
use super::topic::Topic;
use crate::client::{Client, no_topic};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

/// What a producer's clones and lanes share.
pub(crate) struct Core {
    pub client: Client,
    pub config: ProducerConfig,
    runtime: Handle,
    pub room: Semaphore,
    pub message_bytes_max: usize,
    topics: RwLock<Topics>,
    /// The first failure since the last flush.
    failure: Mutex<Option<Error>>,
    is_closed: AtomicBool,
}

/// The topics that have been sent to.
#[derive(Default)]
struct Topics {
    by_name: HashMap<Arc<str>, Arc<Topic>>,
    /// The one that came last: most producers have only one, and nothing has to be hashed to find it.
    newest: Option<Arc<Topic>>,
}

impl Topics {
    fn get(&self, name: &Arc<str>) -> Option<&Arc<Topic>> {
        let newest = self.newest.as_ref();
        newest
            .filter(|topic| Arc::ptr_eq(&topic.name, name))
            .or_else(|| self.by_name.get(name))
    }
}

/// A record that may be taken.
pub(super) struct Parcel {
    partition: usize,
    /// The most that it adds to a batch.
    bytes: usize,
    /// What it takes of the buffer's room.
    pub room: u32,
}

impl Core {
    pub fn new(client: Client, config: ProducerConfig, message_bytes_max: usize) -> Core {
        Core {
            room: Semaphore::new(config.max_in_flight_bytes),
            client,
            config,
            runtime: Handle::current(),
            message_bytes_max,
            topics: RwLock::default(),
            failure: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// The topic, if it has been sent to before.
    pub fn known(&self, name: &Arc<str>) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.get(name)?;
        (!topic.is_gone.load(Ordering::Relaxed)).then(|| topic.clone())
    }

    pub async fn look_up(&self, name: &Arc<str>) -> Result<Arc<Topic>> {
        self.client.topic(name).await?;
        self.add(name).ok_or_else(|| no_topic(name))
    }

    /// The topic as the cluster's view shows it now.
    pub fn add(&self, name: &Arc<str>) -> Option<Arc<Topic>> {
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
        topics.by_name.insert(name.clone(), topic.clone());
        topics.newest = Some(topic.clone());
        Some(topic)
    }

    pub fn all_topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.by_name.values().cloned().collect()
    }

    pub fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.room.close();
        for topic in self.all_topics() {
            topic.intakes.iter().for_each(|intake| intake.close());
        }
    }

    /// Checks what can be checked of a record before it is taken.
    pub fn prepare(&self, topic: &Topic, record: &Record) -> Result<Parcel> {
        let refused = |kind, text: String| Err(Error::new(kind, text).in_topic(topic.name.clone()));
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
    pub fn put(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        record: &Record,
        parcel: &Parcel,
    ) -> Result<Ack> {
        let intake = &topic.intakes[parcel.partition];
        let timestamp = record.timestamp_ms.unwrap_or_else(now_ms);
        let limit = self.config.batch_bytes_max().min(self.message_bytes_max);
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

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the producer is closed")
}
