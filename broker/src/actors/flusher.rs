//! Runs flushes on threads of their own, so that no `fdatasync` ever stops an arbiter. One flush is
//! in flight per log; what is appended meanwhile goes with the next one (group commit).

use std::sync::Arc;

use actix::{Actor, Addr, Handler, SyncArbiter, SyncContext};
use baton_storage::DropBehind;

use crate::actors::messages::{Flushed, RunFlush};

/// Threads that flush; more than the cores, since they only wait for the disk.
const FLUSH_THREADS: usize = 4;

/// A thread that flushes.
pub struct Flusher {
    drop_behind: Option<Arc<DropBehind>>,
}

impl Flusher {
    /// Starts the threads, which drop from memory what the window has moved past.
    pub fn start_all(drop_behind: Option<Arc<DropBehind>>) -> Addr<Flusher> {
        SyncArbiter::start(FLUSH_THREADS, move || Flusher {
            drop_behind: drop_behind.clone(),
        })
    }
}

impl Actor for Flusher {
    type Context = SyncContext<Self>;
}

impl Handler<RunFlush> for Flusher {
    type Result = ();

    fn handle(&mut self, message: RunFlush, _: &mut Self::Context) {
        message.done.do_send(Flushed((message.work)()));
        // Behind the answer, which somebody waits for.
        if let Some(drop_behind) = &self.drop_behind {
            drop_behind.drop_excess();
        }
    }
}
