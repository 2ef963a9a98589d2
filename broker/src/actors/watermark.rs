//! A replica's high watermark, as others learn of it: to look at, and to wait on.
//!
//! Few of thousands of partitions are waited on. The channel that this takes is made for the first who
//! waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_protocol::ids::Offset;
use tokio::sync::watch;

/// How far a replica's log is known to be committed.
#[derive(Debug, Default)]
pub struct Watermark {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    at: Offset,
    waiters: Option<watch::Sender<Offset>>,
    /// The replica has left.
    closed: bool,
}

impl Watermark {
    /// Where it is.
    pub fn at(&self) -> Offset {
        self.state().at
    }

    /// It is there now.
    pub fn set(&self, to: Offset) {
        let mut state = self.state();
        state.at = to;
        if let Some(waiters) = &state.waiters {
            waiters.send_replace(to);
        }
    }

    /// To be waited on; who waits is told when the replica leaves.
    pub fn subscribe(&self) -> watch::Receiver<Offset> {
        let mut state = self.state();
        let at = state.at;
        if state.closed {
            return watch::channel(at).1;
        }
        let waiters = &mut state.waiters;
        let waiters = waiters.get_or_insert_with(|| watch::Sender::new(at));
        waiters.subscribe()
    }

    /// The replica leaves.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiters = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_learns_of_what_came_before_and_after_and_of_the_end() {
        let watermark = Watermark::default();
        watermark.set(Offset(2));
        let (mut first, mut second) = (watermark.subscribe(), watermark.subscribe());
        assert_eq!((*first.borrow(), watermark.at()), (Offset(2), Offset(2)));
        watermark.set(Offset(3));
        for waiter in [&mut first, &mut second] {
            let reached = waiter.wait_for(|at| *at >= Offset(3)).await;
            assert_eq!(*reached.expect("the replica is here"), Offset(3));
        }
        watermark.close();
        assert!(first.changed().await.is_err());
        let mut late = watermark.subscribe();
        assert_eq!(*late.borrow(), Offset(3));
        assert!(late.changed().await.is_err());
    }
}
