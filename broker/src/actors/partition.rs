//! One replica of one partition: a mailbox around the driver. `answers` words what producers are told,
//! `trouble` what the controller is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use baton_protocol::client::{Acks, PartitionStatus};
use baton_protocol::error::WireError;
use baton_protocol::ids::{Tick, TopicPartition};
use baton_protocol::peer::PeerMessage;
use baton_replication::Input;
use baton_replication::event::{Refusal, RequestId};
use baton_storage::DropBehind;
use tokio::sync::watch;

use self::answers::Waiting;
use crate::actors::control_link::{ControlLink, Report};
use crate::actors::flusher::Flusher;
use crate::actors::messages::{
    AppendOwn, AskStatus, ClosePartition, Fence, Flushed, FromPeer, HandOver, LinkChanged,
    LogDamaged, PolicyChanged, Produce, RunFlush, SetChangeRefused, TimePassed, ViewChanged,
    WasRead,
};
use crate::actors::peer_link::PeerLinks;
use crate::actors::routes::Told;
use crate::caretaker::Caretaker;
use crate::clock::Clock;
use crate::driver::{CheckedBatch, Driver, Output};
use crate::failure::Failure;
use crate::groups::host::Lead;
use crate::shared::Shared;

mod answers;
mod trouble;

/// How long a leader pauses for its successor to catch up, in milliseconds. In the set it is close
/// behind.
const HANDOVER_TIMEOUT_MS: u64 = 1_000;

/// What the partitions of a broker talk to.
pub struct Surroundings {
    /// What all parts of the broker know.
    pub shared: Arc<Shared>,
    /// How the broker ends when a replica cannot go on.
    pub failure: Failure,
    /// The thread that looks after the logs.
    pub caretaker: Caretaker,
    /// The threads that flush.
    pub flusher: Addr<Flusher>,
    /// How much of what was written stays in memory, if the system does not decide.
    pub drop_behind: Option<Arc<DropBehind>>,
}

/// The actor of one replica.
pub struct Partition {
    id: TopicPartition,
    driver: Driver,
    links: PeerLinks,
    around: Arc<Surroundings>,
    told: Arc<Told>,
    /// Whether it leads; told where somebody on this broker has to know it at once.
    lead: Option<watch::Sender<Option<Lead>>>,
    heard_at: Option<Tick>,
    /// When it was last looked for what is too old.
    expired_at: Option<Tick>,
    answers: HashMap<RequestId, Waiting>,
    next_request: u64,
    loss_reported_at: Option<Tick>,
    /// The damage that was found in its log, until the metadata shows that it is made good.
    damage: Option<String>,
    trouble: Option<String>,
    trouble_looked_at: Option<Tick>,
    outputs: Vec<Output>,
}

impl Partition {
    /// The actor of a replica, with the `damage` that was found in its log; it sends by its worker's
    /// `links`.
    pub fn new(
        id: TopicPartition,
        driver: Driver,
        damage: Option<String>,
        links: PeerLinks,
        around: Arc<Surroundings>,
        told: Arc<Told>,
        lead: Option<watch::Sender<Option<Lead>>>,
    ) -> Self {
        Partition {
            id,
            driver,
            links,
            around,
            told,
            lead,
            heard_at: None,
            expired_at: None,
            answers: HashMap::new(),
            next_request: 0,
            loss_reported_at: None,
            damage,
            trouble: None,
            trouble_looked_at: None,
            outputs: Vec::new(),
        }
    }

    fn clock(&self) -> Clock {
        self.around.shared.clock
    }

    fn control(&self) -> &ControlLink {
        &self.around.shared.control
    }

    /// What people know it by: topic and number.
    fn name(&self) -> String {
        self.around.shared.name_of(self.id)
    }

    fn input(&mut self, input: Input, ctx: &mut Context<Self>) {
        let now = self.clock().now();
        self.driver.input(now, input, &mut self.outputs);
        self.dispatch(ctx);
    }

    /// Tells the replica when the controller last answered this broker.
    fn note_controller(&mut self) {
        let heard = *self.around.shared.controller_heard.borrow();
        if heard != self.heard_at
            && let Some(at) = heard
        {
            self.heard_at = heard;
            let now = self.clock().now();
            let outputs = &mut self.outputs;
            self.driver.input(now, Input::ControllerHeard(at), outputs);
        }
    }

    fn dispatch(&mut self, ctx: &mut Context<Self>) {
        self.told.awake.store(true, Ordering::Relaxed);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            self.dispatch_one(output, ctx);
        }
        self.outputs = outputs;
        self.tell_lead();
    }

    /// Tells whether this replica leads, and since when all that earlier leaders acknowledged is known
    /// to lie below the watermark.
    fn tell_lead(&self) {
        let Some(told) = &self.lead else {
            return;
        };
        told.send_if_modified(|lead| {
            let now = Lead::of(self.driver.replica(), *lead);
            let changed = now != *lead;
            *lead = now;
            changed
        });
    }

    fn propose(
        &mut self,
        batch: &CheckedBatch,
        acks: Acks,
        timeout_ms: u32,
        waiting: Option<Waiting>,
        ctx: &mut Context<Self>,
    ) {
        let request = self.await_answer(waiting);
        let now = self.clock().now();
        self.driver.set_wall_clock(self.clock().wall_ms());
        let outputs = &mut self.outputs;
        self.driver
            .produce(now, request, batch, acks, timeout_ms, outputs);
        self.dispatch(ctx);
    }

    /// A number for a batch that somebody may wait for.
    fn await_answer(&mut self, waiting: Option<Waiting>) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        if let Some(waiting) = waiting {
            self.answers.insert(request, waiting);
        }
        self.note_controller();
        request
    }

    fn dispatch_one(&mut self, output: Output, ctx: &mut Context<Self>) {
        let partition = self.id;
        match output {
            Output::Send {
                to,
                message,
                payload,
            } => {
                let message = PeerMessage { partition, message };
                self.links.send(to, &message, payload);
            }
            Output::Reply { request, result } => {
                if let Some(waiting) = self.answers.remove(&request) {
                    self.answer(waiting, result);
                }
            }
            Output::Flush(work) => self.around.flusher.do_send(RunFlush {
                work,
                done: ctx.address().recipient(),
            }),
            Output::Read(push, work) => {
                let (cold_reads, actor) = (self.around.shared.cold_reads.clone(), ctx.address());
                actix::spawn(async move {
                    let result = cold_reads.run(work).await;
                    actor.do_send(WasRead { push, result });
                });
            }
            Output::HighWatermark(to) => {
                self.told.watermark.set(to);
            }
            Output::FenceAnswer(answer) => {
                self.control()
                    .report(Report::FenceAnswer(partition, answer));
            }
            Output::ProposeInSync(proposal) => {
                self.control()
                    .report(Report::SetChange(partition, proposal));
            }
            Output::AskOffsets { epoch, limit } => {
                self.control()
                    .report(Report::Offsets(partition, epoch, limit));
            }
            Output::ProposeHandover(proposal) => {
                self.control().report(Report::Handover(partition, proposal));
            }
            Output::RoleChanged { leading } => {
                let name = self.name();
                match leading {
                    Some(epoch) => tracing::info!(%partition, name, %epoch, "leads"),
                    None => tracing::info!(%partition, name, "no longer leads"),
                }
            }
            Output::Truncated { to, epoch } => {
                tracing::warn!(%partition, name = self.name(), %to, %epoch, "entries that were never committed are cut and kept in quarantine");
            }
            Output::BeganAnew(at) => {
                let (start, epoch) = (at.start, at.epoch);
                tracing::warn!(%partition, name = self.name(), %start, %epoch, "what the leader has is too far above what was here: the log begins anew");
            }
            Output::BadPeer { why } => {
                tracing::warn!(%partition, name = self.name(), why, "a message of another broker is ignored");
            }
            Output::Broken(reason) => self.broken(&reason),
        }
    }

    /// Now and then, has what is too old go.
    fn expire(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock().now();
        let every = self.around.shared.config.log.retention_check_interval_ms;
        if self.expired_at.is_some_and(|at| now.since_ms(at) < every) {
            return;
        }
        self.expired_at = Some(now);
        self.driver.expire(now, &mut self.outputs);
        self.dispatch(ctx);
    }
}

impl Actor for Partition {
    type Context = Context<Self>;
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.told.watermark.close();
    }
}

impl Handler<Produce> for Partition {
    type Result = ();

    fn handle(&mut self, message: Produce, ctx: &mut Self::Context) {
        let Produce {
            batch,
            acks,
            timeout_ms,
            answer,
        } = message;
        let waiting = match acks {
            // It is answered with nothing, not even a refusal.
            Acks::None => {
                answer.forget();
                None
            }
            Acks::Leader | Acks::Committed => Some(Waiting::Client(answer)),
        };
        self.propose(&batch, acks, timeout_ms, waiting, ctx);
    }
}

impl Handler<AppendOwn> for Partition {
    type Result = ();

    fn handle(&mut self, message: AppendOwn, ctx: &mut Self::Context) {
        let AppendOwn { reign, batch, done } = message;
        let request = self.await_answer(Some(Waiting::Coordinator(done)));
        let now = self.clock().now();
        let outputs = &mut self.outputs;
        self.driver.append_own(now, request, reign, &batch, outputs);
        self.dispatch(ctx);
    }
}

impl Handler<FromPeer> for Partition {
    type Result = ();

    fn handle(&mut self, message: FromPeer, ctx: &mut Self::Context) {
        let now = self.clock().now();
        let outputs = &mut self.outputs;
        self.driver
            .receive(now, message.message, &message.payload, outputs);
        self.dispatch(ctx);
    }
}

impl Handler<Flushed> for Partition {
    type Result = ();

    fn handle(&mut self, Flushed(result): Flushed, ctx: &mut Self::Context) {
        let now = self.clock().now();
        self.driver.flushed(now, result, &mut self.outputs);
        self.dispatch(ctx);
    }
}

impl Handler<WasRead> for Partition {
    type Result = ();

    fn handle(&mut self, WasRead { push, result }: WasRead, ctx: &mut Self::Context) {
        let now = self.clock().now();
        self.driver.read(now, push, result, &mut self.outputs);
        self.dispatch(ctx);
    }
}

impl Handler<LogDamaged> for Partition {
    type Result = ();

    fn handle(&mut self, LogDamaged(what): LogDamaged, _: &mut Self::Context) {
        self.around.failure.log_damaged(self.id, &what);
    }
}

impl Handler<ViewChanged> for Partition {
    type Result = ();

    fn handle(&mut self, ViewChanged(view): ViewChanged, ctx: &mut Self::Context) {
        self.input(Input::Metadata(view), ctx);
    }
}

impl Handler<PolicyChanged> for Partition {
    type Result = ();

    fn handle(&mut self, PolicyChanged(policy): PolicyChanged, _: &mut Self::Context) {
        self.driver.set_policy(&policy);
        // What it says is done at the next occasion.
        self.expired_at = None;
    }
}

impl Handler<Fence> for Partition {
    type Result = ();

    fn handle(&mut self, Fence(epoch): Fence, ctx: &mut Self::Context) {
        self.input(Input::Fence(epoch), ctx);
    }
}

impl Handler<SetChangeRefused> for Partition {
    type Result = ();

    fn handle(&mut self, SetChangeRefused(version): SetChangeRefused, ctx: &mut Self::Context) {
        self.input(Input::SetChangeRefused { version }, ctx);
    }
}

impl Handler<HandOver> for Partition {
    type Result = ();

    fn handle(&mut self, HandOver { epoch, to }: HandOver, ctx: &mut Self::Context) {
        // It was meant for the leader of that epoch, and nobody after it.
        if self.driver.replica().leading() == Some(epoch) {
            let timeout_ms = HANDOVER_TIMEOUT_MS;
            self.input(Input::HandOver { to, timeout_ms }, ctx);
        }
    }
}

impl Handler<LinkChanged> for Partition {
    type Result = ();

    fn handle(&mut self, link: LinkChanged, ctx: &mut Self::Context) {
        let input = if link.up {
            Input::LinkUp(link.peer)
        } else {
            Input::LinkDown(link.peer)
        };
        self.input(input, ctx);
    }
}

impl Handler<TimePassed> for Partition {
    type Result = ();

    fn handle(&mut self, _: TimePassed, ctx: &mut Self::Context) {
        self.driver.set_wall_clock(self.clock().wall_ms());
        self.note_controller();
        self.expire(ctx);
        self.input(Input::Tick, ctx);
        self.report_loss();
        self.report_trouble();
        let awake = !self.driver.is_at_rest();
        self.told.awake.store(awake, Ordering::Relaxed);
        if !awake {
            // There may be thousands like it.
            self.outputs = Vec::new();
            self.answers.shrink_to_fit();
            self.driver.give_room_back();
        }
    }
}

impl Handler<AskStatus> for Partition {
    type Result = Result<PartitionStatus, WireError>;

    fn handle(&mut self, _: AskStatus, _: &mut Self::Context) -> Self::Result {
        let replica = self.driver.replica();
        let Some(epoch) = replica.leading() else {
            return Err(self.refusal_error(&Refusal::NotLeader));
        };
        let log = replica.log();
        Ok(PartitionStatus {
            epoch,
            log_start: log.start,
            log_end: log.end,
            high_watermark: log.high_watermark,
            ready: replica.is_ready(),
            acknowledged: replica.acknowledged(),
        })
    }
}

impl Handler<ClosePartition> for Partition {
    type Result = bool;

    fn handle(&mut self, _: ClosePartition, ctx: &mut Self::Context) -> bool {
        let partition = self.id;
        ctx.stop();
        match self.driver.close() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%partition, %error, "the log was not closed in good order; it is checked at the next start");
                false
            }
        }
    }
}
