//! Keeps a view of the cluster: a broker pushes every change of it, another is asked when that one
//! falls silent. Whether it does is found out with a question that has a short answer: all there is to
//! know of thousands of partitions is megabytes.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::metadata::ClusterView;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::backoff::jittered;
use crate::connection::{Connection, Greeting};
use crate::error::{Error, ErrorKind, Result};

/// How long a broker may take to connect and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);

/// How often the broker is asked, to see that it still answers.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// How long the whole view may take, which is large where there are many partitions.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// Pause after a round in which no broker answered.
const ROUND_PAUSE: Duration = Duration::from_millis(30);

/// The same where what answers is no broker, or none of this cluster: that is not soon over.
const HOPELESS_PAUSE: Duration = Duration::from_secs(1);

/// The cluster as far as it is known. Clones share it.
#[derive(Clone)]
pub(crate) struct Metadata {
    view: watch::Receiver<Arc<ClusterView>>,
    trouble: watch::Receiver<Option<Error>>,
}

impl Metadata {
    /// Begins to follow the cluster that answers at one of `bootstrap`.
    pub fn follow(bootstrap: Vec<String>, client_name: String) -> Metadata {
        let (view_sender, view) = watch::channel(Arc::new(ClusterView::default()));
        let (trouble_sender, trouble) = watch::channel(None);
        let follower = Follower {
            bootstrap,
            greeting: Greeting {
                client_name,
                cluster: None,
            },
            view: view_sender,
            trouble: trouble_sender,
            turn: 0,
        };
        tokio::spawn(follower.run());
        Metadata { view, trouble }
    }

    /// The view now.
    pub fn now(&self) -> Arc<ClusterView> {
        self.view.borrow().clone()
    }

    /// The view, and news of it.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// The last reason why no broker answers, if none does.
    pub fn trouble(&self) -> Option<Error> {
        self.trouble.borrow().clone()
    }

    /// Waits until all addresses have been tried and none can ever do: what answers there is no
    /// broker that this client can talk to.
    pub async fn hopeless(&self) -> Error {
        let mut trouble = self.trouble.clone();
        let found = trouble.wait_for(|trouble| {
            let trouble = trouble.as_ref();
            trouble.is_some_and(Error::is_hopeless)
        });
        match found.await.map(|found| found.clone()) {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => Error::new(ErrorKind::Closed, "the client is closed"),
        }
    }

    /// Waits for a view that `found` finds something in.
    pub async fn wait_for<T>(
        &self,
        limit: Duration,
        mut found: impl FnMut(&ClusterView) -> Option<T>,
    ) -> Result<T> {
        let mut view = self.view.clone();
        let wait = async {
            loop {
                if let Some(value) = found(&view.borrow_and_update()) {
                    return Ok(value);
                }
                if view.changed().await.is_err() {
                    return Err(Error::new(ErrorKind::Closed, "the client is closed"));
                }
            }
        };
        match timeout(limit, wait).await {
            Ok(result) => result,
            Err(_) => Err(match self.trouble() {
                Some(error) => {
                    error.reworded(|error| format!("gave up after {limit:.1?}: {error}"))
                }
                None => {
                    let text = format!("the cluster's metadata did not show it within {limit:.1?}");
                    Error::new(ErrorKind::Unreachable, text)
                }
            }),
        }
    }
}

struct Follower {
    bootstrap: Vec<String>,
    greeting: Greeting,
    view: watch::Sender<Arc<ClusterView>>,
    trouble: watch::Sender<Option<Error>>,
    /// Which broker to ask next.
    turn: usize,
}

impl Follower {
    async fn run(mut self) {
        let mut failures: Vec<Error> = Vec::new();
        while !self.view.is_closed() {
            let candidates = self.candidates();
            let Some(address) = candidates.get(self.turn % candidates.len().max(1)) else {
                let text = "no broker was named to begin with";
                let error = Error::new(ErrorKind::InvalidConfig, text);
                self.trouble.send_replace(Some(error));
                return;
            };
            self.turn += 1;
            let result = self.follow(address).await;
            let Err(error) = result else {
                failures.clear();
                continue;
            };
            tracing::debug!(address, %error, "no metadata from this broker");
            failures.push(error);
            if failures.len() >= candidates.len() {
                let trouble = all_of(std::mem::take(&mut failures));
                let pause = match trouble.is_hopeless() {
                    false => ROUND_PAUSE,
                    true => HOPELESS_PAUSE,
                };
                self.trouble.send_replace(Some(trouble));
                sleep(jittered(pause)).await;
            }
        }
    }

    fn candidates(&self) -> Vec<String> {
        let view = self.view.borrow();
        let known = view
            .brokers
            .values()
            .map(|broker| broker.client_address.clone());
        let mut all: Vec<String> = known.collect();
        for address in &self.bootstrap {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// Follows one broker until it falls silent. An error if it never answered.
    async fn follow(&mut self, address: &str) -> Result<()> {
        let (views, mut pushed) = mpsc::unbounded_channel();
        let greeting = self.greeting.clone();
        let (connection, cluster) =
            Connection::open(address, greeting, CONNECT_TIMEOUT, Some(views)).await?;
        self.greeting.cluster = Some(cluster);
        let first = connection
            .ask(RequestBody::WatchMetadata, VIEW_TIMEOUT)
            .await?;
        self.take(first, true)?;
        let mut was_behind = false;
        let mut probe = tokio::time::interval(PROBE_EVERY);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = pushed.recv() => match message {
                    Some(view) => self.show(view),
                    None => return Ok(()),
                },
                () = connection.closed() => return Ok(()),
                _ = probe.tick() => {
                    if self.view.is_closed() {
                        return Ok(());
                    }
                    // Where the push of a newer view has not come since the last probe, it is fetched.
                    let all = was_behind;
                    let (topics, limit) = match all {
                        true => (None, VIEW_TIMEOUT),
                        false => (Some(Vec::new()), PROBE_TIMEOUT),
                    };
                    let asked = RequestBody::Metadata { topics };
                    let Ok(answer) = connection.ask(asked, limit).await else {
                        return Ok(());
                    };
                    was_behind = self.take(answer, all)?;
                    // Cut off from the controller it may go on for long with an old view.
                    if self.view.borrow().controller.is_none() {
                        sleep(ROUND_PAUSE).await;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes an answer: a view of `all` topics, or of none. Whether the broker has a newer view than
    /// this client, which it should push any moment.
    fn take(&self, answer: ResponseBody, all: bool) -> Result<bool> {
        let told = match answer {
            ResponseBody::Metadata(view) => view,
            other => {
                let text = format!("a question about metadata was answered with {other:?}");
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
        };
        if all {
            self.show(told);
            return Ok(false);
        }
        self.trouble.send_replace(None);
        let known = self.view.borrow().clone();
        if told.index == known.index && told.controller != known.controller {
            let mut view = ClusterView::clone(&known);
            view.controller = told.controller;
            self.show(view);
        }
        Ok(told.index > known.index)
    }

    /// The newest view counts, whoever showed it.
    fn show(&self, view: ClusterView) {
        self.trouble.send_replace(None);
        self.view.send_if_modified(|known| {
            let newer = view.index > known.index
                || (view.index == known.index && view.controller != known.controller);
            if newer {
                *known = Arc::new(view);
            }
            newer
        });
    }
}

/// A round's failures as one: each is told, and it is as hopeful as the most hopeful of them.
fn all_of(mut failures: Vec<Error>) -> Error {
    let mut texts: Vec<String> = Vec::new();
    for text in failures.iter().map(Error::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let hopeful = failures.iter().position(|error| !error.is_hopeless());
    let error = match failures.is_empty() {
        true => Error::new(ErrorKind::Unreachable, ""),
        false => failures.swap_remove(hopeful.unwrap_or(0)),
    };
    error.reworded(|_| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_tells_all_failures_and_hopes_while_one_does() {
        let foreign = Error::new(ErrorKind::NotABroker, "a: no broker");
        let down = Error::new(ErrorKind::Unreachable, "b: refused");
        let both = all_of(vec![foreign.clone(), down]);
        assert!(!both.is_hopeless());
        assert_eq!(both.to_string(), "a: no broker; b: refused");
        assert!(all_of(vec![foreign]).is_hopeless());
    }

    #[test]
    fn a_probe_tells_of_a_newer_view_and_of_another_controller_and_replaces_nothing() {
        use baton_protocol::ids::{BrokerId, MetadataIndex};
        let topics = [(
            "t".to_owned(),
            baton_protocol::metadata::TopicRecord {
                id: baton_protocol::ids::TopicId::default(),
                name: "t".into(),
                config: baton_protocol::metadata::TopicConfig {
                    replicas: 1,
                    sync_followers: 0,
                    flush: Default::default(),
                    unclean_election: false,
                    policy: baton_protocol::policy::TopicPolicy::default(),
                },
                partitions: Vec::new(),
            },
        )];
        let (sender, view) = watch::channel(Arc::new(ClusterView::default()));
        let follower = Follower {
            bootstrap: Vec::new(),
            greeting: Greeting {
                client_name: "test".to_owned(),
                cluster: None,
            },
            view: sender,
            trouble: watch::channel(None).0,
            turn: 0,
        };
        let told = |index: u64, controller: u32, all: bool| {
            let told = ClusterView {
                index: MetadataIndex(index),
                controller: Some(BrokerId(controller)),
                topics: topics.iter().filter(|_| all).cloned().collect(),
                ..ClusterView::default()
            };
            let behind = follower.take(ResponseBody::Metadata(told), all);
            let now = view.borrow().clone();
            let known = (now.index.0, now.controller, now.topics.len());
            (behind.expect("understood"), known)
        };
        assert_eq!(told(5, 1, true), (false, (5, Some(BrokerId(1)), 1)));
        assert_eq!(told(5, 1, false), (false, (5, Some(BrokerId(1)), 1)));
        assert_eq!(told(5, 2, false), (false, (5, Some(BrokerId(2)), 1)));
        assert_eq!(told(6, 3, false), (true, (5, Some(BrokerId(2)), 1)));
        assert_eq!(told(4, 3, false), (false, (5, Some(BrokerId(2)), 1)));
        assert_eq!(told(6, 3, true), (false, (6, Some(BrokerId(3)), 1)));
    }

    #[tokio::test]
    async fn what_is_no_broker_is_given_up_at_once() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("listens");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut bytes = [0; 16];
                socket.read_exact(&mut bytes).await.expect("a hello");
                socket
                    .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .await
                    .expect("answered");
            }
        });
        let began = std::time::Instant::now();
        let connected = crate::Client::builder([address.clone()]).connect().await;
        let error = connected.err().expect("refused");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(error.kind(), ErrorKind::NotABroker);
        assert!(error.to_string().contains(&address), "{error}");
    }
}
