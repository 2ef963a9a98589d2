//! The task that keeps a membership: it gives the state machine its clock and its connection.
//!
//! It goes on while the consumer's user is busy. What it learns it leaves in the mailbox; when it is
//! told that the consumer is gone, it leaves the group.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::groups::{GroupRequest, GroupResponse, HeartbeatAnswer};
use baton_protocol::ids::{GroupEpoch, MemberId, Tick};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::mailbox::{Mailbox, Notice};
use super::member::{Failure, Input, Member, Output, Settings};
use crate::attempts::later;
use crate::client::Client;
use crate::coordinator::Failed;
use crate::error::Error;

/// How long a consumer that was dropped tries to say that it leaves.
const FAREWELL: Duration = Duration::from_secs(5);

/// When to look at the clock again, where nothing is to be done at any time.
const IDLE: Duration = Duration::from_secs(60);

/// The least and the most that a heartbeat may take; in between it is a third of the session.
const ATTEMPT_MIN_MS: u32 = 300;
const ATTEMPT_MAX_MS: u32 = 5_000;

/// A clock that counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock {
            began: Instant::now(),
        }
    }

    pub fn tick(&self, at: Instant) -> Tick {
        Tick(at.duration_since(self.began).as_millis() as u64)
    }

    pub fn instant(&self, tick: Tick) -> Instant {
        later(self.began, Duration::from_millis(tick.0))
    }
}

/// What the consumer tells the task.
pub(super) enum Command {
    /// It consumes nothing beside the assignment of this membership and epoch.
    Applied(u64, GroupEpoch),
    /// It knows that all memberships before this one are over.
    Begin(u64),
    /// It wants other topics.
    Subscribe(Vec<String>),
    /// It consumes nothing any more.
    Leave {
        keep_seat: bool,
        left: oneshot::Sender<()>,
    },
}

type Answer = Result<HeartbeatAnswer, Failure>;

pub(super) struct Membership {
    client: Client,
    group: String,
    clock: Clock,
    member: Member,
    attempt: Duration,
    commands: mpsc::UnboundedReceiver<Command>,
    mailbox: Arc<Mailbox>,
    in_flight: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    left: Option<oneshot::Sender<()>>,
    /// The consumer is gone: no further commands come, and no later than this it is over.
    ends_at: Option<Instant>,
}

impl Membership {
    pub fn new(
        client: Client,
        settings: Settings,
        clock: Clock,
        commands: mpsc::UnboundedReceiver<Command>,
        mailbox: Arc<Mailbox>,
    ) -> Membership {
        let attempt_ms = (settings.session_timeout_ms / 3).clamp(ATTEMPT_MIN_MS, ATTEMPT_MAX_MS);
        Membership {
            client,
            group: settings.group.clone(),
            clock,
            member: Member::new(settings, || MemberId(Uuid::new_v4())),
            attempt: Duration::from_millis(u64::from(attempt_ms)),
            commands,
            mailbox,
            in_flight: None,
            left: None,
            ends_at: None,
        }
    }

    /// Runs until the membership has ended.
    pub async fn run(mut self) {
        let mut input = Input::Tick;
        while self.step(input) {
            let wakes_at = self.member.wakes_at().map(|at| self.clock.instant(at));
            let wakes_at = wakes_at.into_iter().chain(self.ends_at).min();
            // While something is on its way, there may be no other time to look.
            let wakes_at = wakes_at.unwrap_or_else(|| later(Instant::now(), IDLE));
            input = tokio::select! {
                biased;
                command = self.commands.recv(), if self.ends_at.is_none() => self.understand(command),
                answer = answered(&mut self.in_flight) => {
                    self.in_flight = None;
                    Input::Answered(answer)
                }
                () = sleep_until(wakes_at) => Input::Tick,
            };
            if self.ends_at.is_some_and(|at| Instant::now() >= at) {
                return;
            }
        }
    }

    fn understand(&mut self, command: Option<Command>) -> Input {
        match command {
            Some(Command::Applied(membership, epoch)) => Input::Applied(membership, epoch),
            Some(Command::Begin(membership)) => Input::Begin(membership),
            Some(Command::Subscribe(topics)) => Input::Subscribe(topics),
            Some(Command::Leave { keep_seat, left }) => {
                self.left = Some(left);
                Input::Leave { keep_seat }
            }
            // Dropped without a word, or closed and not waiting for the answer.
            None => {
                self.ends_at = Some(Instant::now() + FAREWELL);
                match self.left {
                    Some(_) => Input::Tick,
                    None => Input::Leave { keep_seat: true },
                }
            }
        }
    }

    /// False when it is over.
    fn step(&mut self, input: Input) -> bool {
        let mut out = Vec::new();
        let now = self.clock.tick(Instant::now());
        self.member.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Send(request) => {
                    let (client, group) = (self.client.clone(), self.group.clone());
                    let asking = ask(client, group, request, self.attempt);
                    self.in_flight = Some(Box::pin(asking));
                }
                Output::Assign(assignment) => self.mailbox.assign(assignment),
                Output::Refused(error) => self.mailbox.note(Notice::Refused(Error::from(error))),
                Output::Left => {
                    if let Some(left) = self.left.take() {
                        // Who waited for it may have given up.
                        left.send(()).ok();
                    }
                    return false;
                }
            }
        }
        true
    }
}

async fn answered(in_flight: &mut Option<Pin<Box<dyn Future<Output = Answer> + Send>>>) -> Answer {
    match in_flight {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

async fn ask(client: Client, group: String, request: GroupRequest, limit: Duration) -> Answer {
    let answer = client.ask_group_once(&group, request, limit).await;
    match answer.map_err(Failed::error) {
        Ok(GroupResponse::Heartbeat(answer)) => Ok(answer),
        // To a leave; the machine looks at nothing of it.
        Ok(_) => Ok(HeartbeatAnswer {
            epoch: GroupEpoch::NONE,
            heartbeat_interval_ms: 0,
            assignment: None,
            revoke_within_ms: None,
        }),
        Err(error) => {
            tracing::debug!(group, %error, "the coordinator did not do as asked");
            Err(match error.wire() {
                Some(refusal) => Failure::Refused(refusal),
                None => Failure::NoAnswer,
            })
        }
    }
}
