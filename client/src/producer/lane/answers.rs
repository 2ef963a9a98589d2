//! What a lane makes of answers, and of their absence: the fate of every batch is decided here.

use baton_protocol::client::{Acks, ResponseBody};
use baton_protocol::error::ErrorCode;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::producer::fate::{Debt, Stored};

impl Lane {
    pub(super) async fn on_answer(&mut self, result: Result<ResponseBody>) {
        self.answered_at = Instant::now();
        match result {
            Ok(ResponseBody::Produced { base_offset, epoch }) => {
                self.backoff.reset();
                self.intake().set_trouble(None);
                if let Some(batch) = self.in_flight.pop_front() {
                    let stored = Stored {
                        base_offset,
                        epoch: Some(epoch),
                    };
                    self.conclude(batch.debt, batch.room, Ok(stored));
                }
            }
            // What is not answered counts as delivered once it has been written.
            Ok(ResponseBody::Done) if self.config().acks == Acks::None => {
                self.backoff.reset();
                self.intake().set_trouble(None);
                if let Some(batch) = self.in_flight.pop_front() {
                    let stored = Stored {
                        base_offset: None,
                        epoch: None,
                    };
                    self.conclude(batch.debt, batch.room, Ok(stored));
                }
            }
            Ok(other) => {
                let text = format!("a produce request was answered with {other:?}");
                self.fail_front(Error::new(ErrorKind::Corrupt, text));
            }
            Err(error) if self.core.client.can_succeed_later(self.place(), &error) => {
                debug!(place = %self.place(), %error, "sent again");
                let moved = matches!(
                    error.code(),
                    None | Some(
                        ErrorCode::NotLeader | ErrorCode::LeaderChanged | ErrorCode::NoLeader
                    )
                );
                self.intake().set_trouble(Some(error));
                self.start_over();
                self.wait_a_little(moved).await;
            }
            Err(error) => self.fail_front(error),
        }
    }

    /// Waits before what failed is sent again; where another leader is due, only until the metadata
    /// show something new.
    pub(super) async fn wait_a_little(&mut self, for_leader: bool) {
        let pause = self.backoff.pause();
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.view.changed(), if for_leader => self.on_view(),
        }
    }

    /// The oldest batch failed for good. Those sent after it under the same id cannot be stored
    /// any more (their sequence does not follow), or are: which one is not known, so they fail too.
    pub(super) fn fail_front(&mut self, error: Error) {
        let error = error.at(self.place());
        self.intake().set_trouble(Some(error.clone()));
        if let Some(batch) = self.in_flight.pop_front() {
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.fail_sent();
    }

    /// The partition is gone, and with it whatever was stored there.
    pub(super) fn fail_all(&mut self, error: &Error) {
        for batch in std::mem::take(&mut self.in_flight) {
            let error = error.clone().at(self.place());
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.fail_sent();
    }

    /// The oldest batch's time is up. A connection that does not answer still holds it.
    pub(super) fn give_up(&mut self) {
        let Some(batch) = self.in_flight.pop_front() else {
            return;
        };
        if batch.answer.is_some()
            && let Some((_, connection)) = self.leader.take()
        {
            connection.give_up("no answer within the delivery timeout");
        }
        let error = self.not_delivered(&batch.debt);
        self.conclude(batch.debt, batch.room, Err(error));
        self.fail_sent();
    }

    /// Fails all that was ever sent, and takes a new identity for the rest. The rest has sequences
    /// of the old identity by now, so it goes too: what was never sent is not stored.
    pub(super) fn fail_sent(&mut self) {
        for batch in std::mem::take(&mut self.in_flight) {
            let error = self.not_delivered(&batch.debt);
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.producer = None;
        self.next_sequence = 0;
        self.leader = None;
    }

    pub(super) fn not_delivered(&self, debt: &Debt) -> Error {
        let last = self.intake().trouble();
        Error::delivery(self.place(), debt.sent, last.as_ref())
    }

    pub(super) fn conclude(&self, debt: Debt, room: usize, result: Result<Stored>) {
        if let Err(error) = &result {
            debug!(place = %self.place(), %error, "batch given up");
            self.core.failure().get_or_insert_with(|| error.clone());
        }
        debt.pay(result);
        self.core.room.add_permits(room);
        self.intake().put_down();
    }
}
