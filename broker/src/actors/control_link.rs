//! This broker's session with the active controller: finds it, registers, sends heartbeats, hands
//! on what it says.
//!
//! Runs on a thread of its own, so that a busy arbiter never makes this broker look dead.

mod lonely;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::Addr;
use baton_controller::command::{Handover, OffsetGrant, SetChange};
use baton_controller::session::{FenceAnswer, FromController, ToController};
use baton_protocol::admin::{AdminRequest, AdminResponse};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, ProcessId, TopicId, TopicPartition,
};
use baton_protocol::peer::{Opening, OpeningReply, PEER_PROTOCOL_VERSION};
use baton_replication::event as core;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use self::lonely::Lonely;
use crate::actors::messages::{
    ControllerKnown, FencePartitions, HandOverPartition, MetadataCommands, MetadataSnapshot,
    Registered, SetChangesRefused,
};
use crate::actors::router::Router;
use crate::data_dir::{self, DataDir};
use crate::net::connection::{self, ConnectionError, FrameReader, Outgoing};
use crate::shared::Shared;

/// How long reports are collected before they leave together: a broker's death changes the sets of
/// all its partitions at once.
const COLLECT: Duration = Duration::from_millis(5);

/// How long a candidate may take to say whether it is the controller.
const WELCOME_TIMEOUT: Duration = Duration::from_millis(250);

/// Silence after which another controller is looked for, at least.
const SILENCE_MIN: Duration = Duration::from_millis(600);

/// Pause after a round in which nobody was the controller.
const ROUND_PAUSE: Duration = Duration::from_millis(25);

/// How long a request to the controller may take, finding it included.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Most partitions that one message is about: a frame has a limit, and a broker's death or a full disk
/// concerns all replicas on it.
const TOGETHER_MAX: usize = 1_000;

/// Most reports that are collected together.
const REPORTS_MAX: usize = 10_000;

/// What the parts of a broker tell the controller.
pub enum Report {
    /// A fence is answered.
    FenceAnswer(TopicPartition, core::FenceAnswer),
    /// A leader asks for another in-sync set.
    SetChange(TopicPartition, core::SetProposal),
    /// A leader asks for room for offsets.
    Offsets(TopicPartition, LeaderEpoch, Offset),
    /// A leader proposes its successor.
    Handover(TopicPartition, core::HandoverProposal),
    /// A log was found missing or damaged.
    Suspect(TopicPartition),
    /// Why a replica cannot do its part, in words that follow "broker 1"; none where that is over.
    Trouble(TopicPartition, Option<String>),
    /// A connection to this life of a broker was refused.
    ConnectionRefused(BrokerId, BrokerEpoch),
    /// A request, with where its answer goes.
    Ask(
        AdminRequest,
        oneshot::Sender<Result<AdminResponse, WireError>>,
    ),
}

/// Reaches the controller from anywhere in this broker. Cheap to clone.
#[derive(Clone)]
pub struct ControlLink {
    reports: mpsc::UnboundedSender<Report>,
}

impl ControlLink {
    /// A link, and the end of it that [`run`] takes.
    pub fn new() -> (ControlLink, mpsc::UnboundedReceiver<Report>) {
        let (reports, receiver) = mpsc::unbounded_channel();
        (ControlLink { reports }, receiver)
    }

    /// Tells the controller, now or when there is one again.
    pub fn report(&self, report: Report) {
        // The thread ends with the process only.
        drop(self.reports.send(report));
    }

    /// Asks the controller.
    pub async fn ask(&self, request: AdminRequest) -> Result<AdminResponse, WireError> {
        let (answer, answered) = oneshot::channel();
        self.report(Report::Ask(request, answer));
        match timeout(ASK_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(WireError::new(
                ErrorCode::NoController,
                "no controller answered in time; the change may yet be made, look before you retry",
            )),
        }
    }
}

/// Counts operations of the disk that ended; the heartbeat carries it.
#[derive(Clone, Default)]
pub struct DiskProgress(Arc<AtomicU64>);

impl DiskProgress {
    /// One more has ended.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A look from which nothing follows: the count may be gone.
    pub fn downgrade(&self) -> WeakDiskProgress {
        WeakDiskProgress(Arc::downgrade(&self.0))
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A [`DiskProgress`] that is gone when nobody looks at it any more.
#[derive(Clone, Debug)]
pub struct WeakDiskProgress(Weak<AtomicU64>);

impl WeakDiskProgress {
    /// The count, if somebody looks at it.
    pub fn upgrade(&self) -> Option<DiskProgress> {
        self.0.upgrade().map(DiskProgress)
    }
}

/// What this broker says of itself when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its data directory.
    pub directory: baton_protocol::ids::DirectoryId,
    /// Where clients reach it.
    pub client_address: String,
    /// Where brokers reach it.
    pub peer_address: String,
    /// Its disk may have lost acknowledged entries.
    pub log_lost: bool,
    /// The last life that its disk shows.
    pub shown_life: Option<BrokerEpoch>,
    /// This process.
    pub process: ProcessId,
    /// The machine has restarted since the last process, which did not end properly.
    pub unclean_restart: bool,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("it does not answer")]
    Silent,
    #[error("it is not the controller")]
    NotController(Option<BrokerId>),
    #[error("it refuses: {0}")]
    Rejected(WireError),
    #[error("it closed the connection")]
    Closed,
}

/// The session's state between connections.
pub struct Keeper {
    shared: Arc<Shared>,
    router: Addr<Router>,
    registration: Registration,
    data_dir: Arc<DataDir>,
    disk: DiskProgress,
    reports: mpsc::UnboundedReceiver<Report>,
    waiting: HashMap<u64, oneshot::Sender<Result<AdminResponse, WireError>>>,
    next_request: u64,
    hint: Option<BrokerId>,
    /// The replicas' troubles, to be told again to the next controller.
    troubles: BTreeMap<TopicPartition, String>,
    /// The session that ended last had been one with the controller.
    greeted: bool,
}

impl Keeper {
    /// The keeper of this broker's session.
    pub fn new(
        shared: Arc<Shared>,
        router: Addr<Router>,
        registration: Registration,
        data_dir: Arc<DataDir>,
        disk: DiskProgress,
        reports: mpsc::UnboundedReceiver<Report>,
    ) -> Self {
        Keeper {
            shared,
            router,
            registration,
            data_dir,
            disk,
            reports,
            waiting: HashMap::new(),
            next_request: 0,
            hint: None,
            troubles: BTreeMap::new(),
            greeted: false,
        }
    }

    /// Keeps a session for as long as the process lives.
    pub async fn run(mut self) {
        let mut lonely = Lonely::since(Instant::now());
        loop {
            for address in self.candidates() {
                let outcome = self.session(&address).await;
                match &outcome {
                    Err(error) if !std::mem::take(&mut self.greeted) => {
                        lonely.tried(&address, error)
                    }
                    _ => lonely.had_company(Instant::now()),
                }
                match outcome {
                    Ok(()) => {}
                    // Asked first in the next round, if it is known where that broker is; if not, the
                    // other candidates are as good.
                    Err(SessionError::NotController(leader)) if self.knows(leader) => {
                        self.hint = leader;
                        break;
                    }
                    Err(error) => tracing::debug!(address, %error, "no session with a controller"),
                }
                self.router.do_send(ControllerKnown(None));
            }
            self.waiting.clear();
            let formed = self.shared.cluster_id().is_some();
            if let Some(complaint) = lonely.complaint(Instant::now(), formed) {
                tracing::warn!("{complaint}");
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    fn knows(&self, broker: Option<BrokerId>) -> bool {
        let known = self.shared.known.borrow();
        let brokers = known.state.as_ref().map(|state| &state.brokers);
        brokers
            .zip(broker)
            .is_some_and(|(brokers, id)| brokers.contains_key(&id))
    }

    /// Where the controller may be: where it is said to be, where the configuration points, and at
    /// every broker that is known.
    fn candidates(&mut self) -> Vec<String> {
        let known = self.shared.known.borrow().clone();
        let brokers = known.state.as_ref().map(|state| &state.brokers);
        let hinted = self.hint.take().and_then(|id| brokers?.get(&id));
        let mut addresses: Vec<String> =
            hinted.map(|b| b.peer_address.clone()).into_iter().collect();
        addresses.extend(self.shared.config.cluster.controllers.iter().cloned());
        addresses.extend(
            brokers
                .into_iter()
                .flatten()
                .map(|(_, b)| b.peer_address.clone()),
        );
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses
    }

    async fn session(&mut self, address: &str) -> Result<(), SessionError> {
        let greeting = timeout(WELCOME_TIMEOUT, self.greet(address)).await;
        let (mut reader, mut write, controller) = greeting.map_err(|_| SessionError::Silent)??;
        tracing::info!(address, %controller, "session with the controller");
        self.greeted = true;
        self.router.do_send(ControllerKnown(Some(controller)));
        let (out, mut queue) = mpsc::unbounded_channel();
        let writer =
            tokio::spawn(async move { connection::write_frames(&mut write, &mut queue).await });
        let result = self.converse(&mut reader, &out).await;
        writer.abort();
        if let Err(error) = &result {
            tracing::info!(address, %error, "the session with the controller ended");
        }
        result
    }

    async fn greet(
        &self,
        address: &str,
    ) -> Result<(FrameReader, tokio::net::tcp::OwnedWriteHalf, BrokerId), SessionError> {
        let socket = TcpStream::connect(address)
            .await
            .map_err(ConnectionError::from)?;
        connection::prepare(&socket).map_err(ConnectionError::from)?;
        let (read, mut write) = socket.into_split();
        let mut reader = FrameReader::new(read);
        let opening = Opening::Control {
            version: PEER_PROTOCOL_VERSION,
            cluster_id: self.shared.cluster_id(),
        };
        if let OpeningReply::Rejected(error) =
            connection::open(&mut write, &mut reader, &opening).await?
        {
            return Err(SessionError::Rejected(error));
        }
        let hello = ToController::Hello {
            broker: self.shared.broker,
            life: *self.shared.life.borrow(),
        };
        connection::write_one(&mut write, &hello).await?;
        match read_message(&mut reader).await? {
            FromController::Welcome { controller } => Ok((reader, write, controller)),
            FromController::NotController { leader } => Err(SessionError::NotController(leader)),
            FromController::Obsolete => obsolete(),
            _ => Err(SessionError::Closed),
        }
    }

    async fn converse(
        &mut self,
        reader: &mut FrameReader,
        out: &mpsc::UnboundedSender<Outgoing>,
    ) -> Result<(), SessionError> {
        let registered = self.shared.life.borrow().is_some();
        if !registered {
            let Registration {
                directory,
                client_address,
                peer_address,
                log_lost,
                shown_life,
                process,
                unclean_restart,
            } = self.registration.clone();
            send(
                out,
                &ToController::Register {
                    directory,
                    client_address,
                    peer_address,
                    log_lost,
                    shown_life,
                    process,
                    unclean_restart,
                },
            );
        }
        self.tell_troubles(self.troubles.keys().copied(), out);
        let interval = Duration::from_millis(self.shared.config.cluster.heartbeat_interval_ms);
        let silence_max = SILENCE_MIN.max(4 * interval);
        let mut beat = tokio::time::interval(interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        // When those heartbeats were sent that are not answered yet; answers come in order.
        let mut unanswered = VecDeque::new();
        loop {
            tokio::select! {
                message = read_message(reader) => {
                    heard_at = Instant::now();
                    let message = message?;
                    if let FromController::HeartbeatAck { alive } = message {
                        let sent_at = unanswered.pop_front().filter(|_| alive);
                        self.shared.controller_heard.send_if_modified(|heard| {
                            *heard = sent_at.max(*heard);
                            false
                        });
                    }
                    self.hear(message)?;
                }
                _ = beat.tick() => {
                    if heard_at.elapsed() > silence_max {
                        return Err(SessionError::Silent);
                    }
                    let disk_progress = self.disk.now();
                    unanswered.push_back(self.shared.clock.now());
                    send(out, &ToController::Heartbeat { disk_progress });
                }
                Some(report) = self.reports.recv() => self.collect(report, out).await,
            }
        }
    }

    fn hear(&mut self, message: FromController) -> Result<(), SessionError> {
        match message {
            FromController::Registered { epoch } => {
                // Before anything is done in this life, the disk shows it: another disk, or an older
                // copy of this one, is told from it by that.
                if let Err(error) = self.data_dir.remember_life(epoch) {
                    tracing::error!(%error, "this broker ends: its life cannot be written down");
                    std::process::exit(1);
                }
                tracing::info!(%epoch, "registered");
                self.shared.life.send_replace(Some(epoch));
                self.router.do_send(Registered(epoch));
            }
            FromController::Snapshot(state) => {
                // Before anybody acts on it: what lies in the directory of another cluster is none
                // of this one's business.
                if let Err(error) =
                    data_dir::bind_to_cluster(self.data_dir.path(), state.cluster_id)
                {
                    tracing::error!(%error, "this broker ends");
                    std::process::exit(1);
                }
                self.router.do_send(MetadataSnapshot(state));
            }
            FromController::Commands(commands) => self.router.do_send(MetadataCommands(commands)),
            FromController::Fence(fences) => self.router.do_send(FencePartitions(fences)),
            FromController::SetChangesRefused(refused) => {
                self.router.do_send(SetChangesRefused(refused));
            }
            FromController::HandOver(partition, epoch, to) => {
                self.router.do_send(HandOverPartition(partition, epoch, to));
            }
            FromController::AdminResult { id, result } => {
                if let Some(answer) = self.waiting.remove(&id) {
                    // Whoever asked may have given up.
                    drop(answer.send(result));
                }
            }
            FromController::HeartbeatAck { .. } | FromController::Welcome { .. } => {}
            FromController::NotController { leader } => {
                return Err(SessionError::NotController(leader));
            }
            FromController::Obsolete => obsolete(),
        }
        Ok(())
    }

    /// Sends a report, together with those that follow it closely.
    async fn collect(&mut self, first: Report, out: &mpsc::UnboundedSender<Outgoing>) {
        if matches!(
            first,
            Report::SetChange(..) | Report::FenceAnswer(..) | Report::Offsets(..)
        ) {
            sleep(COLLECT).await;
        }
        // Of several answers of one replica the last counts.
        let mut answers = BTreeMap::new();
        let mut changes = Vec::new();
        let (mut grants, mut handovers, mut suspects) = (Vec::new(), Vec::new(), Vec::new());
        let mut troubled = BTreeSet::new();
        let (mut next, mut reports) = (Some(first), 0);
        while let Some(report) = next {
            match report {
                Report::FenceAnswer(partition, answer) => {
                    answers.insert(partition, fence_answer(partition, &answer));
                }
                Report::SetChange(partition, proposal) => changes.push(SetChange {
                    partition,
                    epoch: proposal.epoch,
                    version: proposal.version,
                    new_set: proposal.new_set,
                    verified: proposal.verified,
                    sync_followers_elect: proposal.sync_followers_elect,
                }),
                Report::Offsets(partition, epoch, limit) => grants.push(OffsetGrant {
                    partition,
                    epoch,
                    limit,
                }),
                Report::Handover(partition, proposal) => handovers.push(Handover {
                    partition,
                    epoch: proposal.epoch,
                    version: proposal.version,
                    to: proposal.to,
                    log_end: proposal.log_end,
                }),
                Report::Suspect(partition) => suspects.push(partition),
                Report::Trouble(partition, trouble) => {
                    let had_one = self.troubles.remove(&partition).is_some();
                    if had_one || trouble.is_some() {
                        troubled.insert(partition);
                    }
                    self.troubles
                        .extend(trouble.map(|trouble| (partition, trouble)));
                }
                Report::ConnectionRefused(broker, epoch) => {
                    let life = BrokerLife { broker, epoch };
                    send(out, &ToController::ConnectionRefused { life });
                }
                Report::Ask(request, answer) => {
                    let id = self.next_request;
                    self.next_request += 1;
                    self.waiting.insert(id, answer);
                    let fresh_topic_id = TopicId(uuid::Uuid::new_v4());
                    send(
                        out,
                        &ToController::Admin {
                            id,
                            request,
                            fresh_topic_id,
                        },
                    );
                }
            }
            reports += 1;
            // Heartbeats go between.
            next = match reports < REPORTS_MAX {
                true => self.reports.try_recv().ok(),
                false => None,
            };
        }
        // Before the answers, so that those of a damaged log are known for what they are.
        send_some(out, suspects, ToController::ReportSuspect);
        let answers = answers.into_values().collect();
        send_some(out, answers, ToController::FenceAnswers);
        send_some(out, grants, ToController::AskOffsets);
        send_some(out, handovers, ToController::ProposeHandovers);
        send_some(out, changes, ToController::ProposeInSync);
        self.tell_troubles(troubled, out);
    }

    /// Tells how these replicas are.
    fn tell_troubles(
        &self,
        of: impl IntoIterator<Item = TopicPartition>,
        out: &mpsc::UnboundedSender<Outgoing>,
    ) {
        let troubles = of
            .into_iter()
            .map(|id| (id, self.troubles.get(&id).cloned()))
            .collect();
        send_some(out, troubles, ToController::ReplicaTroubles);
    }
}

fn fence_answer(partition: TopicPartition, answer: &core::FenceAnswer) -> FenceAnswer {
    FenceAnswer {
        partition,
        epoch: answer.epoch,
        last_epoch: answer.last_epoch,
        durable_end: answer.durable_end,
        log: answer.log,
        log_start: answer.log_start,
        life: answer.life,
        suspect: answer.suspect,
    }
}

/// Sends these, if there are any, in as many messages as it takes.
fn send_some<T>(
    out: &mpsc::UnboundedSender<Outgoing>,
    all: Vec<T>,
    message: impl Fn(Vec<T>) -> ToController,
) {
    let mut all = all.into_iter();
    loop {
        let some: Vec<T> = all.by_ref().take(TOGETHER_MAX).collect();
        if some.is_empty() {
            return;
        }
        send(out, &message(some));
    }
}

fn send(out: &mpsc::UnboundedSender<Outgoing>, message: &ToController) {
    match Outgoing::encode(message, bytes::Bytes::new()) {
        Ok(frame) => drop(out.send(frame)),
        Err(error) => tracing::error!(%error, "a message to the controller could not be encoded"),
    }
}

async fn read_message(reader: &mut FrameReader) -> Result<FromController, SessionError> {
    let frame = reader.next().await?.ok_or(SessionError::Closed)?;
    Ok(frame.message().map_err(ConnectionError::from)?)
}

/// Another process runs under this broker's id. Two cannot: this one ends.
fn obsolete() -> ! {
    tracing::error!(
        "another process has registered under this broker's id; this one ends. Give each broker an id of its own (broker.id)"
    );
    std::process::exit(1);
}
