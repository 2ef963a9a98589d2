//! What operators ask of a cluster.

use std::time::Duration;

use baton_protocol::admin::{AdminRequest, AdminResponse, ClusterStatus};
use baton_protocol::client::{PartitionStatus, RequestBody, ResponseBody};
use baton_protocol::ids::{MetadataIndex, PartitionIndex, ProducerId, TopicPartition};
use baton_protocol::metadata::TopicRecord;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// How long one broker is given for a request before another is asked.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

fn unexpected(answer: &impl std::fmt::Debug) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a request was answered with {answer:?}"),
    )
}

impl Client {
    /// Asks any broker, one after the other, until one answers for good.
    async fn ask_anyone(&self, body: RequestBody) -> Result<ResponseBody> {
        let deadline = Instant::now() + self.inner.config.request_timeout;
        let mut last = None;
        loop {
            let view = self.view();
            for broker in view.brokers.values().filter(|broker| !broker.fenced) {
                let result = match self.connection(&broker.client_address).await {
                    Ok(connection) => connection.ask(body.clone(), ATTEMPT).await,
                    Err(error) => Err(error),
                };
                match result {
                    Err(error) if error.is_retriable() => last = Some(error),
                    result => return result,
                }
            }
            if Instant::now() >= deadline {
                let error = last.take();
                return Err(error
                    .unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no broker answers")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse> {
        match self.ask_anyone(RequestBody::Admin(request)).await? {
            ResponseBody::Admin(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a topic, and waits until this client sees it. What is `None` gets a default that fits
    /// the cluster's size.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        replicas: Option<u32>,
        sync_followers: Option<u32>,
    ) -> Result<TopicRecord> {
        let request = AdminRequest::CreateTopic {
            name: name.to_owned(),
            partitions,
            replicas,
            sync_followers,
        };
        match self.admin(request).await? {
            AdminResponse::TopicCreated { topic, .. } => {
                let limit = self.inner.config.request_timeout;
                let found = |view: &baton_protocol::metadata::ClusterView| {
                    view.topics
                        .get(name)
                        .filter(|record| record.id == topic)
                        .cloned()
                };
                self.inner.metadata.wait_for(limit, found).await
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a topic and its data.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = AdminRequest::DeleteTopic {
            name: name.to_owned(),
        };
        match self.admin(request).await? {
            AdminResponse::TopicDeleted { index } => self.wait_for_index(index).await,
            other => Err(unexpected(&other)),
        }
    }

    async fn wait_for_index(&self, index: MetadataIndex) -> Result<()> {
        let limit = self.inner.config.request_timeout;
        self.inner
            .metadata
            .wait_for(limit, |view| (view.index >= index).then_some(()))
            .await
    }

    /// The cluster's health, as its controller sees it.
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        match self.admin(AdminRequest::ClusterStatus).await? {
            AdminResponse::ClusterStatus(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// A partition's offsets, as its leader knows them. With `ready`, waits for a leader whose
    /// watermark covers all that was ever acknowledged: only then is it the end.
    pub async fn partition_status(
        &self,
        topic: &TopicRecord,
        partition: PartitionIndex,
        ready: bool,
    ) -> Result<PartitionStatus> {
        let deadline = Instant::now() + self.inner.config.request_timeout;
        let topic = topic.id;
        loop {
            let body = RequestBody::PartitionStatus { topic, partition };
            let id = TopicPartition { topic, partition };
            match self.ask_leader(id, body).await? {
                ResponseBody::PartitionStatus(status) if status.ready || !ready => {
                    return Ok(status);
                }
                ResponseBody::PartitionStatus(_) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                ResponseBody::PartitionStatus(_) => {
                    let text = format!(
                        "the leader of partition {partition} could not commit its epoch's start: too few followers answer"
                    );
                    return Err(Error::new(ErrorKind::Unreachable, text));
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// An id for an idempotent producer.
    pub(crate) async fn init_producer(&self) -> Result<(ProducerId, u16)> {
        match self.ask_anyone(RequestBody::InitProducer).await? {
            ResponseBody::Producer {
                producer_id,
                producer_epoch,
            } => Ok((producer_id, producer_epoch)),
            other => Err(unexpected(&other)),
        }
    }
}
