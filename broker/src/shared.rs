//! What the parts of one broker share: who it is, what it knows of the cluster, where its replicas
//! are. Handed to whoever needs it; there are no globals, so that several brokers can live in one
//! process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, ClusterId, Tick};
use baton_protocol::metadata::ClusterView;
use tokio::sync::{Semaphore, watch};

use crate::actors::control_link::ControlLink;
use crate::actors::routes::Routes;
use crate::clock::Clock;
use crate::config::Config;
use crate::producer_ids::ProducerIds;

/// The cluster's metadata as this broker knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The state, none before the first word of a controller.
    pub state: Option<Arc<ClusterState>>,
    /// The broker whose controller is active.
    pub controller: Option<BrokerId>,
}

/// What the parts of one broker share.
pub struct Shared {
    /// Its configuration.
    pub config: Config,
    /// Its id.
    pub broker: BrokerId,
    /// The cluster that its data directory belonged to when it started.
    pub bound_to: Option<ClusterId>,
    /// Its replicas.
    pub routes: Routes,
    /// Its session with the controller.
    pub control: ControlLink,
    /// The time.
    pub clock: Clock,
    /// The metadata; the router writes it.
    pub known: watch::Sender<Known>,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
    /// What requests of all clients may hold at a time, in bytes.
    pub in_flight_bytes: Arc<Semaphore>,
    /// When the last heartbeat was sent that a controller has answered, by this process's clock; the
    /// session with the controller writes it.
    pub controller_heard: watch::Sender<Option<Tick>>,
    /// Client connections.
    pub connections: AtomicUsize,
    /// Its life, once it is registered; the session with the controller writes it.
    pub life: watch::Sender<Option<BrokerEpoch>>,
}

impl Shared {
    /// Counts a client in, unless there are as many as allowed.
    pub fn admit(&self) -> bool {
        let max = self.config.limits.connections_max;
        let admit = |connections| (connections < max).then_some(connections + 1);
        self.connections
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, admit)
            .is_ok()
    }

    /// Counts a client out.
    pub fn release(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// The cluster, once it is known: from the data directory, or from the metadata.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        let known = self.known.borrow();
        let learned = known.state.as_ref().map(|state| state.cluster_id);
        learned.or(self.bound_to)
    }

    /// This broker in its present life, once it is registered.
    pub fn me(&self) -> Option<BrokerLife> {
        let broker = self.broker;
        (*self.life.borrow()).map(|epoch| BrokerLife { broker, epoch })
    }

    /// The metadata as clients are shown it, of all topics or of those named.
    pub fn view(&self, topics: Option<&[String]>) -> Option<ClusterView> {
        let known = self.known.borrow().clone();
        let state = known.state?;
        let wanted = |name: &String| topics.is_none_or(|names| names.contains(name));
        let topics = state.topics.values().filter(|topic| wanted(&topic.name));
        Some(ClusterView {
            cluster_id: state.cluster_id,
            index: state.index,
            controller: known.controller,
            brokers: state.brokers.clone(),
            topics: topics
                .map(|topic| (topic.name.clone(), topic.clone()))
                .collect(),
        })
    }
}
