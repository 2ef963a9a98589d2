//! A cluster under test: `baton dev` as a child, its data in a temporary directory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use baton_client::Client;
use baton_protocol::ids::{LeaderEpoch, PartitionIndex};
use rustix::process::{Pid, Signal, kill_process};

/// Everything is waited for this long at most: far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

pub fn baton() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.stdin(Stdio::null());
    command
}

/// A first port with all that `dev` needs free behind it. Tests of this process never share one.
pub fn free_ports() -> u16 {
    let seed = (std::process::id() % 40) as u16 * 310;
    for _ in 0..200 {
        let turn = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        // Below the ports that the system gives to outgoing connections.
        let port = 20_000 + (seed + turn % 40 * 310) % (40 * 310);
        let mut wanted = [0u16, 100, 200, 300]
            .into_iter()
            .flat_map(|shift| (0..5).map(move |i| port + shift + i));
        // Not by binding: a child that another test starts at this moment would hold the port until
        // it runs its own program.
        if wanted.all(|port| TcpStream::connect(("127.0.0.1", port)).is_err()) {
            return port;
        }
    }
    panic!("no free ports");
}

pub struct Cluster {
    dev: Child,
    pub port: u16,
    pids: Arc<Mutex<BTreeMap<u32, i32>>>,
}

impl Cluster {
    pub fn start(data_dir: &Path, port: u16) -> Cluster {
        let mut dev = baton()
            .args(["dev", "--port", &port.to_string(), "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("baton starts");
        let stdout = dev.stdout.take().expect("its output");
        let pids = Arc::new(Mutex::new(BTreeMap::new()));
        let (ready, is_ready) = mpsc::channel();
        let seen = pids.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["broker", id, rest @ ..] = words.as_slice()
                    && let Some(at) = rest.iter().position(|word| *word == "pid")
                    && let (Ok(id), Ok(pid)) = (id.parse(), rest[at + 1].parse())
                {
                    seen.lock().expect("pids").insert(id, pid);
                }
                if line.starts_with("Ctrl-C") {
                    ready.send(()).expect("somebody waits");
                }
            }
        });
        is_ready
            .recv_timeout(PATIENCE)
            .expect("the cluster is ready");
        Cluster { dev, port, pids }
    }

    pub fn bootstrap(&self) -> Vec<String> {
        (0..3)
            .map(|i| format!("127.0.0.1:{}", self.port + i))
            .collect()
    }

    pub async fn client(&self) -> Client {
        Client::builder(self.bootstrap())
            .connect()
            .await
            .expect("connects")
    }

    /// Runs a command of `baton` against this cluster.
    pub fn run(&self, args: &[&str]) -> Output {
        baton()
            .env("BATON_BOOTSTRAP", self.bootstrap().join(","))
            .args(args)
            .output()
            .expect("runs")
    }

    pub fn pid(&self, broker: u32) -> i32 {
        self.pids.lock().expect("pids")[&broker]
    }

    pub fn signal(&self, broker: u32, signal: Signal) {
        let pid = Pid::from_raw(self.pid(broker)).expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    pub fn dev_pid(&self) -> i32 {
        self.dev.id() as i32
    }

    /// Ends it in good order.
    pub fn end(mut self) {
        self.ask_to_end();
        assert!(self.dev.wait().expect("ended").success());
    }

    fn ask_to_end(&mut self) {
        if let (Ok(None), Some(pid)) = (self.dev.try_wait(), Pid::from_raw(self.dev.id() as i32)) {
            kill_process(pid, Signal::TERM).expect("signalled");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.ask_to_end();
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(self.dev.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.dev.kill().expect("killed");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until a partition has a leader and all replicas are alive and in its set; the leader and
/// its epoch.
pub async fn whole(client: &Client, topic: &str, partition: u32) -> (u32, LeaderEpoch) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let record = client.topic(topic).await.expect("the topic");
        let found = record
            .partition(PartitionIndex(partition))
            .expect("the partition");
        let alive = client.view().brokers.values().all(|broker| !broker.fenced);
        if let Some(leader) = found.leader
            && found.in_sync.len() == found.replicas.len()
            && alive
        {
            return (leader.broker.0, found.epoch);
        }
        assert!(Instant::now() < deadline, "not whole again: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a partition has another leader, in a later epoch.
pub async fn passed_on(
    client: &Client,
    topic: &str,
    partition: u32,
    from: LeaderEpoch,
) -> LeaderEpoch {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let record = client.topic(topic).await.expect("the topic");
        let found = record
            .partition(PartitionIndex(partition))
            .expect("the partition");
        if found.epoch > from && found.leader.is_some() {
            return found.epoch;
        }
        assert!(Instant::now() < deadline, "no new leader: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
