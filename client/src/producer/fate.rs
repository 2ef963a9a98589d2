//! What becomes of a batch, and the acknowledgements of its records, which share that.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use crate::record::RecordMetadata;

/// Where a batch was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    /// Offset of its first record.
    pub base_offset: Option<Offset>,
    pub epoch: Option<LeaderEpoch>,
}

/// The fate of a batch.
#[derive(Debug)]
struct Fate {
    place: Place,
    result: OnceLock<Result<Stored>>,
    /// Who waits for it; each acknowledgement keeps its place in the list.
    waiting: Mutex<Vec<Waker>>,
}

impl Fate {
    fn decide(&self, result: Result<Stored>) {
        // A batch is decided once; whoever comes second has nothing to add.
        drop(self.result.set(result));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for waker in std::mem::take(&mut *waiting) {
            waker.wake();
        }
    }
}

/// A batch's duty to decide its fate. What is dropped undecided (its lane ended with the runtime, or
/// in a panic) is decided by that: nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Debt {
    fate: Arc<Fate>,
    /// It has left at least once: it may be stored.
    pub sent: bool,
}

impl Debt {
    pub fn new(place: Place) -> Self {
        let fate = Fate {
            place,
            result: OnceLock::new(),
            waiting: Mutex::default(),
        };
        Debt {
            fate: Arc::new(fate),
            sent: false,
        }
    }

    /// The acknowledgement of the batch's record of this index.
    pub fn ack(&self, index: u32) -> Ack {
        Ack {
            fate: self.fate.clone(),
            index,
            waiting: None,
        }
    }

    /// Decides it.
    pub fn pay(self, result: Result<Stored>) {
        self.fate.decide(result);
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if self.fate.result.get().is_none() {
            let why = Error::new(ErrorKind::Closed, "the producer ended");
            let error = Error::delivery(&self.fate.place, self.sent, Some(&why));
            self.fate.decide(Err(error));
        }
    }
}

/// An acknowledgement that is to come: a future of where the record is.
///
/// It may be dropped. The record is delivered all the same, and an error shows in the next
/// [`Producer::flush`](crate::Producer::flush).
#[derive(Debug)]
#[must_use = "an acknowledgement that is not awaited hides an error; `flush` reports it too"]
pub struct Ack {
    fate: Arc<Fate>,
    index: u32,
    waiting: Option<usize>,
}

impl Ack {
    /// The broker's word, if it has come. An acknowledgement can be asked again.
    pub fn now(&self) -> Option<Result<RecordMetadata>> {
        let result = self.fate.result.get()?;
        Some(result.clone().map(|stored| self.metadata(stored)))
    }

    fn metadata(&self, stored: Stored) -> RecordMetadata {
        let index = u64::from(self.index);
        RecordMetadata {
            topic: self.fate.place.topic.clone(),
            partition: self.fate.place.id.partition,
            offset: stored.base_offset.map(|offset| offset.plus(index)),
            epoch: stored.epoch,
        }
    }
}

impl Future for Ack {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.now() {
            return Poll::Ready(result);
        }
        let ack = &mut *self;
        let waiting = ack.fate.waiting.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        // It may have been decided before the lock was taken; after that, nobody is woken.
        if ack.fate.result.get().is_none() {
            match ack.waiting.and_then(|at| waiting.get_mut(at)) {
                Some(waker) => waker.clone_from(context.waker()),
                None => {
                    ack.waiting = Some(waiting.len());
                    waiting.push(context.waker().clone());
                }
            }
            return Poll::Pending;
        }
        drop(waiting);
        self.now().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_acknowledgements_of_a_batch_are_woken_and_count_from_its_offset() {
        let debt = Debt::new(Place::example("t", 3));
        let acks: Vec<_> = (0..3).map(|index| tokio::spawn(debt.ack(index))).collect();
        tokio::task::yield_now().await;
        debt.pay(Ok(Stored {
            base_offset: Some(Offset(10)),
            epoch: Some(LeaderEpoch(2)),
        }));
        for (index, ack) in acks.into_iter().enumerate() {
            let metadata = ack.await.expect("no panic").expect("stored");
            assert_eq!(metadata.offset, Some(Offset(10 + index as u64)));
            assert_eq!(&*metadata.topic, "t");
        }
    }

    #[tokio::test]
    async fn what_is_dropped_undecided_is_decided_by_that() {
        for (sent, kind) in [
            (false, ErrorKind::NotDelivered),
            (true, ErrorKind::DeliveryUnknown),
        ] {
            let mut debt = Debt::new(Place::example("t", 3));
            debt.sent = sent;
            let ack = debt.ack(0);
            drop(debt);
            assert_eq!(ack.await.expect_err("undecided").kind(), kind);
        }
    }
}
