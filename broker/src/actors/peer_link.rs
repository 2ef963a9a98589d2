//! Links to other brokers: for each worker one connection to each, for everything that its replicas
//! send there.
//!
//! A link that breaks loses what was on its way; the partitions are told when it stands again and
//! ask their followers where they are. Nothing is queued while it is down.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Recipient, WrapFuture};
use arc_swap::ArcSwap;
use baton_protocol::ids::{BrokerEpoch, BrokerId, BrokerLife, ClusterId};
use baton_protocol::peer::{Opening, OpeningReply, PEER_PROTOCOL_VERSION, PeerMessage};
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::actors::control_link::{ControlLink, Report};
use crate::actors::messages::LinkChanged;
use crate::actors::workers::Worker;
use crate::net::connection::{self, ConnectionError, FrameReader, Outgoing};

/// How long a connection and its greeting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Pause before the first new attempt; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest pause between attempts. Short, since each refused attempt is evidence of a death.
const RETRY_MAX: Duration = Duration::from_millis(250);

/// The links of a worker, by the broker at the other end. Cheap to clone.
#[derive(Clone, Default)]
pub struct PeerLinks {
    table: Arc<ArcSwap<BTreeMap<BrokerId, Line>>>,
}

#[derive(Clone)]
struct Line {
    queue: mpsc::UnboundedSender<Outgoing>,
    up: Arc<AtomicBool>,
}

impl PeerLinks {
    /// Sends a message, if the link stands. What is queued is bounded by the replication window of
    /// each partition, and holds slices of mapped segments, no copies.
    pub fn send(&self, to: BrokerId, message: &PeerMessage, payload: Bytes) {
        let table = self.table.load();
        let Some(line) = table
            .get(&to)
            .filter(|line| line.up.load(Ordering::Acquire))
        else {
            return;
        };
        match Outgoing::encode(message, payload) {
            Ok(frame) => drop(line.queue.send(frame)),
            Err(error) => tracing::error!(%error, peer = %to, "a message could not be encoded"),
        }
    }

    /// The brokers to whom a link stands.
    pub fn up(&self) -> Vec<BrokerId> {
        let table = self.table.load();
        let standing = table
            .iter()
            .filter(|(_, line)| line.up.load(Ordering::Acquire));
        standing.map(|(id, _)| *id).collect()
    }

    fn insert(&self, id: BrokerId, line: Line) {
        self.table.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.insert(id, line.clone());
            table
        });
    }
}

/// Where a link goes, and who it is.
#[derive(Clone, Debug)]
pub struct Route {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This broker.
    pub me: BrokerLife,
    /// The other broker.
    pub peer: BrokerId,
    /// The other broker's life, as the metadata has it: a refused connection is evidence against
    /// this one.
    pub life: BrokerEpoch,
    /// Its address.
    pub address: String,
    /// The worker whose link it is.
    pub lane: u32,
}

/// The actor that keeps one link.
pub struct PeerLink {
    route: Route,
    line: Line,
    queue: Option<mpsc::UnboundedReceiver<Outgoing>>,
    control: ControlLink,
    listener: Recipient<LinkChanged>,
}

impl PeerLink {
    /// Starts a link of a worker, on its thread; `listener` is told when it stands and when it breaks.
    pub fn start_to(
        route: Route,
        worker: &Worker,
        control: ControlLink,
        listener: Recipient<LinkChanged>,
    ) -> Addr<PeerLink> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let line = Line {
            queue: sender,
            up: Arc::default(),
        };
        worker.links.insert(route.peer, line.clone());
        let link = PeerLink {
            route,
            line,
            queue: Some(receiver),
            control,
            listener,
        };
        PeerLink::start_in_arbiter(&worker.arbiter, |_| link)
    }
}

impl Actor for PeerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(queue) = self.queue.take() {
            let keeper = Keeper {
                route: self.route.clone(),
                up: self.line.up.clone(),
                queue,
                control: self.control.clone(),
                listener: self.listener.clone(),
            };
            ctx.spawn(keeper.keep().into_actor(self));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.line.up.store(false, Ordering::Release);
    }
}

/// Ends a link: the broker moved, or lives again.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Unlink;

impl actix::Handler<Unlink> for PeerLink {
    type Result = ();

    fn handle(&mut self, _: Unlink, ctx: &mut Self::Context) {
        if self.line.up.swap(false, Ordering::AcqRel) {
            let Route { peer, lane, .. } = self.route;
            self.listener.do_send(LinkChanged {
                peer,
                lane,
                up: false,
            });
        }
        actix::ActorContext::stop(ctx);
    }
}

struct Keeper {
    route: Route,
    up: Arc<AtomicBool>,
    queue: mpsc::UnboundedReceiver<Outgoing>,
    control: ControlLink,
    listener: Recipient<LinkChanged>,
}

impl Keeper {
    /// Connects, and connects again, for as long as the actor lives.
    async fn keep(mut self) {
        let mut pause = RETRY_MIN;
        loop {
            match timeout(CONNECT_TIMEOUT, self.open()).await {
                Ok(Ok(socket)) => {
                    pause = RETRY_MIN;
                    self.serve(socket).await;
                }
                Ok(Err(error)) => self.note_failure(&error),
                Err(_) => tracing::debug!(peer = %self.route.peer, "no answer from the peer port"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn open(&self) -> Result<TcpStream, ConnectionError> {
        let socket = TcpStream::connect(&self.route.address).await?;
        connection::prepare(&socket)?;
        Ok(socket)
    }

    /// A refused connection is evidence that the broker's process is gone.
    fn note_failure(&self, error: &ConnectionError) {
        let Route { peer, life, .. } = self.route;
        if let ConnectionError::Io(io) = error
            && io.kind() == ErrorKind::ConnectionRefused
        {
            self.control.report(Report::ConnectionRefused(peer, life));
        }
        tracing::debug!(%peer, %error, "no link");
    }

    async fn serve(&mut self, socket: TcpStream) {
        let Route { peer, lane, .. } = self.route;
        let tell = |up| self.listener.do_send(LinkChanged { peer, lane, up });
        let (read, mut write) = socket.into_split();
        let mut reader = FrameReader::new(read);
        match timeout(CONNECT_TIMEOUT, self.greet(&mut write, &mut reader)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(%peer, address = self.route.address, why, "the peer takes no link");
                return sleep(RETRY_MAX).await;
            }
            Err(_) => return tracing::debug!(%peer, "no answer to the greeting"),
        }
        // What was queued for the connection before this one is of no use to anybody.
        while self.queue.try_recv().is_ok() {}
        self.up.store(true, Ordering::Release);
        tell(true);
        tracing::debug!(%peer, "link up");
        let ended = tokio::select! {
            written = connection::write_frames(&mut write, &mut self.queue) => {
                written.err().map(|error| error.to_string())
            }
            // The other side never writes; reading tells when it is gone.
            read = reader.next() => Some(read.err().map_or("closed".to_owned(), |e| e.to_string())),
        };
        self.up.store(false, Ordering::Release);
        tell(false);
        tracing::info!(%peer, why = ended.unwrap_or_default(), "link down");
    }

    async fn greet(
        &self,
        write: &mut tokio::net::tcp::OwnedWriteHalf,
        reader: &mut FrameReader,
    ) -> Result<(), String> {
        let opening = Opening::Replication {
            version: PEER_PROTOCOL_VERSION,
            cluster_id: self.route.cluster_id,
            from: self.route.me,
            to: self.route.peer,
            lane: self.route.lane,
        };
        match connection::open(write, reader, &opening).await {
            Ok(OpeningReply::Welcome) => Ok(()),
            Ok(OpeningReply::Rejected(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
