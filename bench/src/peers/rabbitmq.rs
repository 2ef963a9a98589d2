//! RabbitMQ: a cluster of three nodes with the stream plugin, a stream of three replicas for each
//! partition, and publisher confirms, which say that a majority has written a record. Streams are
//! never flushed, as documented: that is left to the system.
//!
//! Its Erlang nodes find each other's ports by a process of Erlang's, `epmd`, which usually stays
//! behind when they end. Here it is one of the cluster's own, on a port of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::connection::Connection;
use super::process::Process;
use super::rabbitmq_wire::{Client, Entries};
use super::{ANSWER_TIMEOUT, Cluster, NODES, Peer, in_path, stream_name, within};
use crate::cluster::free_ports;
use crate::usage::Watched;

/// Where the package has the programs that anybody may start; those in the `PATH` want to become
/// another user.
const PACKAGE_DIR: &str = "/usr/lib/rabbitmq/lib";

/// Batches under way. With 5 of 128 KiB, plain entries of 1 KiB make two thirds of what they make with
/// as many as this.
const IN_FLIGHT: usize = 24;

/// From a node's port for clients to that for the other nodes.
const NODES_SHIFT: u16 = 100;

/// From the first node's port for clients to where they look for ports to replicate on. Those are the
/// only ones that no setting binds to loopback.
const REPLICATION_SHIFT: u16 = 200;

/// From the first node's port for clients to that of `epmd`.
const EPMD_SHIFT: u16 = 300;

/// Three nodes, and what they find each other by.
pub struct Rabbitmq {
    port: u16,
    // Ended before their data is removed.
    nodes: Vec<Process>,
    epmd: Process,
    dir: TempDir,
}

/// The server's script.
pub fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir(PACKAGE_DIR).ok()?.flatten();
    let scripts = versions.map(|version| version.path().join("sbin/rabbitmq-server"));
    scripts.filter(|script| script.is_file()).max()
}

/// Its version and settings.
pub fn describe(program: &Path) -> anyhow::Result<String> {
    let home = program.ancestors().nth(2).and_then(Path::file_name);
    let home = home.unwrap_or_default().to_string_lossy();
    let version = home.rsplit('-').next().unwrap_or_default();
    Ok(format!(
        "RabbitMQ {version} (streams of 3 replicas, publisher confirms; sub-entries of up to 100 records, not compressed)"
    ))
}

impl Rabbitmq {
    pub fn start(program: &Path, parent: &Path) -> anyhow::Result<Rabbitmq> {
        let dir = super::make_dir(parent)?;
        let port = free_ports(NODES)?;
        // What nodes know each other by.
        let cookie = dir.path().join(".erlang.cookie");
        std::fs::write(&cookie, uuid::Uuid::new_v4().simple().to_string())?;
        std::fs::set_permissions(&cookie, PermissionsExt::from_mode(0o400))?;
        let epmd = in_path("epmd").context("there is no epmd")?;
        let epmd_port = (port + EPMD_SHIFT).to_string();
        let args = ["-port", &epmd_port, "-address", "127.0.0.1"].map(str::to_owned);
        let epmd = Process::start("epmd", dir.path(), &epmd, &args, &[])?;
        let mut rabbitmq = Rabbitmq {
            port,
            nodes: Vec::new(),
            epmd,
            dir,
        };
        for node in 0..NODES {
            rabbitmq.configure(node)?;
            let name = format!("broker {}", node + 1);
            let dir = rabbitmq.dir.path();
            let variables = rabbitmq.variables(node);
            let process = Process::start(&name, dir, program, &[], &variables)?;
            rabbitmq.nodes.push(process);
        }
        Ok(rabbitmq)
    }

    fn node_dir(&self, node: u16) -> PathBuf {
        self.dir.path().join(format!("node-{}", node + 1))
    }

    fn configure(&self, node: u16) -> anyhow::Result<()> {
        let dir = self.node_dir(node);
        std::fs::create_dir(&dir)?;
        let mut config = format!(
            "listeners.tcp = none\n\
             stream.listeners.tcp.1 = 127.0.0.1:{port}\n\
             stream.advertised_host = 127.0.0.1\n\
             stream.advertised_port = {port}\n\
             cluster_formation.peer_discovery_backend = classic_config\n",
            port = self.port + node,
        );
        for other in 0..NODES {
            config += &format!(
                "cluster_formation.classic_config.nodes.{} = {}\n",
                other + 1,
                node_name(other)
            );
        }
        std::fs::write(dir.join("rabbitmq.conf"), config)?;
        let first = self.port + REPLICATION_SHIFT;
        let range = format!(
            "[{{osiris, [{{port_range, {{{first}, {}}}}}]}}].\n",
            first + 99
        );
        std::fs::write(dir.join("advanced.config"), range)?;
        std::fs::write(dir.join("enabled_plugins"), "[rabbitmq_stream].\n")?;
        Ok(())
    }

    /// What tells a node where everything is. Its script would not become the node itself if it did
    /// not believe that systemd looks after it.
    fn variables(&self, node: u16) -> Vec<(&'static str, String)> {
        let dir = self.node_dir(node);
        let path = |name: &str| dir.join(name).display().to_string();
        vec![
            ("HOME", self.dir.path().display().to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("ERL_EPMD_PORT", (self.port + EPMD_SHIFT).to_string()),
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            (
                "RABBITMQ_DIST_PORT",
                (self.port + NODES_SHIFT + node).to_string(),
            ),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("config")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_NODENAME", node_name(node)),
            ("RABBITMQ_PID_FILE", path("pid")),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}".into(),
            ),
        ]
    }

    fn is_whole(&self, stream: &str) -> anyhow::Result<u16> {
        let place = Client::connect(self.port)?.place(stream)?;
        ensure!(
            place.replicas + 1 == usize::from(NODES),
            "{stream} has {} replicas beside its leader",
            place.replicas
        );
        Ok(place.leader_port)
    }
}

fn node_name(node: u16) -> String {
    format!("bench{}@localhost", node + 1)
}

impl Cluster for Rabbitmq {
    fn watched(&self) -> Vec<Watched> {
        self.nodes.iter().map(Process::watched).collect()
    }

    fn check_nodes(&mut self) -> anyhow::Result<()> {
        self.epmd.check()?;
        self.nodes.iter_mut().try_for_each(Process::check)
    }

    fn make(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let mut client = Client::connect(self.port)?;
        for partition in 0..partitions {
            client.create(&stream_name(topic, partition), NODES)?;
        }
        for partition in 0..partitions {
            let stream = stream_name(topic, partition);
            within(ANSWER_TIMEOUT, || self.is_whole(&stream))?;
        }
        Ok(())
    }

    fn connect(
        &self,
        peer: Peer,
        topic: &str,
        partition: u32,
        _many: bool,
    ) -> anyhow::Result<Vec<Connection>> {
        let stream = stream_name(topic, partition);
        let leader = Client::connect(self.is_whole(&stream)?)?;
        let (socket, confirms) = leader.publisher(&stream)?;
        let encode = Entries {
            sub_entries: peer == Peer::RabbitmqSubEntries,
        };
        Ok(vec![Connection::new(socket, encode, confirms, IN_FLIGHT)])
    }

    fn delete(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let mut client = Client::connect(self.port)?;
        (0..partitions).try_for_each(|partition| client.delete(&stream_name(topic, partition)))
    }

    /// A node that joins takes a while to be asked to hold copies: until all are there, streams are
    /// made anew.
    fn try_out(&mut self) -> anyhow::Result<()> {
        let stream = stream_name("ready", 0);
        for node in 0..NODES {
            Client::connect(self.port + node)?;
        }
        let mut client = Client::connect(self.port)?;
        client.create(&stream, NODES)?;
        let whole = self.is_whole(&stream);
        client.delete(&stream)?;
        whole.map(drop)
    }
}
