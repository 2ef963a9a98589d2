//! How entries leave a leader: those in memory at once, others when they have been read elsewhere and
//! the core still wants them sent.

use std::collections::VecDeque;

use baton_protocol::ids::{BrokerId, Offset, Tick};
use baton_protocol::peer::{Append, ReplicaMessage};
use baton_replication::event::{Effect, Input};
use baton_storage::{Chunk, StorageError};
use bytes::Bytes;

use super::{Driver, Found, InHand, Output};

/// Entries on their way to a follower.
#[derive(Debug)]
pub struct Push {
    /// To whom.
    pub(super) to: BrokerId,
    /// The message that carries them.
    pub(super) append: Append,
}

impl Driver {
    /// Takes what a reading came to that was asked for by [`Output::Read`].
    pub fn read(
        &mut self,
        now: Tick,
        push: Push,
        result: Result<Option<Chunk>, StorageError>,
        out: &mut Vec<Output>,
    ) {
        // What is not wanted any more may have been cut while it was read: then even a failure to
        // read it says nothing.
        if self.failed || !self.replica.awaits(push.to, &push.append) {
            return;
        }
        let mut queue = VecDeque::new();
        let sent = result.and_then(|chunk| self.send_entries(now, push, chunk, &mut queue, out));
        match sent {
            Ok(()) => self.carry_out_all(now, queue, &InHand::Nothing, out),
            Err(error) => self.fail(error, out),
        }
    }

    /// Sends a message with the entries that follow `prev_end`, if any are asked for.
    pub(super) fn push(
        &mut self,
        now: Tick,
        push: Push,
        bytes_max: u64,
        queue: &mut VecDeque<Effect>,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        if bytes_max == 0 {
            return self.send_entries(now, push, None, queue, out);
        }
        match self.log.read(push.append.prev_end, bytes_max as usize)? {
            Found::Here(chunk) => self.send_entries(now, push, chunk, queue, out),
            Found::Away(work) => {
                out.push(Output::Read(push, work));
                Ok(())
            }
        }
    }

    /// Sends entries, and tells the core how far they went, which may ask for more.
    fn send_entries(
        &mut self,
        now: Tick,
        Push { to, append }: Push,
        chunk: Option<Chunk>,
        queue: &mut VecDeque<Effect>,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(chunk) = chunk else {
            out.push(message(to, append, Bytes::new()));
            return Ok(());
        };
        let sent = self.sent.get_or_insert_with(to, || Offset::ZERO);
        // What was sent before and is asked for again may have been refused, because it is not what
        // was stored any more: followers look at every byte, and say nothing.
        if chunk.base < *sent {
            self.log.check(&chunk)?;
        }
        *sent = chunk.end.max(*sent);
        let pushed = Input::Pushed {
            to,
            append: append.clone(),
            end: chunk.end,
            bytes: chunk.bytes.len() as u64,
        };
        out.push(message(to, append, chunk.bytes));
        let mut more = Vec::new();
        self.replica.step(now, pushed, &mut more);
        queue.extend(more);
        Ok(())
    }
}

fn message(to: BrokerId, append: Append, payload: Bytes) -> Output {
    Output::Send {
        to,
        message: ReplicaMessage::Append(append),
        payload,
    }
}
