//! One partition of several that are streamed from, as the one who takes the records sees it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use baton_protocol::ids::{LeaderEpoch, Offset};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::cursor::Cursor;
use super::feed::{Command, Feed};
use super::{Begin, Commands, Delivery, SharedGauge, Source};
use crate::client::Client;
use crate::place::Place;

/// Whether records come of a partition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    /// It has come to the end that was wanted.
    Finished,
    /// An error was told; it takes a seek to go on.
    Failed,
}

pub(super) struct Partition {
    pub place: Place,
    /// The offset of the next record, unless a cursor is in the middle of its entries.
    pub position: Offset,
    /// Whether that is known: not before the leader has said where the log begins, if that is wanted.
    pub is_placed: bool,
    /// The leader epoch of the last record that was taken; none before one was.
    pub epoch: LeaderEpoch,
    pub is_paused: bool,
    /// What came while it was paused.
    pub aside: VecDeque<Cursor>,
    /// Counts seeks: what was asked for before one is not wanted after it.
    pub generation: u64,
    pub task: Option<AbortHandle>,
    end: Option<Offset>,
    credit_bytes: u64,
    state: State,
    commands: Commands,
    gauge: SharedGauge,
}

impl Partition {
    /// The partition, and the feed that is to run for it.
    pub fn new(
        client: &Client,
        slot: usize,
        source: Source,
        deliver: mpsc::UnboundedSender<Delivery>,
    ) -> (Partition, Feed) {
        let (commands, heard) = mpsc::unbounded_channel();
        let gauge = SharedGauge::default();
        let (begin, credit) = (source.begin, source.credit_bytes);
        let place = source.place.clone();
        let feed = Feed::new(
            client,
            place,
            slot,
            begin,
            credit,
            heard,
            deliver,
            gauge.clone(),
        );
        let partition = Partition {
            place: source.place,
            position: begin.offset(),
            is_placed: begin != Begin::Earliest(None),
            epoch: LeaderEpoch::NONE,
            is_paused: false,
            aside: VecDeque::new(),
            generation: 0,
            task: None,
            end: source.end,
            credit_bytes: source.credit_bytes,
            state: State::Flowing,
            commands,
            gauge,
        };
        (partition, feed)
    }

    /// Where the first record will come from.
    pub fn begin_at(&mut self, offset: Offset) {
        self.position = offset;
        self.is_placed = true;
    }

    /// What has come, to be taken from.
    pub fn cursor(&self, slot: usize, bytes: Bytes) -> Cursor {
        Cursor::new(slot, self.place.clone(), self.position, self.end, bytes)
    }

    /// What was taken: as much more may come.
    pub fn give_back(&self, bytes: u64) {
        self.gauge.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // A feed that is gone needs no credit.
        drop(self.commands.send(Command::Taken(bytes)));
    }

    /// Lets so many bytes wait from now on.
    pub fn share_credit(&mut self, credit_bytes: u64) {
        if self.credit_bytes != credit_bytes {
            self.credit_bytes = credit_bytes;
            // A feed that is gone gets it with the next one.
            drop(self.commands.send(Command::Share(credit_bytes)));
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    /// It has come to its end, or failed.
    pub fn is_over(&self) -> bool {
        self.state != State::Flowing
    }

    /// Whether records can still come of it; of a paused one, they can.
    pub fn can_go_on(&self) -> bool {
        self.state == State::Flowing
    }

    pub fn finish(&mut self) {
        self.state = State::Finished;
        self.stop();
    }

    pub fn fail(&mut self) {
        self.state = State::Failed;
        self.stop();
    }

    /// Ends the feed.
    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Goes on elsewhere. A new feed, where there is none that can be told.
    pub fn seek(
        &mut self,
        client: &Client,
        slot: usize,
        offset: Offset,
        deliver: &mpsc::UnboundedSender<Delivery>,
    ) -> Option<Feed> {
        self.begin_at(offset);
        self.generation += 1;
        self.state = State::Flowing;
        let generation = self.generation;
        if self.task.is_some()
            && self
                .commands
                .send(Command::Seek(offset, generation))
                .is_ok()
        {
            return None;
        }
        let (commands, heard) = mpsc::unbounded_channel();
        self.commands = commands;
        let gauge = self.gauge.clone();
        let (place, credit) = (self.place.clone(), self.credit_bytes);
        let (begin, deliver) = (Begin::At(offset), deliver.clone());
        let mut feed = Feed::new(client, place, slot, begin, credit, heard, deliver, gauge);
        feed.generation = generation;
        Some(feed)
    }

    /// The high watermark, as far as it is known; 0 before.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.gauge.high_watermark.load(Ordering::Relaxed))
    }

    /// Bytes that have come and wait to be taken.
    pub fn waiting_bytes(&self) -> u64 {
        self.gauge.waiting_bytes.load(Ordering::Relaxed)
    }
}
