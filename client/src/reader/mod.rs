//! Reading a topic without a group: the partitions are chosen, and what was read is remembered, by
//! whoever reads.

mod builder;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use baton_protocol::ids::{Offset, PartitionIndex, TopicId, TopicPartition};
use futures_core::Stream;

pub use self::builder::{ReaderBuilder, Start, Until};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Message;
use crate::streaming::{Reached, Streams};

/// Reads a topic, each partition in order, each record once. Follows the leaders wherever they go.
///
/// A reader is a [`Stream`] of records. Those of different partitions come in any order.
///
/// An item may be an error. It concerns one partition ([`Error::partition`]), which then stands still
/// until [`Reader::seek`] says where to go on; the others go on. The stream ends when no partition
/// can go on: each has come to its end ([`ReaderBuilder::until`]), or has failed.
///
/// *Cancel safety*: the future of [`Reader::next`] or [`Reader::next_batch`] can be dropped at any
/// time, in `select!` for example, and no record is lost by it. A record counts as read
/// ([`Reader::position`]) when it was given out.
pub struct Reader {
    topic: Arc<str>,
    topic_id: TopicId,
    streams: Streams,
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The offset of the next record.
    pub position: Offset,
    /// The end of what is committed, as the client last heard.
    pub high_watermark: Offset,
}

impl Progress {
    pub(crate) fn new(reached: Reached) -> Progress {
        Progress {
            position: reached.position,
            high_watermark: reached.high_watermark,
        }
    }

    /// How far the position lies behind the high watermark: no less than the records that are left.
    /// It can be more, since a log has entries that are not for consumers (each reign of a leader
    /// begins with one) and gaps.
    pub fn lag(&self) -> u64 {
        self.high_watermark.since(self.position)
    }
}

impl Reader {
    /// The next record of some partition; none once no partition can go on.
    ///
    /// Where records are at hand, this is ready at once. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        poll_fn(|context| self.streams.poll_next(context)).await
    }

    /// The next record, if it is at hand. Never waits; none does not say that no more will come.
    #[inline]
    pub fn try_next(&mut self) -> Option<Result<Message>> {
        self.streams.try_next()
    }

    /// Waits for a record, and takes all that are at hand with it, `max` at most (1 at least). None
    /// once no partition can go on. An error comes by itself, after the records before it.
    /// Cancel-safe.
    pub async fn next_batch(&mut self, max: usize) -> Option<Result<Vec<Message>>> {
        poll_fn(|context| self.poll_batch(context, max)).await
    }

    /// [`Reader::next_batch`] for those who write futures by hand.
    pub fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
    ) -> Poll<Option<Result<Vec<Message>>>> {
        let first = match self.streams.poll_next(context) {
            Poll::Ready(Some(Ok(first))) => first,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Some(Ok(self.streams.at_hand(first, max))))
    }

    /// Goes on at another offset of a partition; also where it failed, or came to its end. What had
    /// come of it and was not given out is dropped. Offsets outside the log show as an error when
    /// records are asked for.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`] for a partition that this reader does not read.
    pub fn seek(&mut self, partition: impl Into<PartitionIndex>, offset: Offset) -> Result<()> {
        let partition = partition.into();
        let is_read = self.streams.seek(self.id(partition), offset);
        self.check(is_read, partition)
    }

    /// Gives out no records of these partitions until they are resumed. What has come of them waits,
    /// within the credit.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`] for a partition that this reader does not read; those before
    /// it are paused.
    pub fn pause(&mut self, partitions: impl IntoIterator<Item = u32>) -> Result<()> {
        for partition in partitions.into_iter().map(PartitionIndex) {
            let is_read = self.streams.pause(self.id(partition));
            self.check(is_read, partition)?;
        }
        Ok(())
    }

    /// Goes on with partitions that were paused.
    ///
    /// # Errors
    /// As for [`Reader::pause`].
    pub fn resume(&mut self, partitions: impl IntoIterator<Item = u32>) -> Result<()> {
        for partition in partitions.into_iter().map(PartitionIndex) {
            let is_read = self.streams.resume(self.id(partition));
            self.check(is_read, partition)?;
        }
        Ok(())
    }

    fn id(&self, partition: PartitionIndex) -> TopicPartition {
        TopicPartition {
            topic: self.topic_id,
            partition,
        }
    }

    fn check(&self, is_read: bool, partition: PartitionIndex) -> Result<()> {
        if is_read {
            return Ok(());
        }
        let text = "this reader does not read this partition";
        let error = Error::new(ErrorKind::UnknownPartition, text);
        Err(error.about(self.topic.clone(), partition))
    }

    /// The offset of the next record of a partition, after those that were given out; none for a
    /// partition that this reader does not read, or one to be read from its first record on whose leader
    /// has not yet said where that is. Kept with what became of the records, it is where to go on:
    /// [`Start::Offsets`].
    pub fn position(&self, partition: impl Into<PartitionIndex>) -> Option<Offset> {
        self.streams.position(self.id(partition.into()))
    }

    /// The positions of all partitions. Those that have none yet are left out, and [`Start::Offsets`]
    /// begins with the first record of what is left out.
    pub fn positions(&self) -> BTreeMap<PartitionIndex, Offset> {
        let progress = self.progress().into_iter();
        progress
            .map(|(p, progress)| (p, progress.position))
            .collect()
    }

    /// How far each partition has been read, and what the client knows of its end. It learns that
    /// with the records that come, so of a partition that is paused, or whose credit is used up, it
    /// may be less than there is. Partitions that have no position yet are left out.
    pub fn progress(&self) -> BTreeMap<PartitionIndex, Progress> {
        let known = self.streams.progress().into_iter();
        known
            .map(|(id, reached)| (id.partition, Progress::new(reached)))
            .collect()
    }

    /// How many offsets lie between each partition's position and the end of what is committed, as
    /// the client knows it ([`Progress::lag`]).
    pub fn lag(&self) -> BTreeMap<PartitionIndex, u64> {
        let progress = self.progress().into_iter();
        progress.map(|(p, progress)| (p, progress.lag())).collect()
    }

    /// Bytes that have come and wait to be taken, as they came: compressed ones count compressed.
    /// Never more than the credit ([`ReaderBuilder::credit_bytes`]) and a message for each partition.
    pub fn waiting_bytes(&self) -> u64 {
        self.streams.waiting_bytes()
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

impl Stream for Reader {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.streams.poll_next(context)
    }
}
