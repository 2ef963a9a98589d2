//! Groups from outside: their committed offsets, for readers that are no members, and what operators do
//! with groups.

mod reset;

use std::collections::BTreeMap;

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::{
    Commit, GroupDescription, GroupRequest, GroupResponse, GroupSummary, OffsetCommit,
};
use baton_protocol::ids::{LeaderEpoch, Offset, TopicId, TopicPartition};
use baton_protocol::metadata::ClusterView;

pub use self::reset::{ResetPlan, ResetRow, ResetScope};

use crate::admin::Admin;
use crate::ask::unexpected;
use crate::client::{Client, no_partition};
use crate::consumer::builder::check_name;
use crate::consumer::opening::fetch;
use crate::coordinator::given_up;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{CommitRefusal, Error, Result};
use crate::partition::Partition;

/// Partitions of one request; a coordinator takes no more.
const AT_ONCE: usize = 1_000;

/// An offset that a group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The next offset to consume.
    pub offset: Offset,
    /// The leader epoch of the last record consumed, or of the leader that told the offset.
    pub leader_epoch: LeaderEpoch,
    /// What was committed with it.
    pub metadata: String,
    /// When, in milliseconds since 1970 by the coordinator's clock.
    pub committed_at_ms: u64,
}

/// The committed offsets of a group, for those who read without being a member: a [`Reader`] remembers
/// in the cluster what it would otherwise keep by itself, and goes on with [`Start::Committed`].
///
/// ```no_run
/// # use baton_client::{Client, Partition, Start, Until};
/// # async fn example(client: Client) -> baton_client::Result<()> {
/// let reader = client.reader("orders").from(Start::Committed("nightly".into()));
/// let mut reader = reader.until(Until::End).build().await?;
/// while let Some(message) = reader.next().await {
///     println!("{:?}", message?.value);
/// }
/// let done = reader.positions().into_iter();
/// let done = done.map(|(partition, offset)| (("orders", partition), offset));
/// client.offsets("nightly").commit(done).await?;
/// # Ok(())
/// # }
/// ```
///
/// [`Reader`]: crate::Reader
/// [`Start::Committed`]: crate::Start::Committed
#[derive(Clone)]
pub struct GroupOffsets {
    client: Client,
    group: String,
}

impl GroupOffsets {
    pub(crate) fn new(client: Client, group: String) -> Self {
        GroupOffsets { client, group }
    }

    /// All committed offsets; none of a group that is not known.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a name that no group can have; [`ErrorKind::Unreachable`].
    pub async fn fetch(&self) -> Result<BTreeMap<Partition, Committed>> {
        check_name("a group's name", &self.group)?;
        let limit = self.client.inner.config.request_timeout;
        let offsets = fetch(&self.client, &self.group, limit).await?;
        let view = self.client.view();
        let named = offsets.into_iter().map(|one| {
            let partition = Partition::new(topic_name(&view, one.topic), one.partition);
            let committed = Committed {
                offset: one.offset,
                leader_epoch: one.leader_epoch,
                metadata: one.metadata,
                committed_at_ms: one.committed_at_ms,
            };
            (partition, committed)
        });
        Ok(named.collect())
    }

    /// Commits offsets: of each partition the next one to read. A group that is not known is made.
    ///
    /// # Errors
    /// [`ErrorKind::CommitRefused`]: as a whole while the group has members, which commit by themselves;
    /// for single partitions ([`Error::refused`]) where the offset lies below the committed one.
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`] before anything is committed. An
    /// error that [`Error::is_retriable`]: whether they are committed is not known, and to commit them
    /// again does no harm.
    pub async fn commit<P: Into<Partition>>(
        &self,
        offsets: impl IntoIterator<Item = (P, Offset)>,
    ) -> Result<()> {
        check_name("a group's name", &self.group)?;
        let mut commits = Vec::new();
        for (partition, offset) in offsets {
            commits.push(self.offset_commit(&partition.into(), offset).await?);
        }
        let mut refused = Vec::new();
        for part in commits.chunks(AT_ONCE) {
            refused.extend(self.commit_part(part).await?);
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Error::commit_refused(refused)),
        }
    }

    async fn offset_commit(&self, partition: &Partition, offset: Offset) -> Result<OffsetCommit> {
        let topic = self.client.topic(&partition.topic).await?;
        let found = topic.partition(partition.index).ok_or_else(|| {
            no_partition(&partition.topic, partition.index, topic.partitions.len())
        })?;
        Ok(OffsetCommit {
            topic: topic.id,
            partition: partition.index,
            offset,
            leader_epoch: found.epoch,
            metadata: String::new(),
            back_from: None,
        })
    }

    async fn commit_part(&self, part: &[OffsetCommit]) -> Result<Vec<CommitRefusal>> {
        let limit = self.client.inner.config.request_timeout;
        let request = GroupRequest::Commit(Commit {
            group: self.group.clone(),
            member: None,
            offsets: part.to_vec(),
        });
        let asked = self.client.ask_group(&self.group, request, limit).await;
        let refused = match asked.map_err(given_up) {
            Ok(GroupResponse::Committed { refused }) => refused,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => return Err(crate::consumer::refused_as_a_whole(error)),
        };
        let view = self.client.view();
        let named = refused.into_iter().map(|one| {
            let wanted = part.iter();
            let mut wanted =
                wanted.filter(|o| o.topic == one.topic && o.partition == one.partition);
            CommitRefusal {
                partition: Partition::new(topic_name(&view, one.topic), one.partition),
                offset: wanted.next().map_or(Offset::ZERO, |o| o.offset),
                committed: one.committed,
                code: one.error.code,
                reason: one.error.message,
            }
        });
        Ok(named.collect())
    }

    /// The committed offsets of one topic.
    pub(crate) async fn of_topic(
        &self,
        topic: TopicId,
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        check_name("a group's name", &self.group)?;
        let limit = self.client.inner.config.request_timeout;
        let offsets = fetch(&self.client, &self.group, limit).await?;
        let offsets = offsets.into_iter().filter(|one| one.topic == topic);
        let by_partition =
            offsets.map(|one| (crate::consumer::opening::place_of(&one), one.offset));
        Ok(by_partition.collect())
    }
}

/// A topic's name; its id, where this client does not know it.
fn topic_name(view: &ClusterView, id: TopicId) -> String {
    let found = view.topics.values().find(|topic| topic.id == id);
    found.map_or_else(|| id.to_string(), |topic| topic.name.clone())
}

impl Admin {
    /// All groups, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] where one of the coordinators does not answer.
    pub async fn groups(&self) -> Result<Vec<GroupSummary>> {
        let limit = self.client.inner.config.request_timeout;
        let answers = self.client.ask_all_coordinators(GroupRequest::List, limit);
        let mut groups = Vec::new();
        for answer in answers.await? {
            match answer {
                GroupResponse::Groups(some) => groups.extend(some),
                other => return Err(unexpected(&other)),
            }
        }
        groups.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(groups)
    }

    /// A group's members, what they may consume, and its committed offsets.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with [`ErrorCode::UnknownGroup`]; [`ErrorKind::Unreachable`].
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        check_name("a group's name", group)?;
        let request = GroupRequest::Describe {
            group: group.to_owned(),
        };
        let limit = self.client.inner.config.request_timeout;
        match self.client.ask_group(group, request, limit).await {
            Ok(GroupResponse::Group(description)) => Ok(description),
            Ok(other) => Err(unexpected(&other)),
            Err(failures) => Err(given_up(failures)),
        }
    }

    /// Forgets a group and its offsets.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with [`ErrorCode::GroupActive`] while it has members, with
    /// [`ErrorCode::UnknownGroup`] where there is none; [`ErrorKind::OutcomeUnknown`].
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        check_name("a group's name", group)?;
        let request = GroupRequest::Delete {
            group: group.to_owned(),
        };
        self.change_group(group, request, "the list of groups")
            .await
    }

    async fn change_group(&self, group: &str, request: GroupRequest, look: &str) -> Result<()> {
        let limit = self.client.inner.config.request_timeout;
        match self.client.ask_group(group, request, limit).await {
            Ok(GroupResponse::Done) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            // Nothing was changed by a refusal, whatever an earlier attempt did.
            Err((attempts, Some(refusal))) => match refusal.code() {
                Some(ErrorCode::GroupActive) => Err(refusal),
                _ => Err(attempts.refused_change(refusal, look)),
            },
            Err((attempts, None)) => Err(attempts.given_up_change(look)),
        }
    }
}
