//! The controller: active on the broker that leads the Raft group, asleep on the others.
//!
//! Hosts the controller crate's core: what brokers say and what is committed goes in, proposals and
//! messages come out. Lives on an arbiter of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use baton_controller::command::Outcome;
use baton_controller::core::{Config, ControllerCore, Effect, Input, SessionId, Token};
use baton_controller::session::{FromController, ToController};
use baton_protocol::ids::{BrokerId, MetadataIndex};
use baton_raft::{AppliedCommand, ProposeError, RaftLeader, RaftNode, SurelyLed};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::net::connection::{self, FrameReader, Outgoing};

/// How often the core looks at the time.
const TICK: Duration = Duration::from_millis(25);

/// A broker's control connection, greeted.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ControlConnection {
    /// Its reading half.
    pub reader: FrameReader,
    /// Its writing half.
    pub write: OwnedWriteHalf,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Said(SessionId, ToController);

#[derive(Message)]
#[rtype(result = "()")]
struct Ended(SessionId);

#[derive(Message)]
#[rtype(result = "()")]
struct Led(Option<RaftLeader>);

#[derive(Message)]
#[rtype(result = "()")]
struct Applied {
    reign: u64,
    applied: Option<AppliedCommand>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Proposed {
    reign: u64,
    token: Token,
    result: Result<(MetadataIndex, Outcome), ProposeError>,
}

struct Connected {
    out: mpsc::UnboundedSender<Outgoing>,
    tasks: [AbortHandle; 2],
}

impl Drop for Connected {
    fn drop(&mut self) {
        // The reader ends at once; the writer ends by itself when it has written what is queued.
        self.tasks[0].abort();
    }
}

struct Active {
    core: ControllerCore,
    /// Tells messages of this reign from those of an earlier one.
    reign: u64,
    applied: MetadataIndex,
    /// Outcomes that came before their commands did.
    early: BTreeMap<MetadataIndex, Vec<(Token, Outcome)>>,
    following: AbortHandle,
}

/// The actor.
pub struct Controller {
    me: BrokerId,
    config: Config,
    clock: Clock,
    /// None on a broker that is no voter: it never becomes active.
    raft: Option<RaftNode>,
    leader: Option<BrokerId>,
    active: Option<Active>,
    reigns: u64,
    connections: BTreeMap<SessionId, Connected>,
    next_session: u64,
}

impl Controller {
    /// The controller of this broker.
    pub fn new(me: BrokerId, config: Config, clock: Clock, raft: Option<RaftNode>) -> Self {
        Controller {
            me,
            config,
            clock,
            raft,
            leader: None,
            active: None,
            reigns: 0,
            connections: BTreeMap::new(),
            next_session: 0,
        }
    }

    fn input(&mut self, input: Input, ctx: &mut Context<Self>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let mut effects = Vec::new();
        active.core.step(self.clock.now(), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Propose(token, command) => self.propose(token, command, ctx),
                Effect::Send(session, message) => self.send(session, &message),
                Effect::Close(session) => drop(self.connections.remove(&session)),
            }
        }
    }

    fn propose(
        &self,
        token: Token,
        command: baton_controller::command::Command,
        ctx: &mut Context<Self>,
    ) {
        let (Some(raft), Some(active)) = (self.raft.clone(), &self.active) else {
            return;
        };
        let reign = active.reign;
        let address = ctx.address();
        actix::spawn(async move {
            let result = raft.propose(command).await;
            address.do_send(Proposed {
                reign,
                token,
                result,
            });
        });
    }

    fn send(&self, session: SessionId, message: &FromController) {
        let Some(connected) = self.connections.get(&session) else {
            return;
        };
        match Outgoing::encode(message, bytes::Bytes::new()) {
            Ok(frame) => drop(connected.out.send(frame)),
            Err(error) => tracing::error!(%error, "a message to a broker could not be encoded"),
        }
    }

    /// Tells the core when this broker led for sure.
    fn tell_lead(&mut self, ctx: &mut Context<Self>) {
        if let Some(SurelyLed { term, at }) = self.raft.as_ref().and_then(RaftNode::surely_led) {
            let at = self.clock.at(at.into_std());
            self.input(Input::SurelyLed { term, at }, ctx);
        }
    }

    fn take_office(&mut self, term: u64, ctx: &mut Context<Self>) {
        let Some(raft) = &self.raft else {
            return;
        };
        let (state, mut commands) = raft.follow();
        self.reigns += 1;
        let reign = self.reigns;
        let address = ctx.address();
        let following = actix::spawn(async move {
            loop {
                let applied = commands.recv().await;
                let ended = applied.is_none();
                address.do_send(Applied { reign, applied });
                if ended {
                    return;
                }
            }
        });
        tracing::info!(term, index = %state.index, "this broker is the controller");
        self.active = Some(Active {
            applied: state.index,
            core: ControllerCore::new(self.me, term, self.config, state, self.clock.now()),
            reign,
            early: BTreeMap::new(),
            following: following.abort_handle(),
        });
        self.input(Input::Tick, ctx);
    }

    /// Brokers find the next controller by themselves once their sessions end.
    fn leave_office(&mut self) {
        if let Some(active) = self.active.take() {
            active.following.abort();
            tracing::info!("this broker is no longer the controller");
        }
        self.connections.clear();
    }

    fn deliver_outcomes(&mut self, ctx: &mut Context<Self>) {
        loop {
            let Some(active) = &mut self.active else {
                return;
            };
            let due = active
                .early
                .first_entry()
                .filter(|entry| *entry.key() <= active.applied);
            let Some(entry) = due else {
                return;
            };
            for (token, outcome) in entry.remove() {
                self.input(Input::Outcome(token, outcome), ctx);
            }
        }
    }
}

impl Actor for Controller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |controller, ctx| {
            controller.tell_lead(ctx);
            controller.input(Input::Tick, ctx);
        });
        if let Some(raft) = &self.raft {
            let mut leader = raft.leader();
            let address = ctx.address();
            actix::spawn(async move {
                loop {
                    let now = leader.borrow_and_update().clone();
                    address.do_send(Led(now));
                    if leader.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

impl Handler<Led> for Controller {
    type Result = ();

    fn handle(&mut self, Led(leader): Led, ctx: &mut Self::Context) {
        self.leader = leader.as_ref().map(|leader| leader.broker);
        let mine = leader
            .filter(|leader| leader.is_me)
            .map(|leader| leader.term);
        let held = self.active.as_ref().map(|active| active.core.term());
        if mine != held {
            self.leave_office();
            if let Some(term) = mine {
                self.take_office(term, ctx);
            }
        }
    }
}

impl Handler<ControlConnection> for Controller {
    type Result = ();

    fn handle(&mut self, connection: ControlConnection, ctx: &mut Self::Context) {
        let ControlConnection {
            mut reader,
            mut write,
        } = connection;
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let (out, mut queue) = mpsc::unbounded_channel();
        let address = ctx.address();
        let reading = actix::spawn(async move {
            loop {
                let message = match reader.next().await {
                    Ok(Some(frame)) => frame.message::<ToController>(),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a broker's session ended");
                        break;
                    }
                };
                match message {
                    Ok(message) => address.do_send(Said(session, message)),
                    Err(error) => {
                        tracing::warn!(%error, "a broker sent what is not understood");
                        break;
                    }
                }
            }
            address.do_send(Ended(session));
        });
        let writing = actix::spawn(async move {
            if let Err(error) = connection::write_frames(&mut write, &mut queue).await {
                tracing::debug!(%error, "a broker's session ended");
            }
        });
        let tasks = [reading.abort_handle(), writing.abort_handle()];
        self.connections.insert(session, Connected { out, tasks });
    }
}

impl Handler<Said> for Controller {
    type Result = ();

    fn handle(&mut self, Said(session, message): Said, ctx: &mut Self::Context) {
        if self.active.is_none() {
            let leader = self.leader.filter(|leader| *leader != self.me);
            self.send(session, &FromController::NotController { leader });
            self.connections.remove(&session);
            return;
        }
        self.input(Input::Message(session, message), ctx);
    }
}

impl Handler<Ended> for Controller {
    type Result = ();

    fn handle(&mut self, Ended(session): Ended, ctx: &mut Self::Context) {
        self.connections.remove(&session);
        self.input(Input::Closed(session), ctx);
    }
}

impl Handler<Applied> for Controller {
    type Result = ();

    fn handle(&mut self, Applied { reign, applied }: Applied, ctx: &mut Self::Context) {
        let Some(active) = self.active.as_mut().filter(|active| active.reign == reign) else {
            return;
        };
        let Some(AppliedCommand { index, command }) = applied else {
            // A snapshot replaced the state: only a node that does not lead takes one.
            return self.leave_office();
        };
        active.applied = index;
        self.input(Input::Applied(index, command), ctx);
        self.deliver_outcomes(ctx);
    }
}

impl Handler<Proposed> for Controller {
    type Result = ();

    fn handle(&mut self, proposed: Proposed, ctx: &mut Self::Context) {
        let Proposed {
            reign,
            token,
            result,
        } = proposed;
        let Some(active) = self.active.as_mut().filter(|active| active.reign == reign) else {
            return;
        };
        match result {
            Ok((index, outcome)) => {
                active
                    .early
                    .entry(index)
                    .or_default()
                    .push((token, outcome));
                self.deliver_outcomes(ctx);
            }
            Err(error) => {
                tracing::warn!(%error, "a change of the metadata was not committed");
                self.input(Input::ProposalFailed(token), ctx);
            }
        }
    }
}
