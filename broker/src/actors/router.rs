//! Keeps this broker in step with the metadata: which replicas it hosts, whom it is linked to, what
//! each replica is told. `followed` tells what there is to tell, `replicas` opens logs and puts files away.
//!
//! It applies the same commands as the controller to its own copy of the state, so that both agree
//! on what every position of the metadata log means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Context, Handler};
use baton_controller::state::ClusterState;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, TopicPartition};
use baton_protocol::metadata::{PartitionRecord, TopicRecord};
use baton_replication::event::{PartitionView, ReplicaView};
use tokio::sync::Semaphore;

use self::followed::Followed;
use self::replicas::ReplicaHere;
use crate::actors::messages::{
    ControllerKnown, Fence, FencePartitions, HandOver, HandOverPartition, LinkChanged,
    MetadataCommands, MetadataSnapshot, PolicyChanged, Registered, SetChangeRefused,
    SetChangesRefused, ViewChanged,
};
use crate::actors::partition::Surroundings;
use crate::actors::peer_link::{PeerLink, Route, Unlink};
use crate::actors::workers::{Worker, Workers};
use crate::data_dir::DataDir;
use crate::shared::Shared;

mod followed;
mod replicas;

/// Logs that are opened at a time. They wait for the disk most of the time, so it may be more than there
/// are processors; a thread for each of thousands would be memory that is never given back.
const OPENINGS_MAX: usize = 32;

/// The actor that keeps this broker in step with the metadata.
pub struct Router {
    shared: Arc<Shared>,
    around: Arc<Surroundings>,
    /// What the replication core may be tuned with.
    core: Arc<baton_replication::Config>,
    /// Threads that replicas live on.
    workers: Workers,
    /// The thread that coordinators of groups live on.
    coordinating: ArbiterHandle,
    directory: Arc<DataDir>,
    data_dir: PathBuf,
    state: Option<ClusterState>,
    /// What the replicas have been brought in step with.
    followed: Followed,
    replicas: BTreeMap<TopicPartition, ReplicaHere>,
    /// The links to each other broker: one of each worker.
    links: BTreeMap<BrokerId, (Route, Vec<Addr<PeerLink>>)>,
    /// The replicas that this broker's earlier lives had: those that the metadata showed first. Their
    /// logs are expected to be there.
    inherited: Option<BTreeSet<TopicPartition>>,
    /// Replicas whose logs are to be opened, in the order in which it is their turn.
    to_open: VecDeque<TopicPartition>,
    /// Logs that are being opened.
    openings: usize,
    /// Whose turn it is to put files away.
    removals: Arc<Semaphore>,
    /// The notes of what befell earlier processes have been dropped: all logs are open.
    settled: bool,
}

impl Router {
    /// The router of this broker; replicas are spread over `workers`, their groups are coordinated
    /// on the thread of `coordinating`.
    pub fn new(
        around: Arc<Surroundings>,
        directory: Arc<DataDir>,
        workers: Workers,
        coordinating: ArbiterHandle,
    ) -> Self {
        let shared = around.shared.clone();
        let data_dir = shared.config.broker.data_dir.clone();
        Router {
            core: Arc::new(shared.config.core()),
            shared,
            around,
            workers,
            coordinating,
            directory,
            data_dir,
            state: None,
            followed: Followed::default(),
            replicas: BTreeMap::new(),
            links: BTreeMap::new(),
            inherited: None,
            to_open: VecDeque::new(),
            openings: 0,
            removals: Arc::new(Semaphore::new(1)),
            settled: false,
        }
    }

    fn note_events(&self, before: &ClusterState, after: &ClusterState) {
        if after.index > before.index {
            let now_ms = u64::try_from(self.shared.clock.wall_ms()).unwrap_or(0);
            self.shared.events.note(before, after, now_ms);
        }
    }

    /// Brings everything in step with the state.
    fn follow(&mut self, ctx: &mut Context<Self>) {
        let (Some(state), Some(me)) = (self.state.take(), self.shared.me()) else {
            return;
        };
        let shared_state = Arc::new(state.clone());
        self.shared
            .known
            .send_modify(|known| known.set_state(shared_state));
        self.follow_brokers(&state, me, ctx);
        self.follow_partitions(&state, me, ctx);
        self.state = Some(state);
        self.settle();
    }

    fn follow_brokers(&mut self, state: &ClusterState, me: BrokerLife, ctx: &mut Context<Self>) {
        for record in state
            .brokers
            .values()
            .filter(|record| record.id != me.broker)
        {
            let route = Route {
                cluster_id: state.cluster_id,
                me,
                peer: record.id,
                life: record.epoch,
                address: record.peer_address.clone(),
                lane: 0,
            };
            let known = self.links.get(&record.id);
            if known.is_some_and(|(old, _)| old.life == route.life && old.address == route.address)
            {
                continue;
            }
            for link in self
                .links
                .remove(&record.id)
                .into_iter()
                .flat_map(|(_, l)| l)
            {
                link.do_send(Unlink);
            }
            let start = |worker: &Worker| {
                let lane = worker.lane;
                let route = Route {
                    lane,
                    ..route.clone()
                };
                let control = self.shared.control.clone();
                PeerLink::start_to(route, worker, control, ctx.address().recipient())
            };
            let links = self.workers.iter().map(start).collect();
            self.links.insert(record.id, (route, links));
        }
    }

    fn follow_partitions(&mut self, state: &ClusterState, me: BrokerLife, ctx: &mut Context<Self>) {
        if self.inherited.is_none() {
            self.put_unknown_aside(state);
            let here = |(_, record): &(TopicPartition, &PartitionRecord)| {
                record.replicas.contains(&me.broker)
            };
            let inherited = state.partitions().filter(here).map(|(id, _)| id);
            self.inherited = Some(inherited.collect());
        }
        for topic in self.followed.news_in(state) {
            self.follow_topic(state, topic, me, ctx);
        }
        for partition in self.followed.gone_from(state) {
            self.drop_replica(state, partition, ctx);
        }
        self.followed = Followed {
            brokers: state.brokers.clone(),
            topics: state.topics.clone(),
        };
    }

    fn follow_topic(
        &mut self,
        state: &ClusterState,
        topic: &TopicRecord,
        me: BrokerLife,
        ctx: &mut Context<Self>,
    ) {
        for (partition, record) in self.followed.news_of(state, topic) {
            if record.replicas.contains(&me.broker) {
                self.follow_partition(state, topic, partition, record, ctx);
            } else {
                self.drop_replica(state, partition, ctx);
            }
        }
    }

    fn follow_partition(
        &mut self,
        state: &ClusterState,
        topic: &TopicRecord,
        partition: TopicPartition,
        record: &PartitionRecord,
        ctx: &mut Context<Self>,
    ) {
        match self.replicas.get_mut(&partition) {
            Some(ReplicaHere::Running { hosted, view }) => {
                let policy = topic.config.policy;
                // All that runs has been told what has been followed.
                if !self.followed.has_policy(topic) {
                    let keyed = policy.cleanup().compacts();
                    hosted.told.keyed.store(keyed, Ordering::Relaxed);
                    hosted.actor.do_send(PolicyChanged(policy));
                }
                let now = view_of(state, topic, record);
                if now != **view {
                    *view = Arc::new(now);
                    hosted.actor.do_send(ViewChanged(view.clone()));
                }
            }
            Some(ReplicaHere::Opening { .. } | ReplicaHere::Failed | ReplicaHere::Leaving) => {}
            Some(abandoned @ ReplicaHere::Abandoned) => {
                *abandoned = ReplicaHere::Opening { fence: None };
            }
            None => {
                let opening = ReplicaHere::Opening { fence: None };
                self.replicas.insert(partition, opening);
                self.open_replica(partition, ctx);
            }
        }
    }
}

/// A partition's record, joined with what is known of its brokers and its topic.
pub fn view_of(
    state: &ClusterState,
    topic: &TopicRecord,
    record: &PartitionRecord,
) -> PartitionView {
    let replica = |id: &BrokerId| {
        let broker = state.brokers.get(id);
        let view = ReplicaView {
            life: broker.map_or(BrokerEpoch(0), |broker| broker.epoch),
            fenced: broker.is_none_or(|broker| broker.fenced),
            suspect: record.suspects.contains(id),
        };
        (*id, view)
    };
    PartitionView {
        epoch: record.epoch,
        leader: record.leader,
        version: record.version,
        in_sync: record.in_sync.clone(),
        sync_followers_commit: record.sync_followers_commit,
        sync_followers_elect: record.sync_followers_elect,
        flush: topic.config.flush,
        offset_limit: record.offset_limit,
        offset_floor: record.offset_floor,
        lossy_epoch: record.lossy_epoch,
        leader_keeps: record.leader_keeps,
        compacted: topic.config.policy.may_lack_entries(),
        replicas: record.replicas.iter().map(replica).collect(),
    }
}

impl Actor for Router {
    type Context = Context<Self>;
}

impl Handler<Registered> for Router {
    type Result = ();

    fn handle(&mut self, Registered(epoch): Registered, ctx: &mut Self::Context) {
        tracing::debug!(%epoch, "the router knows this broker's life");
        self.follow(ctx);
    }
}

impl Handler<MetadataSnapshot> for Router {
    type Result = ();

    fn handle(&mut self, MetadataSnapshot(state): MetadataSnapshot, ctx: &mut Self::Context) {
        if self
            .state
            .as_ref()
            .is_some_and(|own| own.index > state.index)
        {
            return;
        }
        match &self.state {
            Some(before) => self.note_events(before, &state),
            None => self.shared.events.begin(&state),
        }
        self.state = Some(state);
        self.follow(ctx);
    }
}

impl Handler<MetadataCommands> for Router {
    type Result = ();

    fn handle(&mut self, MetadataCommands(commands): MetadataCommands, ctx: &mut Self::Context) {
        let Some(mut state) = self.state.take() else {
            return;
        };
        for command in commands {
            let before = state.clone();
            state.catch_up(std::slice::from_ref(&command));
            self.note_events(&before, &state);
        }
        self.state = Some(state);
        self.follow(ctx);
    }
}

impl Handler<FencePartitions> for Router {
    type Result = ();

    /// A fence for a replica that is not here yet is dropped: the controller repeats it.
    fn handle(&mut self, FencePartitions(fences): FencePartitions, _: &mut Self::Context) {
        for (partition, epoch) in fences {
            match self.replicas.get_mut(&partition) {
                Some(ReplicaHere::Running { hosted, .. }) => hosted.actor.do_send(Fence(epoch)),
                Some(ReplicaHere::Opening { fence }) => *fence = (*fence).max(Some(epoch)),
                _ => {}
            }
        }
    }
}

impl Handler<HandOverPartition> for Router {
    type Result = ();

    fn handle(
        &mut self,
        HandOverPartition(partition, epoch, to): HandOverPartition,
        _: &mut Self::Context,
    ) {
        if let Some(ReplicaHere::Running { hosted, .. }) = self.replicas.get(&partition) {
            hosted.actor.do_send(HandOver { epoch, to });
        }
    }
}

impl Handler<SetChangesRefused> for Router {
    type Result = ();

    fn handle(&mut self, SetChangesRefused(refused): SetChangesRefused, _: &mut Self::Context) {
        for (partition, version) in refused {
            if let Some(ReplicaHere::Running { hosted, .. }) = self.replicas.get(&partition) {
                hosted.actor.do_send(SetChangeRefused(version));
            }
        }
    }
}

impl Handler<LinkChanged> for Router {
    type Result = ();

    fn handle(&mut self, link: LinkChanged, _: &mut Self::Context) {
        for (partition, replica) in &self.replicas {
            if let ReplicaHere::Running { hosted, .. } = replica
                && self.workers.of_partition(partition).lane == link.lane
            {
                hosted.actor.do_send(link);
            }
        }
    }
}

impl Handler<ControllerKnown> for Router {
    type Result = ();

    fn handle(&mut self, ControllerKnown(controller): ControllerKnown, _: &mut Self::Context) {
        let known = &self.shared.known;
        known.send_if_modified(|known| known.set_controller(controller));
    }
}

#[cfg(test)]
mod tests;
