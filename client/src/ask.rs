//! Questions that any broker answers.

use std::time::Duration;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::ids::ProducerId;
use bytes::Bytes;

use crate::attempts::Attempts;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// How long one broker is given for a request before another is asked.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Pause after a round in which no broker answered, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// An answer of the wrong kind.
pub(crate) fn unexpected(answer: &impl std::fmt::Debug) -> Error {
    let text = format!("a request was answered with {answer:?}");
    Error::new(ErrorKind::Corrupt, text)
}

impl Client {
    /// Asks any broker, one after the other, until one answers for good. The attempts come back with
    /// the error, for whoever has to know what they may have done.
    pub(crate) async fn ask_anyone(
        &self,
        body: RequestBody,
        limit: Duration,
    ) -> std::result::Result<ResponseBody, (Attempts, Option<Error>)> {
        let mut attempts = Attempts::within(limit);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let view = self.view();
            for broker in view.brokers.values().filter(|broker| !broker.fenced) {
                let sent = self
                    .connection(&broker.client_address)
                    .await
                    .and_then(|to| Ok((to.send(body.clone(), Bytes::new())?, to)));
                match sent {
                    Ok((answered, to)) => match to.answer_to(answered, ATTEMPT.min(limit)).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) if error.is_retriable() => attempts.sent(error),
                        Err(error) => return Err((attempts, Some(error))),
                    },
                    Err(error) if error.is_retriable() => attempts.not_sent(error),
                    Err(error) => return Err((attempts, Some(error))),
                }
            }
            if attempts.are_over() {
                return Err((attempts, None));
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Asks for what changes nothing.
    pub(crate) async fn inquire(&self, body: RequestBody, limit: Duration) -> Result<ResponseBody> {
        let asked = self.ask_anyone(body, limit).await;
        asked.map_err(|(attempts, refusal)| refusal.unwrap_or_else(|| attempts.given_up()))
    }

    /// An id for an idempotent producer.
    pub(crate) async fn init_producer(&self, limit: Duration) -> Result<(ProducerId, u16)> {
        match self.inquire(RequestBody::InitProducer, limit).await? {
            ResponseBody::Producer {
                producer_id,
                producer_epoch,
            } => Ok((producer_id, producer_epoch)),
            other => Err(unexpected(&other)),
        }
    }
}
