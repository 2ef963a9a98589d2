//! NATS JetStream: a stream of three replicas in files for each partition. Its protocol is lines of
//! text; a record is a message to the stream's subject that names a subject for its acknowledgement.
//!
//! As documented: `sync_interval` stays at its default of two minutes, so an acknowledgement says that
//! a majority has written the record, not that it is on a disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::connection::{Answers, Connection, Encode, open};
use super::process::Process;
use super::{ANSWER_TIMEOUT, Cluster, NODES, Peer, stream_name, version_line};
use crate::cluster::free_ports;
use crate::usage::Watched;

/// Batches that are under way; a message is acknowledged by itself, so they only save calls of the
/// system. 5 make nearly as much.
const IN_FLIGHT: usize = 20;

/// From a node's port for clients to that for the other nodes.
const CLUSTER_SHIFT: u16 = 100;

/// While servers have no leader, some questions stay without an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

const CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";

/// Three servers.
pub struct Nats {
    port: u16,
    // Ended before their data is removed.
    nodes: Vec<Process>,
    _dir: TempDir,
}

/// Its version and settings.
pub fn describe(program: &Path) -> anyhow::Result<String> {
    let version = version_line(program)?;
    let version = version.rsplit([' ', 'v']).next().unwrap_or_default();
    Ok(format!(
        "NATS JetStream {version} (R3 file streams, sync_interval 2 min, an ack for each message)"
    ))
}

impl Nats {
    pub fn start(program: &Path, parent: &Path) -> anyhow::Result<Nats> {
        let dir = super::make_dir(parent)?;
        let port = free_ports(NODES)?;
        let mut nats = Nats {
            port,
            nodes: Vec::new(),
            _dir: dir,
        };
        for node in 0..NODES {
            let name = format!("broker {}", node + 1);
            let config = nats._dir.path().join(format!("{}.conf", node + 1));
            std::fs::write(&config, nats.config(node))?;
            let args = ["-c".to_owned(), config.display().to_string()];
            let dir = nats._dir.path();
            let process = Process::start(&name, dir, program, &args, &[])?;
            nats.nodes.push(process);
        }
        Ok(nats)
    }

    /// A node's configuration. Pings are put off, since the clients here answer none.
    fn config(&self, node: u16) -> String {
        let routes: Vec<String> = (0..NODES)
            .map(|node| format!("nats://127.0.0.1:{}", self.port + CLUSTER_SHIFT + node))
            .collect();
        let store = self._dir.path().join(format!("node-{}", node + 1));
        format!(
            "server_name: node-{number}\nlisten: 127.0.0.1:{client}\nping_interval: \"12h\"\n\
             jetstream {{ store_dir: {store:?}, max_memory_store: 1GB, max_file_store: 1TB }}\n\
             cluster {{ name: bench, listen: 127.0.0.1:{cluster}, routes: [{routes}] }}\n",
            number = node + 1,
            client = self.port + node,
            cluster = self.port + CLUSTER_SHIFT + node,
            routes = routes.join(", "),
        )
    }

    /// The port of the node that leads a stream, once all its replicas follow.
    fn leader(&self, stream: &str) -> anyhow::Result<u16> {
        let info = self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null)?;
        let cluster = &info["cluster"];
        let replicas = cluster["replicas"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let current = replicas.iter().filter(|replica| replica["current"] == true);
        ensure!(
            current.count() + 1 == usize::from(NODES),
            "not all replicas of {stream} follow"
        );
        let leader = cluster["leader"].as_str().unwrap_or_default();
        let number = leader
            .strip_prefix("node-")
            .and_then(|text| text.parse().ok());
        let number: u16 = number.with_context(|| format!("{stream} has no leader"))?;
        Ok(self.port + number - 1)
    }

    /// Asks the system's own service for something.
    fn ask(&self, what: &str, request: &Value) -> anyhow::Result<Value> {
        let (mut socket, mut reader) = connect(self.port)?;
        socket.set_read_timeout(Some(ASK_TIMEOUT))?;
        let request = match request {
            Value::Null => String::new(),
            request => request.to_string(),
        };
        let bytes = request.len();
        write!(
            socket,
            "SUB _INBOX.ask 1\r\nPUB $JS.API.{what} _INBOX.ask {bytes}\r\n{request}\r\n"
        )?;
        let message = reader.message()?;
        let answer: Value = serde_json::from_slice(message).context("no JSON came")?;
        match answer["error"]["description"].as_str() {
            Some(error) => bail!("{what}: {error}"),
            None => Ok(answer),
        }
    }
}

impl Cluster for Nats {
    fn watched(&self) -> Vec<Watched> {
        self.nodes.iter().map(Process::watched).collect()
    }

    fn check_nodes(&mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Process::check)
    }

    fn make(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        for partition in 0..partitions {
            let name = stream_name(topic, partition);
            let wanted = json!({
                "name": name, "subjects": [name], "storage": "file",
                "num_replicas": NODES, "retention": "limits", "discard": "old",
            });
            self.ask(&format!("STREAM.CREATE.{name}"), &wanted)?;
        }
        for partition in 0..partitions {
            let name = stream_name(topic, partition);
            super::within(ANSWER_TIMEOUT, || self.leader(&name))?;
        }
        Ok(())
    }

    fn connect(
        &self,
        _peer: Peer,
        topic: &str,
        partition: u32,
        _many: bool,
    ) -> anyhow::Result<Vec<Connection>> {
        let stream = stream_name(topic, partition);
        let (mut socket, reader) = connect(self.leader(&stream)?)?;
        let inbox = format!("_INBOX.{stream}");
        write!(socket, "SUB {inbox}.* 1\r\n")?;
        let encode = Messages {
            head: format!("PUB {stream} {inbox}."),
        };
        let answers = Acks { reader, records: 0 };
        Ok(vec![Connection::new(socket, encode, answers, IN_FLIGHT)])
    }

    fn delete(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        for partition in 0..partitions {
            let name = stream_name(topic, partition);
            self.ask(&format!("STREAM.DELETE.{name}"), &Value::Null)?;
        }
        Ok(())
    }
}

/// A connection that has greeted.
fn connect(port: u16) -> anyhow::Result<(TcpStream, Reader)> {
    let mut socket = open(port)?;
    let mut reader = Reader {
        from: BufReader::with_capacity(64 << 10, socket.try_clone()?),
        line: String::new(),
        body: Vec::new(),
    };
    write!(socket, "{CONNECT}PING\r\n")?;
    while reader.line()? != "PONG" {}
    Ok((socket, reader))
}

/// Reads what a server sends.
struct Reader {
    from: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Reader {
    fn line(&mut self) -> anyhow::Result<&str> {
        self.line.clear();
        let bytes = self.from.read_line(&mut self.line)?;
        ensure!(bytes > 0, "the server has closed the connection");
        let line = self.line.trim_end();
        ensure!(!line.starts_with("-ERR"), "the server says {line}");
        Ok(line)
    }

    /// The body of the next message.
    fn message(&mut self) -> anyhow::Result<&[u8]> {
        loop {
            let line = self.line()?;
            // With headers come only errors, as that nobody has subscribed.
            ensure!(
                !line.starts_with("HMSG"),
                "there is no such stream, or no JetStream"
            );
            if !line.starts_with("MSG ") {
                continue;
            }
            let bytes = line.rsplit(' ').next().and_then(|text| text.parse().ok());
            let bytes: usize = bytes.with_context(|| format!("`{line}` is not understood"))?;
            self.body.resize(bytes + 2, 0);
            self.from.read_exact(&mut self.body)?;
            return Ok(&self.body[..bytes]);
        }
    }
}

/// Puts each record into a message.
struct Messages {
    /// Up to the number that the subject of the acknowledgement ends in.
    head: String,
}

impl Encode for Messages {
    fn encode(&mut self, before: u64, values: &[Bytes], out: &mut Vec<u8>) {
        for (number, value) in (before + 1..).zip(values) {
            out.extend_from_slice(self.head.as_bytes());
            // Writing to memory does not fail.
            let _ = write!(out, "{number} {}\r\n", value.len());
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Reads an acknowledgement for each message.
struct Acks {
    reader: Reader,
    records: u64,
}

impl Answers for Acks {
    fn next(&mut self) -> anyhow::Result<u64> {
        let message = self.reader.message()?;
        let text = std::str::from_utf8(message)?;
        // Parsing each as JSON would cost the client more than the rest of it.
        ensure!(
            text.contains("\"seq\":") && !text.contains("\"error\""),
            "a record was refused: {text}"
        );
        let subject = self.reader.line.split(' ').nth(1).unwrap_or_default();
        let number = subject
            .rsplit('.')
            .next()
            .and_then(|text| text.parse().ok());
        self.records += 1;
        ensure!(
            number == Some(self.records),
            "{subject} came instead of the acknowledgement of record {}",
            self.records
        );
        Ok(self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_subject_its_acknowledgement_and_its_length() {
        let mut messages = Messages {
            head: "PUB s _INBOX.s.".into(),
        };
        let mut out = Vec::new();
        let values = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        messages.encode(7, &values, &mut out);
        assert_eq!(
            out,
            b"PUB s _INBOX.s.8 2\r\nab\r\nPUB s _INBOX.s.9 1\r\nc\r\n"
        );
    }
}
