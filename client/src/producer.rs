//! Sending records: batches them by partition, and has each partition's lane deliver them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_protocol::batch::{BATCH_HEADER_BYTES, BatchBuilder, Header};
use baton_protocol::client::Acks;
use baton_protocol::ids::{PartitionIndex, TopicPartition};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::intake::{Ack, Debt, Intake, OpenBatch};
use crate::lane::Lane;
use crate::record::{Record, partition_of_key};

/// How a producer works.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// A batch leaves when it has this many bytes. At most the broker's `message_bytes_max`.
    pub batch_bytes: usize,
    /// A batch leaves at the latest this long after its first record.
    pub linger: Duration,
    /// Most bytes of records that are not acknowledged yet; `send` waits for room.
    pub buffer_bytes_max: usize,
    /// How long a record may take from `send` to its acknowledgement.
    pub delivery_timeout: Duration,
    /// How long an acknowledgement may take on the broker's side before it is asked again.
    pub commit_timeout: Duration,
    /// How firmly a record must be stored before it is acknowledged. With `Acks::None` it counts as
    /// acknowledged when it is sent: nothing is ever repeated, and no loss is noticed.
    pub acks: Acks,
}

impl Default for ProducerConfig {
    /// 128 KiB, 5 ms, 32 MiB, 120 s, 5 s, `Acks::Committed`.
    fn default() -> Self {
        ProducerConfig {
            batch_bytes: 128 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes_max: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            commit_timeout: Duration::from_secs(5),
            acks: Acks::Committed,
        }
    }
}

/// Sends records to one topic, idempotently: whatever is repeated on the way, each record is stored
/// once, and those of a partition in the order of their `send`s.
pub struct Producer {
    config: ProducerConfig,
    partitions: Vec<Arc<Intake>>,
    room: Arc<Semaphore>,
    message_bytes_max: usize,
    sticky: Arc<AtomicU32>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Client {
    /// A producer for a topic that exists.
    pub async fn producer(&self, topic: &str, config: ProducerConfig) -> Result<Producer> {
        let record = self.topic(topic).await?;
        let message_bytes_max = self.message_bytes_max().await?;
        let room = Arc::new(Semaphore::new(
            config.buffer_bytes_max.min(Semaphore::MAX_PERMITS),
        ));
        let failure = Arc::new(Mutex::new(None));
        let sticky = Arc::new(AtomicU32::new(0));
        let mut partitions = Vec::new();
        for index in 0..record.partitions.len() as u32 {
            let intake = Arc::new(Intake::new(sticky.clone()));
            let partition = TopicPartition {
                topic: record.id,
                partition: PartitionIndex(index),
            };
            let lane = Lane::new(
                self.clone(),
                partition,
                config.clone(),
                intake.clone(),
                room.clone(),
                failure.clone(),
            );
            tokio::spawn(lane.run());
            partitions.push(intake);
        }
        Ok(Producer {
            config,
            partitions,
            room,
            message_bytes_max,
            sticky,
            failure,
        })
    }

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
    /// Takes a record. Waits for room in the buffer; the acknowledgement is waited for apart.
    pub async fn send(&self, record: Record) -> Result<Ack> {
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .map(|(name, value)| Header {
                name,
                value: value.as_deref(),
            })
            .collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let size = BatchBuilder::record_bytes_max(key, value, &headers);
        let alone = size + BATCH_HEADER_BYTES;
        if alone > self.message_bytes_max {
            let text = format!(
                "a record that takes up to {alone} bytes, {BATCH_HEADER_BYTES} for its batch among them; the brokers take at most {} (limits.message_bytes_max)",
                self.message_bytes_max
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        self.check_partition(&record)?;
        let share = size.min(self.config.buffer_bytes_max);
        let room = self.room.acquire_many(share as u32).await;
        let room = room.map_err(|_| Error::new(ErrorKind::Closed, "the producer is closed"))?;
        let timestamp = record.timestamp_ms.unwrap_or_else(now_ms);
        let partition = self.choose(&record);
        let intake = &self.partitions[partition as usize];
        let mut state = intake.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the producer is closed"));
        }
        let limit = self.config.batch_bytes.min(self.message_bytes_max);
        if state
            .open
            .as_ref()
            .is_some_and(|open| open.builder.bytes() + size > limit)
        {
            let full = state.open.take();
            state.full.extend(full);
            self.sticky.fetch_add(1, Ordering::Relaxed);
            intake.news.notify_one();
        }
        let fresh = state.open.is_none();
        let open = state.open.get_or_insert_with(|| OpenBatch {
            builder: BatchBuilder::with_capacity(limit.max(alone)),
            debt: Debt::new(PartitionIndex(partition)),
            opened_at: Instant::now(),
            room: 0,
        });
        let index = open.builder.records();
        open.builder.push(timestamp, key, value, &headers);
        // Given back by the lane, once the batch is decided.
        open.room += share;
        room.forget();
        let ack = open.debt.ack(index);
        drop(state);
        if fresh {
            intake.news.notify_one();
        }
        Ok(ack)
    }

    fn check_partition(&self, record: &Record) -> Result<()> {
        let count = self.partitions.len() as u32;
        match record.partition {
            Some(partition) if partition.0 >= count => {
                let text = format!(
                    "the topic has no partition {partition}; it has {count}, numbered from 0"
                );
                Err(Error::new(ErrorKind::UnknownTopic, text))
            }
            _ => Ok(()),
        }
    }

    fn choose(&self, record: &Record) -> u32 {
        let count = self.partitions.len() as u32;
        match (record.partition, &record.key) {
            (Some(partition), _) => partition.0,
            (None, Some(key)) => partition_of_key(key, count).0,
            (None, None) => self.sticky.load(Ordering::Relaxed) % count,
        }
    }

    /// Why records wait at the moment, if some partition gets on with none: the last error on the
    /// way to it. It is tried again until the delivery timeout.
    pub fn trouble(&self) -> Option<Error> {
        self.partitions.iter().find_map(|intake| intake.trouble())
    }

    /// Sends everything and waits until it is decided. An error if any record since the last
    /// `flush` was not delivered.
    pub async fn flush(&self) -> Result<()> {
        for intake in &self.partitions {
            loop {
                let idle = intake.idle.notified();
                tokio::pin!(idle);
                idle.as_mut().enable();
                {
                    let mut state = intake.lock();
                    if state.is_idle() {
                        break;
                    }
                    state.hurry = true;
                }
                intake.news.notify_one();
                idle.await;
            }
        }
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }

    /// Flushes and ends.
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for intake in &self.partitions {
            intake.lock().closed = true;
            intake.news.notify_one();
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
