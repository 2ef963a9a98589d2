//! As much of RabbitMQ's stream protocol as a load needs (its `PROTOCOL.adoc`): frames of a length, a
//! command's number, a version and what belongs to the command, numbers big-endian. A message's body
//! is AMQP 1.0, as consumers of a stream expect.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes};

use super::connection::{Answers, Encode, open};

const DECLARE_PUBLISHER: u16 = 0x01;
const PUBLISH: u16 = 0x02;
const PUBLISH_CONFIRM: u16 = 0x03;
const PUBLISH_ERROR: u16 = 0x04;
const CREATE: u16 = 0x0d;
const DELETE: u16 = 0x0e;
const METADATA: u16 = 0x0f;
const METADATA_UPDATE: u16 = 0x10;
const PEER_PROPERTIES: u16 = 0x11;
const SASL_HANDSHAKE: u16 = 0x12;
const SASL_AUTHENTICATE: u16 = 0x13;
const TUNE: u16 = 0x14;
const OPEN: u16 = 0x15;
const CLOSE: u16 = 0x16;
const HEARTBEAT: u16 = 0x17;

/// Set in the number of an answer.
const ANSWER: u16 = 0x8000;

/// Of every command.
const VERSION: u16 = 1;

/// The code of an answer that is none of an error.
const OK: u16 = 1;

/// The most that a frame may have, as a server is set up by default.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// A frame of messages is ended at so many bytes.
const PUBLISH_BYTES: usize = 256 << 10;

/// The most records in a sub-entry.
const SUB_ENTRY_RECORDS: usize = 100;

/// The single publisher of a connection.
const PUBLISHER: u8 = 0;

/// Bytes before the value in an AMQP 1.0 message of one data section.
const DATA_HEAD_BYTES: usize = 8;

/// A connection that has authenticated itself.
pub struct Client {
    pub socket: TcpStream,
    frames: Frames,
    correlation: u32,
}

struct Frames {
    from: BufReader<TcpStream>,
    body: Vec<u8>,
}

/// Where a stream is.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The port of its leader.
    pub leader_port: u16,
    /// How many nodes beside the leader have it.
    pub replicas: usize,
}

impl Client {
    /// Connects as the user that every server has for its own machine.
    ///
    /// # Errors
    /// If the server does not answer as expected.
    pub fn connect(port: u16) -> anyhow::Result<Client> {
        let socket = open(port)?;
        let from = BufReader::with_capacity(64 << 10, socket.try_clone()?);
        let frames = Frames {
            from,
            body: Vec::new(),
        };
        let mut client = Client {
            socket,
            frames,
            correlation: 0,
        };
        // No properties of our own.
        client.ask(PEER_PROPERTIES, &0u32.to_be_bytes())?;
        client.ask(SASL_HANDSHAKE, &[])?;
        let mut plain = Vec::new();
        put_text(&mut plain, "PLAIN");
        let secret = b"\0guest\0guest";
        plain.put_u32(secret.len() as u32);
        plain.put_slice(secret);
        client.ask(SASL_AUTHENTICATE, &plain)?;
        let (tune, _) = client.frames.next()?;
        ensure!(tune == TUNE, "command {tune} came instead of the limits");
        let mut limits = Vec::new();
        limits.put_u32(FRAME_BYTES_MAX);
        // No heartbeats.
        limits.put_u32(0);
        client.send(TUNE | ANSWER, &limits)?;
        let mut host = Vec::new();
        put_text(&mut host, "/");
        client.ask(OPEN, &host)?;
        Ok(client)
    }

    fn send(&mut self, command: u16, body: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(body.len() + 8);
        frame.put_u32(body.len() as u32 + 4);
        frame.put_u16(command);
        frame.put_u16(VERSION);
        frame.put_slice(body);
        Ok(self.socket.write_all(&frame)?)
    }

    /// Sends a command, and returns what its answer has behind the correlation id.
    fn exchange(&mut self, command: u16, body: &[u8]) -> anyhow::Result<&[u8]> {
        self.correlation += 1;
        let correlated = [&self.correlation.to_be_bytes()[..], body].concat();
        self.send(command, &correlated)?;
        while self.frames.next()?.0 != command | ANSWER {}
        let mut answer = self.frames.body();
        let correlation = answer.try_get_u32()?;
        ensure!(
            correlation == self.correlation,
            "an answer to something else"
        );
        Ok(answer)
    }

    /// The same, where the answer begins with a code that says whether it worked.
    fn ask(&mut self, command: u16, body: &[u8]) -> anyhow::Result<()> {
        let code = self.exchange(command, body)?.try_get_u16()?;
        ensure!(
            code == OK,
            "command {command:#04x} is answered by error {code:#04x}"
        );
        Ok(())
    }

    /// Makes a stream with so many copies.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create(&mut self, stream: &str, copies: u16) -> anyhow::Result<()> {
        let copies = copies.to_string();
        let arguments = [
            ("initial-cluster-size", copies.as_str()),
            ("queue-leader-locator", "least-leaders"),
        ];
        let mut body = Vec::new();
        put_text(&mut body, stream);
        body.put_u32(arguments.len() as u32);
        for (name, value) in arguments {
            put_text(&mut body, name);
            put_text(&mut body, value);
        }
        self.ask(CREATE, &body)
    }

    /// Removes a stream.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&mut self, stream: &str) -> anyhow::Result<()> {
        let mut body = Vec::new();
        put_text(&mut body, stream);
        self.ask(DELETE, &body)
    }

    /// Asks where a stream is.
    ///
    /// # Errors
    /// If it has no leader.
    pub fn place(&mut self, stream: &str) -> anyhow::Result<Place> {
        let mut body = Vec::new();
        body.put_u32(1);
        put_text(&mut body, stream);
        let answer = self.exchange(METADATA, &body)?;
        place(answer).with_context(|| format!("where {stream} is"))
    }

    /// Becomes a publisher to a stream. Without a name of its own, so that nothing is compared with
    /// what was published before.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn publisher(mut self, stream: &str) -> anyhow::Result<(TcpStream, Confirms)> {
        let mut body = vec![PUBLISHER];
        put_text(&mut body, "");
        put_text(&mut body, stream);
        self.ask(DECLARE_PUBLISHER, &body)?;
        let confirms = Confirms {
            frames: self.frames,
            records: 0,
        };
        Ok((self.socket, confirms))
    }
}

impl Frames {
    /// The command of the next frame that means something, and how long what belongs to it is.
    fn next(&mut self) -> anyhow::Result<(u16, usize)> {
        loop {
            let mut length = [0; 4];
            self.from
                .read_exact(&mut length)
                .context("the server has closed the connection")?;
            let length = u32::from_be_bytes(length);
            ensure!(
                (4..=FRAME_BYTES_MAX).contains(&length),
                "a frame of {length} bytes"
            );
            self.body.resize(length as usize, 0);
            self.from.read_exact(&mut self.body)?;
            let command = u16::from_be_bytes([self.body[0], self.body[1]]);
            match command {
                HEARTBEAT => {}
                CLOSE => bail!("the server closes the connection"),
                METADATA_UPDATE => bail!("a stream has lost its leader"),
                command => return Ok((command, self.body.len() - 4)),
            }
        }
    }

    /// What belongs to the command.
    fn body(&self) -> &[u8] {
        &self.body[4..]
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn take_text<'a>(from: &mut &'a [u8]) -> anyhow::Result<&'a str> {
    let length = usize::from(from.try_get_u16()?);
    let (text, rest) = from.split_at_checked(length).context("a text is cut")?;
    *from = rest;
    Ok(std::str::from_utf8(text)?)
}

/// What is told of the one stream that was asked for.
fn place(mut answer: &[u8]) -> anyhow::Result<Place> {
    let mut ports = Vec::new();
    for _ in 0..answer.try_get_u32()? {
        let reference = answer.try_get_u16()?;
        take_text(&mut answer)?;
        ports.push((reference, answer.try_get_u32()?));
    }
    ensure!(answer.try_get_u32()? == 1, "more than one stream is told");
    take_text(&mut answer)?;
    let code = answer.try_get_u16()?;
    ensure!(code == OK, "error {code:#04x}");
    let leader = answer.try_get_u16()?;
    let port = ports.iter().find(|(reference, _)| *reference == leader);
    let (_, port) = port.context("it has no leader")?;
    Ok(Place {
        leader_port: u16::try_from(*port)?,
        replicas: answer.try_get_u32()? as usize,
    })
}

/// The number that an entry is confirmed by: its last record, and how many records it has. It only
/// has to be unique.
fn publishing_id(end: u64, records: usize) -> u64 {
    end << 7 | records as u64
}

/// Puts records into entries, and those into frames.
pub struct Entries {
    /// Many records an entry.
    pub sub_entries: bool,
}

impl Entries {
    /// How many of the records, of which there are some, the next entry takes: at least one, and no more
    /// bytes than a frame should have.
    fn records_of_entry(&self, values: &[Bytes]) -> usize {
        if !self.sub_entries {
            return 1;
        }
        let mut bytes = 0;
        let fitting = values.iter().take(SUB_ENTRY_RECORDS).take_while(|value| {
            bytes += value.len();
            bytes <= PUBLISH_BYTES
        });
        fitting.count().max(1)
    }
}

impl Encode for Entries {
    fn encode(&mut self, before: u64, values: &[Bytes], out: &mut Vec<u8>) {
        let (mut end, mut rest) = (before, values);
        while !rest.is_empty() {
            let frame = out.len();
            out.put_u32(0);
            out.put_u16(PUBLISH);
            out.put_u16(VERSION);
            out.put_u8(PUBLISHER);
            let count_at = out.len();
            out.put_u32(0);
            let mut count = 0u32;
            while !rest.is_empty() && out.len() - frame < PUBLISH_BYTES {
                let (entry, behind) = rest.split_at(self.records_of_entry(rest));
                rest = behind;
                end += entry.len() as u64;
                out.put_u64(publishing_id(end, entry.len()));
                if self.sub_entries {
                    put_sub_entry(out, entry);
                } else {
                    put_message(out, &entry[0]);
                }
                count += 1;
            }
            out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
            let length = (out.len() - frame - 4) as u32;
            out[frame..frame + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A message of a single data section, behind its length.
fn put_message(out: &mut Vec<u8>, value: &Bytes) {
    out.put_u32((DATA_HEAD_BYTES + value.len()) as u32);
    out.put_slice(&[0x00, 0x53, 0x75, 0xb0]);
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

/// Several messages, not compressed.
fn put_sub_entry(out: &mut Vec<u8>, values: &[Bytes]) {
    let bytes = values.iter().map(|value| 4 + DATA_HEAD_BYTES + value.len());
    let bytes = bytes.sum::<usize>() as u32;
    out.put_u8(0x80);
    out.put_u16(values.len() as u16);
    // The length as it would be without compression, and as it is.
    out.put_u32(bytes);
    out.put_u32(bytes);
    for value in values {
        put_message(out, value);
    }
}

/// Reads what a majority of the replicas has.
pub struct Confirms {
    frames: Frames,
    records: u64,
}

impl Answers for Confirms {
    fn next(&mut self) -> anyhow::Result<u64> {
        match self.frames.next()?.0 {
            PUBLISH_CONFIRM => self.records = confirmed(self.records, self.frames.body())?,
            PUBLISH_ERROR => bail!("a record was refused"),
            other => bail!("command {other:#04x} is not expected"),
        }
        Ok(self.records)
    }
}

/// How many records are confirmed, after so many before. Entries of a frame come in any order, but
/// those of one frame follow those of the one before.
fn confirmed(before: u64, mut body: &[u8]) -> anyhow::Result<u64> {
    body.try_get_u8()?;
    let (mut end, mut records) = (before, 0);
    for _ in 0..body.try_get_u32()? {
        let id = body.try_get_u64()?;
        end = end.max(id >> 7);
        records += id & 0x7f;
    }
    ensure!(
        before + records == end,
        "{records} records behind record {before} are confirmed, the last of them is {end}"
    );
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"ab"); count]
    }

    /// The ids of a frame's entries, where no entry has more than one record.
    fn ids_of_plain(mut frame: &[u8]) -> Vec<u64> {
        assert_eq!(frame.get_u32() as usize, frame.len());
        assert_eq!((frame.get_u16(), frame.get_u16()), (PUBLISH, VERSION));
        assert_eq!(frame.get_u8(), PUBLISHER);
        let count = frame.get_u32();
        let ids = (0..count).map(|_| {
            let id = frame.get_u64();
            let length = frame.get_u32() as usize;
            assert_eq!(&frame[..length], b"\0Su\xb0\0\0\0\x02ab");
            frame.advance(length);
            id
        });
        ids.collect()
    }

    #[test]
    fn every_record_is_an_entry_of_its_own_or_one_of_many() {
        let mut out = Vec::new();
        Entries { sub_entries: false }.encode(5, &values(2), &mut out);
        assert_eq!(
            ids_of_plain(&out),
            [publishing_id(6, 1), publishing_id(7, 1)]
        );
        out.clear();
        Entries { sub_entries: true }.encode(0, &values(130), &mut out);
        let mut frame = &out[9..];
        assert_eq!(frame.get_u32(), 2);
        for (end, records) in [(100, 100), (130, 30)] {
            assert_eq!(frame.get_u64(), publishing_id(end, records));
            assert_eq!((frame.get_u8(), frame.get_u16()), (0x80, records as u16));
            let bytes = frame.get_u32();
            assert_eq!(bytes, frame.get_u32());
            frame.advance(bytes as usize);
        }
        assert!(frame.is_empty());
    }

    #[test]
    fn an_entry_of_large_records_has_fewer_of_them() {
        let large = vec![Bytes::from(vec![0; PUBLISH_BYTES / 2]); 3];
        let mut entries = Entries { sub_entries: true };
        assert_eq!(entries.records_of_entry(&large), 2);
        let larger = vec![Bytes::from(vec![0; PUBLISH_BYTES * 2]); 3];
        assert_eq!(entries.records_of_entry(&larger), 1);
        let mut out = Vec::new();
        entries.encode(0, &large, &mut out);
        assert!(out.len() < FRAME_BYTES_MAX as usize);
    }

    #[test]
    fn entries_are_confirmed_in_any_order_within_a_frame_only() {
        let frame = |ids: &[u64]| {
            let mut body = vec![PUBLISHER];
            body.put_u32(ids.len() as u32);
            ids.iter().for_each(|id| body.put_u64(*id));
            body
        };
        let (first, second) = (publishing_id(100, 100), publishing_id(130, 30));
        assert_eq!(
            confirmed(0, &frame(&[second, first])).expect("in order"),
            130
        );
        assert!(confirmed(0, &frame(&[second])).is_err());
        assert!(confirmed(0, &frame(&[first])[..9]).is_err());
    }

    #[test]
    fn a_stream_is_where_its_leader_is() {
        let mut answer = Vec::new();
        answer.put_u32(2);
        for (reference, port) in [(4, 5001), (9, 5002)] {
            answer.put_u16(reference);
            put_text(&mut answer, "host");
            answer.put_u32(port);
        }
        answer.put_u32(1);
        put_text(&mut answer, "s");
        answer.put_u16(OK);
        answer.put_u16(9);
        answer.put_u32(1);
        answer.put_u16(4);
        let found = place(&answer).expect("a place");
        assert_eq!((found.leader_port, found.replicas), (5002, 1));
        assert!(place(&answer[..20]).is_err());
    }
}
