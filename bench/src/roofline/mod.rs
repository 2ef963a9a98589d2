//! The honest limit of the machine at this moment: a bare pipeline with the processes, the bytes, the
//! batches and the flushes of a partition with three replicas, and nothing of a broker. A producer
//! sends over TCP to one process, which writes to a mapped file, passes the bytes on over TCP to two
//! others that do the same, and acknowledges what it and one of them have flushed.
//!
//! Every byte goes to room that was never written. A file that is written round and round would be
//! faster, since its pages are in memory already; no log that keeps what it has can be.

mod growing;
mod node;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;

use self::growing::Growing;
pub use self::node::{NodeArgs, run as run_node};

/// Without an acknowledgement for so long, a process of the pipeline is held for dead.
const STANDSTILL: Duration = Duration::from_secs(10);

/// What the pipeline carries.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where its files are.
    pub dir: PathBuf,
    /// Bytes of a batch.
    pub batch_bytes: usize,
    /// Batches that may be unacknowledged.
    pub in_flight: usize,
    /// Whether an acknowledgement waits for the disk.
    pub flush: bool,
    /// For how long.
    pub duration: Duration,
}

/// A process of the pipeline; ends when dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(dir: &Path, name: &str, followers: &[&Process], flush: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("roofline-node")
            .arg("--file")
            .arg(dir.join(name));
        if !followers.is_empty() {
            let addresses: Vec<&str> = followers.iter().map(|f| f.address.as_str()).collect();
            command.arg("--followers").arg(addresses.join(","));
        }
        if !flush {
            command.arg("--no-flush");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("its output is not readable")?;
        let mut process = Process {
            child,
            address: String::new(),
        };
        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port)?;
        if port.trim().is_empty() {
            bail!("a process of the pipeline did not start");
        }
        process.address = format!("127.0.0.1:{}", port.trim());
        Ok(process)
    }
}

impl Process {
    /// Waits until it has ended by itself, as it does when its source has.
    fn end(mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STANDSTILL;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "a process of the pipeline failed");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("a process of the pipeline does not end")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What went through the pipeline.
#[derive(Debug)]
pub struct Through {
    /// Megabytes a second.
    pub mb_per_s: f64,
    /// Nanoseconds from when a batch was sent to its acknowledgement.
    pub latencies: Histogram<u64>,
}

/// Sends through the pipeline.
///
/// # Errors
/// If a process does not start, or there is no room for what it is sent.
pub fn pipeline(load: &Load) -> anyhow::Result<Through> {
    let dir = tempfile::tempdir_in(&load.dir)?;
    let second = Process::start(dir.path(), "second", &[], load.flush)?;
    let third = Process::start(dir.path(), "third", &[], load.flush)?;
    let first = Process::start(dir.path(), "first", &[&second, &third], load.flush)?;
    let to = TcpStream::connect(&first.address)?;
    to.set_nodelay(true)?;
    let mut answers = to.try_clone()?;
    let (tell, told) = mpsc::channel();
    let listening = std::thread::spawn(move || {
        let mut word = [0; 8];
        while answers.read_exact(&mut word).is_ok() {
            if tell.send(u64::from_le_bytes(word)).is_err() {
                break;
            }
        }
    });
    let through = feed(load, &to, &told)?;
    to.shutdown(Shutdown::Write)?;
    for process in [first, second, third] {
        process.end()?;
    }
    listening.join().expect("it does not panic");
    Ok(through)
}

/// Batches that are on their way.
struct UnderWay {
    acknowledged: u64,
    batches: VecDeque<(u64, Instant)>,
    latencies: Histogram<u64>,
}

impl UnderWay {
    fn acknowledge(&mut self, to: u64) -> anyhow::Result<()> {
        self.acknowledged = to;
        while let Some((end, sent)) = self.batches.front()
            && *end <= to
        {
            let nanos = sent.elapsed().as_nanos() as u64;
            self.latencies.record(nanos)?;
            self.batches.pop_front();
        }
        Ok(())
    }
}

fn feed(load: &Load, mut to: &TcpStream, told: &mpsc::Receiver<u64>) -> anyhow::Result<Through> {
    let batch = vec![b'x'; load.batch_bytes];
    let mut under_way = UnderWay {
        acknowledged: 0,
        batches: VecDeque::new(),
        latencies: Histogram::new(3)?,
    };
    let wait = || told.recv_timeout(STANDSTILL).context("the pipeline broke");
    let mut sent = 0u64;
    let begun = Instant::now();
    while begun.elapsed() < load.duration {
        if under_way.batches.len() >= load.in_flight {
            under_way.acknowledge(wait()?)?;
        } else {
            let now = Instant::now();
            to.write_all(&batch)?;
            sent += batch.len() as u64;
            under_way.batches.push_back((sent, now));
        }
        if let Some(last) = told.try_iter().last() {
            under_way.acknowledge(last)?;
        }
    }
    while under_way.acknowledged < sent {
        under_way.acknowledge(wait()?)?;
    }
    Ok(Through {
        mb_per_s: sent as f64 / 1e6 / begun.elapsed().as_secs_f64(),
        latencies: under_way.latencies,
    })
}

/// Megabytes a second over one TCP connection of this machine with itself.
///
/// # Errors
/// If a socket fails.
pub fn loopback(batch_bytes: usize, duration: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sink = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut from, _) = listener.accept()?;
        let mut room = vec![0; 1 << 20];
        let mut received = 0;
        loop {
            match from.read(&mut room)? {
                0 => return Ok(received),
                bytes => received += bytes as u64,
            }
        }
    });
    let mut to = TcpStream::connect(address)?;
    let batch = vec![b'x'; batch_bytes];
    let begun = Instant::now();
    while begun.elapsed() < duration {
        to.write_all(&batch)?;
    }
    drop(to);
    let received = sink.join().expect("it does not panic")?;
    Ok(received as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

/// Megabytes a second onto the disk, in one file, with an `fdatasync` after each MiB.
///
/// # Errors
/// If there is no room, or the disk fails.
pub fn disk(dir: &Path, duration: Duration) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(dir)?;
    let file = Growing::create(&dir.path().join("disk"))?;
    let bytes = vec![b'x'; 1 << 20];
    let mut written = 0u64;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        file.write(written, &bytes)?;
        file.sync()?;
        written += bytes.len() as u64;
        file.drop_behind(written);
    }
    Ok(written as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
