//! Sending records: batches them by partition, and has each partition's lane deliver them.
//!
//! | module | what |
//! | --- | --- |
//! | `builder` | the settings |
//! | `core` | what clones and lanes share; a record's way into a batch |
//! | `partitioner` | which partition a record goes to |
//! | `topic` | a topic that is sent to, and its intakes |
//! | `intake` | the batches of a partition that wait |
//! | `lane` | their way to the leader |
//! | `fate` | what becomes of them, and who waits for that |

mod builder;
mod core;
mod fate;
mod intake;
mod lane;
mod partitioner;
mod topic;

use std::sync::Arc;

pub use self::builder::ProducerBuilder;
pub use self::fate::Ack;
pub use self::partitioner::{KeyHash, Partitioner, partition_of_key};

use self::builder::ProducerConfig;
use self::core::{Core, closed};
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
        let core = Arc::new(Core::new(client, config, message_bytes_max));
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

    /// The most bytes that a record may take, in a batch of its own, by what the brokers allow.
    pub fn message_bytes_max(&self) -> usize {
        self.core().message_bytes_max
    }

    /// Bytes of records that are neither acknowledged nor given up, by the measure of
    /// [`ProducerBuilder::max_in_flight_bytes`].
    pub fn in_flight_bytes(&self) -> usize {
        let core = self.core();
        let free = core.room.available_permits();
        core.config.max_in_flight_bytes.saturating_sub(free)
    }
}
