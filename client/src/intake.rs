//! What a producer and a partition's lane share: the batches that wait, and their fates.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use baton_protocol::batch::BatchBuilder;
use baton_protocol::ids::PartitionIndex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempts::later;
use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordMetadata;

/// The fate of a batch, shared by the acknowledgements of its records.
#[derive(Debug, Default)]
struct Fate {
    result: OnceLock<Result<RecordMetadata>>,
    decided: Notify,
}

impl Fate {
    fn decide(&self, result: Result<RecordMetadata>) {
        // A batch is decided once; whoever comes second has nothing to add.
        drop(self.result.set(result));
        self.decided.notify_waiters();
    }

    async fn wait(&self) -> Result<RecordMetadata> {
        loop {
            let decided = self.decided.notified();
            tokio::pin!(decided);
            decided.as_mut().enable();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            decided.await;
        }
    }
}

/// A batch's duty to decide its fate. What is dropped undecided (its lane ended with the runtime, or
/// in a panic) is decided by that: nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Debt {
    fate: Arc<Fate>,
    partition: PartitionIndex,
    /// It has left at least once: it may be stored.
    pub sent: bool,
}

impl Debt {
    pub fn new(partition: PartitionIndex) -> Self {
        Debt {
            fate: Arc::default(),
            partition,
            sent: false,
        }
    }

    /// The acknowledgement of the batch's record of this index.
    pub fn ack(&self, index: u32) -> Ack {
        Ack {
            fate: self.fate.clone(),
            index,
        }
    }

    /// Decides it.
    pub fn pay(self, result: Result<RecordMetadata>) {
        self.fate.decide(result);
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if self.fate.result.get().is_none() {
            let why = Error::new(ErrorKind::Closed, "the producer ended");
            let error = Error::delivery(self.partition, self.sent, Some(&why));
            self.fate.decide(Err(error));
        }
    }
}

/// An acknowledgement that is to come. Await it for where the record is.
#[derive(Debug)]
#[must_use = "an acknowledgement that is not awaited hides an error; `flush` reports it too"]
pub struct Ack {
    fate: Arc<Fate>,
    index: u32,
}

impl Ack {
    /// Waits for the broker's word.
    pub async fn wait(self) -> Result<RecordMetadata> {
        let mut metadata = self.fate.wait().await?;
        let index = u64::from(self.index);
        metadata.offset = metadata.offset.map(|offset| offset.plus(index));
        Ok(metadata)
    }
}

/// A batch that takes records.
pub(crate) struct OpenBatch {
    pub builder: BatchBuilder,
    pub debt: Debt,
    pub opened_at: Instant,
    /// What it took from the buffer's room.
    pub room: usize,
}

/// What a producer and a partition's lane share.
#[derive(Default)]
pub(crate) struct Intake {
    state: Mutex<IntakeState>,
    /// Something was added, or the producer closed.
    pub news: Notify,
    /// The lane has nothing left.
    pub idle: Notify,
    /// Why nothing goes forward at the moment, if so.
    trouble: Mutex<Option<Error>>,
    /// The partition that records without key or partition go to, shared by all lanes: it moves on
    /// with every batch.
    pub sticky: Arc<AtomicU32>,
}

#[derive(Default)]
pub(crate) struct IntakeState {
    pub open: Option<OpenBatch>,
    pub full: VecDeque<OpenBatch>,
    /// Batches that the lane has taken and not decided.
    pub in_hand: usize,
    /// Send what there is, do not linger.
    pub hurry: bool,
    pub closed: bool,
}

impl Intake {
    /// An empty one.
    pub fn new(sticky: Arc<AtomicU32>) -> Self {
        Intake {
            sticky,
            ..Intake::default()
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, IntakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch that is full, or has lingered long enough; it is in the lane's hand now.
    pub fn take(&self, linger: Duration) -> Option<OpenBatch> {
        let mut state = self.lock();
        if let Some(full) = state.full.pop_front() {
            state.in_hand += 1;
            return Some(full);
        }
        let hurry = state.hurry || state.closed;
        let due = |open: &OpenBatch| hurry || open.opened_at.elapsed() >= linger;
        if state.open.as_ref().is_some_and(due) {
            state.in_hand += 1;
            self.sticky.fetch_add(1, Ordering::Relaxed);
            return state.open.take();
        }
        None
    }

    /// When the open batch has lingered long enough.
    pub fn linger_deadline(&self, linger: Duration) -> Instant {
        let state = self.lock();
        let far = Instant::now() + Duration::from_secs(3600);
        let open = state.open.as_ref();
        open.map_or(far, |open| later(open.opened_at, linger))
    }

    /// The producer is gone, and everything is decided.
    pub fn is_done(&self) -> bool {
        let state = self.lock();
        state.closed && state.is_idle()
    }

    /// One batch that was in the lane's hand is decided.
    pub fn put_down(&self) {
        let mut state = self.lock();
        state.in_hand -= 1;
        if state.is_idle() {
            state.hurry = false;
            self.idle.notify_waiters();
        }
    }

    /// The lane has ended: nothing is taken any more, and what is left is dropped, which decides it.
    /// Whether there was anything left.
    pub fn end(&self) -> bool {
        let mut state = self.lock();
        let left = !state.is_idle();
        state.closed = true;
        state.open = None;
        state.full.clear();
        state.in_hand = 0;
        self.idle.notify_waiters();
        left
    }

    /// Why nothing goes forward at the moment, if so.
    pub fn trouble(&self) -> Option<Error> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl IntakeState {
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.full.is_empty() && self.in_hand == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sent: bool) -> (OpenBatch, Ack) {
        let mut debt = Debt::new(PartitionIndex(3));
        debt.sent = sent;
        let ack = debt.ack(0);
        let batch = OpenBatch {
            builder: BatchBuilder::default(),
            debt,
            opened_at: Instant::now(),
            room: 0,
        };
        (batch, ack)
    }

    #[tokio::test]
    async fn what_a_lane_leaves_behind_is_decided_by_its_end() {
        let intake = Intake::default();
        let (waiting, ack) = open(false);
        intake.lock().full.push_back(waiting);
        assert!(intake.end());
        let error = ack.wait().await.expect_err("not delivered");
        assert_eq!(error.kind(), ErrorKind::NotDelivered);
        assert!(intake.is_done());

        let (in_hand, ack) = open(true);
        drop(in_hand);
        let error = ack.wait().await.expect_err("not known");
        assert_eq!(error.kind(), ErrorKind::DeliveryUnknown);
    }
}
