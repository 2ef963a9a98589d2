//! `baton dev`: a cluster on this machine, each broker a process of its own, so that one can be
//! killed.

mod shape;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use self::shape::Shape;
use crate::cli::cluster::{FormError, form_cluster};
use crate::cli::output::{count, note, say};
use crate::config::VOTERS_MAX;
use crate::http::is_healthy;

/// How long a broker that died stays dead.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// How long the cluster may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a broker may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(12);

/// Tells what goes on. Whoever reads that may go; the cluster stays.
macro_rules! tell {
    ($($text:tt)*) => {
        drop(say!($($text)*))
    };
}

/// Flags of `baton dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of brokers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    brokers: u16,
    /// Where the brokers keep their data; found again at the next start.
    #[arg(long, default_value = "./data/dev")]
    data_dir: PathBuf,
    /// Keep the data in a temporary directory that is removed at the end.
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Leave a broker that died dead.
    #[arg(long)]
    no_restart: bool,
    /// First port: clients from here on, brokers 100 higher, Raft 200, HTTP 300.
    #[arg(long, default_value_t = 7401, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,
}

struct Broker {
    id: u16,
    dir: PathBuf,
    child: Option<Child>,
    died_at: Option<Instant>,
}

impl Broker {
    /// The last lines of its log, for an error.
    fn end_of_log(&self) -> String {
        let path = self.dir.join("broker.log");
        match std::fs::read_to_string(&path) {
            Ok(log) => {
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
                format!("the end of {}:\n  {tail}", path.display())
            }
            Err(error) => format!("its log {} cannot be read: {error}", path.display()),
        }
    }
}

struct Dev<'a> {
    args: &'a DevArgs,
    data_dir: &'a Path,
    shape: Shape,
    brokers: Vec<Broker>,
}

/// Runs the cluster until SIGINT or SIGTERM.
pub fn run(args: &DevArgs) -> anyhow::Result<()> {
    let temporary = args.ephemeral.then(temporary_dir).transpose()?;
    let data_dir = temporary.clone().unwrap_or_else(|| args.data_dir.clone());
    let result = run_in(args, &data_dir);
    if let Some(dir) = temporary {
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    result
}

/// The brokers of `dev` run with the defaults; only ports and directories differ, and they share the
/// processors.
fn say_what_is_dropped() {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let dropped: Vec<String> = names.filter(|name| name.starts_with("BATON__")).collect();
    if !dropped.is_empty() {
        note!(
            "{} not passed on: `dev` runs its brokers with the default configuration (but for broker.threads: they share the processors); use `baton broker start` for another",
            dropped.join(", ")
        );
    }
}

fn temporary_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("baton-dev-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn run_in(args: &DevArgs, data_dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot create {}", data_dir.display()))?;
    let lock_path = data_dir.join("dev.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)?;
    if lock.try_lock().is_err() {
        bail!(
            "another `baton dev` runs on {}; choose another directory with --data-dir",
            data_dir.display()
        );
    }
    let shape = Shape {
        port: args.port,
        brokers: args.brokers,
    };
    shape.check(data_dir)?;
    check_ports(args)?;
    say_what_is_dropped();
    let brokers = (1..=args.brokers).map(|id| Broker {
        id,
        dir: data_dir.join(format!("broker-{id}")),
        child: None,
        died_at: None,
    });
    let mut dev = Dev {
        args,
        data_dir,
        shape,
        brokers: brokers.collect(),
    };
    // The children die with the thread that started them: this one, which lives as long as the
    // process. So everything below stays on it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dev.serve());
    dev.end();
    result
}

impl Dev<'_> {
    async fn serve(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        for i in 0..self.brokers.len() {
            self.spawn(i)?;
        }
        tokio::select! {
            ready = self.get_ready() => ready?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        self.introduce(started.elapsed());
        let mut look = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = look.tick() => self.look_after()?,
            }
        }
    }

    fn address(&self, id: u16, shift: u16) -> String {
        format!("127.0.0.1:{}", self.args.port + shift + id - 1)
    }

    fn voters(&self) -> Vec<u16> {
        // An even number of voters survives no more failures than one voter less.
        let count = (self.args.brokers as usize).min(VOTERS_MAX);
        let count = if count.is_multiple_of(2) {
            count - 1
        } else {
            count
        };
        (1..=count as u16).collect()
    }

    fn spawn(&mut self, i: usize) -> anyhow::Result<()> {
        let id = self.brokers[i].id;
        let dir = self.brokers[i].dir.clone();
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let log_path = dir.join("broker.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot open {}", log_path.display()))?;
        let voters = self.voters();
        let list = |shift: u16, with_id: bool| {
            let one = |id: &u16| {
                let address = self.address(*id, shift);
                if with_id {
                    format!("{id}@{address}")
                } else {
                    address
                }
            };
            voters.iter().map(one).collect::<Vec<_>>().join(",")
        };
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(&program);
        // What the environment says is meant for one broker, not for each of these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BATON__") {
                command.env_remove(name);
            }
        }
        // The brokers share the machine: as many threads each as if there were one of them would only
        // wait for each other.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = (cores / usize::from(self.args.brokers)).max(1);
        command.env("BATON__BROKER__THREADS", threads.to_string());
        let child = command
            .args(["broker", "start"])
            .args(["--id", &id.to_string()])
            .arg("--data-dir")
            .arg(&dir)
            .args(["--listen", &self.address(id, 0)])
            .args(["--peer-listen", &self.address(id, 100)])
            .args(["--raft-listen", &self.address(id, 200)])
            .args(["--http-listen", &self.address(id, 300)])
            .args(["--voters", &list(200, true)])
            .args(["--controllers", &list(100, false)])
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let broker = &mut self.brokers[i];
        broker.child = Some(child);
        broker.died_at = None;
        Ok(())
    }

    async fn get_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let voters: Vec<String> = self
            .voters()
            .iter()
            .map(|id| self.address(*id, 200))
            .collect();
        loop {
            match form_cluster(&voters, Duration::from_millis(500)).await {
                Ok(_) | Err(FormError::Formed { .. }) => break,
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => self.check_alive()?,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.shape.keep(self.data_dir)?;
        for i in 0..self.brokers.len() {
            let address = self.address(self.brokers[i].id, 300);
            while !is_healthy(&address).await {
                self.check_alive()?;
                if Instant::now() >= deadline {
                    bail!(
                        "broker {} is not ready after {READY_TIMEOUT:?}; {}",
                        i + 1,
                        self.brokers[i].end_of_log()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// A broker that ends while the cluster starts will not get better by itself.
    fn check_alive(&mut self) -> anyhow::Result<()> {
        for broker in &mut self.brokers {
            if let Some(status) = broker
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                bail!(
                    "broker {} ended at once ({status}); {}",
                    broker.id,
                    broker.end_of_log()
                );
            }
        }
        Ok(())
    }

    fn introduce(&self, took: Duration) {
        tell!(
            "A cluster of {} is ready after {} ms.\n",
            count(self.brokers.len(), "broker", "brokers"),
            took.as_millis()
        );
        for broker in &self.brokers {
            let pid = broker.child.as_ref().map_or(0, Child::id);
            tell!(
                "  broker {}  pid {pid:<7}  clients {}  brokers {}  http://{}  {}",
                broker.id,
                self.address(broker.id, 0),
                self.address(broker.id, 100),
                self.address(broker.id, 300),
                broker.dir.display()
            );
        }
        let program =
            std::env::current_exe().map_or("baton".to_owned(), |path| path.display().to_string());
        // All of them: whichever is killed next, the others tell where the cluster is. Without a word
        // the first three ports are tried.
        let all: Vec<String> = self.brokers.iter().map(|b| self.address(b.id, 0)).collect();
        let to = match (self.args.port, all.len()) {
            (7401, 3) => String::new(),
            _ => format!(" --bootstrap {}", all.join(",")),
        };
        tell!("\n  make     {program}{to} topic create events --partitions 3");
        tell!("  produce  seq 1 1000 | {program}{to} produce events");
        tell!("  consume  {program}{to} consume events --from-start --until-end");
        tell!("  look     {program}{to} cluster status");
        if !to.is_empty() {
            tell!("\n  or once  export BATON_BOOTSTRAP={}", all.join(","));
        }
        tell!("\nCtrl-C ends it.");
    }

    fn look_after(&mut self) -> anyhow::Result<()> {
        for i in 0..self.brokers.len() {
            let broker = &mut self.brokers[i];
            if let Some(status) = broker
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                let then = if self.args.no_restart {
                    "it stays down"
                } else {
                    "it is started again in 2 s"
                };
                let pid = broker.child.take().map_or(0, |child| child.id());
                tell!("broker {} (pid {pid}) ended: {status}; {then}", broker.id);
                broker.died_at = Some(Instant::now());
            }
            let due = broker
                .died_at
                .is_some_and(|at| at.elapsed() >= RESTART_AFTER);
            if due && !self.args.no_restart {
                self.spawn(i)?;
                let broker = &self.brokers[i];
                tell!(
                    "broker {} runs again, pid {}",
                    broker.id,
                    broker.child.as_ref().map_or(0, Child::id)
                );
            }
        }
        Ok(())
    }

    /// Ends all brokers: asks first.
    fn end(&mut self) {
        for child in self
            .brokers
            .iter()
            .filter_map(|broker| broker.child.as_ref())
        {
            if let Some(pid) = Pid::from_raw(child.id() as i32) {
                // A frozen one ends when it is continued.
                let _ = kill_process(pid, Signal::TERM);
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        let deadline = Instant::now() + END_TIMEOUT;
        for broker in &mut self.brokers {
            let Some(mut child) = broker.child.take() else {
                continue;
            };
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if matches!(child.try_wait(), Ok(None)) {
                note!("broker {} did not end by itself and is killed", broker.id);
                if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                    note!("broker {}: {error}", broker.id);
                }
            }
        }
    }
}

fn check_ports(args: &DevArgs) -> anyhow::Result<()> {
    for id in 0..args.brokers {
        for shift in [0, 100, 200, 300] {
            let port = args.port + shift + id;
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                bail!(
                    "port {port} cannot be used ({error}); choose other ports with --port (now {}; the brokers use {0} to {}, and the same 100, 200 and 300 higher)",
                    args.port,
                    args.port + args.brokers - 1
                );
            }
        }
    }
    Ok(())
}
