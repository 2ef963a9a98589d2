//! Redis: a primary and two replicas, a stream for each partition on that one primary. A batch is an
//! `XADD` for each record and a `WAIT 1` behind them: one replica has received it too.
//!
//! As documented: `appendonly yes`, `appendfsync everysec`, which is what is recommended there. `WAIT`
//! answers for the replica's memory, not for its disk. In favour of Redis neither snapshots are taken
//! nor its append-only file is rewritten while it is measured.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tempfile::TempDir;

use super::connection::{Answers, Connection, Encode, open};
use super::process::Process;
use super::resp::{Replies, Reply, command};
use super::{Cluster, NODES, Peer, stream_name, version_line, within};
use crate::cluster::free_ports;
use crate::usage::Watched;

/// `WAIT` holds up its connection, so that several are needed for the primary always to have a batch
/// before it: one alone makes a third less, six make no more.
const CONNECTIONS: usize = 3;

/// Batches under way on each: one waits for the replica, the next is in the socket.
const IN_FLIGHT: usize = 2;

/// How long a replica may take to have a batch, in milliseconds.
const WAIT_MS: &str = "10000";

/// How long rewriting a file may take.
const REWRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Three servers.
pub struct Redis {
    port: u16,
    // Ended before their data is removed.
    nodes: Vec<Process>,
    _dir: TempDir,
}

/// Its version and settings.
pub fn describe(program: &Path) -> anyhow::Result<String> {
    let version = version_line(program)?;
    let found = version
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="));
    let version = found.unwrap_or_default();
    Ok(format!(
        "Redis {version} (streams of one primary, 2 replicas, appendfsync everysec, XADD of a batch and WAIT 1)"
    ))
}

impl Redis {
    pub fn start(program: &Path, parent: &Path) -> anyhow::Result<Redis> {
        let dir = super::make_dir(parent)?;
        let port = free_ports(NODES)?;
        let mut redis = Redis {
            port,
            nodes: Vec::new(),
            _dir: dir,
        };
        for node in 0..NODES {
            let name = format!("broker {}", node + 1);
            let data = redis._dir.path().join(format!("node-{}", node + 1));
            std::fs::create_dir(&data)?;
            let own_port = (port + node).to_string();
            let mut args = vec!["--port", &own_port, "--bind", "127.0.0.1", "--save", ""];
            args.extend(["--appendonly", "yes", "--appendfsync", "everysec"]);
            args.extend(["--auto-aof-rewrite-percentage", "0"]);
            args.extend(["--repl-diskless-sync-delay", "0", "--dir"]);
            let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            args.push(data.display().to_string());
            if node > 0 {
                args.extend(["--replicaof", "127.0.0.1", &port.to_string()].map(str::to_owned));
            }
            let process = Process::start(&name, redis._dir.path(), program, &args, &[])?;
            redis.nodes.push(process);
        }
        Ok(redis)
    }

    fn ask(&self, node: u16, words: &[&str]) -> anyhow::Result<Reply> {
        let mut socket = open(self.port + node)?;
        let mut bytes = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        command(&mut bytes, &words);
        socket.write_all(&bytes)?;
        Replies::of(&socket)?.next()
    }

    fn info(&self, node: u16, section: &str) -> anyhow::Result<String> {
        match self.ask(node, &["INFO", section])? {
            Reply::Bulk(text) => Ok(text),
            other => bail!("{other:?} came instead of information"),
        }
    }

    /// Fails unless a node writes no file anew.
    fn rewritten(&self, node: u16) -> anyhow::Result<()> {
        let info = self.info(node, "persistence")?;
        let busy = ["aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"];
        ensure!(
            !busy.iter().any(|line| info.contains(line)),
            "the append-only file is still being rewritten"
        );
        Ok(())
    }
}

impl Cluster for Redis {
    fn watched(&self) -> Vec<Watched> {
        self.nodes.iter().map(Process::watched).collect()
    }

    fn check_nodes(&mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Process::check)
    }

    /// A stream comes into being with its first entry.
    fn make(&mut self, _topic: &str, _partitions: u32) -> anyhow::Result<()> {
        let info = self.info(0, "replication")?;
        let online = info.matches("state=online").count();
        ensure!(
            online + 1 == usize::from(NODES),
            "{online} replicas follow the primary"
        );
        Ok(())
    }

    fn connect(
        &self,
        _peer: Peer,
        topic: &str,
        partition: u32,
        many: bool,
    ) -> anyhow::Result<Vec<Connection>> {
        let one = || {
            let socket = open(self.port)?;
            let mut head = Vec::new();
            let stream = stream_name(topic, partition);
            command(&mut head, &[b"XADD", stream.as_bytes(), b"*", b"v", b""]);
            // Without the value.
            head.truncate(head.len() - b"$0\r\n\r\n".len());
            let mut wait = Vec::new();
            command(&mut wait, &[b"WAIT", b"1", WAIT_MS.as_bytes()]);
            let answers = Acks {
                replies: Replies::of(&socket)?,
                added: 0,
            };
            let encode = Commands { head, wait };
            Ok(Connection::new(socket, encode, answers, IN_FLIGHT))
        };
        let connections = if many { CONNECTIONS } else { 1 };
        (0..connections).map(|_| one()).collect()
    }

    fn delete(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        for partition in 0..partitions {
            let stream = stream_name(topic, partition);
            self.ask(0, &["DEL", &stream])?;
        }
        // What was removed stays in the files until they are rewritten.
        for node in 0..NODES {
            self.ask(node, &["BGREWRITEAOF"])
                .context("its file cannot be rewritten")?;
        }
        (0..NODES).try_for_each(|node| within(REWRITE_TIMEOUT, || self.rewritten(node)))
    }
}

/// Puts each record into an `XADD`, and a `WAIT` behind a batch.
struct Commands {
    /// Up to the value.
    head: Vec<u8>,
    wait: Vec<u8>,
}

impl Encode for Commands {
    fn encode(&mut self, _before: u64, values: &[Bytes], out: &mut Vec<u8>) {
        for value in values {
            out.extend_from_slice(&self.head);
            // Writing to memory does not fail.
            let _ = write!(out, "${}\r\n", value.len());
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&self.wait);
    }
}

/// Reads the id of each entry, and how many replicas have a batch.
struct Acks {
    replies: Replies,
    added: u64,
}

impl Answers for Acks {
    fn next(&mut self) -> anyhow::Result<u64> {
        loop {
            match self.replies.number_or_bulk()? {
                None => self.added += 1,
                Some(0) => bail!("no replica has a batch after {WAIT_MS} ms"),
                Some(_) => return Ok(self.added),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_its_entries_and_a_wait() {
        let mut commands = Commands {
            head: b"<xadd>".to_vec(),
            wait: b"<wait>".to_vec(),
        };
        let mut out = Vec::new();
        let values = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        commands.encode(0, &values, &mut out);
        assert_eq!(out, b"<xadd>$2\r\nab\r\n<xadd>$1\r\nc\r\n<wait>");
    }
}
