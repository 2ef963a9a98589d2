//! A cluster of three brokers of the benchmark's own: `baton dev` from beside this program.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

/// How long the cluster may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Ports that `baton dev` takes from its first one on.
const PORT_SPAN: u16 = 303;

/// A running cluster; ends when dropped.
pub struct Cluster {
    dev: Child,
    port: u16,
    pids: Arc<Mutex<BTreeMap<u32, u32>>>,
}

impl Cluster {
    /// Starts a cluster on free ports, with its data in a temporary directory.
    pub async fn start() -> anyhow::Result<Cluster> {
        let program = program()?;
        let port = free_ports()?;
        let mut dev = tokio::process::Command::new(&program)
            .args(["dev", "--ephemeral", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = dev
            .stdout
            .take()
            .context("the cluster's output is not readable")?;
        let pids = Arc::new(Mutex::new(BTreeMap::new()));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        tokio::spawn(follow(stdout, pids.clone(), ready));
        match timeout(READY_TIMEOUT, is_ready).await {
            Ok(Ok(())) => Ok(Cluster { dev, port, pids }),
            Ok(Err(_)) => bail!("the cluster did not start; try `{} dev`", program.display()),
            Err(_) => bail!("the cluster is not ready after {READY_TIMEOUT:?}"),
        }
    }

    /// Where its brokers are.
    pub fn bootstrap(&self) -> Vec<String> {
        (0..3)
            .map(|i| format!("127.0.0.1:{}", self.port + i))
            .collect()
    }

    /// Kills a broker, without warning. It is started again after two seconds.
    pub fn kill(&self, broker: u32) -> anyhow::Result<()> {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = pids
            .get(&broker)
            .with_context(|| format!("broker {broker} has no process"))?;
        let status = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()?;
        if !status.success() {
            bail!("kill -9 {pid} failed: {status}");
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Asked to end, it removes its data.
        let Some(pid) = self.dev.id() else {
            return;
        };
        if let Err(error) = Command::new("kill").arg(pid.to_string()).status() {
            eprintln!("the cluster could not be ended: {error}");
        }
        for _ in 0..600 {
            if !matches!(self.dev.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("baton");
    if !program.exists() {
        bail!(
            "{} is not there; build it: cargo build --release",
            program.display()
        );
    }
    Ok(program)
}

fn free_ports() -> anyhow::Result<u16> {
    // Below the ports that the system gives to outgoing connections.
    for port in (20_000..32_000).step_by(usize::from(PORT_SPAN)) {
        let mut wanted = [0u16, 100, 200, 300]
            .into_iter()
            .flat_map(|shift| (0..3).map(move |i| port + shift + i));
        if wanted.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free ports between 20000 and 32000")
}

/// Reads what `baton dev` prints: which process each broker is, now and after restarts.
async fn follow(
    stdout: ChildStdout,
    pids: Arc<Mutex<BTreeMap<u32, u32>>>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let mut ready = Some(ready);
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["broker", id, rest @ ..] = words.as_slice()
            && let Ok(id) = id.parse()
            && let Some(at) = rest.iter().position(|word| *word == "pid")
            && let Some(Ok(pid)) = rest.get(at + 1).map(|pid| pid.parse())
        {
            pids.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, pid);
        }
        if line.starts_with("Ctrl-C")
            && let Some(ready) = ready.take()
        {
            // Whoever waits may have given up.
            let _ = ready.send(());
        }
    }
}
