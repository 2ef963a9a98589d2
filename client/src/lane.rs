//! One partition's way to its leader: keeps order and sequence over retries and changes of leader.
//!
//! Batches get their sequence once and keep it. After any trouble all that is not acknowledged is
//! sent again, in order, under the same sequences: what the log has already is answered with its
//! first offset. Where that cannot go on (a batch failed for good) the lane takes a new producer
//! id: only batches that were never sent go on under it, so nothing can be stored twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::batch::ProducerState;
use baton_protocol::client::{Acks, RequestBody, ResponseBody};
use baton_protocol::error::ErrorCode;
use baton_protocol::ids::{BrokerId, ProducerId, TopicPartition};
use baton_protocol::metadata::ClusterView;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::attempts::later;
use crate::client::{Client, leader_in};
use crate::connection::Connection;
use crate::error::{Error, ErrorKind, Result};
use crate::intake::{Debt, Intake, OpenBatch};
use crate::producer::ProducerConfig;
use crate::record::RecordMetadata;

/// Most batches on their way: what a broker remembers of a producer.
const IN_FLIGHT_MAX: usize = 5;

/// Pause before what failed is sent again; a change of leader ends it early.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// How long a producer id is asked for before it is said what the trouble is.
const IDENTITY_ATTEMPT: Duration = Duration::from_secs(2);

struct InFlight {
    batch: Bytes,
    debt: Debt,
    room: usize,
    deadline: Instant,
    answer: Option<oneshot::Receiver<Result<ResponseBody>>>,
}

/// A partition's lane.
pub(crate) struct Lane {
    client: Client,
    partition: TopicPartition,
    config: ProducerConfig,
    intake: Arc<Intake>,
    room: Arc<Semaphore>,
    failure: Arc<Mutex<Option<Error>>>,
    producer: Option<(ProducerId, u16)>,
    next_sequence: u32,
    in_flight: VecDeque<InFlight>,
    leader: Option<(BrokerId, Connection)>,
    view: watch::Receiver<Arc<ClusterView>>,
    backoff: Duration,
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
    /// The producer is gone, and everything is decided.
    End,
}

impl Lane {
    pub fn new(
        client: Client,
        partition: TopicPartition,
        config: ProducerConfig,
        intake: Arc<Intake>,
        room: Arc<Semaphore>,
        failure: Arc<Mutex<Option<Error>>>,
    ) -> Self {
        let view = client.inner.metadata.watch();
        Lane {
            client,
            partition,
            config,
            intake,
            room,
            failure,
            producer: None,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            leader: None,
            view,
            backoff: BACKOFF_MIN,
        }
    }

    /// Delivers until the producer is gone and nothing is left.
    pub async fn run(mut self) {
        loop {
            self.take_in().await;
            self.send_all().await;
            match self.next_event().await {
                Event::News => {}
                Event::Answer(result) => self.on_answer(result).await,
                Event::View => self.on_view(),
                Event::Overdue => self.give_up(),
                Event::End => return,
            }
        }
    }

    // ---- taking in --------------------------------------------------------------------------

    /// Takes batches that are full or have lingered long enough, and gives them their sequences.
    async fn take_in(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(open) = self.intake.take(self.config.linger) else {
                return;
            };
            let deadline = later(open.opened_at, self.config.delivery_timeout);
            let state = if self.config.acks == Acks::None {
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
            self.in_flight.push_back(InFlight {
                batch: open.builder.build(state),
                debt: open.debt,
                room: open.room,
                deadline,
                answer: None,
            });
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
            match self.client.init_producer(left.min(IDENTITY_ATTEMPT)).await {
                Ok(identity) => self.producer = Some(identity),
                Err(error) => {
                    self.intake.set_trouble(Some(error));
                    sleep(BACKOFF_MAX).await;
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
        if let Err(error) = self.client.check_exists(self.partition) {
            return self.fail_front(error);
        }
        let Some(connection) = self.leader_connection().await else {
            return;
        };
        let body = RequestBody::Produce {
            topic: self.partition.topic,
            partition: self.partition.partition,
            acks: self.config.acks,
            timeout_ms: u32::try_from(self.config.commit_timeout.as_millis()).unwrap_or(u32::MAX),
        };
        if self.config.acks == Acks::None {
            return self.send_unanswered(&connection, &body);
        }
        for batch in self
            .in_flight
            .iter_mut()
            .filter(|batch| batch.answer.is_none())
        {
            batch.debt.sent = true;
            match connection.send(body.clone(), batch.batch.clone()) {
                Ok(answer) => batch.answer = Some(answer),
                Err(error) => {
                    self.intake.set_trouble(Some(error));
                    return self.start_over();
                }
            }
        }
    }

    /// Sends everything, and takes it for delivered.
    fn send_unanswered(&mut self, connection: &Connection, body: &RequestBody) {
        while let Some(batch) = self.in_flight.front() {
            if let Err(error) = connection.tell(body.clone(), batch.batch.clone()) {
                self.intake.set_trouble(Some(error));
                return self.start_over();
            }
            if let Some(batch) = self.in_flight.pop_front() {
                let metadata = RecordMetadata {
                    partition: self.partition.partition,
                    offset: None,
                    epoch: None,
                };
                self.conclude(batch.debt, batch.room, Ok(metadata));
            }
        }
    }

    async fn leader_connection(&mut self) -> Option<Connection> {
        if let Some((_, connection)) = self.leader.as_ref().filter(|(_, c)| !c.is_closed()) {
            return Some(connection.clone());
        }
        self.leader = None;
        let Some((leader, address)) = self.client.leader(self.partition) else {
            let text = "the partition has no leader at the moment";
            let error = Error::new(ErrorKind::Unreachable, text);
            self.intake.set_trouble(Some(error));
            return None;
        };
        match self.client.connection(&address).await {
            Ok(connection) => {
                self.leader = Some((leader, connection.clone()));
                Some(connection)
            }
            Err(error) => {
                self.intake.set_trouble(Some(error));
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
        let linger = self.intake.linger_deadline(self.config.linger);
        let Some(first) = self.in_flight.front_mut() else {
            if self.intake.is_done() {
                return Event::End;
            }
            return tokio::select! {
                () = self.intake.news.notified() => Event::News,
                () = sleep_until(linger) => Event::News,
            };
        };
        let (deadline, room) = (first.deadline, IN_FLIGHT_MAX);
        let retry_at = Instant::now() + self.backoff;
        let full = self.in_flight.len() >= room;
        let first = &mut self.in_flight[0];
        let waiting = first.answer.is_none();
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
            () = sleep_until(retry_at), if waiting => {
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                Event::News
            }
            () = sleep_until(deadline) => Event::Overdue,
            () = self.intake.news.notified(), if !full => Event::News,
            () = sleep_until(linger), if !full => Event::News,
        }
    }

    /// The partition may have another leader now: one that is frozen answers nothing, so this is
    /// not left to its connection.
    fn on_view(&mut self) {
        let view = self.view.borrow_and_update().clone();
        let leader = leader_in(&view, self.partition);
        let moved = self
            .leader
            .as_ref()
            .is_some_and(|(known, _)| leader != Some(*known));
        if moved {
            self.start_over();
        }
        self.backoff = BACKOFF_MIN;
    }

    // ---- answers ----------------------------------------------------------------------------

    async fn on_answer(&mut self, result: Result<ResponseBody>) {
        match result {
            Ok(ResponseBody::Produced { base_offset, epoch }) => {
                self.backoff = BACKOFF_MIN;
                self.intake.set_trouble(None);
                if let Some(batch) = self.in_flight.pop_front() {
                    let metadata = RecordMetadata {
                        partition: self.partition.partition,
                        offset: base_offset,
                        epoch: Some(epoch),
                    };
                    self.conclude(batch.debt, batch.room, Ok(metadata));
                }
            }
            Ok(other) => {
                let text = format!("a produce request was answered with {other:?}");
                self.fail_front(Error::new(ErrorKind::Corrupt, text));
            }
            Err(error) if self.client.can_succeed_later(self.partition, &error) => {
                tracing::debug!(partition = %self.partition, %error, "sent again");
                let moved = matches!(
                    error.code(),
                    None | Some(
                        ErrorCode::NotLeader | ErrorCode::LeaderChanged | ErrorCode::NoLeader
                    )
                );
                self.intake.set_trouble(Some(error));
                self.start_over();
                self.wait_a_little(moved).await;
            }
            Err(error) => self.fail_front(error),
        }
    }

    /// Waits before what failed is sent again; where another leader is due, only until the metadata
    /// show something new.
    async fn wait_a_little(&mut self, for_leader: bool) {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.view.changed(), if for_leader => self.on_view(),
        }
    }

    /// The oldest batch failed for good. Those sent after it under the same id cannot be stored
    /// any more (their sequence does not follow), or are: which one is not known, so they fail too.
    fn fail_front(&mut self, error: Error) {
        self.intake.set_trouble(Some(error.clone()));
        if let Some(batch) = self.in_flight.pop_front() {
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.fail_sent();
    }

    /// The oldest batch's time is up.
    fn give_up(&mut self) {
        if let Some(batch) = self.in_flight.pop_front() {
            let error = self.not_delivered(&batch.debt);
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.fail_sent();
    }

    /// Fails all that was ever sent, and takes a new identity for the rest. The rest has sequences
    /// of the old identity by now, so it goes too: what was never sent is not stored.
    fn fail_sent(&mut self) {
        for batch in std::mem::take(&mut self.in_flight) {
            let error = self.not_delivered(&batch.debt);
            self.conclude(batch.debt, batch.room, Err(error));
        }
        self.producer = None;
        self.next_sequence = 0;
        self.leader = None;
    }

    fn not_delivered(&self, debt: &Debt) -> Error {
        let last = self.intake.trouble();
        Error::delivery(self.partition.partition, debt.sent, last.as_ref())
    }

    fn conclude(&self, debt: Debt, room: usize, result: Result<RecordMetadata>) {
        if let Err(error) = &result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
        }
        debt.pay(result);
        self.room.add_permits(room);
        self.intake.put_down();
    }
}

/// However the lane ends, nobody waits for it any more: for an acknowledgement, for room, or for it
/// to be idle.
impl Drop for Lane {
    fn drop(&mut self) {
        self.in_flight.clear();
        self.room.close();
        if self.intake.end() {
            let error = Error::new(
                ErrorKind::Closed,
                "the producer ended before all was decided",
            );
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(error);
        }
    }
}
