//! Reading records: a broker pushes them, as far as the reader's credit goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::batch::{Codec, EntryIter, RecordIter};
use baton_protocol::client::{RequestBody, ServerMessage};
use baton_protocol::error::ErrorCode;
use baton_protocol::ids::{Offset, PartitionIndex, TopicPartition};
use baton_protocol::metadata::ClusterView;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::client::{Client, leader_in};
use crate::connection::{Connection, Pushed};
use crate::error::{Error, ErrorKind, Result};
use crate::record::ConsumedRecord;

/// Pause before a subscription that failed is tried again.
const PAUSE: Duration = Duration::from_millis(30);

/// Chunks that wait to be taken from a reader, of all its partitions.
const CHUNKS_WAITING_MAX: usize = 8;

/// The number of the one subscription on a connection.
const SUBSCRIPTION: u32 = 1;

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first offset there is.
    Earliest,
    /// At the watermark.
    Latest,
    /// At this offset, in every partition that is read.
    Offset(Offset),
    /// At these offsets; a partition that is not named begins at the first one there is.
    Offsets(BTreeMap<PartitionIndex, Offset>),
}

/// What a reader reads.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// The partitions; none: all.
    pub partitions: Option<Vec<PartitionIndex>>,
    /// Where to begin.
    pub start: Start,
    /// How many bytes a broker may push per partition before they are taken.
    pub credit_bytes: u64,
}

impl Default for ReaderConfig {
    /// All partitions, from the beginning, 4 MiB of credit each.
    fn default() -> Self {
        ReaderConfig {
            partitions: None,
            start: Start::Earliest,
            credit_bytes: 4 << 20,
        }
    }
}

/// Records of one partition, as they came together, and where reading goes on after them. There may
/// be none in it: the log has entries that are not for consumers.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: PartitionIndex,
    /// The records, in order.
    pub records: Vec<ConsumedRecord>,
    /// The offset after the last entry of the chunk.
    pub next: Offset,
    /// The partition's high watermark, as the broker knew it.
    pub high_watermark: Offset,
}

/// Reads a topic, each partition in order, each record once. Follows the leaders wherever they go.
pub struct Reader {
    chunks: mpsc::Receiver<Result<Chunk>>,
    tasks: Vec<AbortHandle>,
}

impl Client {
    /// A reader of a topic that exists.
    pub async fn reader(&self, topic: &str, config: ReaderConfig) -> Result<Reader> {
        let record = self.topic(topic).await?;
        let count = record.partitions.len() as u32;
        let partitions = match &config.partitions {
            Some(partitions) => partitions.clone(),
            None => (0..count).map(PartitionIndex).collect(),
        };
        if let Some(bad) = partitions.iter().find(|partition| partition.0 >= count) {
            let text =
                format!("topic {topic} has no partition {bad}; it has {count}, numbered from 0");
            return Err(Error::new(ErrorKind::UnknownTopic, text));
        }
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let mut tasks = Vec::new();
        for partition in partitions {
            let position = match &config.start {
                Start::Offset(offset) => *offset,
                Start::Offsets(offsets) if offsets.contains_key(&partition) => offsets[&partition],
                Start::Latest => {
                    self.partition_status(&record, partition, true)
                        .await?
                        .high_watermark
                }
                Start::Earliest | Start::Offsets(_) => {
                    self.partition_status(&record, partition, false)
                        .await?
                        .log_start
                }
            };
            let follower = Follower {
                client: self.clone(),
                partition: TopicPartition {
                    topic: record.id,
                    partition,
                },
                position,
                credit_bytes: config.credit_bytes,
                view: self.inner.metadata.watch(),
                chunks: sender.clone(),
            };
            tasks.push(tokio::spawn(follower.run()).abort_handle());
        }
        Ok(Reader { chunks, tasks })
    }
}

impl Reader {
    /// The next records of some partition. None once the reader has failed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        self.chunks.recv().await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Follower {
    client: Client,
    partition: TopicPartition,
    position: Offset,
    credit_bytes: u64,
    view: watch::Receiver<Arc<ClusterView>>,
    chunks: mpsc::Sender<Result<Chunk>>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            match self.read().await {
                Ok(()) => return,
                Err(error) if self.client.can_succeed_later(self.partition, &error) => {
                    tracing::debug!(partition = %self.partition, %error, "subscribed again");
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    // Whoever reads may be gone.
                    drop(self.chunks.send(Err(error)).await);
                    return;
                }
            }
        }
    }

    /// Reads from the present leader for as long as it is that. Ends well when nobody takes the
    /// records any more.
    async fn read(&mut self) -> Result<()> {
        let partition = self.partition;
        let lost = || {
            Error::new(
                ErrorKind::Unreachable,
                "the partition has no leader at the moment",
            )
        };
        self.client.check_exists(partition)?;
        let (leader, address) = self.client.leader(partition).ok_or_else(lost)?;
        let (pushes, mut pushed) = mpsc::unbounded_channel();
        let connection = self.client.open(&address, pushes).await?;
        let subscribe = RequestBody::Subscribe {
            subscription: SUBSCRIPTION,
            topic: partition.topic,
            partition: partition.partition,
            offset: self.position,
            credit_bytes: self.credit_bytes,
        };
        let limit = self.client.inner.config.connect_timeout;
        match connection.ask(subscribe, limit).await {
            // A new leader's log can end before what was read from its predecessor's only while
            // it is not the leader yet, in truth.
            Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => {
                return Err(self.out_of_range(error).await);
            }
            result => result?,
        };
        loop {
            tokio::select! {
                message = pushed.recv() => match message {
                    Some(message) => {
                        if !self.take(message, &connection).await? {
                            return Ok(());
                        }
                    }
                    None => return Err(lost()),
                },
                () = connection.closed() => return Err(lost()),
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let view = self.view.borrow_and_update().clone();
                    if leader_in(&view, partition).is_some_and(|now| now != leader) {
                        return Err(lost());
                    }
                }
            }
        }
    }

    /// An offset outside the log of the one that answered. If it lies within the leader's log all
    /// the same, the one that answered is behind.
    async fn out_of_range(&self, error: Error) -> Error {
        let view = self.client.view();
        let topic = view
            .topics
            .values()
            .find(|topic| topic.id == self.partition.topic);
        let Some(topic) = topic else {
            return error;
        };
        match self
            .client
            .partition_status(topic, self.partition.partition, true)
            .await
        {
            Ok(status) if (status.log_start..=status.log_end).contains(&self.position) => {
                Error::new(ErrorKind::Unreachable, error.to_string())
            }
            Ok(_) => error,
            Err(other) => other,
        }
    }

    /// Hands on what was pushed, and gives the credit back. False when nobody takes it.
    async fn take(&mut self, (message, payload): Pushed, connection: &Connection) -> Result<bool> {
        match message {
            ServerMessage::Records { high_watermark, .. } => {
                let bytes = payload.len() as u64;
                let chunk = self.decode(&payload, high_watermark)?;
                self.position = chunk.next;
                if self.chunks.send(Ok(chunk)).await.is_err() {
                    return Ok(false);
                }
                let credit = RequestBody::Credit {
                    subscription: SUBSCRIPTION,
                    bytes,
                };
                connection.tell(credit, Bytes::new())?;
                Ok(true)
            }
            ServerMessage::SubscriptionEnded { error, .. } => Err(error.into()),
            ServerMessage::Response { .. } | ServerMessage::Metadata(_) => Ok(true),
        }
    }

    fn decode(&self, payload: &Bytes, high_watermark: Offset) -> Result<Chunk> {
        let partition = self.partition.partition;
        let mut chunk = Chunk {
            partition,
            records: Vec::new(),
            next: self.position,
            high_watermark,
        };
        let corrupt =
            |what: String| Error::new(ErrorKind::Corrupt, format!("partition {partition}: {what}"));
        for entry in EntryIter::new(payload) {
            let entry = entry.map_err(|error| corrupt(error.to_string()))?;
            let header = &entry.header;
            chunk.next = chunk.next.max(header.next_offset());
            if header.is_control() {
                continue;
            }
            if header.codec() != Some(Codec::None) {
                return Err(corrupt(
                    "a compressed batch; this client reads none yet".to_owned(),
                ));
            }
            for record in RecordIter::new(entry.batch, header) {
                let record = record.map_err(|error| corrupt(error.to_string()))?;
                if record.offset < self.position {
                    continue;
                }
                chunk.records.push(ConsumedRecord {
                    partition,
                    offset: record.offset,
                    epoch: header.leader_epoch(),
                    timestamp_ms: record.timestamp,
                    key: record.key.map(|key| payload.slice_ref(key)),
                    value: record.value.map(|value| payload.slice_ref(value)),
                    headers: record
                        .headers()
                        .map(|(name, value)| {
                            (payload.slice_ref(name), value.map(|v| payload.slice_ref(v)))
                        })
                        .collect(),
                });
            }
        }
        Ok(chunk)
    }
}
