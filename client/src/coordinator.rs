//! Questions to the coordinator of a group: the leader of the partition of the internal topic that the
//! group belongs to, wherever that is at the moment.

use std::time::Duration;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::groups::{GROUPS_TOPIC, GroupRequest, GroupResponse, coordinator_partition};
use baton_protocol::ids::{BrokerId, PartitionIndex, TopicPartition};
use baton_protocol::metadata::ClusterView;
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::ask::unexpected;
use crate::attempts::Attempts;
use crate::backoff::{Backoff, random};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;

/// How long a coordinator is given for one answer before it is looked for again. It answers once what
/// it says is committed.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Pause between two attempts, at first and at most; another view of the cluster ends it early.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// An attempt that failed.
pub(crate) enum Failed {
    /// Nothing was sent.
    NotSent(Error),
    /// It was sent, and came to this.
    Sent(Error),
}

impl Failed {
    pub fn error(self) -> Error {
        match self {
            Failed::NotSent(error) | Failed::Sent(error) => error,
        }
    }
}

/// What came of a request that did not succeed: the attempts at it, and a refusal for good, if it is
/// that.
pub(crate) type Failures = (Attempts, Option<Error>);

/// Of a request that changes nothing, or may be repeated.
pub(crate) fn given_up((attempts, refusal): Failures) -> Error {
    refusal.unwrap_or_else(|| attempts.given_up())
}

/// The partition of the internal topic that this group belongs to, as far as the view shows that topic.
fn place_of(view: &ClusterView, group: &str) -> Option<Place> {
    let topic = view.topics.get(GROUPS_TOPIC)?;
    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    let id = TopicPartition {
        topic: topic.id,
        partition: coordinator_partition(group, count),
    };
    let topic = GROUPS_TOPIC.into();
    Some(Place { topic, id })
}

impl Client {
    /// Asks a group's coordinator, once.
    pub(crate) async fn ask_group_once(
        &self,
        group: &str,
        request: GroupRequest,
        limit: Duration,
    ) -> std::result::Result<GroupResponse, Failed> {
        let place = place_of(&self.view(), group);
        self.ask_coordinator(place, request, limit).await
    }

    /// Asks the leader of a partition of the internal topic, once; any broker where that topic is not
    /// known, which makes it.
    async fn ask_coordinator(
        &self,
        place: Option<Place>,
        request: GroupRequest,
        limit: Duration,
    ) -> std::result::Result<GroupResponse, Failed> {
        let (leader, address) = match &place {
            Some(place) => self.leader(place),
            None => self.anyone(),
        }
        .map_err(Failed::NotSent)?;
        let partition = place.as_ref().map_or(PartitionIndex(0), |p| p.id.partition);
        let connection = match timeout(limit, self.connection(&address)).await {
            Ok(connection) => connection.map_err(Failed::NotSent)?,
            Err(_) => {
                let text = format!("broker at {address}: no connection within {limit:.1?}");
                let error = Error::new(ErrorKind::Unreachable, text);
                return Err(Failed::NotSent(error));
            }
        };
        let body = RequestBody::Group { partition, request };
        let answered = connection
            .send(body, Bytes::new())
            .map_err(Failed::NotSent)?;
        tokio::select! {
            biased;
            answer = connection.answer_to(answered, limit) => match answer {
                Ok(ResponseBody::Group(response)) => Ok(response),
                Ok(other) => Err(Failed::Sent(unexpected(&other))),
                Err(error) => Err(Failed::Sent(error)),
            },
            () = self.led_elsewhere(place, leader) => {
                let text = format!("broker at {address} does not coordinate the group any more");
                Err(Failed::Sent(Error::new(ErrorKind::Unreachable, text)))
            }
        }
    }

    fn anyone(&self) -> Result<(BrokerId, String)> {
        let view = self.view();
        let alive: Vec<_> = view.brokers.values().filter(|b| !b.fenced).collect();
        let chosen = alive.get(random() as usize % alive.len().max(1));
        let found = chosen.map(|broker| (broker.id, broker.client_address.clone()));
        found.ok_or_else(|| Error::new(ErrorKind::Unreachable, "no broker is known to be alive"))
    }

    /// Waits until the cluster shows another leader of this partition.
    async fn led_elsewhere(&self, place: Option<Place>, leader: BrokerId) {
        let Some(place) = place else {
            return std::future::pending().await;
        };
        let mut view = self.inner.metadata.watch();
        let elsewhere = |view: &std::sync::Arc<ClusterView>| {
            place.leader_in(view).is_some_and(|now| now != leader)
        };
        if view.wait_for(elsewhere).await.is_err() {
            std::future::pending().await
        }
    }

    /// Asks a group's coordinator, again until it succeeds, fails for good, or `limit` is over.
    pub(crate) async fn ask_group(
        &self,
        group: &str,
        request: GroupRequest,
        limit: Duration,
    ) -> std::result::Result<GroupResponse, Failures> {
        let place = |view: &ClusterView| place_of(view, group);
        self.ask_groups_topic(place, request, limit).await
    }

    /// Asks all coordinators for their groups. None exist where the internal topic does not.
    pub(crate) async fn ask_all_coordinators(
        &self,
        request: GroupRequest,
        limit: Duration,
    ) -> Result<Vec<GroupResponse>> {
        let view = self.view();
        let count = view.topics.get(GROUPS_TOPIC);
        let count = count.map_or(0, |topic| topic.partitions.len());
        let asking = (0..count).map(|index| {
            let place = move |view: &ClusterView| {
                let topic = view.topics.get(GROUPS_TOPIC)?;
                let partition = PartitionIndex(index as u32);
                let topic = topic.id;
                Some(Place {
                    topic: GROUPS_TOPIC.into(),
                    id: TopicPartition { topic, partition },
                })
            };
            let request = request.clone();
            async move {
                let asked = self.ask_groups_topic(place, request, limit).await;
                asked.map_err(given_up)
            }
        });
        futures_util::future::try_join_all(asking).await
    }

    async fn ask_groups_topic(
        &self,
        place: impl Fn(&ClusterView) -> Option<Place>,
        request: GroupRequest,
        limit: Duration,
    ) -> std::result::Result<GroupResponse, Failures> {
        let mut attempts = Attempts::within(limit);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut view = self.inner.metadata.watch();
        loop {
            view.mark_unchanged();
            let left = ATTEMPT.min(attempts.left().max(PAUSE_MAX));
            let place = place(&self.view());
            match self.ask_coordinator(place, request.clone(), left).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::NotSent(error)) if error.is_retriable() => attempts.not_sent(error),
                Err(Failed::Sent(error)) if error.is_retriable() => attempts.sent(error),
                Err(failed) => return Err((attempts, Some(failed.error()))),
            }
            if attempts.are_over() {
                return Err((attempts, None));
            }
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                _ = view.changed() => {}
            }
        }
    }
}
