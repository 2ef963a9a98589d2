//! Other systems, to be measured beside Baton in the same run: three nodes of each on loopback, with
//! settings as their documentation names them, and a client for each that costs them nothing. They
//! are Debian packages; nothing of them is needed to build, to test, or to measure Baton alone.
//!
//! The clients speak just as much of each protocol as a load needs: make a stream, publish, read
//! acknowledgements. They answer no pings, follow no leader, and try nothing twice.

mod connection;
mod nats;
mod process;
mod producer;
mod rabbitmq;
mod rabbitmq_wire;
mod redis;
mod resp;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use tempfile::TempDir;

pub use self::connection::Connection;
pub use self::process::{NodeArgs, run as run_node};
pub use self::producer::Producer;
use crate::args::{AcksArg, TopicArgs};
use crate::scenarios::settle;
use crate::usage::Watched;

/// Nodes of a cluster, and copies of each record.
const NODES: u16 = 3;

/// How long an answer may take; then something is wrong.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum PeerArg {
    /// NATS JetStream: `nats-server`.
    Nats,
    /// RabbitMQ streams: `rabbitmq-server`.
    Rabbitmq,
    /// Redis streams: `redis-server`.
    Redis,
}

/// A system and a way of using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A message for each record, each acknowledged.
    Nats,
    /// An entry for each record, many entries a frame.
    RabbitmqPlain,
    /// Up to 100 records an entry.
    RabbitmqSubEntries,
    /// An entry for each record, as many a round trip as a batch has.
    Redis,
}

impl PeerArg {
    /// The ways in which it is measured where throughput matters.
    pub fn batched(self) -> &'static [Peer] {
        match self {
            PeerArg::Nats => &[Peer::Nats],
            PeerArg::Rabbitmq => &[Peer::RabbitmqSubEntries, Peer::RabbitmqPlain],
            PeerArg::Redis => &[Peer::Redis],
        }
    }

    /// The way in which it is measured with one record at a time.
    pub fn lone(self) -> Peer {
        match self {
            PeerArg::Nats => Peer::Nats,
            PeerArg::Rabbitmq => Peer::RabbitmqPlain,
            PeerArg::Redis => Peer::Redis,
        }
    }

    /// The Debian package that it comes with.
    fn package(self) -> &'static str {
        match self {
            PeerArg::Nats => "nats-server",
            PeerArg::Rabbitmq => "rabbitmq-server",
            PeerArg::Redis => "redis-server",
        }
    }

    fn name(self) -> &'static str {
        match self {
            PeerArg::Nats => "NATS",
            PeerArg::Rabbitmq => "RabbitMQ",
            PeerArg::Redis => "Redis",
        }
    }

    /// Its program, and what it needs beside that.
    ///
    /// # Errors
    /// If it is not installed; with the package to install.
    fn find(self) -> anyhow::Result<PathBuf> {
        let found = match self {
            PeerArg::Nats => in_path("nats-server"),
            PeerArg::Rabbitmq => in_path("epmd").and_then(|_| rabbitmq::find()),
            PeerArg::Redis => in_path("redis-server"),
        };
        found.with_context(|| {
            let (name, package) = (self.name(), self.package());
            format!("{name} is not installed; on Debian: apt install {package} (or leave its --peer out)")
        })
    }

    /// What it is and how it is set up, for a report.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn describe(self) -> anyhow::Result<String> {
        let program = self.find()?;
        Ok(match self {
            PeerArg::Nats => nats::describe(&program)?,
            PeerArg::Rabbitmq => rabbitmq::describe(&program)?,
            PeerArg::Redis => redis::describe(&program)?,
        })
    }

    /// Starts three nodes, and waits until they take records. They end with this process, and with
    /// the thread that calls this.
    ///
    /// # Errors
    /// If it is not installed, or a node ends, or it takes too long.
    pub async fn start(self, parent: &Path) -> anyhow::Result<Box<dyn Cluster>> {
        eprintln!("{}: starting {NODES} nodes", self.name());
        let program = self.find()?;
        let mut cluster: Box<dyn Cluster> = match self {
            PeerArg::Nats => Box::new(nats::Nats::start(&program, parent)?),
            PeerArg::Rabbitmq => Box::new(rabbitmq::Rabbitmq::start(&program, parent)?),
            PeerArg::Redis => Box::new(redis::Redis::start(&program, parent)?),
        };
        let mut why = None;
        let ready = settle("the nodes are ready", async || {
            cluster.check_nodes()?;
            why = cluster.try_out().err();
            Ok(why.is_none())
        });
        let ready = ready.await;
        ready.with_context(|| match &why {
            Some(why) => format!("{}: {why:#}", self.name()),
            None => self.name().to_owned(),
        })?;
        Ok(cluster)
    }
}

impl Peer {
    /// What a column is called: the system, when what it holds is on the disk, and who has a record
    /// that is acknowledged.
    pub fn terms(self) -> &'static str {
        match self {
            Peer::Nats => "NATS JetStream, fsync every 2 min, 2 of 3 ack",
            Peer::RabbitmqPlain => "RabbitMQ stream, no fsync, 2 of 3 ack",
            Peer::RabbitmqSubEntries => "RabbitMQ stream, sub-entries, no fsync, 2 of 3 ack",
            Peer::Redis => "Redis stream, fsync every 1 s, 2 of 3 ack",
        }
    }
}

/// Three nodes that run; they end when it is dropped.
pub trait Cluster: Send {
    /// Its processes.
    fn watched(&self) -> Vec<Watched>;

    /// Fails if a node has ended.
    fn check_nodes(&mut self) -> anyhow::Result<()>;

    /// Makes a stream with a copy on each node, for each partition of a topic. They are whole.
    fn make(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()>;

    /// Connects to the node that leads a partition; more than once where that makes it faster.
    fn connect(
        &self,
        peer: Peer,
        topic: &str,
        partition: u32,
        many: bool,
    ) -> anyhow::Result<Vec<Connection>>;

    /// Removes what was made, and what it takes on the disk.
    fn delete(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()>;

    /// Makes a stream, sends a record and removes it again.
    fn try_out(&mut self) -> anyhow::Result<()> {
        let topic = "ready";
        self.make(topic, 1)?;
        self.delete(topic, 1)
    }
}

/// Refuses what peers cannot be compared under.
///
/// # Errors
/// If a peer is not installed, or it is not three replicas of which two acknowledge.
pub fn check(peers: &[PeerArg], topic: &TopicArgs, acks: AcksArg) -> anyhow::Result<()> {
    if peers.is_empty() {
        return Ok(());
    }
    let alike = (topic.replicas, topic.sync_followers) == (3, 1) && acks == AcksArg::Committed;
    if !alike {
        bail!(
            "peers have 3 replicas of which 2 acknowledge; leave out --peer, or --replicas, --sync-followers and --acks"
        );
    }
    check_installed(peers)
}

/// # Errors
/// If a peer is not installed.
pub fn check_installed(peers: &[PeerArg]) -> anyhow::Result<()> {
    for peer in peers {
        peer.find()?;
    }
    Ok(())
}

/// A program in the directories where programs are. Servers are not in everybody's `PATH`.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(servers);
    dirs.map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The first line that a program prints about itself.
fn version_line(program: &Path) -> anyhow::Result<String> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The name of a partition's stream.
fn stream_name(topic: &str, partition: u32) -> String {
    format!("{topic}-{partition}")
}

/// A directory for the nodes' data, removed when it is dropped.
fn make_dir(parent: &Path) -> anyhow::Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("baton-bench-peer-")
        .tempdir_in(parent);
    dir.with_context(|| format!("cannot make a directory in {}", parent.display()))
}

/// Tries until it succeeds, or fails as it last did.
fn within<T>(limit: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}
