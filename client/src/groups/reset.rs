//! Setting a group's offsets: first a plan, which shows where each partition would go, then its
//! execution, which is refused if anything has changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_protocol::groups::{GroupRequest, LogRange, OffsetReset, ResetTo, Resolved};
use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use baton_protocol::metadata::TopicRecord;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{AT_ONCE, topic_name};
use crate::admin::Admin;
use crate::client::no_partition;
use crate::consumer::builder::check_name;
use crate::consumer::opening::{fetch, place_of};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::partition::Partition;

/// Leaders that are asked at the same time.
const QUESTIONS_AT_ONCE: usize = 64;

/// Which partitions are to be reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetScope {
    /// All that the group has committed an offset of. The default.
    #[default]
    Committed,
    /// All partitions of these topics.
    Topics(Vec<String>),
    /// These.
    Partitions(Vec<Partition>),
}

/// Where a reset would go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetPlan {
    /// The group.
    pub group: String,
    /// The partitions, by name.
    pub rows: Vec<ResetRow>,
    /// Partitions that are in the scope and stay as they are: a shift has nothing to begin from where
    /// nothing is committed.
    pub left_out: Vec<Partition>,
}

/// One partition of a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetRow {
    /// The partition.
    pub partition: Partition,
    /// The committed offset, if there is one.
    pub from: Option<Offset>,
    /// What it becomes.
    pub to: Offset,
    /// What was asked for lies outside the log, and `to` is its nearest end.
    pub clamped: bool,
    /// The first offset of the log.
    pub log_start: Offset,
    /// The end of what is committed to the log.
    pub high_watermark: Offset,
    id: TopicPartition,
    leader_epoch: LeaderEpoch,
}

impl Admin {
    /// Where a reset of a group's offsets would go; nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`]; [`ErrorKind::Unreachable`] where a
    /// leader, or the coordinator, does not answer.
    pub async fn plan_reset(
        &self,
        group: &str,
        to: ResetTo,
        scope: ResetScope,
    ) -> Result<ResetPlan> {
        check_name("a group's name", group)?;
        let limit = self.client.inner.config.request_timeout;
        let committed = fetch(&self.client, group, limit).await?;
        let committed: BTreeMap<TopicPartition, Offset> = committed
            .iter()
            .map(|one| (place_of(one), one.offset))
            .collect();
        let wanted = self.partitions_in(scope, &committed).await?;
        let committed = &committed;
        let mut planned: Vec<(Partition, Option<ResetRow>)> = stream::iter(wanted)
            .map(|(topic, partition)| async move {
                self.plan_partition(&topic, partition, to, committed).await
            })
            .buffered(QUESTIONS_AT_ONCE)
            .try_collect()
            .await?;
        planned.sort_by(|one, other| one.0.cmp(&other.0));
        let mut plan = ResetPlan {
            group: group.to_owned(),
            rows: Vec::new(),
            left_out: Vec::new(),
        };
        for (partition, row) in planned {
            match row {
                Some(row) => plan.rows.push(row),
                None => plan.left_out.push(partition),
            }
        }
        Ok(plan)
    }

    async fn partitions_in(
        &self,
        scope: ResetScope,
        committed: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<Vec<(Arc<TopicRecord>, Partition)>> {
        let named: Vec<Partition> = match scope {
            ResetScope::Partitions(partitions) => partitions,
            ResetScope::Topics(names) => {
                let mut all = Vec::new();
                for name in names {
                    let topic = self.client.topic(&name).await?;
                    let name: Arc<str> = name.into();
                    let count = topic.partitions.len() as u32;
                    all.extend((0..count).map(|index| Partition::new(name.clone(), index)));
                }
                all
            }
            ResetScope::Committed => {
                let view = self.client.view();
                let all = committed.keys();
                all.map(|at| Partition::new(topic_name(&view, at.topic), at.partition))
                    .collect()
            }
        };
        let mut topics: BTreeMap<Arc<str>, Arc<TopicRecord>> = BTreeMap::new();
        let mut wanted = Vec::with_capacity(named.len());
        for partition in named {
            let topic = match topics.get(&partition.topic) {
                Some(topic) => topic.clone(),
                None => {
                    let topic = Arc::new(self.client.topic(&partition.topic).await?);
                    topics.insert(partition.topic.clone(), topic.clone());
                    topic
                }
            };
            if topic.partition(partition.index).is_none() {
                let count = topic.partitions.len();
                return Err(no_partition(&partition.topic, partition.index, count));
            }
            wanted.push((topic, partition));
        }
        Ok(wanted)
    }

    async fn plan_partition(
        &self,
        topic: &TopicRecord,
        partition: Partition,
        to: ResetTo,
        committed: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<(Partition, Option<ResetRow>)> {
        let status = self.partition_status(topic, partition.index, true).await?;
        let id = TopicPartition {
            topic: topic.id,
            partition: partition.index,
        };
        let from = committed.get(&id).copied();
        let at_time = match to {
            ResetTo::Time(ms) => {
                let ms = i64::try_from(ms).unwrap_or(i64::MAX);
                Some(self.offset_for_time(topic, partition.index, ms).await?)
            }
            _ => None,
        };
        let log = LogRange {
            start: status.log_start,
            // What has come since the leader was first asked.
            end: at_time.map_or(status.high_watermark, |at| at.max(status.high_watermark)),
            at_time,
        };
        let row = to
            .resolve(from, log)
            .map(|Resolved { offset, clamped }| ResetRow {
                partition: partition.clone(),
                from,
                to: offset,
                clamped,
                log_start: log.start,
                high_watermark: log.end,
                id,
                leader_epoch: status.epoch,
            });
        Ok((partition, row))
    }

    /// Sets a group's offsets as planned. All of them or none, up to 1,000 partitions; of more, some
    /// may be set when this fails.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with [`ErrorCode::GroupActive`] while the group has members, with
    /// [`ErrorCode::OffsetChanged`] where an offset was committed since the plan was made;
    /// [`ErrorKind::OutcomeUnknown`]: to execute the same plan again does no harm.
    ///
    /// [`ErrorCode::GroupActive`]: crate::ErrorCode::GroupActive
    /// [`ErrorCode::OffsetChanged`]: crate::ErrorCode::OffsetChanged
    pub async fn execute_reset(&self, plan: &ResetPlan) -> Result<()> {
        for part in plan.rows.chunks(AT_ONCE) {
            let offsets = part.iter().map(|row| OffsetReset {
                topic: row.id.topic,
                partition: row.id.partition,
                from: row.from,
                to: row.to,
                leader_epoch: row.leader_epoch,
            });
            let request = GroupRequest::Reset {
                group: plan.group.clone(),
                offsets: offsets.collect(),
            };
            let look = "the group's offsets";
            self.change_group(&plan.group, request, look).await?;
        }
        Ok(())
    }
}
