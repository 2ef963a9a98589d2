//! Runs flushes on threads of their own, so that no `fdatasync` ever stops an arbiter. One flush is
//! in flight per log; what is appended meanwhile goes with the next one (group commit).

use actix::{Actor, Handler, SyncContext};

use crate::actors::messages::{Flushed, RunFlush};

/// Threads that flush; more than the cores, since they only wait for the disk.
pub const FLUSH_THREADS: usize = 4;

/// A thread that flushes.
pub struct Flusher;

impl Actor for Flusher {
    type Context = SyncContext<Self>;
}

impl Handler<RunFlush> for Flusher {
    type Result = ();

    fn handle(&mut self, message: RunFlush, _: &mut Self::Context) {
        message.done.do_send(Flushed((message.work)()));
    }
}
