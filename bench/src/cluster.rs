//! A cluster of the benchmark's own: brokers as processes on loopback, their data in a temporary
//! directory. They can be killed, frozen, stopped and started again one by one. What `BATON__...`
//! variables say is passed on to them; ports and directories are given by flags, which are stronger.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fs::Advice;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::usage::Watched;

/// How long a broker, or the cluster, may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a broker may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Ports of a broker, from its first one: clients, brokers, Raft, HTTP.
const SHIFTS: [u16; 4] = [0, 100, 200, 300];

struct Broker {
    id: u32,
    child: Option<Child>,
}

/// Brokers that run; they end when it is dropped.
pub struct Cluster {
    program: PathBuf,
    port: u16,
    // Ended before their data is removed.
    brokers: Vec<Broker>,
    dir: TempDir,
}

impl Cluster {
    /// Starts and forms a cluster on free ports, its data in a new directory within `parent`.
    ///
    /// # Errors
    /// If there is no `baton` beside this program, or it does not get ready.
    pub fn start(program: &Path, brokers: u32, parent: &Path) -> anyhow::Result<Cluster> {
        let dir = tempfile::Builder::new()
            .prefix("baton-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let ids = 1..=brokers;
        let mut cluster = Cluster {
            program: program.to_owned(),
            port: free_ports(brokers as u16)?,
            brokers: ids.map(|id| Broker { id, child: None }).collect(),
            dir,
        };
        for id in cluster.ids() {
            cluster.start_broker(id)?;
        }
        cluster.form()?;
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// All brokers.
    pub fn ids(&self) -> Vec<u32> {
        self.brokers.iter().map(|broker| broker.id).collect()
    }

    /// Where clients find its brokers.
    pub fn bootstrap(&self) -> Vec<String> {
        self.ids()
            .into_iter()
            .map(|id| self.address(id, 0))
            .collect()
    }

    /// The processes that run, to be watched.
    pub fn watched(&self) -> Vec<Watched> {
        let running = self.brokers.iter().filter_map(|broker| {
            let pid = broker.child.as_ref()?.id();
            let name = format!("broker {}", broker.id);
            Some(Watched { name, pid })
        });
        running.collect()
    }

    /// Where a broker keeps its data.
    pub fn data_dir(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("broker-{id}"))
    }

    fn address(&self, id: u32, shift: u16) -> String {
        format!("127.0.0.1:{}", self.port + shift + id as u16 - 1)
    }

    fn broker(&mut self, id: u32) -> anyhow::Result<&mut Broker> {
        let found = self.brokers.iter_mut().find(|broker| broker.id == id);
        found.with_context(|| format!("there is no broker {id}"))
    }

    fn child(&mut self, id: u32) -> anyhow::Result<&mut Child> {
        let child = self.broker(id)?.child.as_mut();
        child.with_context(|| format!("broker {id} does not run"))
    }

    /// Starts a broker that does not run. It ends with this process, and with the thread that calls
    /// this.
    ///
    /// # Errors
    /// If the system starts no process.
    pub fn start_broker(&mut self, id: u32) -> anyhow::Result<()> {
        let list = |shift: u16, with_id: bool| {
            let one = |id: u32| match with_id {
                true => format!("{id}@{}", self.address(id, shift)),
                false => self.address(id, shift),
            };
            self.ids()
                .into_iter()
                .map(one)
                .collect::<Vec<_>>()
                .join(",")
        };
        let dir = self.data_dir(id);
        std::fs::create_dir_all(&dir)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(id))?;
        let child = Command::new(&self.program)
            .args(["broker", "start", "--id", &id.to_string(), "--data-dir"])
            .arg(&dir)
            .args(["--listen", &self.address(id, SHIFTS[0])])
            .args(["--peer-listen", &self.address(id, SHIFTS[1])])
            .args(["--raft-listen", &self.address(id, SHIFTS[2])])
            .args(["--http-listen", &self.address(id, SHIFTS[3])])
            .args(["--voters", &list(SHIFTS[2], true)])
            .args(["--controllers", &list(SHIFTS[1], false)])
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.broker(id)?.child = Some(child);
        Ok(())
    }

    fn log_path(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("broker-{id}.log"))
    }

    fn form(&mut self) -> anyhow::Result<()> {
        let voters: Vec<String> = self
            .ids()
            .into_iter()
            .map(|id| self.address(id, SHIFTS[2]))
            .collect();
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let output = Command::new(&self.program)
                .args(["cluster", "init", "--voters", &voters.join(",")])
                .stdin(Stdio::null())
                .output()?;
            if output.status.success() {
                return Ok(());
            }
            for id in self.ids() {
                self.check_runs(id)?;
            }
            if Instant::now() > deadline {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("the cluster could not be formed: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every broker that runs has registered and knows the controller.
    ///
    /// # Errors
    /// If one ends, or it takes too long.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let running = self.watched().len();
        for id in self.ids() {
            if self.child(id).is_err() && running > 0 {
                continue;
            }
            while !self.is_ready(id) {
                self.check_runs(id)?;
                ensure!(
                    Instant::now() < deadline,
                    "broker {id} is not ready after {READY_TIMEOUT:?}; {}",
                    self.end_of_log(id)
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    fn check_runs(&mut self, id: u32) -> anyhow::Result<()> {
        if let Some(status) = self.child(id)?.try_wait()? {
            bail!("broker {id} ended ({status}); {}", self.end_of_log(id));
        }
        Ok(())
    }

    /// Whether a broker says that it has registered and knows the controller.
    pub fn is_ready(&self, id: u32) -> bool {
        is_healthy(&self.address(id, SHIFTS[3])).unwrap_or(false)
    }

    fn end_of_log(&self, id: u32) -> String {
        let log = std::fs::read_to_string(self.log_path(id)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
        format!("the end of its log:\n  {tail}")
    }

    /// When it was done.
    fn signal(&mut self, id: u32, signal: Signal) -> anyhow::Result<Instant> {
        let pid = Pid::from_raw(self.child(id)?.id() as i32).context("no process id")?;
        let sent = kill_process(pid, signal);
        sent.with_context(|| format!("broker {id} cannot be signalled"))?;
        Ok(Instant::now())
    }

    /// Stops a broker without a word: `SIGSTOP`. When that was.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&mut self, id: u32) -> anyhow::Result<Instant> {
        self.signal(id, Signal::STOP)
    }

    /// Lets a frozen broker go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn thaw(&mut self, id: u32) -> anyhow::Result<()> {
        self.signal(id, Signal::CONT)?;
        Ok(())
    }

    /// Kills a broker without warning. It stays down until it is started. When that was.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, id: u32) -> anyhow::Result<Instant> {
        let killed = self.signal(id, Signal::KILL)?;
        let child = self.broker(id)?.child.take();
        child.context("it runs")?.wait()?;
        Ok(killed)
    }

    /// Asks a broker to end, and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or does not end by itself.
    pub fn stop(&mut self, id: u32) -> anyhow::Result<()> {
        self.signal(id, Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.child(id)?.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "broker {id} does not end; {}",
                self.end_of_log(id)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        self.broker(id)?.child = None;
        Ok(())
    }

    /// Ends all brokers, has the system forget what it keeps of their files in memory, and starts them
    /// again. Nothing less makes segments cold: pages that a process has mapped are not forgotten.
    ///
    /// # Errors
    /// If a broker does not end, or does not start.
    pub fn restart_cold(&mut self) -> anyhow::Result<()> {
        for id in self.ids() {
            self.stop(id)?;
            forget_cached(&self.data_dir(id))?;
        }
        for id in self.ids() {
            self.start_broker(id)?;
        }
        self.wait_until_ready()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for broker in &mut self.brokers {
            // Their data goes with them, so nothing is worth an orderly end. One that has ended
            // already is no trouble.
            if let Some(mut child) = broker.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}

fn is_healthy(address: &str) -> std::io::Result<bool> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    socket.read_exact(&mut head)?;
    Ok(head.ends_with(b"200"))
}

/// A first port with all free behind it that this many brokers need: each one, and one that is 100,
/// 200 and 300 higher.
///
/// # Errors
/// If too many are taken.
pub fn free_ports(brokers: u16) -> anyhow::Result<u16> {
    // Below the ports that the system gives to outgoing connections; not where another benchmark
    // that starts at this moment looks first.
    let first = (std::process::id() % 38) as u16;
    for turn in 0..38 {
        let port = 20_000 + (first + turn) % 38 * 310;
        let mut wanted = SHIFTS
            .into_iter()
            .flat_map(|shift| (0..brokers).map(move |i| port + shift + i));
        // Not by binding: a child that is started at this moment would hold the port.
        if wanted.all(|port| TcpStream::connect(("127.0.0.1", port)).is_err()) {
            return Ok(port);
        }
    }
    bail!("no free ports between 20000 and 32000")
}

/// Has the system drop what it keeps in memory of the files below a directory. Pages that are dirty or
/// mapped stay, so this is for directories that no broker runs on.
///
/// # Errors
/// If a file cannot be opened or flushed.
pub fn forget_cached(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_cached(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            file.sync_data()?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
