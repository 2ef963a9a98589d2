//! Keeps this broker in step with the metadata: which replicas it hosts, whom it is linked to, what
//! each replica is told.
//!
//! It applies the same commands as the controller to its own copy of the state, so that both agree
//! on what every position of the metadata log means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Context, Handler, Message, ResponseFuture};
use baton_controller::state::ClusterState;
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::GROUPS_TOPIC;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, PartitionIndex, TopicId, TopicPartition,
};
use baton_protocol::metadata::{BrokerRecord, PartitionRecord, TopicRecord};
use baton_protocol::policy::TopicPolicy;
use baton_replication::event::{PartitionView, ReplicaView};
use baton_storage::Trust;
use tokio::sync::{Semaphore, watch};

use crate::actors::control_link::Report;
use crate::actors::coordinator::Coordinator;
use crate::actors::messages::{
    CloseAll, ClosePartition, ControllerKnown, Fence, FencePartitions, HandOver, HandOverPartition,
    LinkChanged, MetadataCommands, MetadataSnapshot, PolicyChanged, Registered, SetChangeRefused,
    SetChangesRefused, ViewChanged,
};
use crate::actors::partition::{Partition, Surroundings, Told};
use crate::actors::peer_link::{PeerLink, Route, Unlink};
use crate::actors::routes::Hosted;
use crate::actors::workers::{Worker, Workers};
use crate::data_dir::DataDir;
use crate::hosting::{self, OpenedReplica};
use crate::shared::Shared;

/// How long it is waited before a log is opened again for which there was too little of something.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Logs that are opened at a time. They wait for the disk most of the time, so it may be more than there
/// are processors; a thread for each of thousands would be memory that is never given back.
const OPENINGS_MAX: usize = 32;

/// The actor that keeps this broker in step with the metadata.
pub struct Router {
    shared: Arc<Shared>,
    around: Surroundings,
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
    /// Whose turn it is to open a log.
    openings: Arc<Semaphore>,
    /// Whose turn it is to put files away.
    removals: Arc<Semaphore>,
    /// The notes of what befell earlier processes have been dropped: all logs are open.
    settled: bool,
}

/// What the replicas have been told of: whoever has not changed since need not be looked at. A broker may
/// have thousands of replicas, and a command of the controller is about few of them mostly.
#[derive(Default)]
struct Followed {
    brokers: BTreeMap<BrokerId, BrokerRecord>,
    topics: BTreeMap<TopicId, Arc<TopicRecord>>,
}

impl Followed {
    /// The topics whose replicas have to be looked at.
    fn news_in<'a>(&self, state: &'a ClusterState) -> Vec<&'a TopicRecord> {
        // What a replica is told speaks of the brokers, too.
        let all = self.brokers != state.brokers;
        let is_known = |topic: &Arc<TopicRecord>| {
            let known = self.topics.get(&topic.id);
            known.is_some_and(|known| Arc::ptr_eq(known, topic))
        };
        let topics = state.topics.values();
        let news = topics.filter(|topic| all || !is_known(topic));
        news.map(Arc::as_ref).collect()
    }

    /// The partitions of such a topic whose replicas have to be looked at.
    fn news_of<'a>(
        &self,
        state: &ClusterState,
        topic: &'a TopicRecord,
    ) -> Vec<(TopicPartition, &'a PartitionRecord)> {
        let known = self.topics.get(&topic.id).filter(|known| {
            // All are told of these.
            known.config == topic.config && self.brokers == state.brokers
        });
        let known = known.map_or(&[][..], |known| &known.partitions);
        let is_known = |index: u32, record: &Arc<PartitionRecord>| {
            let known = known.get(index as usize);
            known.is_some_and(|known| Arc::ptr_eq(known, record))
        };
        partitions_of(topic)
            .zip(&topic.partitions)
            .filter(|(id, record)| !is_known(id.partition.0, record))
            .map(|(id, record)| (id, record.as_ref()))
            .collect()
    }

    /// The partitions of topics that are no more.
    fn gone_from(&self, state: &ClusterState) -> Vec<TopicPartition> {
        let gone = |topic: &&Arc<TopicRecord>| !state.topics.contains_key(&topic.id);
        let topics = self.topics.values().filter(gone);
        topics.flat_map(|topic| partitions_of(topic)).collect()
    }
}

/// A replica that the metadata places here.
enum ReplicaHere {
    /// Its log is being opened. Then it is asked what the controller has asked meanwhile.
    Opening { fence: Option<LeaderEpoch> },
    /// It runs; view and policy are what it was last told.
    Running {
        actor: Addr<Partition>,
        view: Box<PartitionView>,
        policy: TopicPolicy,
    },
    /// Its log could not be opened. It takes no part until the next start, unless there was only too
    /// little of something: then it is opened again after a while.
    Failed,
    /// It is gone from the metadata while its log is still being opened.
    Abandoned,
    /// It is gone from the metadata, and its files are being put away. Nothing is opened in their
    /// place before that is done.
    Leaving,
}

/// A replica's log has been opened, or not.
#[derive(Message)]
#[rtype(result = "()")]
struct Opened {
    partition: TopicPartition,
    result: Result<OpenedReplica, hosting::HostingError>,
}

/// The files of a replica that is gone have been put away, as far as that was possible.
#[derive(Message)]
#[rtype(result = "()")]
struct PutAway(TopicPartition);

impl Router {
    /// The router of this broker; replicas are spread over `workers`, their groups are coordinated
    /// on the thread of `coordinating`.
    pub fn new(
        shared: Arc<Shared>,
        around: Surroundings,
        directory: Arc<DataDir>,
        workers: Workers,
        coordinating: ArbiterHandle,
    ) -> Self {
        let data_dir = shared.config.broker.data_dir.clone();
        Router {
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
            openings: Arc::new(Semaphore::new(OPENINGS_MAX)),
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
                let control = self.around.control.clone();
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
            Some(ReplicaHere::Running {
                actor,
                view,
                policy,
            }) => {
                if topic.config.policy != *policy {
                    *policy = topic.config.policy;
                    if let Some(hosted) = self.shared.routes.get(&partition) {
                        let keyed = policy.cleanup().compacts();
                        hosted.keyed.store(keyed, Ordering::Relaxed);
                    }
                    actor.do_send(PolicyChanged(*policy));
                }
                let now = view_of(state, topic, record);
                if now != **view {
                    actor.do_send(ViewChanged(now.clone()));
                    **view = now;
                }
            }
            Some(ReplicaHere::Opening { .. } | ReplicaHere::Failed | ReplicaHere::Leaving) => {}
            Some(abandoned @ ReplicaHere::Abandoned) => {
                *abandoned = ReplicaHere::Opening { fence: None };
            }
            None => {
                let opening = ReplicaHere::Opening { fence: None };
                self.replicas.insert(partition, opening);
                let data_dir = self.data_dir.clone();
                let config = self.shared.config.clone();
                let inherited = self.inherited.as_ref();
                let expected = inherited.is_some_and(|inherited| inherited.contains(&partition));
                let trust = if self.directory.has_failed() {
                    Trust::OnlyTheMark
                } else {
                    Trust::PageCache
                };
                let caretaker = self.around.caretaker.clone();
                let turns = self.openings.clone();
                let address = ctx.address();
                actix::spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    let open = move || {
                        hosting::open(&data_dir, partition, expected, trust, &config, &caretaker)
                    };
                    let result = match tokio::task::spawn_blocking(open).await {
                        Ok(result) => result,
                        Err(error) => Err(hosting::HostingError::Panicked(error.to_string())),
                    };
                    address.do_send(Opened { partition, result });
                });
            }
        }
    }

    /// Topics that were deleted while this broker was away, or that nobody knows.
    fn put_unknown_aside(&self, state: &ClusterState) {
        let known = |topic| state.topics.contains_key(&topic);
        if let Err(error) = hosting::put_unknown_aside(&self.data_dir, known) {
            tracing::error!(%error, "the data of topics that are unknown could not be put aside");
        }
    }

    /// The topic was deleted, or the replica moved away. Its files are put away once nobody writes
    /// them any more.
    fn drop_replica(
        &mut self,
        state: &ClusterState,
        partition: TopicPartition,
        ctx: &mut Context<Self>,
    ) {
        let Some(replica) = self.replicas.get_mut(&partition) else {
            return;
        };
        let actor = match std::mem::replace(replica, ReplicaHere::Leaving) {
            ReplicaHere::Running { actor, .. } => Some(actor),
            ReplicaHere::Failed => None,
            // The opening makes files: it has to end first.
            ReplicaHere::Opening { .. } | ReplicaHere::Abandoned => {
                *replica = ReplicaHere::Abandoned;
                return;
            }
            ReplicaHere::Leaving => return,
        };
        self.shared.routes.remove(&partition);
        let deleted = !state.topics.contains_key(&partition.topic);
        self.put_away(partition, actor, deleted, ctx);
    }

    /// Puts a replica's files away when its actor, if it has one, has closed the log. To remove
    /// gigabytes takes long, so it is done on a thread that may wait; one replica after the other,
    /// which leaves the disk to those who write.
    fn put_away(
        &self,
        partition: TopicPartition,
        actor: Option<Addr<Partition>>,
        deleted: bool,
        ctx: &mut Context<Self>,
    ) {
        let data_dir = self.data_dir.clone();
        let control = self.around.control.clone();
        let turns = self.removals.clone();
        let address = ctx.address();
        actix::spawn(async move {
            if let Some(actor) = actor
                && let Err(error) = actor.send(ClosePartition).await
            {
                tracing::warn!(%partition, %error, "a replica did not close");
            }
            control.report(Report::Trouble(partition, None));
            let turn = turns.acquire_owned().await;
            let retire = move || hosting::retire(&data_dir, partition, deleted);
            let result = match tokio::task::spawn_blocking(retire).await {
                Ok(result) => result,
                Err(error) => Err(hosting::HostingError::Panicked(error.to_string())),
            };
            drop(turn);
            if let Err(error) = result {
                tracing::error!(%partition, %error, "the data of a replica that is gone could not be put away");
            }
            address.do_send(PutAway(partition));
        });
    }

    /// This broker is registered as what it is, and all logs have been opened with that in mind: what
    /// befell earlier processes need not be known any longer.
    fn settle(&mut self) {
        let is_open = |replica: &ReplicaHere| match replica {
            ReplicaHere::Running { .. } => true,
            ReplicaHere::Opening { .. } | ReplicaHere::Failed => false,
            // Not of this broker any more.
            ReplicaHere::Abandoned | ReplicaHere::Leaving => true,
        };
        if self.settled || !self.replicas.values().all(is_open) {
            return;
        }
        self.settled = true;
        let forget = self.directory.restart_is_known();
        let forget = forget.and_then(|()| Ok(self.directory.failure_is_known()?));
        if let Err(error) = forget {
            tracing::warn!(%error, "what befell an earlier process is remembered once more at the next start");
        }
    }

    /// The replica takes no part until the next start, or until there is enough again of what there
    /// was too little of. Whoever asks for it is told why, and so is whoever asks how the cluster is.
    fn fail_replica(
        &mut self,
        partition: TopicPartition,
        error: &hosting::HostingError,
        ctx: &mut Context<Self>,
    ) {
        let record = self.state.as_ref().and_then(|s| record_of(s, &partition));
        let name = record.map(|(topic, _)| name_of(topic, partition));
        let shortage = error.shortage();
        if shortage.is_some() {
            ctx.run_later(OPEN_AGAIN_AFTER, move |router, ctx| {
                router.forget_and_follow(partition, ctx);
            });
        }
        // Said once, however often it is tried.
        if self.shared.routes.failure(&partition).is_none() {
            tracing::error!(%partition, name, %error, "a replica's log cannot be used; the replica takes no part, its files are left as they are");
        }
        let (code, text) = match shortage {
            Some(of) => (
                ErrorCode::StorageFull,
                format!(
                    "cannot open its log ({error}): it has no {}; {}; it tries again by itself",
                    of.what(),
                    of.remedy()
                ),
            ),
            None => (
                ErrorCode::StorageFailed,
                format!("cannot use its log ({error}); it tries again when it is restarted"),
            ),
        };
        let report = Report::Trouble(partition, Some(text.clone()));
        self.around.control.report(report);
        let why = WireError::new(code, text);
        self.shared.routes.fail(partition, why);
        self.replicas.insert(partition, ReplicaHere::Failed);
    }

    /// Begins anew with a replica that does not run: its files have been put away, or its log could
    /// not be opened. The metadata may want it here, now or again.
    fn forget_and_follow(&mut self, partition: TopicPartition, ctx: &mut Context<Self>) {
        let (Some(ReplicaHere::Leaving | ReplicaHere::Failed), Some(me)) =
            (self.replicas.get(&partition), self.shared.me())
        else {
            return;
        };
        self.replicas.remove(&partition);
        let Some(state) = self.state.take() else {
            return;
        };
        if let Some((topic, record)) = record_of(&state, &partition)
            && record.replicas.contains(&me.broker)
        {
            self.follow_partition(&state, topic, partition, record, ctx);
        }
        self.state = Some(state);
    }

    fn start_replica(
        &mut self,
        partition: TopicPartition,
        opened: OpenedReplica,
        fence: Option<LeaderEpoch>,
    ) {
        let (Some(state), Some(me)) = (&self.state, self.shared.me()) else {
            return;
        };
        let Some((topic, record)) = record_of(state, &partition) else {
            return;
        };
        let view = view_of(state, topic, record);
        let (watermark, watermark_changes) = watch::channel(baton_protocol::ids::Offset::ZERO);
        let name = name_of(topic, partition);
        let damage = opened.damage.as_ref().map(ToString::to_string);
        let reader = opened.reader.clone();
        let worker = self.workers.of_partition(&partition);
        let links = worker.links.up();
        let config = self.shared.config.core();
        let driver = opened.into_driver(me, config, view.clone(), links);
        let around = self.around.clone();
        let links = worker.links.clone();
        let awake = Arc::new(AtomicBool::new(true));
        let is_of_groups = topic.name == GROUPS_TOPIC;
        let (lead, lead_changes) = watch::channel(None);
        let told = Told {
            watermark,
            awake: awake.clone(),
            lead: is_of_groups.then_some(lead),
        };
        let replica = Partition::new(partition, name, driver, damage, links, around, told);
        let actor = Partition::start_in_arbiter(&worker.arbiter, |_| replica);
        let coordinator = is_of_groups.then(|| {
            let shared = self.shared.clone();
            let (owner, reader) = (actor.clone(), reader.clone());
            Coordinator::start_in_arbiter(&self.coordinating, move |_| {
                Coordinator::new(partition, shared, owner, reader, lead_changes)
            })
        });
        // First it can be found, then it speaks: of two replicas that begin at the same time the one
        // that spoke last is heard by the other, and nobody has to ask again.
        let policy = topic.config.policy;
        let hosted = Hosted {
            actor: actor.clone(),
            reader,
            watermark: watermark_changes,
            lane: worker.lane,
            awake,
            keyed: Arc::new(AtomicBool::new(policy.cleanup().compacts())),
            coordinator,
        };
        if self.shared.routes.insert(partition, hosted) {
            tracing::info!(%partition, "a replica's log could be opened after all");
            self.around.control.report(Report::Trouble(partition, None));
        }
        // First: the view may have it lead, and begin a segment.
        actor.do_send(PolicyChanged(policy));
        actor.do_send(ViewChanged(view.clone()));
        // A link may have changed between the look above and now: said again, it does no harm.
        let lane = worker.lane;
        for peer in worker.links.up() {
            let up = true;
            actor.do_send(LinkChanged { peer, lane, up });
        }
        if let Some(epoch) = fence {
            actor.do_send(Fence(epoch));
        }
        let running = ReplicaHere::Running {
            actor,
            view: Box::new(view),
            policy,
        };
        self.replicas.insert(partition, running);
    }
}

/// A topic's partitions, in order.
fn partitions_of(topic: &TopicRecord) -> impl Iterator<Item = TopicPartition> + use<> {
    let (topic, count) = (topic.id, topic.partitions.len() as u32);
    (0..count).map(move |index| TopicPartition {
        topic,
        partition: PartitionIndex(index),
    })
}

/// A partition as people know it.
fn name_of(topic: &TopicRecord, partition: TopicPartition) -> String {
    format!("{}/{}", topic.name, partition.partition)
}

fn record_of<'a>(
    state: &'a ClusterState,
    partition: &TopicPartition,
) -> Option<(&'a TopicRecord, &'a PartitionRecord)> {
    let topic = state.topics.get(&partition.topic)?;
    Some((topic.as_ref(), topic.partition(partition.partition)?))
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
                Some(ReplicaHere::Running { actor, .. }) => actor.do_send(Fence(epoch)),
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
        if let Some(ReplicaHere::Running { actor, .. }) = self.replicas.get(&partition) {
            actor.do_send(HandOver { epoch, to });
        }
    }
}

impl Handler<SetChangesRefused> for Router {
    type Result = ();

    fn handle(&mut self, SetChangesRefused(refused): SetChangesRefused, _: &mut Self::Context) {
        for (partition, version) in refused {
            if let Some(ReplicaHere::Running { actor, .. }) = self.replicas.get(&partition) {
                actor.do_send(SetChangeRefused(version));
            }
        }
    }
}

impl Handler<LinkChanged> for Router {
    type Result = ();

    fn handle(&mut self, link: LinkChanged, _: &mut Self::Context) {
        for (partition, replica) in &self.replicas {
            if let ReplicaHere::Running { actor, .. } = replica
                && self.workers.of_partition(partition).lane == link.lane
            {
                actor.do_send(link);
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

impl Handler<Opened> for Router {
    type Result = ();

    fn handle(&mut self, Opened { partition, result }: Opened, ctx: &mut Self::Context) {
        let fence = match self.replicas.get_mut(&partition) {
            Some(ReplicaHere::Opening { fence }) => *fence,
            Some(abandoned @ ReplicaHere::Abandoned) => {
                *abandoned = ReplicaHere::Leaving;
                drop(result);
                let state = self.state.as_ref();
                let deleted = state.is_some_and(|s| !s.topics.contains_key(&partition.topic));
                return self.put_away(partition, None, deleted, ctx);
            }
            _ => return,
        };
        match result {
            Ok(opened) => {
                self.start_replica(partition, opened, fence);
                self.settle();
            }
            Err(error) => self.fail_replica(partition, &error, ctx),
        }
    }
}

impl Handler<PutAway> for Router {
    type Result = ();

    fn handle(&mut self, PutAway(partition): PutAway, ctx: &mut Self::Context) {
        self.forget_and_follow(partition, ctx);
    }
}

impl Handler<CloseAll> for Router {
    type Result = ResponseFuture<bool>;

    /// A replica that never opened may have a log that is not durable.
    fn handle(&mut self, _: CloseAll, _: &mut Self::Context) -> Self::Result {
        let replicas = std::mem::take(&mut self.replicas).into_values();
        let (mut closing, mut good) = (Vec::new(), true);
        for replica in replicas {
            match replica {
                ReplicaHere::Running { actor, .. } => closing.push(actor.send(ClosePartition)),
                ReplicaHere::Opening { .. } | ReplicaHere::Failed => good = false,
                ReplicaHere::Abandoned | ReplicaHere::Leaving => {}
            }
        }
        Box::pin(async move {
            for close in closing {
                match close.await {
                    Ok(closed) => good &= closed,
                    Err(error) => {
                        tracing::warn!(%error, "a replica did not close");
                        good = false;
                    }
                }
            }
            good
        })
    }
}

#[cfg(test)]
mod tests;
