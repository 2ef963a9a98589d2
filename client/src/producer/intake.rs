//! What a producer and a partition's lane share: the batches that wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::batch::BatchBuilder;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::fate::Debt;
use crate::attempts::later;
use crate::error::Error;
use crate::place::Place;

/// A batch that takes records.
pub(crate) struct OpenBatch {
    pub builder: BatchBuilder,
    pub debt: Debt,
    pub opened_at: Instant,
    /// What it took from the buffer's room.
    pub room: usize,
    /// It takes no more: the next record found no place in it.
    pub is_full: bool,
}

/// What a producer and a partition's lane share.
pub(crate) struct Intake {
    pub place: Place,
    state: Mutex<IntakeState>,
    /// Something was added, is wanted in a hurry, or the producer closed.
    pub news: Notify,
    /// A batch was decided.
    pub decided: Notify,
    /// Why nothing goes forward at the moment, if so.
    trouble: Mutex<Option<Error>>,
}

/// Batches are numbered as they are opened, from 1, and decided in that order.
#[derive(Default)]
pub(crate) struct IntakeState {
    pub open: Option<OpenBatch>,
    pub full: VecDeque<OpenBatch>,
    /// The last batch that was opened.
    pub opened: u64,
    /// The last batch that was decided.
    pub decided: u64,
    /// Batches up to this one do not linger.
    pub hurry_to: u64,
    /// Bytes that the last batch came to: the next gets room for as many to begin with, so that a
    /// partition with few records takes little.
    pub bytes_before: usize,
    /// There is a lane.
    pub has_lane: bool,
    pub is_closed: bool,
}

impl IntakeState {
    /// Nothing waits, and nothing is in the lane's hand.
    pub fn is_idle(&self) -> bool {
        self.decided == self.opened
    }
}

impl Intake {
    /// An empty one.
    pub fn new(place: Place) -> Self {
        Intake {
            place,
            state: Mutex::default(),
            news: Notify::new(),
            decided: Notify::new(),
            trouble: Mutex::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, IntakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch that is full, or has lingered long enough.
    pub fn take(&self, linger: Duration) -> Option<OpenBatch> {
        let mut state = self.lock();
        if let Some(full) = state.full.pop_front() {
            return Some(full);
        }
        let hurry = state.is_closed || state.hurry_to >= state.opened;
        let due = |open: &OpenBatch| hurry || open.opened_at.elapsed() >= linger;
        let taken = state.open.take_if(|open| due(open))?;
        state.bytes_before = taken.builder.bytes();
        Some(taken)
    }

    /// When the open batch has lingered long enough; never, if there is none.
    pub fn linger_deadline(&self, linger: Duration) -> Option<Instant> {
        let state = self.lock();
        let open = state.open.as_ref();
        open.map(|open| later(open.opened_at, linger))
    }

    /// One batch is decided.
    pub fn put_down(&self) {
        self.lock().decided += 1;
        self.decided.notify_waiters();
    }

    /// All that has been taken so far is to be sent at once; its last batch.
    pub fn hurry(&self) -> u64 {
        let mut state = self.lock();
        state.hurry_to = state.opened;
        let (last, idle) = (state.opened, state.is_idle());
        drop(state);
        if !idle {
            self.news.notify_one();
        }
        last
    }

    /// Waits until this batch, and all before it, are decided.
    pub async fn wait_for(&self, batch: u64) {
        loop {
            let decided = self.decided.notified();
            tokio::pin!(decided);
            decided.as_mut().enable();
            if self.lock().decided >= batch {
                return;
            }
            decided.await;
        }
    }

    /// Takes no more; what there is is sent.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.news.notify_one();
    }

    /// The lane may end: it has nothing to do. False if something has come meanwhile.
    pub fn let_lane_go(&self) -> bool {
        let mut state = self.lock();
        let idle = state.is_idle();
        state.has_lane = !idle;
        idle
    }

    /// The lane has ended in the middle of its work: what is left is handed back, to be dropped,
    /// which decides it.
    pub fn abandon(&self) -> Vec<OpenBatch> {
        let mut state = self.lock();
        state.has_lane = false;
        state.decided = state.opened;
        let mut left: Vec<OpenBatch> = state.full.drain(..).collect();
        left.extend(state.open.take());
        drop(state);
        self.decided.notify_waiters();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn what_a_lane_leaves_behind_is_decided_by_its_end() {
        let intake = Intake::new(Place::example("t", 3));
        let debt = Debt::new(intake.place.clone());
        let ack = debt.ack(0);
        {
            let mut state = intake.lock();
            (state.opened, state.has_lane) = (1, true);
            state.full.push_back(OpenBatch {
                builder: BatchBuilder::default(),
                debt,
                opened_at: Instant::now(),
                room: 7,
                is_full: true,
            });
        }
        let left = intake.abandon();
        assert_eq!(left.iter().map(|batch| batch.room).sum::<usize>(), 7);
        drop(left);
        let error = ack.await.expect_err("not delivered");
        assert_eq!(error.kind(), ErrorKind::NotDelivered);
        intake.wait_for(1).await;
    }

    #[tokio::test]
    async fn only_what_was_taken_before_is_hurried() {
        let intake = Intake::new(Place::example("t", 0));
        let batch = || OpenBatch {
            builder: BatchBuilder::default(),
            debt: Debt::new(intake.place.clone()),
            opened_at: Instant::now(),
            room: 0,
            is_full: false,
        };
        let forever = Duration::from_secs(3_600);
        intake.lock().open = Some(batch());
        intake.lock().opened = 1;
        assert!(intake.take(forever).is_none());
        assert_eq!(intake.hurry(), 1);
        assert!(intake.take(forever).is_some());
        intake.lock().open = Some(batch());
        intake.lock().opened = 2;
        assert!(intake.take(forever).is_none());
    }
}
