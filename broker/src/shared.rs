//! What the parts of one broker share: who it is, what it knows of the cluster, where its replicas
//! are. Handed to whoever needs it; there are no globals, so that several brokers can live in one
//! process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use baton_controller::state::ClusterState;
use baton_groups::{Topic, Topics};
use baton_protocol::client::ServerMessage;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, ClusterId, Tick, TopicPartition};
use baton_protocol::metadata::{ClusterView, TopicRecord};
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::actors::control_link::ControlLink;
use crate::actors::routes::Routes;
use crate::clock::Clock;
use crate::cold_reads::ColdReads;
use crate::config::Config;
use crate::groups::topic::GroupsTopic;
use crate::inspect::events::Events;
use crate::net::connection::Outgoing;
use crate::producer_ids::ProducerIds;

/// The cluster's metadata as this broker knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The state, none before the first word of a controller.
    pub state: Option<Arc<ClusterState>>,
    /// The broker whose controller is active.
    pub controller: Option<BrokerId>,
    /// What clients are pushed of this, once the first of them is: encoded once for all, since it is
    /// large where there are many partitions.
    push: Arc<OnceLock<Option<Outgoing>>>,
    /// The topics as coordinators of groups see them, once the first of them does.
    topics: Arc<OnceLock<Arc<Topics>>>,
    /// The same as they were seen last: most changes of the metadata are none of these.
    topics_before: Option<Arc<Topics>>,
}

impl Known {
    /// The metadata is now this.
    pub fn set_state(&mut self, state: Arc<ClusterState>) {
        self.state = Some(state);
        self.push = Arc::default();
        let before = self.topics.get().cloned();
        self.topics_before = before.or(self.topics_before.take());
        self.topics = Arc::default();
    }

    /// All topics, none before the first word of a controller. The same ones, as long as none comes,
    /// goes or grows.
    pub fn topics(&self) -> Option<Arc<Topics>> {
        let state = self.state.as_ref()?;
        let topics = self.topics.get_or_init(|| {
            let topic = |topic: &Arc<TopicRecord>| {
                let partitions = topic.partitions.len() as u32;
                let id = topic.id;
                (topic.name.clone(), Topic { id, partitions })
            };
            let is_known = |topic: &Arc<TopicRecord>, before: &Topics| {
                before.partitions(topic.id) == Some(topic.partitions.len() as u32)
            };
            let mut now = state.topics.values();
            match &self.topics_before {
                Some(before)
                    if before.len() == now.len() && now.all(|topic| is_known(topic, before)) =>
                {
                    before.clone()
                }
                _ => Arc::new(Topics::new(state.topics.values().map(topic))),
            }
        });
        Some(topics.clone())
    }

    /// The active controller is now this one, as far as is known. Whether that is news.
    pub fn set_controller(&mut self, controller: Option<BrokerId>) -> bool {
        let changed = self.controller != controller;
        if changed {
            self.controller = controller;
            self.push = Arc::default();
        }
        changed
    }

    /// The frame that shows all of it to clients, none before the first word of a controller.
    fn push(&self) -> Option<Outgoing> {
        let view = || self.view(None).map(ServerMessage::Metadata);
        let encode = || {
            let frame = Outgoing::encode(&view()?, Bytes::new());
            let failed = |error| tracing::error!(%error, "the metadata could not be encoded");
            frame.map_err(failed).ok()
        };
        let frame = self.push.get_or_init(encode);
        frame.as_ref().map(Outgoing::again)
    }

    /// The metadata as clients are shown it, of all topics or of those named. What only brokers need
    /// to know of partitions is left out: where earlier leaders began.
    fn view(&self, topics: Option<&[String]>) -> Option<ClusterView> {
        let state = self.state.as_ref()?;
        let wanted = |name: &String| topics.is_none_or(|names| names.contains(name));
        let topics = state.topics.values().filter(|topic| wanted(&topic.name));
        let shown = |topic: &Arc<TopicRecord>| {
            let mut topic = TopicRecord::clone(topic);
            for partition in &mut topic.partitions {
                Arc::make_mut(partition).begins = Vec::new();
            }
            (topic.name.clone(), topic)
        };
        Some(ClusterView {
            cluster_id: state.cluster_id,
            index: state.index,
            controller: self.controller,
            brokers: state.brokers.clone(),
            topics: topics.map(shown).collect(),
        })
    }
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
    /// Reads what its logs have on the disk only.
    pub cold_reads: ColdReads,
    /// Its session with the controller.
    pub control: ControlLink,
    /// The time.
    pub clock: Clock,
    /// What has happened in the cluster; the router writes it.
    pub events: Events,
    /// The metadata; the router writes it.
    pub known: watch::Sender<Known>,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
    /// Has the topic of consumer groups made.
    pub groups_topic: GroupsTopic,
    /// What requests of all clients may hold at a time, in bytes.
    pub in_flight_bytes: Arc<Semaphore>,
    /// Whose turn it is to expand a batch that becomes large.
    pub expansions: Arc<Semaphore>,
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

    /// A partition as people know it: topic and number.
    pub fn name_of(&self, id: TopicPartition) -> String {
        let known = self.known.borrow();
        let topic = known.state.as_ref().and_then(|s| s.topics.get(&id.topic));
        match topic {
            Some(topic) => format!("{}/{}", topic.name, id.partition),
            None => id.to_string(),
        }
    }

    /// The metadata as clients are shown it, of all topics or of those named.
    pub fn view(&self, topics: Option<&[String]>) -> Option<ClusterView> {
        let known = self.known.borrow().clone();
        known.view(topics)
    }

    /// The frame that shows the metadata to clients that watch it; none if there is none yet.
    pub fn push(&self) -> Option<Outgoing> {
        let known = self.known.borrow().clone();
        known.push()
    }
}

#[cfg(test)]
mod tests {
    use baton_controller::command::Command;
    use baton_protocol::ids::{DirectoryId, MetadataIndex, ProcessId, TopicId};
    use baton_protocol::metadata::{Flush, TopicConfig};

    use super::*;

    fn state() -> ClusterState {
        let register = Command::RegisterBroker {
            id: BrokerId(1),
            directory: DirectoryId::default(),
            client_address: String::new(),
            peer_address: String::new(),
            log_lost: false,
            shown_life: None,
            process: ProcessId::default(),
            unclean_restart: false,
        };
        let create = Command::CreateTopic {
            id: TopicId::default(),
            name: "t".into(),
            config: TopicConfig {
                replicas: 1,
                sync_followers: 0,
                flush: Flush::Ack,
                unclean_election: false,
                policy: baton_protocol::policy::TopicPolicy::default(),
            },
            assignments: vec![vec![BrokerId(1)]; 3],
        };
        let mut state = ClusterState::default();
        state.apply(MetadataIndex(1), &register);
        state.apply(MetadataIndex(2), &create);
        state
    }

    #[test]
    fn clients_are_shown_what_they_ask_for_without_what_brokers_need() {
        let mut known = Known::default();
        assert_eq!(known.view(None), None);
        let state = state();
        known.set_state(Arc::new(state.clone()));
        let all = known.view(None).expect("known");
        let record = state.partitions().next().expect("made").1;
        assert!(!record.begins.is_empty());
        let shown = &all.topics["t"].partitions;
        assert_eq!((shown.len(), shown[0].epoch), (3, record.epoch));
        assert!(shown.iter().all(|partition| partition.begins.is_empty()));
        let none = known.view(Some(&[])).expect("known");
        assert_eq!((none.index, none.topics.len()), (all.index, 0));
    }

    #[test]
    fn coordinators_see_the_same_topics_until_one_changes() {
        let mut known = Known::default();
        assert!(known.topics().is_none());
        let mut state = state();
        known.set_state(Arc::new(state.clone()));
        let first = known.topics().expect("known");
        assert_eq!(first.named("t").map(|topic| topic.partitions), Some(3));
        // Nobody looks in between; and then the metadata changes in what is none of theirs.
        known.set_state(Arc::new(state.clone()));
        state.index = MetadataIndex(9);
        known.set_state(Arc::new(state.clone()));
        assert!(Arc::ptr_eq(&known.topics().expect("known"), &first));
        let delete = Command::DeleteTopic {
            id: TopicId::default(),
        };
        state.apply(MetadataIndex(10), &delete);
        known.set_state(Arc::new(state));
        assert_eq!(known.topics().expect("known").len(), 0);
    }

    #[test]
    fn what_is_pushed_is_encoded_once_until_something_changes() {
        let mut known = Known::default();
        assert!(known.push().is_none());
        known.set_state(Arc::new(state()));
        let place = |known: &Known| known.clone().push().expect("encoded").place();
        let first = place(&known);
        assert_eq!(place(&known), first);
        assert!(!known.set_controller(None));
        assert_eq!(place(&known), first);
        // The old frame is kept, so that its memory is not that of the next one.
        let old = known.push();
        assert!(known.set_controller(Some(BrokerId(1))));
        assert_ne!(place(&known), first);
        drop(old);
    }
}
