//! Where a request's answer goes. An answer is owed: one that is dropped answers by itself, so that
//! no client waits for an actor that is gone.

use baton_protocol::client::{ResponseBody, ServerMessage};
use baton_protocol::error::{ErrorCode, WireError};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::net::connection::Outgoing;

/// An answer that is owed to a client.
pub struct Answer {
    id: u64,
    out: Option<UnboundedSender<Outgoing>>,
    /// The request's share of the bytes in flight; returned once the answer has left.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Answer {
    /// The answer to request `id`, to be written to `out`.
    pub fn new(
        id: u64,
        out: UnboundedSender<Outgoing>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        Answer {
            id,
            out: Some(out),
            permits,
        }
    }

    /// Answers.
    pub fn send(mut self, result: Result<ResponseBody, WireError>) {
        self.write(result);
    }

    /// Drops the debt: the request is of a kind that is not answered.
    pub fn forget(mut self) {
        self.out = None;
    }

    fn write(&mut self, result: Result<ResponseBody, WireError>) {
        let Some(out) = self.out.take() else {
            return;
        };
        let encode = |result| {
            let message = ServerMessage::Response {
                id: self.id,
                result,
            };
            Outgoing::encode(&message, Bytes::new())
        };
        let frame = encode(result).or_else(|error| {
            // It may be too large for a frame: whoever waits is told that much.
            tracing::error!(%error, "an answer could not be encoded");
            let text = format!("the answer cannot be sent: {error}");
            encode(Err(WireError::new(ErrorCode::Internal, text)))
        });
        match frame {
            // A connection that is gone wants no answer.
            Ok(frame) => drop(out.send(frame.holding(std::mem::take(&mut self.permits)))),
            Err(error) => tracing::error!(%error, "an error could not be encoded"),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.write(Err(WireError::new(
            ErrorCode::LeaderChanged,
            "the broker stopped serving this partition before the answer was known; retry",
        )));
    }
}
