//! One subscription: pushes entries to a client as they are committed, as far as its credit goes.
//!
//! Reads through the log's own handle and waits on the watermark; the partition's actor is never
//! asked. Any replica serves up to its own watermark: perhaps a little late, never wrong.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::client::{ResponseBody, ServerMessage};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::{Offset, TopicPartition};
use baton_storage::{Chunk, Glance, LogReader, ReadError};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::actors::answer::Answer;
use crate::actors::messages::LogDamaged;
use crate::actors::routes::Hosted;
use crate::actors::session::push;
use crate::cold_reads::ColdReads;
use crate::net::connection::Outgoing;

/// Most bytes of entries in one message (one entry may be larger).
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// So often what is committed is looked for at once where it cannot be read yet; then now and then.
const LOOKS_AT_ONCE: u32 = 100;

/// How long is waited between two such looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Most credit a client can pile up.
const CREDIT_BYTES_MAX: u64 = 1 << 30;

/// What a client wants.
pub struct Wanted {
    /// Its number for the subscription.
    pub subscription: u32,
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset.
    pub offset: Offset,
    /// The credit to begin with.
    pub credit_bytes: u64,
}

/// A running subscription; ends when dropped.
pub struct Subscription {
    credit: Arc<Semaphore>,
    task: AbortHandle,
}

impl Subscription {
    /// Answers the request and begins to push, unless the offset lies outside the log. `name` is what
    /// people know the partition by.
    pub fn start(
        wanted: Wanted,
        name: &str,
        hosted: &Hosted,
        cold_reads: ColdReads,
        out: UnboundedSender<Outgoing>,
        answer: Answer,
    ) -> Option<Subscription> {
        let (log_start, log_end) = (hosted.reader.start(), hosted.reader.end());
        let offset = wanted.offset;
        if offset < log_start || offset > log_end {
            let text = format!(
                "partition {name} has offsets {log_start} to {log_end} here, {offset} was asked for"
            );
            let error = WireError::new(ErrorCode::OffsetOutOfRange, text);
            answer.send(Err(error.with_offsets(log_start, log_end)));
            return None;
        }
        answer.send(Ok(ResponseBody::Subscribed {
            log_start,
            high_watermark: hosted.told.watermark.at(),
        }));
        let credit = Arc::new(Semaphore::new(0));
        let pusher = Pusher {
            subscription: wanted.subscription,
            position: offset,
            reader: hosted.reader.clone(),
            cold_reads,
            watermark: hosted.told.watermark.subscribe(),
            credit: credit.clone(),
            out,
        };
        let owner = hosted.actor.clone();
        let run = async move {
            if let Some(damage) = pusher.run().await {
                owner.do_send(LogDamaged(damage.to_string()));
            }
        };
        let task = actix::spawn(run).abort_handle();
        let subscription = Subscription { credit, task };
        subscription.give(wanted.credit_bytes);
        Some(subscription)
    }

    /// Gives more credit.
    pub fn give(&self, bytes: u64) {
        let room = CREDIT_BYTES_MAX.saturating_sub(self.credit.available_permits() as u64);
        self.credit.add_permits(bytes.min(room) as usize);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pusher {
    subscription: u32,
    position: Offset,
    reader: LogReader,
    cold_reads: ColdReads,
    watermark: watch::Receiver<Offset>,
    credit: Arc<Semaphore>,
    out: UnboundedSender<Outgoing>,
}

impl Pusher {
    /// Pushes until the subscription ends; gives the damage back that it came upon, if that was why.
    async fn run(mut self) -> Option<ReadError> {
        let mut looks = 0;
        let end = loop {
            let position = self.position;
            let high_watermark = match self.watermark.wait_for(|to| *to > position).await {
                Ok(to) => *to,
                Err(_) => {
                    let text = "the replica left this broker";
                    break End::Left(WireError::new(ErrorCode::NotLeader, text));
                }
            };
            // At least one byte of credit is needed; a chunk may then overdraw it by its own size,
            // which is taken before the next one.
            let Ok(permit) = self.credit.acquire().await else {
                return None;
            };
            drop(permit);
            match self.read(high_watermark).await {
                Ok(Some(chunk)) => {
                    looks = 0;
                    let bytes = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
                    self.position = chunk.end;
                    let message = ServerMessage::Records {
                        subscription: self.subscription,
                        high_watermark,
                    };
                    push(&self.out, &message, chunk.bytes);
                    let Ok(permit) = self.credit.acquire_many(bytes).await else {
                        return None;
                    };
                    permit.forget();
                }
                // The watermark runs ahead of what is readable for the blink in which an append is
                // published. Where it lies in a gap that the log ends before, it does so for longer.
                Ok(None) if looks < LOOKS_AT_ONCE => {
                    looks += 1;
                    tokio::task::yield_now().await;
                }
                Ok(None) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                Err(error) => break End::Unread(error),
            }
        };
        let (error, read) = match end {
            End::Left(error) => (error, None),
            End::Unread(error) => (read_error(&error), Some(error)),
        };
        let message = ServerMessage::SubscriptionEnded {
            subscription: self.subscription,
            error,
        };
        push(&self.out, &message, bytes::Bytes::new());
        read.filter(|error| matches!(error, ReadError::Damaged { .. }))
    }

    /// What is not in memory is read on a thread that may wait: here it would stop all that share
    /// this one.
    async fn read(&self, up_to: Offset) -> Result<Option<Chunk>, ReadError> {
        let position = self.position;
        if let Glance::Here(chunk) = self.reader.glance(position, CHUNK_BYTES_MAX, up_to)? {
            return Ok(chunk);
        }
        let reader = self.reader.clone();
        let read = move || reader.read(position, CHUNK_BYTES_MAX, up_to);
        self.cold_reads.run(read).await
    }
}

/// Why a subscription ends by itself.
enum End {
    Left(WireError),
    Unread(ReadError),
}

fn read_error(error: &ReadError) -> WireError {
    match error {
        ReadError::OutOfRange { start, end, .. } => {
            let error = WireError::new(ErrorCode::OffsetOutOfRange, error.to_string());
            error.with_offsets(*start, *end)
        }
        _ => WireError::new(ErrorCode::StorageFailed, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
