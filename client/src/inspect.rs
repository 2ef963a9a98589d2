//! What operators ask single brokers.

use std::collections::BTreeMap;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::ids::{BrokerId, MetadataIndex};
use baton_protocol::inspect::{
    ClusterEvent, InspectRequest, InspectResponse, Quarantined, Setting,
};
use baton_protocol::metadata::BrokerRecord;
use bytes::Bytes;

use crate::admin::Admin;
use crate::ask::unexpected;
use crate::error::{Error, ErrorKind, Result};

/// What has happened in a cluster, as one broker has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterEvents {
    /// Oldest first; about a thousand at most.
    pub events: Vec<ClusterEvent>,
    /// Ask for what came after this one next. Where there was nothing more, it is the last change of
    /// the metadata that the broker knows.
    pub up_to: MetadataIndex,
    /// The broker has started since, or has forgotten what came before.
    pub known_from: MetadataIndex,
}

impl Admin {
    /// All brokers that ever registered, as they are known now.
    pub fn brokers(&self) -> BTreeMap<BrokerId, BrokerRecord> {
        self.client.view().brokers.clone()
    }

    /// The configuration that a broker runs with: every key with its value and where that comes from.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is no such broker, [`ErrorKind::Unreachable`] if it does not
    /// answer within the request time-out. So it is with the other questions to single brokers.
    pub async fn broker_configuration(&self, broker: BrokerId) -> Result<Vec<Setting>> {
        match self.inspect(broker, InspectRequest::Configuration).await? {
            InspectResponse::Configuration(settings) => Ok(settings),
            other => Err(unexpected(&other)),
        }
    }

    /// What a broker keeps of entries that were discarded and of files that were damaged, by topic and
    /// partition.
    pub async fn quarantine(&self, broker: BrokerId) -> Result<Vec<Quarantined>> {
        match self.inspect(broker, InspectRequest::Quarantine).await? {
            InspectResponse::Quarantine(all) => Ok(all),
            other => Err(unexpected(&other)),
        }
    }

    /// What has happened in the cluster since it stood there, or all that this broker remembers: the
    /// last 10,000 events since its process started. Comes at once, with nothing if nothing happened.
    pub async fn events(
        &self,
        broker: BrokerId,
        after: Option<MetadataIndex>,
    ) -> Result<ClusterEvents> {
        match self
            .inspect(broker, InspectRequest::Events { after })
            .await?
        {
            InspectResponse::Events {
                events,
                up_to,
                known_from,
            } => Ok(ClusterEvents {
                events,
                up_to,
                known_from,
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn inspect(&self, broker: BrokerId, request: InspectRequest) -> Result<InspectResponse> {
        let limit = self.client.inner.config.request_timeout;
        let view = self.client.view();
        let address = match view.brokers.get(&broker) {
            Some(record) => record.client_address.clone(),
            None => {
                let known: Vec<_> = view.brokers.keys().map(ToString::to_string).collect();
                let text = format!(
                    "the cluster has no broker {broker}; it has {}",
                    known.join(", ")
                );
                return Err(Error::new(ErrorKind::Refused, text));
            }
        };
        let silent = || {
            let text = format!("broker {broker} at {address} does not answer within {limit:.1?}");
            Error::new(ErrorKind::Unreachable, text)
        };
        let connection = self.client.connection(&address);
        let connection = tokio::time::timeout(limit, connection).await;
        let connection = connection.map_err(|_| silent())??;
        let asked = connection.send(RequestBody::Inspect(request), Bytes::new())?;
        match connection.answer_to(asked, limit).await? {
            ResponseBody::Inspect(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }
}
