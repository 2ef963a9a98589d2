//! Producers' batches: checked, then handed to the partition's actor.

use std::sync::atomic::Ordering;

use actix::{ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use baton_protocol::batch::{BatchError, EXPANDED_BYTES_MAX};
use baton_protocol::client::Acks;
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::TopicPartition;
use bytes::Bytes;

use super::Session;
use crate::actors::answer::Answer;
use crate::actors::messages::Produce;
use crate::actors::partition::Partition;
use crate::driver::CheckedBatch;

/// A batch is expanded up to this on the session's thread, which it shares with others; what becomes larger
/// is looked at where somebody may take his time.
const EXPANDED_HERE_BYTES_MAX: usize = 1 << 20;

/// What a producer asks.
pub(super) struct Producing {
    pub id: TopicPartition,
    pub acks: Acks,
    pub timeout_ms: u32,
    pub answer: Answer,
}

impl Session {
    pub(super) fn produce(&mut self, asked: Producing, payload: Bytes, ctx: &mut Context<Self>) {
        let id = asked.id;
        let Some(hosted) = self.shared.routes.get(&id) else {
            // It may be nonsense all the same, which is not asked for again elsewhere.
            return match self.check(payload) {
                Ok(_) => refuse(asked, self.not_here(id)),
                Err(error) => refuse_batch(asked, &error),
            };
        };
        if hosted.coordinator.is_some() {
            return refuse(asked, internal());
        }
        let batch = match self.check(payload) {
            Ok(batch) => batch,
            Err(error) => return refuse_batch(asked, &error),
        };
        let actor = &hosted.actor;
        if !hosted.told.keyed.load(Ordering::Relaxed) {
            return append(actor, asked, batch);
        }
        match batch.check_keys(EXPANDED_HERE_BYTES_MAX) {
            Ok(()) => append(actor, asked, batch),
            Err(BatchError::ExpandsTooFar { .. }) => {
                self.check_keys_elsewhere(actor.clone(), asked, batch, ctx);
            }
            Err(error) => refuse_batch(asked, &error),
        }
    }

    fn check(&self, payload: Bytes) -> Result<CheckedBatch, BatchError> {
        CheckedBatch::check(payload, self.shared.config.limits.message_bytes_max)
    }

    /// Expands a batch that becomes large, when it is its turn. What comes after it on this connection
    /// waits: batches of a producer stay in order.
    fn check_keys_elsewhere(
        &self,
        actor: Addr<Partition>,
        asked: Producing,
        batch: CheckedBatch,
        ctx: &mut Context<Self>,
    ) {
        let turns = self.shared.expansions.clone();
        let check = async move {
            let _turn = turns.acquire_owned().await;
            let check = move || batch.check_keys(EXPANDED_BYTES_MAX).map(|()| batch);
            tokio::task::spawn_blocking(check).await
        };
        let then = move |checked, _: &mut Session, _: &mut Context<Self>| match checked {
            Ok(Ok(batch)) => append(&actor, asked, batch),
            Ok(Err(error)) => refuse_batch(asked, &error),
            Err(error) => {
                tracing::error!(%error, "the check of a batch did not end");
                let text = "the batch could not be checked; not stored";
                refuse(asked, WireError::new(ErrorCode::Internal, text));
            }
        };
        ctx.wait(check.into_actor(self).map(then));
    }
}

/// Why nothing is produced to a topic of Baton's own.
fn internal() -> WireError {
    let text = "only brokers write to an internal topic";
    WireError::new(ErrorCode::InvalidRequest, text)
}

fn refuse_batch(asked: Producing, error: &BatchError) {
    let code = match error.is_too_large() {
        true => ErrorCode::MessageTooLarge,
        false => ErrorCode::InvalidBatch,
    };
    refuse(asked, WireError::new(code, error.to_string()));
}

fn append(actor: &Addr<Partition>, asked: Producing, batch: CheckedBatch) {
    actor.do_send(Produce {
        batch,
        acks: asked.acks,
        timeout_ms: asked.timeout_ms,
        answer: asked.answer,
    });
}

fn refuse(asked: Producing, error: WireError) {
    match asked.acks {
        Acks::None => asked.answer.forget(),
        Acks::Leader | Acks::Committed => asked.answer.send(Err(error)),
    }
}
