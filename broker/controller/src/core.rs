//! The controller's decisions: sessions, deaths, set changes; elections have a file of their own.
//!
//! [`ControllerCore::step`] is the one door. A core begins when its node takes the lead of the Raft
//! group, with the state as of then, and ends with that lead. It changes nothing itself: it proposes
//! commands, and acts on what comes back committed.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, MetadataIndex, Tick, TopicPartition,
};

use crate::admin::AdminWaiting;
use crate::command::{Command, Outcome, SetChange, SetChangeResult};
use crate::detector::Detector;
use crate::election::Election;
use crate::heartbeats::Heartbeats;
use crate::session::{FromController, ToController};
use crate::state::ClusterState;
use crate::troubles::ReplicaTroubles;

/// How long whoever forms a cluster has to give it an identity, in milliseconds.
const FORMING_MS: u64 = 2_000;

/// What can be tuned, and what only the outside can know.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a broker may be silent before it is held for dead, in milliseconds.
    pub session_timeout_ms: u64,
    /// A random identity, should the cluster have none: whoever formed it was cut off half way.
    pub fresh_cluster_id: ClusterId,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            session_timeout_ms: 1_000,
            fresh_cluster_id: ClusterId::default(),
        }
    }
}

/// One connection of a broker. Chosen by the host, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Names a proposal until its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed. Comes at least every 50 ms.
    Tick,
    /// A connection ended.
    Closed(SessionId),
    /// A broker said something. The first message of a connection opens its session.
    Message(SessionId, ToController),
    /// A command was committed. In order, without gaps.
    Applied(MetadataIndex, Command),
    /// What became of a proposal; comes after the command itself was `Applied`.
    Outcome(Token, Outcome),
    /// A proposal was not taken, or its fate is unknown.
    ProposalFailed(Token),
    /// This node led the Raft group for sure: what it sent then, or later, a majority of the voters has
    /// acknowledged since, so none of them had followed another by then.
    SurelyLed {
        /// In which term.
        term: u64,
        /// When, by the clock of the steps.
        at: Tick,
    },
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Have a command committed.
    Propose(Token, Command),
    /// Tell a broker.
    Send(SessionId, FromController),
    /// End a connection.
    Close(SessionId),
}

#[derive(Clone, Copy, Debug)]
struct Session {
    broker: BrokerId,
    /// The life it was given; none while it registers.
    life: Option<BrokerEpoch>,
}

impl Session {
    /// The life it speaks for.
    fn living(&self) -> Option<BrokerLife> {
        let broker = self.broker;
        self.life.map(|epoch| BrokerLife { broker, epoch })
    }
}

/// What a proposal was for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// Something that whoever wants it sees in the metadata, and asks for again.
    AskedAgain,
    Registration(SessionId),
    Fencing,
    Elections,
    /// It ends the reigns of leaders on these brokers.
    Depositions(BTreeSet<BrokerId>),
    SetChanges(SessionId, Vec<SetChange>),
    Admin(AdminWaiting),
}

/// The active controller.
#[derive(Clone, Debug)]
pub struct ControllerCore {
    pub(crate) me: BrokerId,
    pub(crate) term: u64,
    config: Config,
    pub(crate) state: ClusterState,
    sessions: BTreeMap<SessionId, Session>,
    /// What the brokers say of their own replicas.
    troubles: ReplicaTroubles,
    detector: Detector,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) elections: BTreeMap<TopicPartition, Election>,
    /// Something else than answers and time has happened that may decide elections.
    pub(crate) reconsider: bool,
    pub(crate) purposes: BTreeMap<Token, Purpose>,
    next_token: u64,
    fencing: bool,
    /// Brokers that were proposed to be fenced, until they are, or have shown that they live.
    pub(crate) doubted: BTreeSet<BrokerId>,
    starting: bool,
    in_office_since: Tick,
    forming: bool,
}

impl ControllerCore {
    /// The controller on broker `me`, leading the Raft group in `term`, with all that was committed
    /// before. Every broker gets a full session; unfinished elections are begun anew.
    pub fn new(me: BrokerId, term: u64, config: Config, state: ClusterState, now: Tick) -> Self {
        let mut core = ControllerCore {
            me,
            term,
            config,
            state,
            sessions: BTreeMap::new(),
            troubles: ReplicaTroubles::default(),
            detector: Detector::default(),
            heartbeats: Heartbeats::default(),
            elections: BTreeMap::new(),
            reconsider: false,
            purposes: BTreeMap::new(),
            next_token: 0,
            fencing: false,
            doubted: BTreeSet::new(),
            starting: true,
            in_office_since: now,
            forming: false,
        };
        core.watch_brokers(now);
        core
    }

    /// The Raft term that this controller acts in.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The state as of the last command.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Effect>) {
        // Before anything is judged by it: after a standstill the first input may be any.
        self.detector.tick(now);
        match input {
            Input::Tick => self.on_tick(now, out),
            Input::Closed(session) => self.on_closed(session, now, out),
            Input::Message(session, message) => self.on_message(session, message, now, out),
            Input::Applied(index, command) => self.on_applied(index, command, now, out),
            Input::Outcome(token, outcome) => self.on_outcome(token, outcome, now, out),
            Input::ProposalFailed(token) => self.on_failed(token, out),
            // In between the terms somebody else may have led.
            Input::SurelyLed { term, .. } if term != self.term => {}
            Input::SurelyLed { at, .. } => self.answer_heartbeats(at, out),
        }
    }

    pub(crate) fn propose(&mut self, command: Command, purpose: Purpose, out: &mut Vec<Effect>) {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.purposes.insert(token, purpose);
        out.push(Effect::Propose(token, command));
    }

    fn on_tick(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.starting) {
            // What the last controller asked may have been answered to it: ask again, in the next
            // epoch, so that no answer to it can be taken for one to this controller.
            let unfinished = self.state.partitions().filter(|(_, p)| p.leader.is_none());
            let elections: Vec<_> = unfinished.map(|(id, p)| (id, p.epoch)).collect();
            self.begin_elections(elections, out);
            self.depose_the_dead(out);
        }
        self.finish_forming(now, out);
        self.judge_brokers(now, out);
        self.repeat_fences(now, out);
        self.decide_by_time(now, out);
    }

    /// Gives a cluster an identity whose founder was cut off before it did. Only the first such
    /// command counts, whoever sends it.
    fn finish_forming(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let unformed = self.state.cluster_id == ClusterId::default();
        if unformed && !self.forming && now.since_ms(self.in_office_since) >= FORMING_MS {
            self.forming = true;
            let cluster_id = self.config.fresh_cluster_id;
            self.propose(Command::FormCluster { cluster_id }, Purpose::Elections, out);
        }
    }

    // ---- sessions ---------------------------------------------------------------------------

    fn on_closed(&mut self, id: SessionId, now: Tick, out: &mut Vec<Effect>) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.troubles.forget(id);
        self.heartbeats.forget(id);
        if self.session_of(session.broker).is_none() {
            self.detector.connected(session.broker, false, now);
            self.judge_brokers(now, out);
        }
    }

    /// What a broker says is the trouble with its replica.
    pub(crate) fn trouble_told(&self, broker: BrokerId, id: TopicPartition) -> Option<&str> {
        self.troubles.of(self.session_of(broker)?, id)
    }

    /// The connection of a broker's present life.
    pub(crate) fn session_of(&self, broker: BrokerId) -> Option<SessionId> {
        let life = self.state.life_of(broker)?;
        let mut sessions = self.sessions.iter().rev();
        sessions
            .find(|(_, session)| session.broker == broker && session.life == Some(life))
            .map(|(id, _)| *id)
    }

    fn on_message(
        &mut self,
        id: SessionId,
        message: ToController,
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        if let ToController::Hello { broker, life } = message {
            return self.on_hello(id, broker, life, now, out);
        }
        let Some(session) = self.sessions.get(&id).copied() else {
            return out.push(Effect::Close(id));
        };
        match message {
            ToController::Hello { .. } => {}
            ToController::Register {
                directory,
                client_address,
                peer_address,
                log_lost,
                shown_life,
                process,
                unclean_restart,
            } => {
                let command = Command::RegisterBroker {
                    id: session.broker,
                    directory,
                    client_address,
                    peer_address,
                    log_lost,
                    shown_life,
                    process,
                    unclean_restart,
                };
                self.propose(command, Purpose::Registration(id), out);
            }
            ToController::Heartbeat { disk_progress } => {
                let current = session.life == self.state.life_of(session.broker);
                if session.life.is_some() && !current {
                    // The registration of an earlier process may come last, and then none of the
                    // processes that live is known: whoever is not must end and begin anew.
                    out.push(Effect::Send(id, FromController::Obsolete));
                    return out.push(Effect::Close(id));
                }
                if session.life.is_some() {
                    self.detector
                        .heard(session.broker, disk_progress, &self.config, now);
                }
                self.owe(id, session.broker, now, out);
            }
            ToController::FenceAnswers(answers) => self.on_fence_answers(&answers, now, out),
            ToController::ReportSuspect(partitions) => {
                if let Some(life) = session.living() {
                    let command = Command::ReportSuspect { life, partitions };
                    self.propose(command, Purpose::AskedAgain, out);
                }
            }
            ToController::ReplicaTroubles(told) => {
                self.troubles.told(id, session.broker, told, &self.state);
            }
            ToController::AskOffsets(grants) => {
                if let Some(leader) = session.living() {
                    let command = Command::GrantOffsets { leader, grants };
                    self.propose(command, Purpose::AskedAgain, out);
                }
            }
            ToController::ProposeHandovers(handovers) => {
                if let Some(leader) = session.living() {
                    let command = Command::HandOver { leader, handovers };
                    self.propose(command, Purpose::AskedAgain, out);
                }
            }
            ToController::ProposeInSync(changes) => {
                let Some(leader) = session.living() else {
                    return;
                };
                let command = Command::ChangeInSync {
                    leader,
                    changes: changes.clone(),
                };
                self.propose(command, Purpose::SetChanges(id, changes), out);
            }
            ToController::ConnectionRefused { life } => {
                self.detector
                    .refused(life.broker, life.epoch, session.broker, now);
                self.judge_brokers(now, out);
            }
            ToController::Admin {
                id: request_id,
                request,
                fresh_topic_id,
            } => self.on_admin(id, request_id, request, fresh_topic_id, now, out),
        }
    }

    fn on_hello(
        &mut self,
        id: SessionId,
        broker: BrokerId,
        life: Option<BrokerEpoch>,
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        if self.state.cluster_id == ClusterId::default() {
            // The group leads, but the cluster is still being formed: who registered now would
            // be bound to a cluster without an identity.
            out.push(Effect::Send(
                id,
                FromController::NotController { leader: None },
            ));
            return out.push(Effect::Close(id));
        }
        if life.is_some() && self.state.life_of(broker) != life {
            out.push(Effect::Send(id, FromController::Obsolete));
            return out.push(Effect::Close(id));
        }
        self.sessions.insert(id, Session { broker, life });
        let controller = self.me;
        out.push(Effect::Send(id, FromController::Welcome { controller }));
        if life.is_some() {
            self.begin_session(id, broker, now, out);
        }
    }

    /// The broker has a life: it gets the metadata, and what it must answer.
    fn begin_session(&mut self, id: SessionId, broker: BrokerId, now: Tick, out: &mut Vec<Effect>) {
        self.detector.connected(broker, true, now);
        out.push(Effect::Send(
            id,
            FromController::Snapshot(self.state.clone()),
        ));
        self.send_fences(broker, |_| true, out);
    }

    // ---- what is committed ------------------------------------------------------------------

    fn on_applied(
        &mut self,
        index: MetadataIndex,
        command: Command,
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        if index <= self.state.index {
            return;
        }
        self.state.apply(index, &command);
        let living = self.sessions.iter().filter(|(_, session)| {
            session.life.is_some() && session.life == self.state.life_of(session.broker)
        });
        let living: Vec<SessionId> = living.map(|(id, _)| *id).collect();
        for id in living {
            let commands = FromController::Commands(vec![(index, command.clone())]);
            out.push(Effect::Send(id, commands));
        }
        self.watch_brokers(now);
        match command {
            Command::BeginElections(elections) => {
                self.open_elections(&elections, now, out);
            }
            Command::ElectLeaders(elected) => {
                for elected in elected {
                    self.close_election(&elected);
                }
                // The winner may have died meanwhile.
                self.depose_the_dead(out);
            }
            Command::DeleteTopic { id } => {
                self.elections.retain(|partition, _| partition.topic != id);
            }
            Command::RegisterBroker { .. } | Command::SetFenced { .. } => {
                self.depose_the_dead(out);
                self.decide_elections(now, out);
            }
            // The successor may have died meanwhile.
            Command::CreateTopic { .. } | Command::HandOver { .. } => self.depose_the_dead(out),
            Command::FormCluster { .. }
            | Command::ChangeInSync { .. }
            | Command::ReportSuspect { .. }
            | Command::GrantOffsets { .. }
            | Command::SetSyncFollowers { .. }
            | Command::SetPolicy { .. }
            | Command::AllocateProducerIds { .. } => {}
        }
    }

    fn on_outcome(&mut self, token: Token, outcome: Outcome, now: Tick, out: &mut Vec<Effect>) {
        match self.purposes.remove(&token) {
            Some(Purpose::Registration(id)) => {
                if let (Outcome::Registered(epoch), Some(session)) =
                    (outcome, self.sessions.get_mut(&id))
                {
                    session.life = Some(epoch);
                    let broker = session.broker;
                    out.push(Effect::Send(id, FromController::Registered { epoch }));
                    self.begin_session(id, broker, now, out);
                }
            }
            Some(Purpose::Fencing) => self.fencing = false,
            Some(Purpose::SetChanges(id, changes)) => {
                let Outcome::SetChanges(results) = outcome else {
                    return;
                };
                let refused: Vec<_> = changes
                    .iter()
                    .zip(results)
                    .filter(|(_, result)| *result == SetChangeResult::Refused)
                    .map(|(change, _)| (change.partition, change.version))
                    .collect();
                if !refused.is_empty() && self.sessions.contains_key(&id) {
                    out.push(Effect::Send(id, FromController::SetChangesRefused(refused)));
                }
            }
            Some(Purpose::Admin(waiting)) => self.on_admin_outcome(waiting, outcome, out),
            Some(Purpose::Elections | Purpose::Depositions(_) | Purpose::AskedAgain) | None => {}
        }
    }

    /// The fate of the proposal is unknown, or it was not taken. What it was for is asked for
    /// again by whoever wants it.
    fn on_failed(&mut self, token: Token, out: &mut Vec<Effect>) {
        match self.purposes.remove(&token) {
            Some(Purpose::Registration(id)) => out.push(Effect::Close(id)),
            Some(Purpose::Fencing) => self.fencing = false,
            Some(Purpose::Elections | Purpose::Depositions(_)) => {
                self.undo_decisions();
                self.starting = true;
            }
            Some(Purpose::Admin(waiting)) => self.on_admin_failed(waiting, out),
            Some(Purpose::SetChanges(..) | Purpose::AskedAgain) | None => {}
        }
    }

    // ---- the dead ---------------------------------------------------------------------------

    fn watch_brokers(&mut self, now: Tick) {
        for broker in self.state.brokers.values() {
            self.detector.watch(broker.id, broker.epoch, now);
        }
    }

    /// Fences those who died and takes back those who did not: all of them in one command, and one
    /// such command at a time.
    fn judge_brokers(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if self.fencing {
            return;
        }
        let (detector, config) = (&self.detector, &self.config);
        self.doubted
            .retain(|id| !detector.has_recovered(*id, config, now));
        let (mut fence, mut unfence) = (Vec::new(), Vec::new());
        for broker in self.state.brokers.values() {
            let life = BrokerLife {
                broker: broker.id,
                epoch: broker.epoch,
            };
            if !broker.fenced && self.detector.is_dead(broker.id, &self.config, now) {
                fence.push(life);
            } else if broker.fenced && self.detector.has_recovered(broker.id, &self.config, now) {
                unfence.push(life);
            }
        }
        if !fence.is_empty() || !unfence.is_empty() {
            self.fencing = true;
            self.doubted.extend(fence.iter().map(|life| life.broker));
            self.propose(Command::SetFenced { fence, unfence }, Purpose::Fencing, out);
        }
    }

    /// Ends the reign of every leader whose broker is held for dead, or lives another life.
    fn depose_the_dead(&mut self, out: &mut Vec<Effect>) {
        let deposed: Vec<_> = self
            .state
            .partitions()
            .filter(|(_, partition)| {
                partition.leader.is_some_and(|leader| {
                    !self.state.is_current(leader) || self.state.is_fenced(leader.broker)
                })
            })
            .map(|(id, partition)| (id, partition.epoch))
            .collect();
        self.begin_elections(deposed, out);
    }
}
