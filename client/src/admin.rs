//! What operators ask of a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_protocol::admin::{AdminRequest, AdminResponse, ClusterStatus, ElectionStatus};
use baton_protocol::client::{PartitionStatus, RequestBody, ResponseBody};
use baton_protocol::ids::{BrokerId, LeaderEpoch, MetadataIndex, Offset, PartitionIndex};
use baton_protocol::metadata::{ClusterView, Flush, TopicRecord};
use baton_protocol::policy::{PolicyChanges, TopicPolicy};
use tokio::time::Instant;

use crate::ask::unexpected;
use crate::attempts::later;
use crate::client::{Client, no_partition};
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use crate::topic::TopicRef;

/// How long a handover is waited for: longer than a leader pauses for one.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a new leader is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What shows whether a topic was made, deleted, changed.
const TOPICS: &str = "the list of topics";
const DESCRIPTION: &str = "the topic's description";

fn admin_response(answer: ResponseBody) -> Result<AdminResponse> {
    match answer {
        ResponseBody::Admin(response) => Ok(response),
        other => Err(unexpected(&other)),
    }
}

fn done_but_unseen(what: &str, error: Error) -> Error {
    error.reworded(|error| format!("{what}, but this client does not see it yet: {error}"))
}

/// What a topic is made with. What is `None` gets a default that fits the cluster's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// 1 to 10,000; 1 by default.
    pub partitions: Option<u32>,
    /// 1 to the number of brokers that are alive; by default 3, or as many as there are.
    pub replicas: Option<u32>,
    /// Followers that must hold a record before it is acknowledged, 0 (asynchronous) to
    /// `replicas - 1` (synchronous); by default 1, where there is a second replica.
    pub sync_followers: Option<u32>,
    /// When records are made durable; by default before they are acknowledged.
    pub flush: Option<Flush>,
    /// Whether a leader may be elected by itself although that may lose records; by default only in
    /// an asynchronous topic.
    pub unclean_election: Option<bool>,
    /// How long records are kept, by default for ever; and whose clock their timestamps are by, by default
    /// the producer's.
    pub policy: TopicPolicy,
}

/// What operators ask of a cluster. Cheap to clone.
///
/// Every change says what is known of it: [`ErrorKind::Refused`] means that nothing was changed,
/// [`ErrorKind::OutcomeUnknown`] that it may have been, or may yet be; the text says where to look.
#[derive(Clone)]
pub struct Admin {
    pub(crate) client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Admin { client }
    }

    /// All topics by name, as they are known now.
    pub fn topics(&self) -> BTreeMap<String, TopicRecord> {
        self.client.view().topics.clone()
    }

    async fn inquire_admin(&self, request: AdminRequest) -> Result<AdminResponse> {
        let limit = self.client.inner.config.request_timeout;
        admin_response(
            self.client
                .inquire(RequestBody::Admin(request), limit)
                .await?,
        )
    }

    /// Asks for a change; `look` is what shows whether it was made.
    async fn change(&self, request: AdminRequest, look: &str) -> Result<AdminResponse> {
        let limit = self.client.inner.config.request_timeout;
        let asked = self
            .client
            .ask_anyone(RequestBody::Admin(request), limit)
            .await;
        admin_response(asked.map_err(|(attempts, refusal)| match refusal {
            Some(refusal) => attempts.refused_change(refusal, look),
            None => attempts.given_up_change(look),
        })?)
    }

    /// Makes a topic, and waits until this client sees it.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<TopicRecord> {
        let request = AdminRequest::CreateTopic {
            name: name.to_owned(),
            partitions: settings.partitions,
            replicas: settings.replicas,
            sync_followers: settings.sync_followers,
            flush: settings.flush,
            unclean_election: settings.unclean_election,
            policy: settings.policy,
        };
        let changed = self.change(request, TOPICS).await;
        match changed.map_err(|error| error.in_topic(name))? {
            AdminResponse::TopicCreated { topic, .. } => {
                let limit = self.client.inner.config.request_timeout;
                let found = |view: &ClusterView| {
                    view.topics
                        .get(name)
                        .filter(|record| record.id == topic)
                        .cloned()
                };
                let seen = self.client.inner.metadata.wait_for(limit, found).await;
                seen.map_err(|error| done_but_unseen("the topic was made", error).in_topic(name))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Changes how many followers must hold a record before it is acknowledged: `InvalidState` where
    /// an in-sync set has too few members at the moment.
    pub async fn set_sync_followers(&self, topic: &str, sync_followers: u32) -> Result<()> {
        let request = AdminRequest::SetSyncFollowers {
            name: topic.to_owned(),
            sync_followers,
        };
        self.change_topic(request, topic).await
    }

    /// Changes how long a topic's records are kept.
    pub async fn set_policy(&self, topic: &str, changes: PolicyChanges) -> Result<()> {
        let request = AdminRequest::SetPolicy {
            name: topic.to_owned(),
            changes,
        };
        self.change_topic(request, topic).await
    }

    async fn change_topic(&self, request: AdminRequest, topic: &str) -> Result<()> {
        let changed = async {
            match self.change(request, DESCRIPTION).await? {
                AdminResponse::Changed { index } => self.wait_for_index(index).await,
                other => Err(unexpected(&other)),
            }
        };
        changed.await.map_err(|error| error.in_topic(topic))
    }

    /// How a partition's election stands; `InvalidState` if none is on.
    pub async fn describe_election(
        &self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Result<ElectionStatus> {
        let request = AdminRequest::DescribeElection {
            topic: topic.to_owned(),
            partition,
        };
        let asked = self.inquire_admin(request).await;
        match asked.map_err(|error| error.about(topic, partition))? {
            AdminResponse::Election(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the election of this epoch, though what only the missing members hold is lost by it.
    pub async fn elect_unclean(
        &self,
        topic: &str,
        partition: PartitionIndex,
        epoch: LeaderEpoch,
    ) -> Result<()> {
        let request = AdminRequest::ElectUnclean {
            topic: topic.to_owned(),
            partition,
            epoch,
        };
        let changed = self.change(request, DESCRIPTION).await;
        match changed.map_err(|error| error.about(topic, partition))? {
            AdminResponse::Changed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Moves a partition's lead to another member of its in-sync set, and waits until it is there:
    /// `TimedOut` if it did not come about in time; then the old leader goes on.
    pub async fn hand_over(
        &self,
        topic: &str,
        partition: PartitionIndex,
        to: BrokerId,
    ) -> Result<()> {
        let request = AdminRequest::HandOver {
            topic: topic.to_owned(),
            partition,
            to,
        };
        let asked = self.change(request, DESCRIPTION).await;
        match asked.map_err(|error| error.about(topic, partition))? {
            AdminResponse::HandoverBegun => {}
            other => return Err(unexpected(&other)),
        }
        let leads = |view: &ClusterView| {
            let record = view.topics.get(topic)?.partition(partition)?;
            (record.leader?.broker == to).then_some(())
        };
        let led = self
            .client
            .inner
            .metadata
            .wait_for(HANDOVER_TIMEOUT, leads)
            .await;
        led.map_err(|error| {
            let error = error.reworded(|error| {
                format!(
                    "broker {to} does not lead {topic}/{partition} yet, and the old leader may go on; before you repeat it, look at {DESCRIPTION} ({error})"
                )
            });
            let error = error.about(topic, partition);
            error.of_kind(ErrorKind::OutcomeUnknown)
        })
    }

    /// Deletes a topic and its data.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = AdminRequest::DeleteTopic {
            name: name.to_owned(),
        };
        let deleted = async {
            match self.change(request, TOPICS).await? {
                AdminResponse::TopicDeleted { index } => self.wait_for_index(index).await,
                other => Err(unexpected(&other)),
            }
        };
        deleted.await.map_err(|error| error.in_topic(name))
    }

    async fn wait_for_index(&self, index: MetadataIndex) -> Result<()> {
        let limit = self.client.inner.config.request_timeout;
        let found = |view: &ClusterView| (view.index >= index).then_some(());
        let seen = self.client.inner.metadata.wait_for(limit, found).await;
        seen.map_err(|error| done_but_unseen("the change was made", error))
    }

    /// The cluster's health, as its controller sees it.
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        match self.inquire_admin(AdminRequest::ClusterStatus).await? {
            AdminResponse::ClusterStatus(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// A partition's offsets, as its leader knows them. With `ready`, waits for a leader whose
    /// watermark covers all that was ever acknowledged: only then is it the end. The topic is named, or
    /// given as [`Client::topic`] or [`Admin::topics`] showed it.
    ///
    /// ```no_run
    /// # async fn example(client: baton_client::Client) -> baton_client::Result<()> {
    /// let status = client.admin().partition_status("orders", 0, true).await?;
    /// println!("{} to {}", status.log_start, status.high_watermark);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`]; [`ErrorKind::Unreachable`] where the
    /// leader does not answer within the request timeout.
    pub async fn partition_status<'a>(
        &self,
        topic: impl Into<TopicRef<'a>>,
        partition: impl Into<PartitionIndex>,
        ready: bool,
    ) -> Result<PartitionStatus> {
        let (topic, partition) = (topic.into(), partition.into());
        let limit = self.client.inner.config.request_timeout;
        self.partition_status_within(topic, partition, ready, limit)
            .await
    }

    /// The same within another limit than the usual one.
    pub async fn partition_status_within<'a>(
        &self,
        topic: impl Into<TopicRef<'a>>,
        partition: impl Into<PartitionIndex>,
        ready: bool,
        limit: Duration,
    ) -> Result<PartitionStatus> {
        let (topic, partition) = (topic.into(), partition.into());
        let deadline = later(Instant::now(), limit);
        let place = self.place(topic, partition).await?;
        loop {
            let body = RequestBody::PartitionStatus {
                topic: place.id.topic,
                partition,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.ask_leader(&place, body, left).await? {
                ResponseBody::PartitionStatus(status) if status.ready || !ready => {
                    return Ok(status);
                }
                ResponseBody::PartitionStatus(_) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                ResponseBody::PartitionStatus(_) => {
                    let text =
                        "the leader could not commit its epoch's start: too few followers answer";
                    return Err(Error::new(ErrorKind::Unreachable, text).at(&place));
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The first offset of a partition whose record has this timestamp or a later one, among those that
    /// are committed; where all are older, the offset that comes next.
    ///
    /// # Errors
    /// As for [`Admin::partition_status`].
    pub async fn offset_for_time<'a>(
        &self,
        topic: impl Into<TopicRef<'a>>,
        partition: impl Into<PartitionIndex>,
        timestamp_ms: i64,
    ) -> Result<Offset> {
        let (topic, partition) = (topic.into(), partition.into());
        let limit = self.client.inner.config.request_timeout;
        let place = self.place(topic, partition).await?;
        let body = RequestBody::OffsetForTime {
            topic: place.id.topic,
            partition,
            timestamp_ms,
        };
        match self.client.ask_leader(&place, body, limit).await? {
            ResponseBody::OffsetForTime {
                offset,
                high_watermark,
            } => Ok(offset.unwrap_or(high_watermark)),
            other => Err(unexpected(&other)),
        }
    }

    async fn place(&self, topic: TopicRef<'_>, partition: PartitionIndex) -> Result<Place> {
        let named;
        let topic = match topic {
            TopicRef::Record(record) => record,
            TopicRef::Name(name) => {
                named = self.client.topic(name).await?;
                &named
            }
        };
        match topic.partition(partition) {
            Some(_) => Ok(Place::of(topic, partition)),
            None => Err(no_partition(&topic.name, partition, topic.partitions.len())),
        }
    }
}
