//! What takes records: Baton's producer, or another system's.

use std::sync::Arc;

use bytes::Bytes;

use super::TopicProducer;

/// Takes records, and tells of each when it is acknowledged.
pub trait Sink: Send + Sync + 'static {
    /// A record that is under way.
    type Ack: Pending;

    /// Takes a record, as soon as there is room.
    fn send(&self, value: Bytes) -> impl Future<Output = anyhow::Result<Self::Ack>> + Send;

    /// Waits until all records are acknowledged.
    fn flush(&self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A record that is under way.
pub trait Pending: Send + 'static {
    /// Waits until it is acknowledged.
    fn wait(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

impl Sink for TopicProducer {
    type Ack = baton_client::Ack;

    async fn send(&self, value: Bytes) -> anyhow::Result<Self::Ack> {
        Ok(TopicProducer::send(self, value).await?)
    }

    async fn flush(&self) -> anyhow::Result<()> {
        Ok(TopicProducer::flush(self).await?)
    }
}

impl<S: Sink> Sink for Arc<S> {
    type Ack = S::Ack;

    async fn send(&self, value: Bytes) -> anyhow::Result<Self::Ack> {
        S::send(self, value).await
    }

    async fn flush(&self) -> anyhow::Result<()> {
        S::flush(self).await
    }
}

impl Pending for baton_client::Ack {
    async fn wait(self) -> anyhow::Result<()> {
        self.await?;
        Ok(())
    }
}
