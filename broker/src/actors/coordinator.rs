//! The coordinator of the groups of one partition: a mailbox, a timer and the log around the host,
//! which decides what to do. All of a broker's live on one thread of their own: what a change of a large
//! group takes is nothing that a partition or a connection should wait for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message,
    SpawnHandle, WrapFuture,
};
use baton_groups::event::RequestId;
use baton_groups::rules::Rules;
use baton_protocol::client::ResponseBody;
use baton_protocol::groups::GroupRequest;
use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use baton_storage::LogReader;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::actors::answer::Answer;
use crate::actors::messages::{AppendOwn, LogDamaged};
use crate::actors::partition::Partition;
use crate::driver::CheckedBatch;
use crate::groups::host::{Fate, Host, Lead, Now, Order};
use crate::groups::log::{self, Piece, ReplayError};
use crate::shared::{Known, Shared};

/// How often the host is told that time passes, while it has groups.
const TICK: Duration = Duration::from_millis(50);

/// A request about a group, with where to answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AskGroup {
    /// What is asked.
    pub request: GroupRequest,
    /// Where to answer.
    pub answer: Answer,
}

/// The lead or the metadata may have changed.
#[derive(Message)]
#[rtype(result = "()")]
struct Changed;

/// The replica is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct Gone;

#[derive(Message)]
#[rtype(result = "()")]
struct WasRead {
    reign: LeaderEpoch,
    result: Result<Piece, ReplayError>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Appended {
    number: u64,
    fate: Fate,
}

/// The actor.
pub struct Coordinator {
    partition: TopicPartition,
    shared: Arc<Shared>,
    /// The replica, whose log this is.
    owner: Addr<Partition>,
    reader: LogReader,
    lead: watch::Receiver<Option<Lead>>,
    known: watch::Receiver<Known>,
    host: Host,
    answers: HashMap<RequestId, Answer>,
    next_request: u64,
    ticking: Option<SpawnHandle>,
    orders: Vec<Order>,
}

impl Coordinator {
    /// The coordinator of this partition, whose replica tells of its `lead`.
    pub fn new(
        partition: TopicPartition,
        shared: Arc<Shared>,
        owner: Addr<Partition>,
        reader: LogReader,
        lead: watch::Receiver<Option<Lead>>,
    ) -> Self {
        let config = &shared.config;
        let bytes_max = config.group_batch_bytes_max();
        let host = Host::new(config.coordinator(), Rules::default(), bytes_max);
        Coordinator {
            partition,
            known: shared.known.subscribe(),
            shared,
            owner,
            reader,
            lead,
            host,
            answers: HashMap::new(),
            next_request: 0,
            ticking: None,
            orders: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            tick: self.shared.clock.now(),
            unix_ms: u64::try_from(self.shared.clock.wall_ms()).unwrap_or(0),
        }
    }

    /// Tells the host how things are, before anything else, and carries out what comes of all of it.
    /// The lead is looked at here and not only where its change arrives as a message: what waits in
    /// the mailbox before that is not of the reign any more.
    fn act(&mut self, ctx: &mut Context<Self>, act: impl FnOnce(&mut Host, Now, &mut Vec<Order>)) {
        let now = self.now();
        let mut orders = std::mem::take(&mut self.orders);
        // In this order: the topics are then no older than the metadata that the lead came with.
        let lead = *self.lead.borrow_and_update();
        if lead.is_some() {
            let known = self.known.borrow_and_update().clone();
            if let Some(topics) = known.topics() {
                self.host.set_topics(now, topics, &mut orders);
            }
        }
        let before = self.host.lead().map(|lead| lead.epoch);
        self.host.set_lead(now, lead, &mut orders);
        if before != lead.map(|lead| lead.epoch) {
            self.note_lead(lead);
        }
        act(&mut self.host, now, &mut orders);
        for order in orders.drain(..) {
            self.carry_out(order, ctx);
        }
        self.orders = orders;
        self.keep_time(ctx);
    }

    fn note_lead(&self, lead: Option<Lead>) {
        let partition = self.partition;
        match lead {
            Some(Lead { epoch, .. }) => {
                tracing::debug!(%partition, %epoch, "takes the office of coordinating groups");
            }
            None => tracing::debug!(%partition, "coordinates no groups any more"),
        }
    }

    fn carry_out(&mut self, order: Order, ctx: &mut Context<Self>) {
        match order {
            Order::Reply { request, result } => {
                if let Some(answer) = self.answers.remove(&request) {
                    answer.send(result.map(ResponseBody::Group));
                }
            }
            Order::Read { reign, from, up_to } => self.read(reign, from, up_to, ctx),
            Order::Append {
                number,
                reign,
                batch,
            } => self.append(number, reign, batch, ctx),
        }
    }

    fn read(
        &self,
        reign: LeaderEpoch,
        from: Option<Offset>,
        up_to: Offset,
        ctx: &mut Context<Self>,
    ) {
        let (reader, address) = (self.reader.clone(), ctx.address());
        let cold_reads = self.shared.cold_reads.clone();
        actix::spawn(async move {
            let read = move || log::read(&reader, from, up_to);
            let result = cold_reads.run(read).await;
            address.do_send(WasRead { reign, result });
        });
    }

    fn append(&self, number: u64, reign: LeaderEpoch, batch: Bytes, ctx: &mut Context<Self>) {
        let bytes_max = self.shared.config.group_batch_bytes_max();
        let batch = CheckedBatch::check(batch, bytes_max).expect("own batches are sound");
        let (done, fate) = oneshot::channel();
        self.owner.do_send(AppendOwn { reign, batch, done });
        let wait = async move {
            let fate = fate.await;
            // A replica that is gone leaves it open.
            let fate = fate.unwrap_or(Fate::Unknown);
            (number, fate)
        };
        let wait = wait.into_actor(self);
        ctx.spawn(wait.map(|(number, fate), _, ctx| ctx.notify(Appended { number, fate })));
    }

    /// A timer runs only while there is something that time changes.
    fn keep_time(&mut self, ctx: &mut Context<Self>) {
        match (self.host.needs_ticks(), self.ticking) {
            (true, None) => {
                let tick = ctx.run_interval(TICK, |coordinator, ctx| {
                    coordinator.act(ctx, |host, now, out| host.tick(now, out));
                });
                self.ticking = Some(tick);
            }
            (false, Some(tick)) => {
                ctx.cancel_future(tick);
                self.ticking = None;
            }
            _ => {}
        }
    }
}

impl Actor for Coordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (mut lead, mut known) = (self.lead.clone(), self.known.clone());
        let address = ctx.address();
        actix::spawn(async move {
            loop {
                // What changes while nothing is led here is looked at when something is.
                let leads = lead.borrow_and_update().is_some();
                address.do_send(Changed);
                let goes_on = tokio::select! {
                    changed = lead.changed() => changed.is_ok(),
                    changed = known.changed(), if leads => changed.is_ok(),
                };
                known.mark_unchanged();
                if !goes_on {
                    break;
                }
            }
            address.do_send(Gone);
        });
    }
}

impl Handler<AskGroup> for Coordinator {
    type Result = ();

    fn handle(&mut self, AskGroup { request, answer }: AskGroup, ctx: &mut Self::Context) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.answers.insert(id, answer);
        self.act(ctx, |host, now, out| host.request(now, id, request, out));
    }
}

impl Handler<Changed> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        self.act(ctx, |_, _, _| ());
    }
}

impl Handler<Gone> for Coordinator {
    type Result = ();

    /// Whoever waits is told by the answers, which are dropped.
    fn handle(&mut self, _: Gone, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<WasRead> for Coordinator {
    type Result = ();

    fn handle(&mut self, WasRead { reign, result }: WasRead, ctx: &mut Self::Context) {
        if let Err(ReplayError::Unreadable(error)) = &result {
            self.owner.do_send(LogDamaged(error.to_string()));
        }
        self.act(ctx, |host, now, out| {
            host.was_read(now, reign, result, out);
        });
    }
}

impl Handler<Appended> for Coordinator {
    type Result = ();

    fn handle(&mut self, Appended { number, fate }: Appended, ctx: &mut Self::Context) {
        self.act(ctx, |host, now, out| host.appended(now, number, fate, out));
    }
}
