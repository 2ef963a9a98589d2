//! A producer's settings.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::batch::Codec;
use baton_protocol::client::Acks;
use tokio::sync::Semaphore;

use super::Producer;
use super::partitioner::{KeyHash, Partitioner};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// The least that a batch or the buffer can be bounded to.
const BYTES_MIN: usize = 1;

/// The buffer has room for so many batches at least.
const BATCHES_IN_BUFFER_MIN: usize = 8;

/// What a producer is made with.
#[derive(Clone)]
pub(crate) struct ProducerConfig {
    pub acks: Acks,
    pub linger: Duration,
    pub batch_bytes: usize,
    pub compression: Codec,
    pub max_in_flight_bytes: usize,
    pub delivery_timeout: Duration,
    pub commit_timeout: Duration,
    pub idle_timeout: Duration,
    pub partitioner: Arc<dyn Partitioner>,
}

impl ProducerConfig {
    /// Most bytes of a batch: a part of what may be under way, or senders would wait for room that no full
    /// batch gives back.
    pub fn batch_bytes_max(&self) -> usize {
        let share = self.max_in_flight_bytes / BATCHES_IN_BUFFER_MIN;
        self.batch_bytes.min(share.max(BYTES_MIN))
    }
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            acks: Acks::Committed,
            linger: Duration::from_millis(5),
            batch_bytes: 512 << 10,
            compression: Codec::None,
            max_in_flight_bytes: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            commit_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            partitioner: Arc::new(KeyHash),
        }
    }
}

/// A producer's settings; see [`Client::producer`].
#[must_use = "there is no producer before `build`"]
pub struct ProducerBuilder {
    client: Client,
    config: ProducerConfig,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let config = ProducerConfig::default();
        ProducerBuilder { client, config }
    }

    /// How firmly a record must be stored before it is acknowledged; [`Acks::Committed`] by default.
    /// With [`Acks::None`] it counts as acknowledged when it is sent: nothing is ever repeated, and
    /// no loss is noticed.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.acks = acks;
        self
    }

    /// A batch leaves at the latest this long after its first record; 5 ms by default. Zero: as soon
    /// as the partition's lane gets to it.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// A batch leaves when its records have this many bytes before they are compressed; 512 KiB by
    /// default. The brokers' `message_bytes_max` counts where it is less, and so does an eighth of
    /// [`max_in_flight_bytes`](Self::max_in_flight_bytes). A larger record has a batch of its own.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.config.batch_bytes = bytes;
        self
    }

    /// How batches are compressed; [`Codec::None`] by default. A batch that would become larger is
    /// sent as it is.
    pub fn compression(mut self, compression: Codec) -> Self {
        self.config.compression = compression;
        self
    }

    /// Most bytes of records, of all topics, that are neither acknowledged nor given up; 32 MiB by
    /// default. `send` waits for room, `try_send` does not. What the producer holds in memory is
    /// bounded by this, up to a batch for each partition in use.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.config.max_in_flight_bytes = bytes;
        self
    }

    /// How long a record may take from `send` to its acknowledgement; 120 s by default. Until then
    /// whatever fails on the way is tried again.
    pub fn delivery_timeout(mut self, limit: Duration) -> Self {
        self.config.delivery_timeout = limit;
        self
    }

    /// How long a broker may wait for its followers before it says so; 5 s by default. The batch is
    /// then sent again, which cannot store it twice.
    pub fn commit_timeout(mut self, limit: Duration) -> Self {
        self.config.commit_timeout = limit;
        self
    }

    /// A partition's lane ends when it was idle for this long, and is made again when it is needed;
    /// 5 minutes by default.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.config.idle_timeout = limit;
        self
    }

    /// Who chooses the partition of a record that names none; [`KeyHash`] by default.
    pub fn partitioner(mut self, partitioner: impl Partitioner) -> Self {
        self.config.partitioner = Arc::new(partitioner);
        self
    }

    /// The producer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for bounds of 0 and a codec that this build does not have;
    /// [`ErrorKind::Unreachable`] where no broker can be asked how large a record may be.
    pub async fn build(self) -> Result<Producer> {
        let config = &self.config;
        let invalid = |text: String| Err(Error::new(ErrorKind::InvalidConfig, text));
        for (name, bytes) in [
            ("batch_bytes", config.batch_bytes),
            ("max_in_flight_bytes", config.max_in_flight_bytes),
        ] {
            if bytes < BYTES_MIN {
                return invalid(format!("{name} is {bytes}; it is at least {BYTES_MIN}"));
            }
        }
        if !config.compression.is_available() {
            let codec = config.compression;
            return invalid(format!(
                "this program was built without {codec} (feature `{codec}` of baton-client)"
            ));
        }
        let mut config = self.config;
        config.max_in_flight_bytes = config
            .max_in_flight_bytes
            .min(Semaphore::MAX_PERMITS)
            .min(u32::MAX as usize);
        let message_bytes_max = self.client.message_bytes_max().await?;
        Ok(Producer::new(self.client, config, message_bytes_max))
    }
}
