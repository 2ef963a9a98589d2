//! The replicas of this broker, from the opening of their logs until their files are put away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use baton_controller::state::ClusterState;
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::GROUPS_TOPIC;
use baton_protocol::ids::{LeaderEpoch, TopicPartition};
use baton_protocol::metadata::{PartitionRecord, TopicRecord};
use baton_replication::event::PartitionView;
use baton_storage::Trust;
use tokio::sync::watch;

use super::{OPENINGS_MAX, Router, view_of};
use crate::actors::control_link::Report;
use crate::actors::coordinator::Coordinator;
use crate::actors::messages::{
    CloseAll, ClosePartition, Fence, LinkChanged, PolicyChanged, ViewChanged,
};
use crate::actors::partition::Partition;
use crate::actors::routes::{Hosted, Told};
use crate::hosting::{self, OpenedReplica};

/// How long it is waited before a log is opened again for which there was too little of something.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A replica that the metadata places here.
pub(super) enum ReplicaHere {
    /// Its log is being opened. Then it is asked what the controller has asked meanwhile.
    Opening { fence: Option<LeaderEpoch> },
    /// It runs; the view is what it was last told.
    Running {
        hosted: Arc<Hosted>,
        view: Arc<PartitionView>,
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
    /// Opens a replica's log, when it is its turn. Those that wait are a list of names: a task for each of
    /// thousands would leave holes in the memory that is taken for replicas meanwhile.
    pub(super) fn open_replica(&mut self, partition: TopicPartition, ctx: &mut Context<Self>) {
        self.to_open.push_back(partition);
        self.open_next(ctx);
    }

    fn open_next(&mut self, ctx: &mut Context<Self>) {
        while self.openings < OPENINGS_MAX
            && let Some(partition) = self.to_open.pop_front()
        {
            self.openings += 1;
            self.open_now(partition, ctx);
        }
        if self.to_open.is_empty() {
            self.to_open = VecDeque::new();
        }
    }

    fn open_now(&self, partition: TopicPartition, ctx: &mut Context<Self>) {
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
        let window = self.around.drop_behind.clone();
        let address = ctx.address();
        actix::spawn(async move {
            let open = move || {
                hosting::open(&data_dir, partition, expected, trust, &config, &caretaker)
                    .map(|opened| opened.dropping_behind(window))
            };
            let result = match tokio::task::spawn_blocking(open).await {
                Ok(result) => result,
                Err(error) => Err(hosting::HostingError::Panicked(error.to_string())),
            };
            address.do_send(Opened { partition, result });
        });
    }

    /// Topics that were deleted while this broker was away, or that nobody knows.
    pub(super) fn put_unknown_aside(&self, state: &ClusterState) {
        let known = |topic| state.topics.contains_key(&topic);
        if let Err(error) = hosting::put_unknown_aside(&self.data_dir, known) {
            tracing::error!(%error, "the data of topics that are unknown could not be put aside");
        }
    }

    /// The topic was deleted, or the replica moved away. Its files are put away once nobody writes
    /// them any more.
    pub(super) fn drop_replica(
        &mut self,
        state: &ClusterState,
        partition: TopicPartition,
        ctx: &mut Context<Self>,
    ) {
        let Some(replica) = self.replicas.get_mut(&partition) else {
            return;
        };
        let actor = match std::mem::replace(replica, ReplicaHere::Leaving) {
            ReplicaHere::Running { hosted, .. } => Some(hosted.actor.clone()),
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
        let control = self.shared.control.clone();
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
    pub(super) fn settle(&mut self) {
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
        let name = self.shared.name_of(partition);
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
        self.shared.control.report(report);
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
        let view = Arc::new(view_of(state, topic, record));
        let damage = opened.damage.as_ref().map(ToString::to_string);
        let reader = opened.reader.clone();
        let worker = self.workers.of_partition(&partition);
        let links = worker.links.up();
        let config = self.core.clone();
        let driver = opened.into_driver(me, config, view.clone(), links);
        let around = self.around.clone();
        let links = worker.links.clone();
        let policy = topic.config.policy;
        let told = Arc::new(Told {
            awake: AtomicBool::new(true),
            keyed: AtomicBool::new(policy.cleanup().compacts()),
            ..Told::default()
        });
        let groups_lead = (topic.name == GROUPS_TOPIC).then(|| watch::channel(None));
        let (lead, lead_changes) = groups_lead.unzip();
        let told_by_it = told.clone();
        let replica = Partition::new(partition, driver, damage, links, around, told_by_it, lead);
        let actor = Partition::start_in_arbiter(&worker.arbiter, |_| replica);
        let coordinator = lead_changes.map(|lead_changes| {
            let shared = self.shared.clone();
            let (owner, reader) = (actor.clone(), reader.clone());
            Coordinator::start_in_arbiter(&self.coordinating, move |_| {
                Coordinator::new(partition, shared, owner, reader, lead_changes)
            })
        });
        // First it can be found, then it speaks: of two replicas that begin at the same time the one
        // that spoke last is heard by the other, and nobody has to ask again.
        let hosted = Arc::new(Hosted {
            actor,
            reader,
            lane: worker.lane,
            told,
            coordinator,
        });
        let actor = &hosted.actor;
        if self.shared.routes.insert(partition, &hosted) {
            tracing::info!(%partition, "a replica's log could be opened after all");
            self.shared.control.report(Report::Trouble(partition, None));
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
        let running = ReplicaHere::Running { hosted, view };
        self.replicas.insert(partition, running);
    }
}

fn record_of<'a>(
    state: &'a ClusterState,
    partition: &TopicPartition,
) -> Option<(&'a TopicRecord, &'a PartitionRecord)> {
    let topic = state.topics.get(&partition.topic)?;
    Some((topic.as_ref(), topic.partition(partition.partition)?))
}

impl Handler<Opened> for Router {
    type Result = ();

    fn handle(&mut self, Opened { partition, result }: Opened, ctx: &mut Self::Context) {
        self.openings -= 1;
        self.open_next(ctx);
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
                ReplicaHere::Running { hosted, .. } => {
                    closing.push(hosted.actor.send(ClosePartition));
                }
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
