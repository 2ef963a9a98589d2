//! Consuming as a member of a group: its members share the partitions of the topics they subscribe to,
//! and the group remembers up to where each was consumed.
//!
//! The duties of a member are in a pure state machine (`member.rs`) that a task keeps going
//! (`membership.rs`), whatever the user does. What it leads to, the consumer does when it is asked for
//! records (`holdings.rs` says in which order): it gives up partitions and begins with new ones
//! (`moving.rs`), at a place that a task finds out (`opening.rs`), and decides what to commit
//! (`committing.rs`), which another task does (`commits.rs`).

pub(crate) mod builder;
mod commits;
mod committing;
mod event;
mod holdings;
mod mailbox;
mod member;
mod membership;
mod moving;
pub(crate) mod opening;
mod places;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use baton_protocol::error::ErrorCode;
use baton_protocol::ids::GroupEpoch;
use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use self::builder::{AutoCommit, ConsumerBuilder, OutOfRange};
pub use self::event::Event;

pub(crate) use self::commits::refused_as_a_whole;

use self::commits::Order;
use self::committing::Commits;
use self::holdings::Holdings;
use self::mailbox::{Mailbox, Notice};
use self::member::Assignment;
use self::membership::{Clock, Command};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::Start;
use crate::record::Message;
use crate::streaming::Streams;

/// Consumes topics as a member of a group.
///
/// ```no_run
/// use baton_client::{Client, Event};
///
/// # async fn example() -> baton_client::Result<()> {
/// let client = Client::builder(["127.0.0.1:7401"]).connect().await?;
/// let mut consumer = client.consumer("billing").subscribe(["orders"]).build().await?;
/// while let Some(item) = consumer.next().await {
///     match item? {
///         Event::Record(message) => println!("{}: {:?}", message.offset, message.value),
///         Event::Revoked(partitions) => println!("given to others soon: {partitions:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # When a record is done
///
/// **A record that was given out is done when the consumer is asked for the next item**, by whichever
/// method. Only what is done is committed by itself ([`AutoCommit`]). So whoever finishes with a record
/// before asking for the next one consumes each record at least once, whatever fails. Who hands records
/// to other tasks switches that off, and says what is done by [`Consumer::commit_offsets`].
///
/// # When partitions move
///
/// A partition that is to go to another member is given up when the consumer is asked for the next item:
/// nothing more of it is given out, what is done of it is committed, and [`Event::Revoked`] is an item.
/// It is the other's when the item after that is asked for, so the user can still commit for it until
/// then. Who does not ask within the rebalance time-out ([`ConsumerBuilder::rebalance_timeout`]) while
/// something is to be given up, or is cut off from the cluster for a session
/// ([`ConsumerBuilder::session_timeout`]), loses all partitions ([`Event::Lost`]) and joins anew by itself.
/// Nothing else depends on how long a record takes.
///
/// # Errors
///
/// An item may be an error. If it names a partition ([`Error::partition`]), that one stands still until
/// [`Consumer::seek`] says where to go on, unless it is of a commit ([`ErrorKind::CommitRefused`](crate::ErrorKind::CommitRefused)); the
/// others go on. The stream ends only when the consumer is closed. What can be tried again is tried
/// again by itself.
///
/// # Cancel safety
///
/// The futures of [`Consumer::next`], [`Consumer::next_record`] and [`Consumer::next_batch`] can be
/// dropped at any time: no item is lost. One of a commit can be dropped, and the offsets may be committed
/// all the same. A consumer that is dropped leaves the group without committing anything.
pub struct Consumer {
    client: Client,
    group: Arc<str>,
    start: Start,
    auto_commit: AutoCommit,
    out_of_range: OutOfRange,
    credit_bytes: u64,
    is_static: bool,
    clock: Clock,
    mailbox: Arc<Mailbox>,
    membership: mpsc::UnboundedSender<Command>,
    orders: mpsc::UnboundedSender<Order>,
    openings: JoinSet<()>,
    streams: Streams,
    holdings: Holdings,
    target: Option<Assignment>,
    /// The holdings are what the target says.
    is_settled: bool,
    valid_until: Option<Instant>,
    /// What is to be given out before any record.
    items: VecDeque<Result<Event>>,
    /// The last refusal of the coordinator to take the member, until it is told.
    refusal: Option<Error>,
    commits: Commits,
}
impl Consumer {
    /// The next item: a record, or what became of the assignment. None once the consumer is closed.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// The next record; what becomes of the assignment is not shown. Cancel-safe.
    pub async fn next_record(&mut self) -> Option<Result<Message>> {
        loop {
            match self.next().await? {
                Ok(Event::Record(message)) => return Some(Ok(message)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits for a record, and takes all that are at hand with it, `max` at most (1 at least). What
    /// becomes of the assignment is not shown. An error comes by itself, after the records before it.
    /// Cancel-safe.
    pub async fn next_batch(&mut self, max: usize) -> Option<Result<Vec<Message>>> {
        poll_fn(|context| self.poll_batch(context, max)).await
    }

    /// [`Consumer::next_batch`] for those who write futures by hand.
    pub fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
    ) -> Poll<Option<Result<Vec<Message>>>> {
        let first = loop {
            match self.poll_event(context) {
                Poll::Ready(Some(Ok(Event::Record(first)))) => break first,
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        };
        Poll::Ready(Some(Ok(self.streams.at_hand(first, max))))
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        loop {
            self.look();
            if let Some(item) = self.items.pop_front() {
                return Poll::Ready(Some(item));
            }
            if self.converge() {
                continue;
            }
            let now = Instant::now();
            if self.commits.is_due && now >= self.commits.next_at {
                self.commit_by_itself(now);
            }
            if self.valid_until.is_none_or(|end| now < end)
                && let Poll::Ready(Some(next)) = self.streams.poll_next(context)
            {
                match next {
                    Ok(message) => {
                        self.commits.is_due = self.auto_commit != AutoCommit::Off;
                        return Poll::Ready(Some(Ok(Event::Record(message))));
                    }
                    Err(error) => {
                        let told = self.judge(error);
                        self.items.extend(told.map(Err));
                    }
                }
                continue;
            }
            if !self.waits(context) {
                continue;
            }
            return Poll::Pending;
        }
    }

    /// Arranges to be woken; false where something is there already.
    fn waits(&mut self, context: &mut Context<'_>) -> bool {
        self.mailbox.register(context);
        if self.mailbox.has_mail() {
            return false;
        }
        // While one is under way, its answer wakes.
        if self.commits.is_due && self.commits.under_way == 0 {
            let timer = &mut self.commits.timer;
            timer.as_mut().reset(self.commits.next_at);
            return timer.as_mut().poll(context).is_pending();
        }
        true
    }

    /// Takes what the tasks have left.
    fn look(&mut self) {
        if !self.mailbox.has_mail() {
            return;
        }
        let letters = self.mailbox.take();
        if let Some(assignment) = letters.assignment {
            let until = assignment.valid_until;
            self.valid_until = until.map(|tick| self.clock.instant(tick));
            let is_known = self.target.as_ref().is_some_and(|target| {
                (target.membership, target.epoch) == (assignment.membership, assignment.epoch)
            });
            self.is_settled &= is_known;
            self.target = Some(assignment);
        }
        while self.openings.try_join_next().is_some() {}
        for notice in letters.notices {
            match notice {
                Notice::Opened { at, opening, start } => self.opened(at, opening, start),
                Notice::Committed(committed) => self.committed(committed),
                Notice::Refused(error) => {
                    if error.code() != Some(ErrorCode::InstanceInUse) && self.has_joined() {
                        self.items.push_back(Err(error));
                    } else {
                        self.refusal = Some(error);
                    }
                }
            }
        }
    }

    fn has_joined(&self) -> bool {
        let target = self.target.as_ref();
        target.is_some_and(|told| told.membership > 1 || told.epoch > GroupEpoch::NONE)
    }

    /// Waits until the coordinator has taken the member, or has refused it for good.
    pub(crate) async fn joined(&mut self) -> Result<()> {
        let limit = self.client.inner.config.request_timeout;
        loop {
            let waited = timeout(limit, poll_fn(|context| self.poll_joined(context))).await;
            match waited {
                Ok(Ok(true)) => return Ok(()),
                // Another process has the instance id; it is over with its session.
                Ok(Ok(false)) => self.refusal = None,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let text = format!("no coordinator took the consumer within {limit:.1?}");
                    return Err(Error::new(ErrorKind::Unreachable, text));
                }
            }
        }
    }

    fn poll_joined(&mut self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        self.mailbox.register(context);
        self.look();
        if self.has_joined() {
            return Poll::Ready(Ok(true));
        }
        match &self.refusal {
            None => Poll::Pending,
            Some(error) if error.code() == Some(ErrorCode::InstanceInUse) => Poll::Ready(Ok(false)),
            Some(error) => Poll::Ready(Err(error.clone())),
        }
    }

    /// Ends it in good order: stops, commits what was given out (unless [`AutoCommit::Off`]), and
    /// leaves the group, whose other members go on at once. A static member keeps its seat for a
    /// session: whoever comes back under its instance id finds its partitions.
    ///
    /// Dropping the future drops the consumer.
    ///
    /// # Errors
    /// As for [`Consumer::commit`]; the group is left all the same.
    pub async fn close(self) -> Result<()> {
        self.end(true).await
    }

    /// As [`Consumer::close`], but a static member gives its seat up: its partitions go to others at
    /// once.
    ///
    /// # Errors
    /// As for [`Consumer::commit`].
    pub async fn leave(self) -> Result<()> {
        self.end(false).await
    }

    async fn end(mut self, keep_seat: bool) -> Result<()> {
        self.no_commit_under_way().await;
        let failed = self.items.drain(..).find_map(Result::err);
        let committed = match self.auto_commit {
            AutoCommit::Off => Ok(()),
            _ => self.commit().await,
        };
        let (left, is_left) = oneshot::channel();
        let keep_seat = keep_seat && self.is_static;
        let asked = self.membership.send(Command::Leave { keep_seat, left });
        if asked.is_ok() {
            let limit = self.client.inner.config.request_timeout;
            // Where that takes longer, the session ends by itself.
            drop(timeout(limit, is_left).await);
        }
        committed.and(failed.map_or(Ok(()), Err))
    }
}

impl Stream for Consumer {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}
