//! One partition's way to its leader: keeps order and sequence over retries and changes of leader.
//!
//! Batches get their sequence once and keep it. After any trouble all that is not acknowledged is
//! sent again, in order, under the same sequences: what the log has already is answered with its
//! first offset. Where that cannot go on (a batch failed for good) the lane takes a new producer
//! id: only batches that were never sent go on under it, so nothing can be stored twice.

mod answers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_protocol::batch::ProducerState;
use baton_protocol::client::{Acks, RequestBody, ResponseBody};
use baton_protocol::ids::{BrokerId, ProducerId};
use baton_protocol::metadata::ClusterView;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, debug_span};

use super::builder::ProducerConfig;
use super::core::Core;
use super::fate::Debt;
use super::intake::{Intake, OpenBatch};
use super::topic::Topic;
use crate::attempts::later;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;

/// Most batches on their way: what a broker remembers of a producer.
const IN_FLIGHT_MAX: usize = 5;

/// Pause before what failed is sent again; a change of leader ends it early.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// How long a producer id is asked for before it is said what the trouble is.
const IDENTITY_ATTEMPT: Duration = Duration::from_secs(2);

/// How long an answer may take beyond what the broker was told to wait for its followers. After that
/// the connection is given up: it may be dead, and holds what was sent by it.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

struct InFlight {
    batch: Bytes,
    debt: Debt,
    room: usize,
    deadline: Instant,
    sent_at: Instant,
    answer: Option<oneshot::Receiver<Result<ResponseBody>>>,
}

/// A partition's lane.
pub(crate) struct Lane {
    core: Arc<Core>,
    topic: Arc<Topic>,
    partition: usize,
    producer: Option<(ProducerId, u16)>,
    next_sequence: u32,
    in_flight: VecDeque<InFlight>,
    leader: Option<(BrokerId, Connection)>,
    view: watch::Receiver<Arc<ClusterView>>,
    backoff: Backoff,
    /// When the leader last answered: what waits behind a large batch on a slow link is no sign of silence.
    answered_at: Instant,
    /// It has nothing left that its end could decide.
    is_done: bool,
}

/// Why the lane goes on.
enum Event {
    /// There may be more to send.
    News,
    /// The oldest batch is answered.
    Answer(Result<ResponseBody>),
    /// The metadata changed.
    View,
    /// The oldest batch's time is up.
    Overdue,
    /// The broker does not answer.
    Silence,
    /// There has been nothing to do for long, or the producer is gone.
    Idle,
}

impl Lane {
    pub fn new(core: Arc<Core>, topic: Arc<Topic>, partition: usize) -> Self {
        let view = core.client.inner.metadata.watch();
        Lane {
            core,
            topic,
            partition,
            producer: None,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            leader: None,
            view,
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            answered_at: Instant::now(),
            is_done: false,
        }
    }

    fn intake(&self) -> &Intake {
        &self.topic.intakes[self.partition]
    }

    fn place(&self) -> &Place {
        &self.intake().place
    }

    fn config(&self) -> &ProducerConfig {
        &self.core.config
    }

    /// Delivers until nothing is left and nothing more comes.
    pub async fn run(mut self) {
        loop {
            self.take_in().await;
            self.send_all().await;
            match self.next_event().await {
                Event::News => {}
                Event::Answer(result) => self.on_answer(result).await,
                Event::View => self.on_view(),
                Event::Overdue => self.give_up(),
                Event::Silence => self.on_silence(),
                Event::Idle => {
                    if self.intake().let_lane_go() {
                        self.is_done = true;
                        return;
                    }
                }
            }
        }
    }

    // ---- taking in --------------------------------------------------------------------------

    /// Takes batches that are full or have lingered long enough, and gives them their sequences.
    async fn take_in(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(open) = self.intake().take(self.config().linger) else {
                return;
            };
            let deadline = later(open.opened_at, self.config().delivery_timeout);
            if !open.is_full {
                self.topic.move_on();
            }
            let state = if self.config().acks == Acks::None {
                // What is sent once needs no sequence; and one that was lost on its way would make
                // all that follow it look out of order.
                None
            } else {
                let Some((id, epoch)) = self.identity(deadline).await else {
                    self.fail_unsent(open);
                    continue;
                };
                Some(self.next_state(id, epoch, open.builder.records()))
            };
            let records = open.builder.records();
            match open.builder.build_with(state, self.config().compression) {
                Ok(batch) => {
                    let (place, bytes) = (self.place(), batch.len());
                    debug!(%place, records, bytes, "batch taken in");
                    self.in_flight.push_back(InFlight {
                        batch,
                        debt: open.debt,
                        room: open.room,
                        deadline,
                        sent_at: Instant::now(),
                        answer: None,
                    });
                }
                // Its sequence is used up: what follows begins anew.
                Err(error) => {
                    self.conclude(open.debt, open.room, Err(error.into()));
                    self.fail_sent();
                }
            }
        }
    }

    fn next_state(&mut self, id: ProducerId, epoch: u16, records: u32) -> ProducerState {
        let sequence = self.next_sequence;
        self.next_sequence = ((u64::from(sequence) + u64::from(records)) % (1 << 31)) as u32;
        ProducerState {
            id,
            epoch,
            sequence,
        }
    }

    /// The producer id; asked for when it is needed first.
    async fn identity(&mut self, deadline: Instant) -> Option<(ProducerId, u16)> {
        while self.producer.is_none() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .core
                .client
                .init_producer(left.min(IDENTITY_ATTEMPT))
                .await
            {
                Ok(identity) => self.producer = Some(identity),
                Err(error) => {
                    self.intake().set_trouble(Some(error));
                    sleep(self.backoff.pause()).await;
                }
            }
        }
        self.producer
    }

    fn fail_unsent(&mut self, open: OpenBatch) {
        let error = self.not_delivered(&open.debt);
        self.conclude(open.debt, open.room, Err(error));
    }

    // ---- sending ----------------------------------------------------------------------------

    /// Sends what has not been sent to the present leader, in order.
    async fn send_all(&mut self) {
        if self.in_flight.iter().all(|batch| batch.answer.is_some()) {
            return;
        }
        if let Err(error) = self.core.client.check_exists(self.place()) {
            self.topic.is_gone.store(true, Ordering::Relaxed);
            return self.fail_all(&error);
        }
        let Some(connection) = self.leader_connection().await else {
            return;
        };
        let body = RequestBody::Produce {
            topic: self.place().id.topic,
            partition: self.place().id.partition,
            acks: self.config().acks,
            timeout_ms: u32::try_from(self.config().commit_timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let is_answered = self.config().acks != Acks::None;
        let span = debug_span!("deliver", place = %self.place(), to = connection.address());
        let _entered = span.enter();
        let unsent = self.in_flight.iter_mut().filter(|b| b.answer.is_none());
        let sent = unsent.into_iter().try_for_each(|batch| {
            batch.debt.sent = true;
            batch.sent_at = Instant::now();
            let (body, bytes) = (body.clone(), batch.batch.clone());
            batch.answer = Some(match is_answered {
                true => connection.send(body, bytes)?,
                false => connection.send_unanswered(body, bytes)?,
            });
            Ok(())
        });
        if let Err(error) = sent {
            self.intake().set_trouble(Some(error));
            self.start_over();
        }
    }

    async fn leader_connection(&mut self) -> Option<Connection> {
        if let Some((_, connection)) = self.leader.as_ref().filter(|(_, c)| !c.is_closed()) {
            return Some(connection.clone());
        }
        self.leader = None;
        let (leader, address) = match self.core.client.leader(self.place()) {
            Ok(found) => found,
            Err(error) => {
                self.intake().set_trouble(Some(error));
                return None;
            }
        };
        match self.core.client.connection(&address).await {
            Ok(connection) => {
                self.leader = Some((leader, connection.clone()));
                Some(connection)
            }
            Err(error) => {
                self.intake().set_trouble(Some(error));
                None
            }
        }
    }

    /// Everything that is not acknowledged has to be sent again.
    fn start_over(&mut self) {
        self.leader = None;
        for batch in &mut self.in_flight {
            batch.answer = None;
        }
    }

    // ---- waiting ----------------------------------------------------------------------------

    async fn next_event(&mut self) -> Event {
        let intake = &self.topic.intakes[self.partition];
        let config = &self.core.config;
        let linger = intake.linger_deadline(config.linger);
        let linger = async {
            match linger {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let full = self.in_flight.len() >= IN_FLIGHT_MAX;
        let Some(first) = self.in_flight.front_mut() else {
            if intake.lock().is_closed {
                return Event::Idle;
            }
            return tokio::select! {
                () = intake.news.notified() => Event::News,
                () = linger => Event::News,
                () = sleep(config.idle_timeout) => Event::Idle,
            };
        };
        let deadline = first.deadline;
        let heard_at = first.sent_at.max(self.answered_at);
        let silence = later(heard_at, config.commit_timeout + ANSWER_GRACE);
        let waiting = first.answer.is_none();
        let retry_in = match waiting {
            true => self.backoff.pause(),
            false => Duration::ZERO,
        };
        let answer = async {
            match first.answer.as_mut() {
                Some(answer) => match answer.await {
                    Ok(result) => result,
                    Err(_) => Err(Error::new(
                        ErrorKind::Unreachable,
                        "the connection was lost",
                    )),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = answer => Event::Answer(result),
            changed = self.view.changed() => match changed {
                Ok(()) => Event::View,
                Err(_) => Event::Overdue,
            },
            () = sleep(retry_in), if waiting => Event::News,
            () = sleep_until(deadline) => Event::Overdue,
            () = sleep_until(silence), if !waiting => Event::Silence,
            () = intake.news.notified(), if !full => Event::News,
            () = linger, if !full => Event::News,
        }
    }

    /// The connection may be dead without anybody having said so. It holds what was sent by it, so it
    /// is given up as a whole.
    fn on_silence(&mut self) {
        if let Some((_, connection)) = self.leader.take() {
            connection.give_up("no answer to what was sent");
            let text = format!("broker at {}: no answer", connection.address());
            let error = Error::new(ErrorKind::Unreachable, text);
            self.intake().set_trouble(Some(error));
        }
        self.start_over();
    }

    /// The partition may have another leader now: one that is frozen answers nothing, so this is
    /// not left to its connection.
    fn on_view(&mut self) {
        let view = self.view.borrow_and_update().clone();
        let leader = self.place().leader_in(&view);
        let moved = self
            .leader
            .as_ref()
            .is_some_and(|(known, _)| leader != Some(*known));
        if moved {
            self.start_over();
        }
        self.backoff.reset();
    }
}

/// However the lane ends, nobody waits for it any more: for an acknowledgement, for room, or for it
/// to be idle.
impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let left = self.intake().abandon();
        let in_hand: usize = self.in_flight.iter().map(|batch| batch.room).sum();
        let waiting: usize = left.iter().map(|batch| batch.room).sum();
        let error = Error::new(
            ErrorKind::Closed,
            "the producer ended before all was decided",
        );
        let error = error.at(self.place());
        self.core.failure().get_or_insert(error);
        self.in_flight.clear();
        drop(left);
        self.core.room.add_permits(in_hand + waiting);
    }
}
