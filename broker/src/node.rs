//! One broker, wired together: the one file that knows all parts.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix::{Actor, System};
use anyhow::Context;
use baton_protocol::ids::{ClusterId, ProcessId};
use baton_raft::{ConfiguredVoter, RaftConfig, RaftFailure, RaftNode};
use baton_storage::DropBehind;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::actors::control_link::{ControlLink, DiskProgress, Keeper, Registration};
use crate::actors::controller::Controller;
use crate::actors::flusher::Flusher;
use crate::actors::inbound;
use crate::actors::messages::CloseAll;
use crate::actors::partition::Surroundings;
use crate::actors::router::Router;
use crate::actors::routes::Routes;
use crate::actors::session::Session;
use crate::actors::timer;
use crate::actors::workers::{OwnArbiter, Workers};
use crate::caretaker::Caretaker;
use crate::clock::Clock;
use crate::cold_reads::ColdReads;
use crate::config::{Config, Voter};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::groups::topic::GroupsTopic;
use crate::inspect::events::Events;
use crate::net::listener::listen;
use crate::producer_ids::ProducerIds;
use crate::shared::{Known, Shared};
use crate::{data_dir, disk_probe, http, os_limits};

/// How long a proper end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a broker until it is told to end (SIGINT, SIGTERM) or cannot go on.
pub fn run(config: Config) -> anyhow::Result<()> {
    run_until(config, until_told_to_end())
}

/// Runs a broker on this thread, and threads of its own, until `told_to_end` is done or it cannot go
/// on. When this returns its threads have ended, or are about to, and its data directory is free.
pub fn run_until(
    config: Config,
    told_to_end: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let system = System::new();
    let workers = Workers::start(config.broker.threads);
    let deciding = OwnArbiter::start();
    let coordinating = OwnArbiter::start();
    let threads = Threads {
        workers: &workers,
        deciding: &deciding,
        coordinating: &coordinating,
    };
    let result = system.block_on(serve(config, threads, told_to_end));
    workers.end();
    deciding.end();
    coordinating.end();
    System::current().stop();
    result
}

/// Where actors live.
struct Threads<'a> {
    workers: &'a Workers,
    /// The controller's.
    deciding: &'a OwnArbiter,
    /// That of the coordinators of groups.
    coordinating: &'a OwnArbiter,
}

async fn serve(
    config: Config,
    threads: Threads<'_>,
    told_to_end: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let Threads {
        workers,
        deciding,
        coordinating,
    } = threads;
    let broker = config.broker_id();
    let directory = Arc::new(DataDir::open(&config.broker.data_dir, broker)?);
    os_limits::check(directory.path(), config.limits.connections_max)?;
    let clients = listen(
        &config.broker.listen,
        "broker.listen",
        "broker.listen or --listen",
    )?;
    let peers = listen(
        &config.broker.peer_listen,
        "broker.peer_listen",
        "broker.peer_listen or --peer-listen",
    )?;
    let web = listen(
        &config.broker.http_listen,
        "broker.http_listen",
        "broker.http_listen or --http-listen",
    )?;
    let raft = start_raft(&config)?;
    let clock = Clock::default();
    let (control, reports) = ControlLink::new();
    let shared = Arc::new(Shared {
        broker,
        bound_to: data_dir::cluster_of(directory.path())?,
        routes: Routes::default(),
        cold_reads: ColdReads::default(),
        control,
        clock,
        events: Events::default(),
        known: watch::Sender::new(Known::default()),
        producer_ids: ProducerIds::default(),
        groups_topic: GroupsTopic::default(),
        in_flight_bytes: Arc::new(Semaphore::new(config.limits.in_flight_bytes)),
        // Each takes memory for what a batch may become at most.
        expansions: Arc::new(Semaphore::new(1)),
        controller_heard: watch::Sender::new(None),
        connections: AtomicUsize::new(0),
        life: watch::Sender::new(None),
        config,
    });
    timer::start(workers, &shared.routes);
    let disk = DiskProgress::default();
    disk_probe::start(directory.path(), &disk);
    let failure = Failure::new(directory.path());
    let scrub_rate = shared.config.log.scrub_bytes_per_second;
    let compaction_rate = shared.config.log.compaction_bytes_per_second;
    let drop_behind = DropBehind::new(shared.config.log.page_cache_bytes);
    let around = Surroundings {
        shared: shared.clone(),
        caretaker: Caretaker::start(scrub_rate, compaction_rate, failure.clone())
            .context("the thread that looks after the logs cannot start")?,
        failure,
        flusher: Flusher::start_all(drop_behind.clone()),
        drop_behind,
    };
    let router = Router::new(
        Arc::new(around),
        directory.clone(),
        workers.clone(),
        coordinating.handle(),
    );
    let router = router.start();
    let controller_config = baton_controller::core::Config {
        session_timeout_ms: shared.config.cluster.session_timeout_ms,
        fresh_cluster_id: ClusterId(uuid::Uuid::new_v4()),
    };
    let controller = {
        let raft = raft.clone();
        Controller::start_in_arbiter(&deciding.handle(), move |_| {
            Controller::new(broker, controller_config, clock, raft)
        })
    };
    actix::spawn(inbound::accept(
        peers,
        shared.clone(),
        workers.clone(),
        controller,
    ));
    actix::spawn(accept_clients(clients, shared.clone(), workers.clone()));
    let web = http::serve(web.into_std()?, shared.clone())?;
    let web_handle = web.handle();
    actix::spawn(web);
    let registration = Registration {
        directory: directory.directory(),
        client_address: shared.config.broker.client_address().to_owned(),
        peer_address: shared.config.broker.peer_address().to_owned(),
        log_lost: directory.has_failed(),
        shown_life: directory.last_life()?,
        process: ProcessId(uuid::Uuid::new_v4()),
        unclean_restart: directory.machine_restarted_uncleanly(),
    };
    let control_link = start_control_link(Keeper::new(
        shared.clone(),
        router.clone(),
        registration,
        directory.clone(),
        disk,
        reports,
    ))?;
    tracing::info!(broker = %broker, listen = shared.config.broker.listen, "broker started");
    let failure = tokio::select! {
        ended = told_to_end => ended.map(|()| None)?,
        failure = raft_failure(raft.as_ref()) => Some(failure),
    };
    tracing::info!("ending");
    let noted = match tokio::time::timeout(CLOSE_TIMEOUT, router.send(CloseAll)).await {
        Ok(Ok(true)) => directory.note_clean_end(),
        Ok(_) => Ok(()),
        Err(_) => {
            tracing::warn!(
                "the replicas did not close in time; their logs are checked at the next start"
            );
            Ok(())
        }
    };
    web_handle.stop(false).await;
    control_link.end();
    if let Some(failure) = failure {
        // It is the cause of whatever else goes wrong on this disk.
        return Err(failure.into());
    }
    noted?;
    if let Some(raft) = raft {
        raft.shutdown().await;
    }
    Ok(())
}

/// Waits until this broker's Raft member cannot go on. It cannot be replaced within the process, and
/// a broker that goes on without it looks healthy while the cluster lacks a voter.
async fn raft_failure(raft: Option<&RaftNode>) -> RaftFailure {
    match raft {
        Some(raft) => raft.failed().await,
        None => std::future::pending().await,
    }
}

fn start_raft(config: &Config) -> anyhow::Result<Option<RaftNode>> {
    if !config.is_voter() {
        return Ok(None);
    }
    let raft = RaftConfig {
        dir: config.broker.data_dir.join("raft"),
        broker: config.broker_id(),
        address: config.broker.raft_listen.clone(),
        voters: config.cluster.voters.iter().map(configured).collect(),
        cluster_id: data_dir::cluster_of(&config.broker.data_dir)?,
        heartbeat_interval_ms: config.raft.heartbeat_interval_ms,
        election_timeout_min_ms: config.raft.election_timeout_min_ms,
        election_timeout_max_ms: config.raft.election_timeout_max_ms,
    };
    // It brings its own threads, and is started on one that belongs to no runtime.
    let started = std::thread::spawn(move || RaftNode::start(raft)).join();
    let node = started.map_err(|_| anyhow::anyhow!("the thread that starts Raft panicked"))??;
    Ok(Some(node))
}

fn configured(voter: &Voter) -> ConfiguredVoter {
    ConfiguredVoter {
        broker: voter.broker,
        address: voter.address.clone(),
    }
}

async fn accept_clients(listener: TcpListener, shared: Arc<Shared>, workers: Workers) {
    for worker in workers.iter().cycle() {
        match listener.accept().await {
            Ok((socket, from)) => {
                let shared = shared.clone();
                let allowed = shared.admit();
                if !allowed {
                    tracing::warn!(%from, "a client is turned away: limits.connections_max are connected");
                    continue;
                }
                let socket = socket.into_std();
                worker.arbiter.spawn_fn(move || {
                    let socket = socket.and_then(tokio::net::TcpStream::from_std);
                    let served = socket.and_then(|socket| Session::serve(socket, shared.clone()));
                    if let Err(error) = served {
                        shared.release();
                        tracing::warn!(%from, %error, "a client's connection could not be served");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The session with the controller, which goes on until this is dropped or told to end.
struct RunningControlLink {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl RunningControlLink {
    /// Ends the session; the data directory is then no longer held by it.
    fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the controller's session panicked");
        }
    }
}

/// The session with the controller has a thread of its own: a busy broker must not look dead.
fn start_control_link(keeper: Keeper) -> anyhow::Result<RunningControlLink> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the thread of the controller's session cannot start")?;
    let (stop, stopped) = oneshot::channel::<()>();
    let run = async move {
        tokio::select! {
            () = keeper.run() => {}
            _ = stopped => {}
        }
    };
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(run))
        .context("the thread of the controller's session cannot start")?;
    Ok(RunningControlLink { stop, thread })
}

/// Waits for a signal.
async fn until_told_to_end() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
