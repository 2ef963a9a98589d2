//! Requests that wait for a mark on the log (the watermark, or the durable end) to pass them, in
//! the order of the log.
//!
//! They are answered when it does, when their time is up, or when the office is lost. Order within a partition is kept: a request is never acknowledged before one
//! that lies below it.

use std::collections::VecDeque;

use baton_protocol::ids::{Offset, Tick};

use crate::event::{Acknowledged, Effect, Refusal, RequestId};

#[derive(Clone, Debug)]
struct Waiting {
    request: RequestId,
    end: Offset,
    answer: Acknowledged,
    deadline: Tick,
}

/// The requests that wait.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    queue: VecDeque<Waiting>,
    earliest_deadline: Option<Tick>,
}

impl Pending {
    /// Lets `request` wait until the mark reaches `end`. A repeated batch waits for the end of
    /// the first one, which may lie below what already waits.
    pub fn push(&mut self, request: RequestId, end: Offset, answer: Acknowledged, deadline: Tick) {
        let at = self.queue.partition_point(|waiting| waiting.end <= end);
        self.queue.insert(
            at,
            Waiting {
                request,
                end,
                answer,
                deadline,
            },
        );
        self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |d| d.min(deadline)));
    }

    /// Gives back the room of those that do not wait any more.
    pub fn give_room_back(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Answers all that the mark has passed.
    pub fn release(&mut self, mark: Offset, out: &mut Vec<Effect>) {
        while let Some(first) = self.queue.front() {
            if first.end > mark {
                break;
            }
            out.push(Effect::Reply {
                request: first.request,
                result: Ok(first.answer),
            });
            self.queue.pop_front();
        }
    }

    /// Answers those whose time is up. They stay in the log, and may be committed yet.
    pub fn expire(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if self.earliest_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.queue.retain(|waiting| {
            let keep = now < waiting.deadline;
            if !keep {
                out.push(Effect::Reply {
                    request: waiting.request,
                    result: Err(Refusal::CommitTimeout),
                });
            }
            keep
        });
        self.earliest_deadline = self.queue.iter().map(|waiting| waiting.deadline).min();
    }

    /// Answers all with `refusal`.
    pub fn refuse_all(&mut self, refusal: Refusal, out: &mut Vec<Effect>) {
        for waiting in self.queue.drain(..) {
            out.push(Effect::Reply {
                request: waiting.request,
                result: Err(refusal),
            });
        }
        self.earliest_deadline = None;
    }
}
