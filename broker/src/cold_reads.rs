//! Reads what only the disk has, on threads that may wait: on a worker it would stop all partitions and
//! connections of that thread. Subscriptions and the catching up of followers share a few turns, so
//! that a broker never asks its disk for much at once: everybody's flushes go to the same one.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// How many reads go on at once.
const READS_MAX: usize = 4;

/// Gives readers their turns. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ColdReads {
    turns: Arc<Semaphore>,
}

impl Default for ColdReads {
    fn default() -> Self {
        ColdReads {
            turns: Arc::new(Semaphore::new(READS_MAX)),
        }
    }
}

impl ColdReads {
    /// Reads when it is its turn, on another thread; what it came to.
    pub async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        // Nobody closes it. The turn ends with the read, even if nobody waits for it any more.
        let turn = self.turns.clone().acquire_owned().await;
        let read = move || {
            let _turn = turn;
            read()
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process ends.
            Err(_) => std::future::pending().await,
        }
    }
}
