//! Load on a topic: as much as goes (`closed`), at a rate of its own, whatever the cluster does (`open`),
//! or one record after the other (`lone`); on Baton or on another system (`sink`). Each notes when records were meant to be sent and when they were acknowledged.

mod closed;
mod lone;
mod open;
mod reading;
mod samples;
mod sink;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use baton_client::{Ack, Client, Producer, ProducerBuilder, Record};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use self::closed::as_fast_as_it_goes;
pub use self::lone::{OneByOne, one_by_one};
pub use self::open::{OpenLoad, at_a_rate, stamp_of};
pub use self::reading::{all_there_is, check_all, next};
pub use self::samples::{Sample, Samples};
pub use self::sink::{Pending, Sink};

/// A producer, and the topic that its records go to.
#[derive(Clone)]
pub struct TopicProducer {
    producer: Producer,
    topic: Arc<str>,
}

impl TopicProducer {
    /// One with the settings that `change` makes of the default ones.
    ///
    /// # Errors
    /// If the cluster cannot be reached.
    pub async fn new(
        client: &Client,
        topic: &str,
        change: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> baton_client::Result<TopicProducer> {
        let producer = change(client.producer()).build().await?;
        let topic = topic.into();
        Ok(TopicProducer { producer, topic })
    }

    /// Sends a record of this value.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn send(&self, value: Bytes) -> baton_client::Result<Ack> {
        let record = Record::to(self.topic.clone()).value(value);
        self.producer.send(record).await
    }

    /// Sends a record of this value to a partition.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn send_to(&self, partition: u32, value: Bytes) -> baton_client::Result<Ack> {
        let record = Record::to(self.topic.clone()).value(value);
        self.producer.send(record.partition(partition)).await
    }

    /// Waits until all is acknowledged.
    ///
    /// # Errors
    /// If a record was not.
    pub async fn flush(&self) -> baton_client::Result<()> {
        self.producer.flush().await
    }

    /// Waits until all is acknowledged, and ends.
    ///
    /// # Errors
    /// If a record was not.
    pub async fn close(self) -> baton_client::Result<()> {
        self.producer.close().await
    }
}

/// When a load ends.
#[derive(Clone, Debug)]
pub enum Until {
    /// After a while.
    After(Duration),
    /// After so many records.
    Records(u64),
    /// When it is told.
    Told(Arc<AtomicBool>),
}

impl Until {
    fn is_over(&self, begun: Instant, sent: u64) -> bool {
        match self {
            Until::After(duration) => begun.elapsed() >= *duration,
            Until::Records(records) => sent >= *records,
            Until::Told(told) => told.load(Ordering::Relaxed),
        }
    }
}

/// What a load came to.
#[derive(Debug)]
pub struct Outcome {
    /// Records that were sent, all of them acknowledged.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// From the first to the last acknowledgement of them.
    pub seconds: f64,
    /// When some of them were sent and acknowledged.
    pub samples: Samples,
}

impl Outcome {
    /// Records a second.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Megabytes a second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }
}

/// Waits for acknowledgements, each in a task of its own: none is seen late because another is.
struct Recorder {
    runtime: Handle,
    told: mpsc::UnboundedSender<anyhow::Result<Sample>>,
}

type Told = mpsc::UnboundedReceiver<anyhow::Result<Sample>>;

impl Recorder {
    fn new() -> (Recorder, Told) {
        let (told, samples) = mpsc::unbounded_channel();
        let runtime = Handle::current();
        (Recorder { runtime, told }, samples)
    }

    fn watch(&self, ack: impl Pending, intended: Instant) {
        let told = self.told.clone();
        self.runtime.spawn(async move {
            let result = ack.wait().await.map(|()| Sample {
                intended,
                acknowledged: Instant::now(),
            });
            // Whoever collects them may have failed.
            drop(told.send(result));
        });
    }
}

/// All samples, once the recorder is gone.
async fn collect(mut told: Told) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while let Some(sample) = told.recv().await {
        samples.push(sample?);
    }
    Ok(samples)
}
