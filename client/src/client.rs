//! The entry to a cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::error::ErrorCode;
use baton_protocol::ids::{BrokerId, PartitionIndex};
use baton_protocol::metadata::{ClusterView, TopicRecord};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout};

use crate::admin::Admin;
use crate::attempts::Attempts;
use crate::backoff::Backoff;
use crate::builder::{ClientBuilder, ClientConfig};
use crate::connection::{Connection, Greeting};
use crate::consumer::ConsumerBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::groups::GroupOffsets;
use crate::metadata::Metadata;
use crate::place::Place;
use crate::producer::ProducerBuilder;
use crate::reader::ReaderBuilder;

/// How long a leader is given for an answer before it is looked for again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Pause between two attempts, at first and at most; another view of the cluster ends it early.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A cluster, seen from a client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: ClientConfig,
    pub metadata: Metadata,
    /// One connection to each broker, for requests.
    requests: Pool,
    /// Another, for what is read: it must not hold up answers to what is written.
    streams: Pool,
}

/// Connections by address. Each has a lock of its own: a broker that does not greet must not keep
/// anybody from the others.
#[derive(Default)]
struct Pool {
    slots: Mutex<HashMap<String, Arc<AsyncMutex<Slot>>>>,
}

impl Pool {
    fn slot(&self, address: &str) -> Arc<AsyncMutex<Slot>> {
        let slots = self.slots.lock();
        let mut slots = slots.unwrap_or_else(PoisonError::into_inner);
        slots.entry(address.to_owned()).or_default().clone()
    }
}

/// The place of one broker's connection.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// The last attempt that failed, and when: who waited for it does not try again at once.
    failure: Option<(Instant, Error)>,
}

impl Client {
    /// A client of the cluster that these brokers (`host:port`) belong to; the others are learned
    /// from them. Name several: the first may be the one that is down.
    ///
    /// ```no_run
    /// # async fn example() -> baton_client::Result<()> {
    /// let brokers = ["127.0.0.1:7401", "127.0.0.1:7402"];
    /// let client = baton_client::Client::builder(brokers).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> ClientBuilder {
        ClientBuilder::new(addresses.into_iter().map(Into::into).collect())
    }

    pub(crate) fn new(config: ClientConfig, metadata: Metadata) -> Client {
        Client {
            inner: Arc::new(Inner {
                config,
                metadata,
                requests: Pool::default(),
                streams: Pool::default(),
            }),
        }
    }

    /// The cluster as it is known now.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.metadata.now()
    }

    /// Why no broker tells of the cluster at the moment, if none does. It is tried again by itself.
    pub fn trouble(&self) -> Option<Error> {
        self.inner.metadata.trouble()
    }

    /// A producer's settings, to be changed before it is built. One producer serves any number of
    /// topics.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// A reader's settings, to be changed before it is built.
    pub fn reader(&self, topic: impl Into<Arc<str>>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic.into())
    }

    /// The settings of a consumer in this group, to be changed before it is built.
    ///
    /// ```no_run
    /// # async fn example(client: baton_client::Client) -> baton_client::Result<()> {
    /// let mut consumer = client.consumer("billing").subscribe(["orders"]).build().await?;
    /// while let Some(message) = consumer.next_record().await {
    ///     println!("{:?}", message?.value); // done when the next one is asked for
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn consumer(&self, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group.into())
    }

    /// The committed offsets of a group, for those who read without being a member.
    pub fn offsets(&self, group: impl Into<String>) -> GroupOffsets {
        GroupOffsets::new(self.clone(), group.into())
    }

    /// What operators ask of a cluster: topics, elections, handovers, health.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The topic of this name; waits up to half a second for one that was just made.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    pub async fn topic(&self, name: &str) -> Result<TopicRecord> {
        let found = |view: &ClusterView| view.topics.get(name).cloned();
        if let Some(topic) = found(&self.view()) {
            return Ok(topic);
        }
        let waited = self
            .inner
            .metadata
            .wait_for(Duration::from_millis(500), found)
            .await;
        waited.map_err(|_| no_topic(name))
    }

    /// The connection to a broker for requests; made where there is none.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection> {
        self.connected(&self.inner.requests, address).await
    }

    /// The connection to a broker for what is read; made where there is none.
    pub(crate) async fn stream_connection(&self, address: &str) -> Result<Connection> {
        self.connected(&self.inner.streams, address).await
    }

    async fn connected(&self, pool: &Pool, address: &str) -> Result<Connection> {
        let asked_at = Instant::now();
        let slot = pool.slot(address);
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|known| !known.is_closed()) {
            return Ok(connection.clone());
        }
        if let Some((_, error)) = slot.failure.as_ref().filter(|(at, _)| *at >= asked_at) {
            return Err(error.clone());
        }
        let config = &self.inner.config;
        let greeting = Greeting {
            client_name: config.client_name.clone(),
            cluster: Some(self.view().cluster_id),
        };
        match Connection::open(address, greeting, config.connect_timeout, None).await {
            Ok((connection, _)) => {
                connection.watch_over();
                slot.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The broker that leads a partition, and where it is.
    pub(crate) fn leader(&self, place: &Place) -> Result<(BrokerId, String)> {
        let view = self.view();
        let found = place.leader_in(&view).and_then(|leader| {
            let broker = view.brokers.get(&leader)?;
            Some((leader, broker.client_address.clone()))
        });
        found.ok_or_else(|| {
            let text = "the partition has no leader at the moment";
            Error::new(ErrorKind::Unreachable, text).at(place)
        })
    }

    /// Whether the topic still exists. Views only go forward, so one that is gone stays gone.
    pub(crate) fn check_exists(&self, place: &Place) -> Result<()> {
        match place.topic_in(&self.view()) {
            Some(_) => Ok(()),
            None => {
                let error = Error::new(ErrorKind::UnknownTopic, "the topic was deleted");
                Err(error.in_topic(place.topic.clone()))
            }
        }
    }

    /// Whether what a broker refused for this partition can succeed later, by what is known now.
    pub(crate) fn can_succeed_later(&self, place: &Place, error: &Error) -> bool {
        error.is_retriable() || knows_less(error, place, &self.view())
    }

    /// Sends a request to the leader of a partition, again until it succeeds, fails for good, or
    /// `limit` is over.
    pub(crate) async fn ask_leader(
        &self,
        place: &Place,
        body: RequestBody,
        limit: Duration,
    ) -> Result<ResponseBody> {
        let mut attempts = Attempts::within(limit);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut view = self.inner.metadata.watch();
        loop {
            view.mark_unchanged();
            self.check_exists(place)?;
            let left = ATTEMPT.min(attempts.left().max(PAUSE_MAX));
            match self.ask_leader_once(place, body.clone(), left).await {
                Err(error) if self.can_succeed_later(place, &error) => attempts.not_sent(error),
                Err(error) => return Err(error.at(place)),
                answer => return answer,
            }
            if attempts.are_over() {
                return Err(attempts.given_up().at(place));
            }
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                _ = view.changed() => {}
            }
        }
    }

    async fn ask_leader_once(
        &self,
        place: &Place,
        body: RequestBody,
        limit: Duration,
    ) -> Result<ResponseBody> {
        let (_, address) = self.leader(place)?;
        match timeout(limit, self.connection(&address)).await {
            Ok(connection) => connection?.ask(body, limit).await,
            Err(_) => {
                let text = format!("broker at {address}: no connection within {limit:.1?}");
                Err(Error::new(ErrorKind::Unreachable, text))
            }
        }
    }
}

/// No topic has this name.
pub(crate) fn no_topic(name: &str) -> Error {
    let text = format!("there is no topic named `{}`", name.escape_debug());
    Error::new(ErrorKind::UnknownTopic, text).in_topic(name)
}

/// The topic has no partition of this index.
pub(crate) fn no_partition(topic: &str, partition: PartitionIndex, count: usize) -> Error {
    let text = format!("there is no such partition; the topic has {count}, numbered from 0");
    Error::new(ErrorKind::UnknownPartition, text).about(topic, partition)
}

/// Whether a broker's word that there is no such topic or partition only means that it is behind:
/// the view has both, under the very id. A view that has them no more agrees with the broker.
fn knows_less(error: &Error, place: &Place, view: &ClusterView) -> bool {
    let unknown = matches!(
        error.code(),
        Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition)
    );
    unknown && place.partition_in(view).is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use baton_protocol::error::WireError;
    use baton_protocol::ids::{LeaderEpoch, Offset, PartitionVersion, TopicPartition};
    use baton_protocol::metadata::{Flush, PartitionRecord, TopicConfig};

    use super::*;

    /// A view of one topic with one partition.
    fn view(topic: u128) -> ClusterView {
        let config = TopicConfig {
            replicas: 1,
            sync_followers: 0,
            flush: Flush::Ack,
            unclean_election: false,
            policy: baton_protocol::policy::TopicPolicy::default(),
        };
        let record = TopicRecord {
            id: place(topic, 0).id.topic,
            name: "t".into(),
            config,
            partitions: vec![Arc::new(PartitionRecord {
                replicas: vec![BrokerId(1)],
                leader: None,
                epoch: LeaderEpoch::NONE,
                in_sync: BTreeSet::new(),
                suspects: BTreeSet::new(),
                version: PartitionVersion::default(),
                sync_followers_commit: 0,
                sync_followers_elect: 0,
                offset_limit: Offset::ZERO,
                offset_floor: Offset::ZERO,
                lossy_epoch: LeaderEpoch::NONE,
                leader_keeps: Offset::ZERO,
                begins: Vec::new(),
            })],
        };
        let topics = BTreeMap::from([("t".to_owned(), record)]);
        ClusterView {
            topics,
            ..ClusterView::default()
        }
    }

    fn place(topic: u128, partition: u32) -> Place {
        let id = TopicPartition {
            topic: format!("{topic:032x}").parse().expect("an id"),
            partition: PartitionIndex(partition),
        };
        let topic = "t".into();
        Place { topic, id }
    }

    #[test]
    fn a_broker_that_does_not_know_what_the_view_shows_is_behind() {
        for code in [ErrorCode::UnknownTopic, ErrorCode::UnknownPartition] {
            let error = WireError::new(code, "there is none").into();
            assert!(knows_less(&error, &place(7, 0), &view(7)));
            // The same name, but made anew since: it is another topic.
            assert!(!knows_less(&error, &place(7, 0), &view(8)));
            assert!(!knows_less(&error, &place(7, 1), &view(7)));
            assert!(!knows_less(&error, &place(7, 0), &ClusterView::default()));
        }
    }

    #[test]
    fn what_is_refused_for_another_reason_is_no_matter_of_who_knows_what() {
        let error = WireError::new(ErrorCode::InvalidBatch, "malformed").into();
        assert!(!knows_less(&error, &place(7, 0), &view(7)));
    }
}
