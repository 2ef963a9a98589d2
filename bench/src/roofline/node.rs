//! One process of the bare pipeline: takes bytes from a socket into its file, passes them on, flushes
//! them, and says how far it has come. No records, no offsets, no decisions.

#![allow(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use clap::Args;

use super::growing::Growing;

/// Most bytes that are read, or passed on, at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Flags of a process of the pipeline; it is started by `roofline` itself.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// The file that takes the bytes.
    #[arg(long)]
    pub file: PathBuf,
    /// Where to pass the bytes on.
    #[arg(long, value_delimiter = ',')]
    pub followers: Vec<String>,
    /// Acknowledge before the bytes are on the disk.
    #[arg(long)]
    pub no_flush: bool,
}

/// How far each part has come, in bytes since the beginning.
#[derive(Default)]
struct Progress {
    received: u64,
    durable: u64,
    followers: Vec<u64>,
    ended: bool,
}

impl Progress {
    /// What this process holds, and with followers what one of them holds too.
    fn acknowledged(&self) -> u64 {
        let fastest = self.followers.iter().max();
        fastest.map_or(self.durable, |other| self.durable.min(*other))
    }
}

struct Node {
    log: Growing,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Node {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `value` has passed `known`; none once everything has ended.
    fn wait_past(&self, known: u64, value: impl Fn(&Progress) -> u64) -> Option<u64> {
        let mut progress = self.lock();
        loop {
            let now = value(&progress);
            if now > known {
                return Some(now);
            }
            if progress.ended {
                return None;
            }
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From the socket into the file. Through a buffer that stays in the processor's cache: a read
    /// straight into the mapping has the kernel fill each page with zeros first.
    fn receive(&self, mut from: TcpStream, flush: bool) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let mut received = 0;
        loop {
            let bytes = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => &buffer[..bytes],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.log.write(received, bytes)?;
            received += bytes.len() as u64;
            self.update(|progress| {
                progress.received = received;
                if !flush {
                    progress.durable = received;
                }
            });
        }
    }

    fn flush(&self) -> std::io::Result<()> {
        let mut durable = 0;
        while let Some(to) = self.wait_past(durable, |progress| progress.received) {
            self.log.sync()?;
            durable = to;
            self.update(|progress| progress.durable = to);
            self.log.drop_behind(to);
        }
        Ok(())
    }

    fn pass_on(&self, mut to: TcpStream) -> std::io::Result<()> {
        let mut sent = 0;
        while let Some(received) = self.wait_past(sent, |progress| progress.received) {
            while sent < received {
                let bytes = CHUNK_BYTES.min(received - sent);
                // SAFETY: below `received`.
                let slice = unsafe { self.log.written(sent, bytes) };
                to.write_all(slice)?;
                sent += slice.len() as u64;
            }
        }
        to.shutdown(Shutdown::Write)
    }

    fn hear(&self, which: usize, mut from: TcpStream) -> std::io::Result<()> {
        let mut word = [0; 8];
        while from.read_exact(&mut word).is_ok() {
            let held = u64::from_le_bytes(word);
            self.update(|progress| progress.followers[which] = held);
        }
        Ok(())
    }

    fn acknowledge(&self, mut to: TcpStream) -> std::io::Result<()> {
        let mut told = 0;
        while let Some(now) = self.wait_past(told, Progress::acknowledged) {
            to.write_all(&now.to_le_bytes())?;
            told = now;
        }
        Ok(())
    }
}

/// Runs until whoever sends closes the connection. Prints its port first.
///
/// # Errors
/// If the file, a socket or the disk fails.
pub fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let node = Node {
        log: Growing::create(&args.file)?,
        progress: Mutex::default(),
        changed: Condvar::new(),
    };
    node.lock().followers = vec![0; args.followers.len()];
    let mut followers = Vec::new();
    for address in &args.followers {
        let stream = TcpStream::connect(address).with_context(|| address.clone())?;
        stream.set_nodelay(true)?;
        followers.push(stream);
    }
    let (source, _) = listener.accept()?;
    source.set_nodelay(true)?;
    let flush = !args.no_flush;
    let answers = source.try_clone()?;
    let links: Vec<(TcpStream, TcpStream)> = followers
        .into_iter()
        .map(|stream| Ok((stream.try_clone()?, stream)))
        .collect::<std::io::Result<_>>()?;
    std::thread::scope(|scope| {
        let mut parts = Vec::new();
        if flush {
            parts.push(scope.spawn(|| node.flush()));
        }
        for (which, (to, from)) in links.into_iter().enumerate() {
            let node = &node;
            parts.push(scope.spawn(move || node.pass_on(to)));
            // Ends with the connection, when the other process does.
            scope.spawn(move || node.hear(which, from));
        }
        parts.push(scope.spawn(|| node.acknowledge(answers)));
        let received = node.receive(source, flush);
        node.update(|progress| progress.ended = true);
        for part in parts {
            part.join().expect("no part panics")?;
        }
        Ok(received?)
    })
}
