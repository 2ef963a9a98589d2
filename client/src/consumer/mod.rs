//! Consuming as a member of a group: its members share the partitions of the topics they subscribe to,
//! and the group remembers up to where each was consumed.
//!
//! The duties of a member are in a pure state machine (`member.rs`) that a task keeps going
//! (`membership.rs`), whatever the user does. What it leads to, the consumer does when it is asked for
//! records (`holdings.rs` says in which order): it gives up partitions, finds out where to begin with new
//! ones (`opening.rs`), and commits (`commits.rs`).

pub(crate) mod builder;
mod commits;
mod event;
mod holdings;
mod mailbox;
mod member;
mod membership;
pub(crate) mod opening;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::OffsetCommit;
use baton_protocol::ids::{GroupEpoch, LeaderEpoch, Offset, TopicPartition};
use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

pub use self::builder::{AutoCommit, ConsumerBuilder, OutOfRange};
pub use self::event::Event;

pub(crate) use self::commits::refused_as_a_whole;

use self::commits::Order;
use self::holdings::{Holdings, Stage, Step};
use self::mailbox::{Committed, Mailbox, Notice, Opened};
use self::member::Assignment;
use self::membership::{Clock, Command};
use self::opening::Opening;
use crate::attempts::later;
use crate::client::Client;
use crate::error::{CommitRefusal, Error, ErrorKind, Result};
use crate::partition::Partition;
use crate::reader::{Progress, Start};
use crate::record::Message;
use crate::streaming::{Reached, Source, Streams};

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
/// [`Consumer::seek`] says where to go on, unless it is of a commit ([`ErrorKind::CommitRefused`]); the
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

/// Where the consumer stands with its commits.
struct Commits {
    /// The number of the last one.
    last: u64,
    /// How many are not answered yet.
    under_way: usize,
    /// One that the user waits for, and what came of it.
    awaited: Option<(u64, Option<Result<()>>)>,
    /// Whether records were given out since the last commit by itself.
    is_due: bool,
    next_at: Instant,
    timer: Pin<Box<Sleep>>,
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
        let mut batch = Vec::with_capacity(max.clamp(1, 1_024));
        batch.push(first);
        while batch.len() < max {
            match self.streams.try_next() {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => {
                    self.streams.tell_later(error);
                    break;
                }
                None => break,
            }
        }
        Poll::Ready(Some(Ok(batch)))
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

    /// Goes on towards the assignment. True if there is something to give out.
    fn converge(&mut self) -> bool {
        if self.is_settled {
            return false;
        }
        let Some(target) = self.target.take() else {
            return false;
        };
        // What was to be given up was told, and the user has asked again.
        if self.holdings.is_giving_up() && self.commits.under_way == 0 {
            self.holdings.gave_up();
        }
        while let Some(step) = self.holdings.next(&target) {
            match step {
                Step::Begin(membership, lost) => {
                    drop(self.membership.send(Command::Begin(membership)));
                    let mut names = Vec::with_capacity(lost.len());
                    for (at, topic) in lost {
                        self.streams.remove(at);
                        names.push(Partition::new(topic, at.partition));
                    }
                    if !names.is_empty() {
                        self.items.push_back(Ok(Event::Lost(names)));
                    }
                }
                Step::GiveUp(losing) => self.give_up(&losing),
                Step::TakeUp(new) => self.take_up(&new),
                Step::Applied(membership, epoch) => {
                    drop(self.membership.send(Command::Applied(membership, epoch)));
                }
            }
        }
        self.target = Some(target);
        self.is_settled = !self.holdings.is_giving_up();
        !self.items.is_empty()
    }

    fn give_up(&mut self, losing: &[TopicPartition]) {
        let reached = self.streams.progress();
        for at in losing {
            self.streams.remove(*at);
            if let Some(held) = self.holdings.get_mut(*at) {
                held.stage = Stage::GivenUp(reached.get(at).copied());
            }
        }
        self.share_credit();
        if self.auto_commit != AutoCommit::Off {
            let offsets = self.worth_committing(|at| losing.contains(&at));
            self.order(offsets);
        }
        let names = losing.iter().filter_map(|at| self.holdings.name(*at));
        self.items.push_back(Ok(Event::Revoked(names.collect())));
    }

    fn take_up(&mut self, new: &[TopicPartition]) {
        let held = new.iter().filter_map(|at| {
            let held = self.holdings.get(*at)?;
            let Stage::Opening(opening) = held.stage else {
                return None;
            };
            Some((held.place(*at), opening))
        });
        let opening = Opening {
            client: self.client.clone(),
            group: self.group.clone(),
            member: self.holdings.committing(),
            start: self.start.clone(),
            partitions: held.collect(),
            mailbox: self.mailbox.clone(),
        };
        self.openings.spawn(opening.run());
        let names = new.iter().filter_map(|at| self.holdings.name(*at));
        self.items.push_back(Ok(Event::Assigned(names.collect())));
    }

    fn opened(&mut self, at: TopicPartition, opening: u64, start: Result<Opened>) {
        let Some(held) = self.holdings.get_mut(at) else {
            return;
        };
        // It may have been given up and taken up again since.
        if !matches!(held.stage, Stage::Opening(number) if number == opening) {
            return;
        }
        match start {
            Ok(opened) => self.open(at, opened),
            // The coordinator takes it back.
            Err(error) if error.kind() == ErrorKind::UnknownTopic => {}
            Err(error) => {
                held.stage = Stage::Stuck;
                self.items.push_back(Err(error));
            }
        }
    }

    /// Begins to stream.
    fn open(&mut self, at: TopicPartition, opened: Opened) {
        let Some(held) = self.holdings.get_mut(at) else {
            return;
        };
        held.stage = Stage::Open;
        held.committed = opened.committed;
        held.settled = Some(opened.start);
        let start = held.sought.unwrap_or(opened.start);
        held.goes_back = held.committed.is_some_and(|committed| start < committed);
        let (place, is_paused) = (held.place(at), held.is_paused);
        let credit_bytes = self.share();
        self.streams.add(Source {
            place,
            start,
            end: None,
            credit_bytes,
        });
        if is_paused {
            self.streams.pause(at);
        }
        self.share_credit();
    }

    /// Each partition's share of the credit; one byte lets a broker push one message.
    fn share(&self) -> u64 {
        let held = self.holdings.kept().count() as u64;
        (self.credit_bytes / held.max(1)).max(1)
    }

    fn share_credit(&mut self) {
        let share = self.share();
        self.streams.share_credit(share);
    }

    /// What to do about an error of a partition: none where it needs not be told.
    fn judge(&mut self, error: Error) -> Option<Error> {
        let Some((topic, partition)) = error.topic().zip(error.partition()) else {
            return Some(error);
        };
        let at = self.holdings.named(topic, partition)?;
        match error.kind() {
            // The coordinator takes it back.
            ErrorKind::UnknownTopic => None,
            // Beyond the end, that policy would skip what is yet to come: it is an error always.
            ErrorKind::OffsetOutOfRange { start, end }
                if self
                    .streams
                    .position(at)
                    .is_some_and(|position| position < start) =>
            {
                let to = match self.out_of_range {
                    OutOfRange::Error => return Some(error),
                    OutOfRange::Earliest => start,
                    OutOfRange::Latest => end,
                };
                tracing::warn!(%error, %to, "goes on where there are records");
                self.streams.seek(at, to);
                None
            }
            _ => Some(error),
        }
    }

    /// Offsets of partitions that have been read further than what is committed.
    fn worth_committing(&self, wanted: impl Fn(TopicPartition) -> bool) -> Vec<OffsetCommit> {
        let open = self.streams.progress();
        let reached = |at: &TopicPartition, stage: &Stage| match stage {
            Stage::Opening(_) | Stage::Stuck => None,
            Stage::Open => open.get(at).copied(),
            Stage::GivenUp(reached) => *reached,
        };
        let held = self.holdings.iter().filter(|(at, _)| wanted(**at));
        held.filter_map(|(at, held)| {
            let reached = reached(at, &held.stage)?;
            let is_worth_it = held.is_worth_committing(reached.position);
            is_worth_it.then(|| self.offset_commit(*at, reached))
        })
        .collect()
    }

    fn offset_commit(&self, at: TopicPartition, reached: Reached) -> OffsetCommit {
        let held = self.holdings.get(at);
        let offset = reached.position;
        let epoch = match (reached.epoch, held) {
            (LeaderEpoch::NONE, Some(held)) => {
                let view = self.client.view();
                let place = held.place(at);
                let known = place.partition_in(&view).map(|partition| partition.epoch);
                known.unwrap_or(LeaderEpoch::NONE)
            }
            (epoch, _) => epoch,
        };
        OffsetCommit {
            topic: at.topic,
            partition: at.partition,
            offset,
            leader_epoch: epoch,
            metadata: String::new(),
            back_from: held.and_then(|held| held.back_from(offset)),
        }
    }

    /// Begins to commit. The number of it; none where there is nothing to commit.
    fn order(&mut self, offsets: Vec<OffsetCommit>) -> Option<u64> {
        if offsets.is_empty() {
            return None;
        }
        self.commits.last += 1;
        let number = self.commits.last;
        let order = Order {
            number,
            member: self.holdings.committing(),
            offsets,
        };
        if self.orders.send(order).is_ok() {
            self.commits.under_way += 1;
        }
        Some(number)
    }

    /// Commits what is done. Not while another commit is under way: this one may go back from it.
    fn commit_by_itself(&mut self, now: Instant) {
        if self.commits.under_way > 0 {
            return;
        }
        let every = match self.auto_commit {
            AutoCommit::Off => return,
            AutoCommit::EachAsk => std::time::Duration::ZERO,
            AutoCommit::Every(every) => every,
        };
        self.commits.is_due = false;
        self.commits.next_at = later(now, every);
        let offsets = self.worth_committing(|_| true);
        self.order(offsets);
    }

    fn committed(&mut self, committed: Committed) {
        self.commits.under_way = self.commits.under_way.saturating_sub(1);
        let mut refusals = Vec::new();
        for (at, offset) in committed.offsets {
            let refused = committed.refused.iter();
            let mut refused =
                refused.filter(|r| r.topic == at.topic && r.partition == at.partition);
            let Some(refused) = refused.next() else {
                if let Some(held) = self.holdings.get_mut(at) {
                    held.committed(offset);
                }
                continue;
            };
            let is_awaited = matches!(self.commits.awaited, Some((n, _)) if n == committed.number);
            if !is_awaited && self.was_deleted(at, refused.error.code) {
                continue;
            }
            let partition = match self.holdings.get_mut(at) {
                Some(held) => {
                    held.committed = refused.committed.or(held.committed);
                    Partition::new(held.topic.clone(), at.partition)
                }
                None => self.name_of(at),
            };
            refusals.push(CommitRefusal {
                partition,
                offset,
                committed: refused.committed,
                code: refused.error.code,
                reason: refused.error.message.clone(),
            });
        }
        let result = match (committed.failure, refusals.is_empty()) {
            (Some(error), _) => Err(error),
            (None, false) => Err(Error::commit_refused(refusals)),
            (None, true) => Ok(()),
        };
        match &mut self.commits.awaited {
            Some((number, slot)) if *number == committed.number => *slot = Some(result),
            _ => {
                // What may not have been committed is so when the next commit is due.
                let again = result.as_ref().is_err_and(Error::is_retriable);
                self.commits.is_due |= again && self.auto_commit != AutoCommit::Off;
                self.items.extend(result.err().map(Err));
            }
        }
    }

    /// Whether a commit was refused because there is nothing any more that it could be about.
    fn was_deleted(&self, at: TopicPartition, code: ErrorCode) -> bool {
        let view = self.client.view();
        let mut topics = view.topics.values();
        let is_unknown = matches!(code, ErrorCode::UnknownTopic | ErrorCode::UnknownPartition);
        is_unknown && !topics.any(|topic| topic.id == at.topic)
    }

    /// The name of a partition that is not held any more.
    fn name_of(&self, at: TopicPartition) -> Partition {
        let view = self.client.view();
        let topic = view.topics.values().find(|topic| topic.id == at.topic);
        let name = topic.map_or_else(|| at.topic.to_string(), |topic| topic.name.clone());
        Partition::new(name, at.partition)
    }

    /// Commits what was given out: all of it, also the last item. Ready when it is committed.
    ///
    /// Where nothing was given out since the last commit, this does nothing. Of a dropped future, the
    /// commit goes on.
    ///
    /// # Errors
    /// [`ErrorKind::CommitRefused`]: offsets that [`Error::refused`] names are not committed, as where
    /// a partition is another member's; all others are. An error that [`Error::is_retriable`]: whether
    /// they are is not known, and to commit them again does no harm.
    pub async fn commit(&mut self) -> Result<()> {
        self.no_commit_under_way().await;
        let offsets = self.worth_committing(|_| true);
        self.commits.is_due = false;
        self.commit_and_wait(offsets).await
    }

    /// Commits these offsets: of each partition the *next* one to consume, which is that of the last
    /// record that is done, plus one.
    ///
    /// An offset below the committed one is refused, unless the user went back by [`Consumer::seek`]
    /// since the last commit.
    ///
    /// # Errors
    /// As for [`Consumer::commit`]; [`ErrorKind::UnknownPartition`] for a partition that is not assigned
    /// to this consumer: then nothing is committed.
    pub async fn commit_offsets<P: Into<Partition>>(
        &mut self,
        offsets: impl IntoIterator<Item = (P, Offset)>,
    ) -> Result<()> {
        let offsets: Vec<(Partition, Offset)> =
            offsets.into_iter().map(|(p, at)| (p.into(), at)).collect();
        self.no_commit_under_way().await;
        let open = self.streams.progress();
        let mut commits = Vec::with_capacity(offsets.len());
        for (partition, position) in offsets {
            let at = self.id(&partition)?;
            let epoch = open
                .get(&at)
                .map_or(LeaderEpoch::NONE, |reached| reached.epoch);
            let reached = Reached {
                position,
                epoch,
                high_watermark: position,
            };
            commits.push(self.offset_commit(at, reached));
        }
        self.commit_and_wait(commits).await
    }

    async fn no_commit_under_way(&mut self) {
        poll_fn(|context| {
            self.mailbox.register(context);
            self.look();
            match self.commits.under_way {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    async fn commit_and_wait(&mut self, offsets: Vec<OffsetCommit>) -> Result<()> {
        let Some(number) = self.order(offsets) else {
            return Ok(());
        };
        self.commits.awaited = Some((number, None));
        poll_fn(|context| {
            self.mailbox.register(context);
            self.look();
            match self.commits.awaited.take() {
                Some((_, Some(result))) => Poll::Ready(result),
                waiting => {
                    self.commits.awaited = waiting;
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn id(&self, partition: &Partition) -> Result<TopicPartition> {
        let found = self.holdings.named(&partition.topic, partition.index);
        found.ok_or_else(|| {
            let text = format!("{partition} is not assigned to this consumer");
            Error::new(ErrorKind::UnknownPartition, text)
        })
    }

    /// The same where it is not being given up.
    fn id_kept(&self, partition: &Partition) -> Result<TopicPartition> {
        let at = self.id(partition)?;
        match self.holdings.get(at).map(|held| held.stage) {
            Some(Stage::Open | Stage::Opening(_) | Stage::Stuck) => Ok(at),
            _ => {
                let text = format!("{partition} is being given up");
                Err(Error::new(ErrorKind::UnknownPartition, text))
            }
        }
    }

    /// Goes on at another offset of a partition; also where it failed. What had come of it and was not
    /// given out is dropped. It says where this consumer reads, and that the next commit may go back
    /// there; nothing is committed by it. An offset outside the log shows as an error when records are
    /// asked for.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`] for a partition that is not assigned to this consumer.
    pub fn seek(&mut self, partition: impl Into<Partition>, offset: Offset) -> Result<()> {
        let at = self.id_kept(&partition.into())?;
        self.streams.seek(at, offset);
        let Some(held) = self.holdings.get_mut(at) else {
            return Ok(());
        };
        held.sought = Some(offset);
        if matches!(held.stage, Stage::Stuck) {
            let (start, committed) = (offset, None);
            self.open(at, Opened { start, committed });
            return Ok(());
        }
        held.goes_back = held.committed.is_some_and(|committed| offset < committed);
        self.commits.is_due = self.auto_commit != AutoCommit::Off;
        Ok(())
    }

    /// Gives out no records of these partitions until they are resumed. They stay this consumer's; what
    /// has come of them waits, within the credit. A partition that is assigned anew is not paused.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`] for a partition that is not assigned to this consumer; those
    /// before it are paused.
    pub fn pause<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Goes on with partitions that were paused.
    ///
    /// # Errors
    /// As for [`Consumer::pause`].
    pub fn resume<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.set_paused(partitions, false)
    }

    fn set_paused<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
        is_paused: bool,
    ) -> Result<()> {
        for partition in partitions {
            let at = self.id_kept(&partition.into())?;
            if let Some(held) = self.holdings.get_mut(at) {
                held.is_paused = is_paused;
            }
            match is_paused {
                true => self.streams.pause(at),
                false => self.streams.resume(at),
            };
        }
        Ok(())
    }

    /// Subscribes to other topics. What is not wanted any more is given up as what goes to others is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for no topic at all, or too many.
    pub fn subscribe<T: Into<String>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let topics = builder::topics(topics)?;
        drop(self.membership.send(Command::Subscribe(topics)));
        Ok(())
    }

    /// The partitions that are assigned to this consumer.
    pub fn assignment(&self) -> Vec<Partition> {
        let kept = self.holdings.kept();
        let mut names: Vec<Partition> = kept
            .map(|(at, held)| Partition::new(held.topic.clone(), at.partition))
            .collect();
        names.sort();
        names
    }

    /// The offset of the next record of a partition, after those that were given out; none for a
    /// partition that is not assigned to this consumer, or where it is not known yet where to begin.
    pub fn position(&self, partition: impl Into<Partition>) -> Option<Offset> {
        let partition = partition.into();
        let at = self.holdings.named(&partition.topic, partition.index)?;
        self.streams.position(at)
    }

    /// The committed offset of a partition, as far as this consumer knows: as it was when the partition
    /// was assigned, or as it was committed by this consumer since.
    pub fn committed_offset(&self, partition: impl Into<Partition>) -> Option<Offset> {
        let partition = partition.into();
        let at = self.holdings.named(&partition.topic, partition.index)?;
        self.holdings.get(at)?.committed
    }

    /// How far each partition has been read, and what the client knows of its end. It learns that
    /// with the records that come, so of a partition that is paused, or whose credit is used up, it
    /// may be less than there is.
    pub fn progress(&self) -> BTreeMap<Partition, Progress> {
        let progress = self.streams.progress().into_iter();
        progress
            .filter_map(|(at, reached)| Some((self.holdings.name(at)?, Progress::new(reached))))
            .collect()
    }

    /// How many offsets lie between each partition's position and the end of what is committed to the
    /// log, as the client knows it ([`Progress::lag`]).
    pub fn lag(&self) -> BTreeMap<Partition, u64> {
        let progress = self.progress().into_iter();
        progress.map(|(p, progress)| (p, progress.lag())).collect()
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
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

impl Commits {
    fn new(first_at: Instant) -> Commits {
        Commits {
            last: 0,
            under_way: 0,
            awaited: None,
            is_due: false,
            next_at: first_at,
            timer: Box::pin(sleep_until(first_at)),
        }
    }
}
