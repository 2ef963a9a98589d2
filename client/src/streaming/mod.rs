//! What readers are made of: partitions that records stream from, one stream of them all.
//!
//! Each partition has a *feed*, a task that keeps a subscription at the partition's leader and hands
//! on what is pushed, undecoded. A broker pushes no more than it has credit for, and credit is given
//! back when the records have been taken: what waits here is bounded, whoever is slow. Decoding (and
//! expanding) is done where the records are taken, a batch at a time.
//!
//! Nothing here knows where reading begins or who reads which partition; whoever does adds and
//! removes partitions.

mod cursor;
mod feed;
mod partition;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use baton_protocol::batch::EXPANDED_BYTES_MAX;
use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::cursor::Cursor;
use self::feed::{Command, Feed};
use self::partition::Partition;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::record::Message;

/// What a feed hands on.
pub(crate) struct Delivery {
    /// The partition, as it is numbered in [`Streams`].
    slot: usize,
    /// Which seek it belongs to.
    generation: u64,
    content: Content,
}

enum Content {
    /// Nothing has come yet; it will from this offset on.
    Begins(Offset),
    /// Verified entries.
    Entries(Bytes),
    /// The feed stands still.
    Failed(Error),
}

/// Where to begin with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At this offset.
    At(Offset),
    /// At the first offset there is when the leader is reached; where somebody has asked, it was this one
    /// a moment ago. Until something has come, it moves as the log's start does.
    Earliest(Option<Offset>),
}

impl Begin {
    /// The offset to try first.
    fn offset(self) -> Offset {
        match self {
            Begin::At(offset) | Begin::Earliest(Some(offset)) => offset,
            Begin::Earliest(None) => Offset::ZERO,
        }
    }
}

/// A partition to stream from.
pub(crate) struct Source {
    pub place: Place,
    pub begin: Begin,
    /// The first offset not wanted any more.
    pub end: Option<Offset>,
    /// Bytes that may wait to be taken; a broker may overdraw them by one message of its.
    pub credit_bytes: u64,
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// The offset of the next record.
    pub position: Offset,
    /// The leader epoch of the last record; none before there was one.
    pub epoch: LeaderEpoch,
    /// The high watermark, as far as it is known.
    pub high_watermark: Offset,
}

/// Streams of several partitions.
pub(crate) struct Streams {
    client: Client,
    runtime: Handle,
    expanded_bytes_max: usize,
    /// By slot: the number that a partition's deliveries bear. None is used twice.
    partitions: BTreeMap<usize, Partition>,
    next_slot: usize,
    deliver: mpsc::UnboundedSender<Delivery>,
    delivered: mpsc::UnboundedReceiver<Delivery>,
    /// What was set aside while its partition was paused, and is not any more.
    replay: VecDeque<Cursor>,
    /// What records are taken from at the moment.
    current: Option<Cursor>,
    /// An error that was met in the middle of a batch of records.
    told_later: Option<Error>,
}

impl Streams {
    /// None yet.
    pub fn new(client: Client, expanded_bytes_max: usize) -> Streams {
        let (deliver, delivered) = mpsc::unbounded_channel();
        Streams {
            client,
            runtime: Handle::current(),
            expanded_bytes_max,
            partitions: BTreeMap::new(),
            next_slot: 0,
            deliver,
            delivered,
            replay: VecDeque::new(),
            current: None,
            told_later: None,
        }
    }

    /// Begins to stream from a partition.
    pub fn add(&mut self, source: Source) {
        let slot = self.next_slot;
        self.next_slot += 1;
        let (partition, feed) = Partition::new(&self.client, slot, source, self.deliver.clone());
        self.partitions.insert(slot, partition);
        self.start(slot, feed);
    }

    /// Ends with a partition: what has come of it and was not taken is dropped. False if the partition
    /// is none of these.
    pub fn remove(&mut self, wanted: TopicPartition) -> bool {
        let Some(slot) = self.slot(wanted) else {
            return false;
        };
        self.current.take_if(|cursor| cursor.slot == slot);
        self.replay.retain(|cursor| cursor.slot != slot);
        if let Some(mut partition) = self.partitions.remove(&slot) {
            partition.stop();
        }
        true
    }

    /// Lets so many bytes of each partition wait from now on.
    pub fn share_credit(&mut self, credit_bytes: u64) {
        for partition in self.partitions.values_mut() {
            partition.share_credit(credit_bytes);
        }
    }

    fn start(&mut self, slot: usize, feed: Feed) {
        let Some(partition) = self.partitions.get_mut(&slot) else {
            return;
        };
        if partition.is_at_end() {
            partition.finish();
        } else {
            partition.task = Some(self.runtime.spawn(feed.run()).abort_handle());
        }
    }

    /// The next record, if it is at hand: without waiting, and without a word on whether more comes.
    #[inline]
    pub fn try_next(&mut self) -> Option<Result<Message>> {
        loop {
            if let Some(next) = self.take_ready() {
                return Some(next);
            }
            if let Some(error) = self.told_later.take() {
                return Some(Err(error));
            }
            if self.take_up_replay() {
                continue;
            }
            let delivery = self.delivered.try_recv().ok()?;
            if let Some(error) = self.take_in(delivery) {
                return Some(Err(error));
            }
        }
    }

    /// This record, and those that are at hand behind it, `max` in all. An error among them is the next
    /// item.
    pub fn at_hand(&mut self, first: Message, max: usize) -> Vec<Message> {
        let mut batch = Vec::with_capacity(max.clamp(1, 1_024));
        batch.push(first);
        while batch.len() < max {
            match self.try_next() {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => {
                    self.told_later = Some(error);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// The next record. None when no partition can go on: each has come to its end, or failed.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        loop {
            if let Some(next) = self.take_ready() {
                return Poll::Ready(Some(next));
            }
            if let Some(error) = self.told_later.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if self.take_up_replay() {
                continue;
            }
            if !self.partitions.values().any(Partition::can_go_on) {
                return Poll::Ready(None);
            }
            match self.delivered.poll_recv(context) {
                Poll::Ready(Some(delivery)) => {
                    if let Some(error) = self.take_in(delivery) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                // The sender is held here.
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next record of what is being taken; none once that is used up.
    #[inline]
    fn take_ready(&mut self) -> Option<Result<Message>> {
        let cursor = self.current.as_mut()?;
        match cursor.next(self.expanded_bytes_max) {
            Some(Ok(message)) => Some(Ok(message)),
            Some(Err(error)) => {
                let slot = cursor.slot;
                self.put_down();
                // What had come behind it would be given out as if nothing were missing.
                self.forget_waiting(slot);
                if let Some(partition) = self.partitions.get_mut(&slot) {
                    partition.fail();
                }
                Some(Err(error))
            }
            None => {
                self.put_down();
                None
            }
        }
    }

    /// Goes on with what was set aside while its partition was paused. False if there is nothing.
    fn take_up_replay(&mut self) -> bool {
        let Some(mut cursor) = self.replay.pop_front() else {
            return false;
        };
        // It was set aside before what lies before it was taken.
        if let Some(partition) = self.partitions.get(&cursor.slot) {
            cursor.position = cursor.position.max(partition.position);
        }
        self.current = Some(cursor);
        true
    }

    /// Drops what has come of a partition and was not begun with.
    fn forget_waiting(&mut self, slot: usize) {
        let (replay, dropped): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.replay)
            .into_iter()
            .partition(|cursor| cursor.slot != slot);
        self.replay = replay;
        let Some(partition) = self.partitions.get_mut(&slot) else {
            return;
        };
        let aside = std::mem::take(&mut partition.aside);
        for cursor in dropped.into_iter().chain(aside) {
            partition.give_back(cursor.bytes);
        }
    }

    /// What was being taken is used up, or is not wanted any more.
    fn put_down(&mut self) {
        if let Some(cursor) = self.current.take()
            && let Some(partition) = self.partitions.get_mut(&cursor.slot)
        {
            partition.position = cursor.position;
            partition.epoch = cursor.epoch.max(partition.epoch);
            partition.give_back(cursor.bytes);
            if partition.is_at_end() {
                partition.finish();
            }
        }
    }

    fn take_in(&mut self, delivery: Delivery) -> Option<Error> {
        // Of a partition that was removed.
        let partition = self.partitions.get_mut(&delivery.slot)?;
        let is_wanted = delivery.generation == partition.generation && !partition.is_over();
        match delivery.content {
            Content::Begins(offset) if is_wanted => {
                partition.begin_at(offset);
                if partition.is_at_end() {
                    partition.finish();
                }
                None
            }
            Content::Begins(_) => None,
            Content::Entries(bytes) if is_wanted => {
                let cursor = partition.cursor(delivery.slot, bytes);
                match partition.is_paused {
                    true => partition.aside.push_back(cursor),
                    false => self.current = Some(cursor),
                }
                None
            }
            Content::Entries(bytes) => {
                partition.give_back(bytes.len() as u64);
                None
            }
            Content::Failed(error) if is_wanted => {
                partition.fail();
                Some(error)
            }
            Content::Failed(_) => None,
        }
    }

    fn slot(&self, wanted: TopicPartition) -> Option<usize> {
        let mut partitions = self.partitions.iter();
        let found = partitions.find(|(_, partition)| partition.place.id == wanted);
        found.map(|(slot, _)| *slot)
    }

    /// Goes on at another offset; also after a failure, or the end. False if the partition is none
    /// of these.
    pub fn seek(&mut self, wanted: TopicPartition, offset: Offset) -> bool {
        let Some(slot) = self.slot(wanted) else {
            return false;
        };
        if self.current.as_ref().is_some_and(|c| c.slot == slot) {
            self.put_down();
        }
        self.forget_waiting(slot);
        let Some(partition) = self.partitions.get_mut(&slot) else {
            return false;
        };
        if let Some(feed) = partition.seek(&self.client, slot, offset, &self.deliver) {
            self.start(slot, feed);
        } else if partition.is_at_end() {
            partition.finish();
        }
        true
    }

    /// Delivers nothing of a partition until it is resumed. What has come of it stays, within its
    /// credit. False if the partition is none of these.
    pub fn pause(&mut self, wanted: TopicPartition) -> bool {
        let Some(slot) = self.slot(wanted) else {
            return false;
        };
        let Some(partition) = self.partitions.get_mut(&slot) else {
            return false;
        };
        if partition.is_paused {
            return true;
        }
        partition.is_paused = true;
        if let Some(cursor) = self.current.take_if(|cursor| cursor.slot == slot) {
            partition.aside.push_back(cursor);
        }
        let (replay, aside): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.replay)
            .into_iter()
            .partition(|cursor| cursor.slot != slot);
        self.replay = replay;
        partition.aside.extend(aside);
        true
    }

    /// Goes on with a partition that was paused. False if the partition is none of these.
    pub fn resume(&mut self, wanted: TopicPartition) -> bool {
        let Some(slot) = self.slot(wanted) else {
            return false;
        };
        let Some(partition) = self.partitions.get_mut(&slot) else {
            return false;
        };
        partition.is_paused = false;
        self.replay.extend(partition.aside.drain(..));
        true
    }

    /// The offset of the next record of a partition; of the next that there is, after a gap. None where it
    /// is not known yet where the partition begins.
    pub fn position(&self, wanted: TopicPartition) -> Option<Offset> {
        let slot = self.slot(wanted)?;
        Some(self.reached(slot, self.partitions.get(&slot)?)?.position)
    }

    fn reached(&self, slot: usize, partition: &Partition) -> Option<Reached> {
        if !partition.is_placed {
            return None;
        }
        let current = self.current.as_ref().filter(|cursor| cursor.slot == slot);
        let aside = partition.aside.front();
        let replay = || self.replay.iter().find(|cursor| cursor.slot == slot);
        let begun = current.or(aside).or_else(replay);
        let position = begun.map_or(partition.position, |cursor| cursor.position);
        let epoch = begun.map_or(partition.epoch, |cursor| cursor.epoch.max(partition.epoch));
        let high_watermark = partition.high_watermark().max(position);
        Some(Reached {
            position,
            epoch,
            high_watermark,
        })
    }

    /// How far every partition has been read, as far as the client knows. Those are left out of which it
    /// is not known yet where they begin.
    pub fn progress(&self) -> BTreeMap<TopicPartition, Reached> {
        let partitions = self.partitions.iter();
        partitions
            .filter_map(|(slot, partition)| {
                Some((partition.place.id, self.reached(*slot, partition)?))
            })
            .collect()
    }

    /// Bytes that have come and wait to be taken.
    pub fn waiting_bytes(&self) -> u64 {
        self.partitions.values().map(Partition::waiting_bytes).sum()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.stop();
        }
    }
}

/// The records of stored entries (`[u32 crc32][record batch]`, back to back), as a reader takes them: what
/// a file of a log holds, for whoever has one. Checksums are not looked at.
pub fn decode_entries(
    topic: impl Into<Arc<str>>,
    partition: impl Into<PartitionIndex>,
    entries: Bytes,
) -> impl Iterator<Item = Result<Message>> {
    let id = TopicPartition {
        topic: TopicId::default(),
        partition: partition.into(),
    };
    let topic = topic.into();
    let mut cursor = Cursor::new(0, Place { topic, id }, Offset::ZERO, None, entries);
    std::iter::from_fn(move || cursor.next(EXPANDED_BYTES_MAX))
}

/// A feed's ear.
type Commands = mpsc::UnboundedSender<Command>;

/// What a feed lets others see.
#[derive(Default)]
struct Gauge {
    high_watermark: std::sync::atomic::AtomicU64,
    waiting_bytes: std::sync::atomic::AtomicU64,
}

type SharedGauge = Arc<Gauge>;
