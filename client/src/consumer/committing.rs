//! What is committed, when, and what comes of it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::OffsetCommit;
use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Consumer;
use super::builder::AutoCommit;
use super::commits::Order;
use super::holdings::Stage;
use super::mailbox::Committed;
use crate::attempts::later;
use crate::error::{CommitRefusal, Error, ErrorKind, Result};
use crate::partition::Partition;
use crate::streaming::Reached;

/// Leaders that are asked at the same time whether their logs have an offset, and for how long.
const QUESTIONS_AT_ONCE: usize = 64;
const QUESTION_LIMIT: Duration = Duration::from_secs(1);

/// Where the consumer stands with its commits.
pub(super) struct Commits {
    /// The number of the last one.
    pub(super) last: u64,
    /// How many are not answered yet.
    pub(super) under_way: usize,
    /// One that the user waits for, and what came of it.
    pub(super) awaited: Option<(u64, Option<Result<()>>)>,
    /// Whether records were given out since the last commit by itself.
    pub(super) is_due: bool,
    pub(super) next_at: Instant,
    pub(super) timer: Pin<Box<Sleep>>,
}

impl Commits {
    pub(super) fn new(first_at: Instant) -> Commits {
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

impl Consumer {
    /// Offsets of partitions that have been read further than what is committed.
    pub(super) fn worth_committing(
        &self,
        wanted: impl Fn(TopicPartition) -> bool,
    ) -> Vec<OffsetCommit> {
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

    pub(super) fn offset_commit(&self, at: TopicPartition, reached: Reached) -> OffsetCommit {
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
    pub(super) fn order(&mut self, offsets: Vec<OffsetCommit>) -> Option<u64> {
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
    pub(super) fn commit_by_itself(&mut self, now: Instant) {
        if self.commits.under_way > 0 {
            return;
        }
        let every = match self.auto_commit {
            AutoCommit::Off => return,
            AutoCommit::EachAsk => Duration::ZERO,
            AutoCommit::Every(every) => every,
        };
        self.commits.is_due = false;
        self.commits.next_at = later(now, every);
        let offsets = self.worth_committing(|_| true);
        self.order(offsets);
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        self.commits.under_way = self.commits.under_way.saturating_sub(1);
        let mut refusals = Vec::new();
        for (at, offset) in committed.offsets {
            let refused = committed.refused.iter();
            let mut refused =
                refused.filter(|r| r.topic == at.topic && r.partition == at.partition);
            let Some(refused) = refused.next() else {
                if let Some(held) = self.holdings.get_mut(at) {
                    held.committed(offset, committed.number);
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
    pub(super) fn was_deleted(&self, at: TopicPartition, code: ErrorCode) -> bool {
        let view = self.client.view();
        let mut topics = view.topics.values();
        let is_unknown = matches!(code, ErrorCode::UnknownTopic | ErrorCode::UnknownPartition);
        is_unknown && !topics.any(|topic| topic.id == at.topic)
    }

    /// The name of a partition that is not held any more.
    pub(super) fn name_of(&self, at: TopicPartition) -> Partition {
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
    /// since the last commit. Of one beyond all that this consumer has heard of, the partition's leader is
    /// asked whether there is such an offset; where it does not answer soon, the offset is committed as it
    /// is.
    ///
    /// # Errors
    /// As for [`Consumer::commit`]; and before anything is committed
    /// [`ErrorKind::UnknownPartition`] for a partition that is not assigned to this consumer, and
    /// [`ErrorKind::OffsetOutOfRange`] for an offset beyond the end of what is committed to the log: a
    /// group that went on there would miss what is yet to come.
    pub async fn commit_offsets<P: Into<Partition>>(
        &mut self,
        offsets: impl IntoIterator<Item = (P, Offset)>,
    ) -> Result<()> {
        let offsets: Vec<(Partition, Offset)> =
            offsets.into_iter().map(|(p, at)| (p.into(), at)).collect();
        self.no_commit_under_way().await;
        let open = self.streams.progress();
        self.check_ends(&offsets, &open).await?;
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

    /// Refuses offsets beyond the end of a partition's log. Only those are asked about that this consumer
    /// cannot know to be within it.
    async fn check_ends(
        &self,
        offsets: &[(Partition, Offset)],
        open: &BTreeMap<TopicPartition, Reached>,
    ) -> Result<()> {
        let mut doubtful = Vec::new();
        for (partition, offset) in offsets {
            let at = self.id(partition)?;
            let held = self.holdings.get(at);
            let reached = match held.map(|held| held.stage) {
                Some(Stage::GivenUp(reached)) => reached,
                _ => open.get(&at).copied(),
            };
            let heard = reached.map(|reached| reached.high_watermark);
            if Some(*offset) > heard.max(held.and_then(|held| held.committed)) {
                doubtful.push((partition, *offset));
            }
        }
        let asked =
            stream::iter(doubtful).map(|(partition, offset)| self.check_end(partition, offset));
        asked.buffered(QUESTIONS_AT_ONCE).try_collect().await
    }

    async fn check_end(&self, partition: &Partition, offset: Offset) -> Result<()> {
        let admin = self.client.admin();
        let asked =
            admin.partition_status_within(&partition.topic, partition.index, true, QUESTION_LIMIT);
        // Who cannot be asked is no reason to keep the group from its offsets.
        let Ok(status) = asked.await else {
            return Ok(());
        };
        let (start, end) = (status.log_start, status.high_watermark);
        if offset <= end {
            return Ok(());
        }
        let text =
            format!("there is no offset {offset} to commit: the log has {start} up to {end}");
        let error = Error::new(ErrorKind::OffsetOutOfRange { start, end }, text);
        Err(error.about(partition.topic.clone(), partition.index))
    }

    pub(super) async fn no_commit_under_way(&mut self) {
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

    pub(super) async fn commit_and_wait(&mut self, offsets: Vec<OffsetCommit>) -> Result<()> {
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
}
