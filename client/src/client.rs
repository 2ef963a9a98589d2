//! The entry to a cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::error::ErrorCode;
use baton_protocol::ids::{BrokerId, TopicPartition};
use baton_protocol::metadata::{ClusterView, TopicRecord};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::attempts::Attempts;
use crate::connection::Connection;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;

/// How long a leader is given for an answer before it is looked for again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Pause between two attempts.
const ROUND_PAUSE: Duration = Duration::from_millis(30);

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Brokers to begin with, as `host:port`; the others are learned from them.
    pub bootstrap: Vec<String>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a request may take, retries included, unless it says otherwise.
    pub request_timeout: Duration,
}

impl ClientConfig {
    /// The usual settings: 1 s to connect, 15 s for a request.
    pub fn new(bootstrap: Vec<String>) -> Self {
        ClientConfig {
            bootstrap,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(15),
        }
    }
}

/// A cluster, seen from a client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: ClientConfig,
    pub metadata: Metadata,
    /// One connection to each broker, for requests. Each has a lock of its own: a broker that does
    /// not greet must not keep anybody from the others.
    connections: Mutex<HashMap<String, Arc<AsyncMutex<Slot>>>>,
}

/// The place of one broker's connection.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// The last attempt that failed, and when: who waited for it does not try again at once.
    failure: Option<(Instant, Error)>,
}

impl Client {
    /// Finds the cluster: ready when a broker has told who belongs to it. Fails at once where none of
    /// the addresses is a broker's that this client can talk to.
    pub async fn connect(config: ClientConfig) -> Result<Client> {
        let metadata = Metadata::follow(config.bootstrap.clone());
        let limit = config.request_timeout;
        tokio::select! {
            biased;
            found = metadata.wait_for(limit, |view| (!view.brokers.is_empty()).then_some(())) => found?,
            error = metadata.hopeless() => return Err(error),
        }
        Ok(Client {
            inner: Arc::new(Inner {
                config,
                metadata,
                connections: Mutex::default(),
            }),
        })
    }

    /// The cluster as it is known now.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.metadata.now()
    }

    /// The topic of this name; waits a little for one that was just made.
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
        waited.map_err(|_| {
            let text =
                format!("there is no topic named `{name}` (make it: baton topic create {name})");
            Error::new(ErrorKind::UnknownTopic, text)
        })
    }

    /// The connection to a broker; made where there is none.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection> {
        let asked_at = Instant::now();
        let slot = {
            let connections = self.inner.connections.lock();
            let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
            connections.entry(address.to_owned()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|known| !known.is_closed()) {
            return Ok(connection.clone());
        }
        if let Some((_, error)) = slot.failure.as_ref().filter(|(at, _)| *at >= asked_at) {
            return Err(error.clone());
        }
        let (pushes, _) = mpsc::unbounded_channel();
        match self.open(address, pushes).await {
            Ok(connection) => {
                slot.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A connection of one's own, for what the broker pushes.
    pub(crate) async fn open(
        &self,
        address: &str,
        pushes: mpsc::UnboundedSender<crate::connection::Pushed>,
    ) -> Result<Connection> {
        let cluster = Some(self.view().cluster_id);
        let limit = self.inner.config.connect_timeout;
        Ok(Connection::open(address, cluster, limit, pushes).await?.0)
    }

    /// The broker that leads a partition, and where it is.
    pub(crate) fn leader(&self, partition: TopicPartition) -> Option<(BrokerId, String)> {
        let view = self.view();
        let leader = leader_in(&view, partition)?;
        Some((leader, view.brokers.get(&leader)?.client_address.clone()))
    }

    /// Whether the topic still exists. Views only go forward, so one that is gone stays gone.
    pub(crate) fn check_exists(&self, partition: TopicPartition) -> Result<()> {
        if self
            .view()
            .topics
            .values()
            .any(|topic| topic.id == partition.topic)
        {
            return Ok(());
        }
        Err(Error::new(ErrorKind::UnknownTopic, "the topic was deleted"))
    }

    /// Whether what a broker refused for this partition can succeed later, by what is known now.
    pub(crate) fn can_succeed_later(&self, partition: TopicPartition, error: &Error) -> bool {
        error.is_retriable() || knows_less(error, partition, &self.view())
    }

    /// Sends a request to the leader of a partition, again until it succeeds, fails for good, or
    /// `limit` is over.
    pub(crate) async fn ask_leader(
        &self,
        partition: TopicPartition,
        body: RequestBody,
        limit: Duration,
    ) -> Result<ResponseBody> {
        let mut attempts = Attempts::within(limit);
        loop {
            self.check_exists(partition)?;
            let index = partition.partition;
            let left = ATTEMPT.min(attempts.left().max(ROUND_PAUSE));
            let result = match self.leader(partition) {
                Some((_, address)) => match timeout(left, self.connection(&address)).await {
                    Ok(Ok(connection)) => connection.ask(body.clone(), left).await,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(Error::new(
                        ErrorKind::Unreachable,
                        format!("broker at {address}: no connection within {left:.1?}"),
                    )),
                },
                None => Err(Error::new(
                    ErrorKind::Unreachable,
                    format!("partition {index} has no leader at the moment"),
                )),
            };
            match result {
                Err(error) if self.can_succeed_later(partition, &error) => attempts.not_sent(error),
                result => return result,
            }
            if attempts.are_over() {
                return Err(attempts.given_up());
            }
            sleep(ROUND_PAUSE).await;
        }
    }
}

/// Whether a broker's word that there is no such topic or partition only means that it is behind:
/// the view has both, under the very id. A view that has them no more agrees with the broker.
fn knows_less(error: &Error, partition: TopicPartition, view: &ClusterView) -> bool {
    let unknown = matches!(
        error.code(),
        Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition)
    );
    let mut topics = view.topics.values();
    unknown
        && topics.any(|topic| {
            topic.id == partition.topic && topic.partition(partition.partition).is_some()
        })
}

pub(crate) fn leader_in(view: &ClusterView, partition: TopicPartition) -> Option<BrokerId> {
    let topic = view
        .topics
        .values()
        .find(|topic| topic.id == partition.topic)?;
    Some(topic.partition(partition.partition)?.leader?.broker)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use baton_protocol::error::WireError;
    use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, PartitionVersion};
    use baton_protocol::metadata::{Flush, PartitionRecord, TopicConfig};

    use super::*;

    /// A view of one topic with one partition.
    fn view(topic: u128) -> ClusterView {
        let config = TopicConfig {
            replicas: 1,
            sync_followers: 0,
            flush: Flush::Ack,
            unclean_election: false,
        };
        let record = TopicRecord {
            id: id(topic, 0).topic,
            name: "t".into(),
            config,
            partitions: vec![PartitionRecord {
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
            }],
        };
        let topics = BTreeMap::from([("t".to_owned(), record)]);
        ClusterView {
            topics,
            ..ClusterView::default()
        }
    }

    fn id(topic: u128, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: format!("{topic:032x}").parse().expect("an id"),
            partition: PartitionIndex(partition),
        }
    }

    #[test]
    fn a_broker_that_does_not_know_what_the_view_shows_is_behind() {
        for code in [ErrorCode::UnknownTopic, ErrorCode::UnknownPartition] {
            let error = WireError::new(code, "there is none").into();
            assert!(knows_less(&error, id(7, 0), &view(7)));
            // The same name, but made anew since: it is another topic.
            assert!(!knows_less(&error, id(7, 0), &view(8)));
            assert!(!knows_less(&error, id(7, 1), &view(7)));
            assert!(!knows_less(&error, id(7, 0), &ClusterView::default()));
        }
    }

    #[test]
    fn what_is_refused_for_another_reason_is_no_matter_of_who_knows_what() {
        let error = WireError::new(ErrorCode::InvalidBatch, "malformed").into();
        assert!(!knows_less(&error, id(7, 0), &view(7)));
    }
}
