//! A cluster within this process, for the tests of programs that use Baton: real brokers on threads,
//! on free ports of loopback, their data in a temporary directory. All of it is gone when the
//! cluster is dropped.
//!
//! ```no_run
//! use baton::embedded::Cluster;
//! use baton_client::{Client, TopicSettings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::start(3)?;
//! let client = Client::builder(cluster.bootstrap()).connect().await?;
//! client.admin().create_topic("events", TopicSettings::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The brokers are those of `baton broker start`, with what is durable made durable. Two things are
//! not as in processes of their own: a broker can be stopped here in good order only
//! ([`Cluster::stop_broker`]; to see one die, use `baton dev` and `kill -9`), and a broker whose disk
//! fails ends the process, as it always does. What the brokers have to say goes to the process's
//! `tracing` subscriber.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::cli::cluster::{FormError, form_cluster};
use crate::config::{Config, ConfigError};
use crate::http::is_healthy;
use crate::node;

/// How long the brokers may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at whether they are.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Voters of a larger cluster.
const VOTERS_MAX: u32 = 3;

/// How often other ports are tried, where somebody else took one before the broker did.
const PORT_ATTEMPTS: u32 = 5;

/// A cluster could not be started, or a broker of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A cluster has 1 to 100 brokers, and there is none of this number.
    #[error("there is no broker {id} in this cluster of {brokers}")]
    NoSuchBroker {
        /// The number.
        id: u32,
        /// How many there are.
        brokers: u32,
    },
    /// The system does not give a directory, a port or a thread.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A setting is not one.
    #[error("{0}")]
    Config(#[source] Box<ConfigError>),
    /// A broker ended.
    #[error("broker {id} ended: {why}")]
    Ended {
        /// Which.
        id: u32,
        /// Why.
        why: String,
    },
    /// The voters formed no cluster.
    #[error("{0}")]
    Form(#[source] Box<FormError>),
    /// The brokers did not get ready.
    #[error("broker {id} is not ready after {} s", READY_TIMEOUT.as_secs())]
    NotReady {
        /// The first of those.
        id: u32,
    },
}

/// Ports of one broker.
#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: u16,
    peers: u16,
    raft: u16,
    http: u16,
}

/// A broker that runs.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Builder {
    brokers: u32,
    settings: Vec<(&'static str, String)>,
    parent: Option<PathBuf>,
}

impl Builder {
    /// Sets a key of the configuration, as in `config.toml`: `("log.segment_bytes_max", "1MiB")`.
    /// What makes the brokers a cluster (ids, directories, addresses) is set by the cluster.
    #[must_use]
    pub fn set(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((key, value.into()));
        self
    }

    /// Where the temporary directory is made; the system's place for such, if not said.
    #[must_use]
    pub fn within(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Starts the cluster and waits until it is ready, which takes well under a second.
    ///
    /// Blocks the thread; within an async test that does no harm, since the brokers have their own.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(self) -> Result<Cluster, Error> {
        if !(1..=100).contains(&self.brokers) {
            let (id, brokers) = (self.brokers, self.brokers);
            return Err(Error::NoSuchBroker { id, brokers });
        }
        let mut attempt = 1;
        loop {
            match self.clone().try_start() {
                // Somebody took a port between the search for it and the broker.
                Err(Error::Ended { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn try_start(self) -> Result<Cluster, Error> {
        let mut dir = tempfile::Builder::new();
        let dir = dir.prefix("baton-embedded-");
        let dir = match &self.parent {
            Some(parent) => dir.tempdir_in(parent),
            None => dir.tempdir(),
        };
        let dir = dir.map_err(|source| Error::System {
            what: "a temporary directory",
            source,
        })?;
        let ports = free_ports(self.brokers).map_err(|source| Error::System {
            what: "free ports",
            source,
        })?;
        let mut cluster = Cluster {
            running: ports.iter().map(|_| None).collect(),
            ports,
            settings: self.settings,
            dir,
        };
        for id in cluster.ids() {
            cluster.launch(id)?;
        }
        cluster.form()?;
        for id in cluster.ids() {
            cluster.wait_until_ready(id)?;
        }
        Ok(cluster)
    }
}

/// Brokers in this process. They end, and their data is removed, when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Ended before their data is removed.
    running: Vec<Option<Running>>,
    ports: Vec<Ports>,
    settings: Vec<(&'static str, String)>,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of so many brokers, 1 or 3 as a rule, with the defaults of `config.toml`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(brokers: u32) -> Result<Cluster, Error> {
        Cluster::builder(brokers).start()
    }

    /// The same, with settings.
    pub fn builder(brokers: u32) -> Builder {
        Builder {
            brokers,
            settings: Vec::new(),
            parent: None,
        }
    }

    /// Where clients find it: the addresses of all its brokers.
    pub fn bootstrap(&self) -> Vec<String> {
        let ports = self.ports.iter();
        ports.map(|ports| address(ports.clients)).collect()
    }

    /// Where a broker serves its HTTP API, as `host:port`.
    ///
    /// # Errors
    /// If there is no such broker.
    pub fn http_address(&self, id: u32) -> Result<String, Error> {
        self.ports_of(id).map(|ports| address(ports.http))
    }

    /// Where the data is, a directory each broker in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The numbers of the brokers: 1, 2 and so on.
    pub fn ids(&self) -> Vec<u32> {
        (1..=self.ports.len() as u32).collect()
    }

    /// Ends a broker in good order and waits for that. One that does not run is left alone.
    ///
    /// # Errors
    /// If there is no such broker, or it had something to complain of.
    pub fn stop_broker(&mut self, id: u32) -> Result<(), Error> {
        self.ports_of(id)?;
        match self.running[id as usize - 1].take() {
            Some(running) => running.end(id),
            None => Ok(()),
        }
    }

    /// Starts a broker again, on its data, and waits until it is ready. One that runs is left alone.
    ///
    /// # Errors
    /// If there is no such broker, or it does not start.
    pub fn start_broker(&mut self, id: u32) -> Result<(), Error> {
        self.ports_of(id)?;
        if self.running[id as usize - 1].is_none() {
            self.launch(id)?;
        }
        self.wait_until_ready(id)
    }

    fn ports_of(&self, id: u32) -> Result<Ports, Error> {
        let found = id.checked_sub(1).and_then(|i| self.ports.get(i as usize));
        found.copied().ok_or(Error::NoSuchBroker {
            id,
            brokers: self.ports.len() as u32,
        })
    }

    fn voters(&self) -> u32 {
        let brokers = self.ports.len() as u32;
        // An even number of voters survives no more failures than one voter less.
        (brokers - (brokers + 1) % 2).min(VOTERS_MAX)
    }

    fn config(&self, id: u32) -> Result<Config, Error> {
        let ports = self.ports_of(id)?;
        let voters = &self.ports[..self.voters() as usize];
        let numbered = voters.iter().zip(1..);
        let numbered: Vec<String> = numbered
            .map(|(ports, id): (_, u32)| format!("{id}@{}", address(ports.raft)))
            .collect();
        let controllers: Vec<String> = voters.iter().map(|ports| address(ports.peers)).collect();
        let data_dir = self.dir.path().join(format!("broker-{id}"));
        let mut settings = vec![("broker.threads", "1".to_owned())];
        settings.extend(self.settings.iter().cloned());
        settings.extend([
            ("broker.id", id.to_string()),
            ("broker.data_dir", data_dir.display().to_string()),
            ("broker.listen", address(ports.clients)),
            ("broker.peer_listen", address(ports.peers)),
            ("broker.raft_listen", address(ports.raft)),
            ("broker.http_listen", address(ports.http)),
            ("cluster.voters", numbered.join(",")),
            ("cluster.controllers", controllers.join(",")),
        ]);
        Config::load(None, &settings).map_err(|error| Error::Config(error.into()))
    }

    fn launch(&mut self, id: u32) -> Result<(), Error> {
        let config = self.config(id)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let told_to_end = async {
            // Dropping the sender tells it too.
            drop(stopped.await);
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name(format!("broker-{id}"))
            .spawn(move || node::run_until(config, told_to_end))
            .map_err(|source| Error::System {
                what: "a thread",
                source,
            })?;
        self.running[id as usize - 1] = Some(Running { stop, thread });
        Ok(())
    }

    fn form(&mut self) -> Result<(), Error> {
        let voters = self.ports[..self.voters() as usize].iter();
        let voters: Vec<String> = voters.map(|ports| address(ports.raft)).collect();
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let limit = Duration::from_millis(500);
            match block_on(form_cluster(&voters, limit))? {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(Error::Form(error.into())),
                Err(_) => self.check_running()?,
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    fn wait_until_ready(&mut self, id: u32) -> Result<(), Error> {
        let api = self.http_address(id)?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while !block_on(is_healthy(&api))? {
            self.check_running()?;
            if Instant::now() >= deadline {
                return Err(Error::NotReady { id });
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    /// A broker that has ended says why.
    fn check_running(&mut self) -> Result<(), Error> {
        for (running, id) in self.running.iter_mut().zip(1..) {
            if let Some(ended) = running.take_if(|running| running.thread.is_finished()) {
                ended.end(id)?;
                let why = "nobody told it to".to_owned();
                return Err(Error::Ended { id, why });
            }
        }
        Ok(())
    }
}

impl Running {
    fn end(self, id: u32) -> Result<(), Error> {
        drop(self.stop);
        let ended = self.thread.join();
        let ended = ended.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        ended.map_err(|error| Error::Ended {
            id,
            why: format!("{error:#}"),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once: each is told to end before one is waited for.
        let (stops, threads): (Vec<_>, Vec<_>) = self
            .running
            .iter_mut()
            .filter_map(Option::take)
            .map(|running| (running.stop, running.thread))
            .unzip();
        drop(stops);
        for thread in threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a broker did not end in good order"),
                Err(_) => tracing::error!("a broker panicked"),
            }
        }
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Ports that nobody uses at the moment.
fn free_ports(brokers: u32) -> std::io::Result<Vec<Ports>> {
    let mut held = Vec::new();
    let mut port = || -> std::io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        // Held until all are found, so that none is found twice.
        held.push(listener);
        Ok(port)
    };
    let one = |_| {
        Ok(Ports {
            clients: port()?,
            peers: port()?,
            raft: port()?,
            http: port()?,
        })
    };
    (0..brokers).map(one).collect()
}

/// Runs something short to its end, wherever this is called: the thread may belong to a runtime.
fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, Error> {
    let system = |source| Error::System {
        what: "a thread",
        source,
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(work))
        });
        let ended = thread.map_err(system)?.join();
        ended
            .unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
            .map_err(system)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_brokers_has_an_odd_number_of_voters() {
        for (brokers, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)] {
            let ports = free_ports(brokers).expect("ports");
            let cluster = Cluster {
                running: Vec::new(),
                ports,
                settings: Vec::new(),
                dir: tempfile::tempdir().expect("dir"),
            };
            assert_eq!(cluster.voters(), voters);
        }
    }

    #[test]
    fn a_cluster_of_none_is_refused() {
        assert!(matches!(Cluster::start(0), Err(Error::NoSuchBroker { .. })));
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let started = Cluster::builder(1).set("log.no_such_key", "1").start();
        assert!(matches!(started, Err(Error::Config(_))), "{started:?}");
    }
}
