//! What a consumer is made with.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::batch::EXPANDED_BYTES_MAX;
use baton_protocol::groups::{GROUP_NAME_BYTES_MAX, is_group_name};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::commits;
use super::holdings::Holdings;
use super::mailbox::Mailbox;
use super::member::Settings;
use super::membership::{Clock, Membership};
use super::{Commits, Consumer};
use crate::attempts::later;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::Start;
use crate::streaming::Streams;

/// Topics that one consumer can subscribe to.
const TOPICS_MAX: usize = 256;

/// When a consumer commits by itself what is done ([when a record is done](crate::Consumer)).
///
/// But for [`AutoCommit::Off`], it also commits when it gives partitions up and when it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AutoCommit {
    /// Never: the user does.
    Off,
    /// Every so often, while the consumer is asked for items or somebody waits for one.
    Every(Duration),
    /// Whenever it is asked for an item. It does not wait for the answer; what is done until then goes
    /// with the next commit.
    EachAsk,
}

/// Every 5 seconds.
impl Default for AutoCommit {
    fn default() -> Self {
        AutoCommit::Every(Duration::from_secs(5))
    }
}

/// What a consumer does where the log begins behind the offset that it is to go on with, because
/// records have been deleted that it had not consumed.
///
/// An offset *beyond* the log's end is no such case. A new leader can be behind for a moment, which is
/// waited for; where that does not mend it, it is an error always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutOfRange {
    /// It says so: [`ErrorKind::OffsetOutOfRange`] is an item. The default.
    #[default]
    Error,
    /// It goes on with the first record there is.
    Earliest,
    /// It goes on with the next record that comes.
    Latest,
}

/// A consumer's settings; see [`Client::consumer`].
#[derive(Clone)]
#[must_use = "nothing is consumed before `build`"]
pub struct ConsumerBuilder {
    client: Client,
    group: String,
    topics: Vec<String>,
    instance: Option<String>,
    start: Start,
    auto_commit: AutoCommit,
    out_of_range: OutOfRange,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    credit_bytes: u64,
    expanded_bytes_max: usize,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        ConsumerBuilder {
            client,
            group,
            topics: Vec::new(),
            instance: None,
            start: Start::Earliest,
            auto_commit: AutoCommit::default(),
            out_of_range: OutOfRange::default(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(60),
            credit_bytes: 32 << 20,
            expanded_bytes_max: EXPANDED_BYTES_MAX,
        }
    }

    /// The topics, at least one and at most 256. One that does not exist yet counts once it does.
    pub fn subscribe<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Makes it a *static* member: when its process ends and another one comes back under this instance
    /// id within the session time-out, it finds its partitions as they were, and no other member
    /// notices. Letters, digits, `.`, `_` and `-`, 249 at most, and different for each member.
    ///
    /// If the former process did not close its consumer, [`ConsumerBuilder::build`] waits until that
    /// one's session is over: it could still be at work.
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = Some(id.into());
        self
    }

    /// Where to begin with a partition that the group has committed nothing of: [`Start::Earliest`], the
    /// default, [`Start::Latest`] or [`Start::Time`]. With the latter two, the place where it begins is committed at once,
    /// so that whoever gets the partition next does not skip what came in between.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// When to commit by itself; every 5 seconds by default.
    pub fn auto_commit(mut self, policy: AutoCommit) -> Self {
        self.auto_commit = policy;
        self
    }

    /// What to do where records were deleted that the group had not consumed; an error by default.
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.out_of_range = policy;
        self
    }

    /// How long the consumer may be cut off from the group's coordinator before its partitions go to
    /// others; 10 s by default, and from 1 s to 30 min unless the brokers say otherwise. A consumer whose process dies is noticed after this
    /// time. How long its user takes for a record is no matter of it.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How long the user may go without asking for the next item while partitions are to be given up;
    /// 60 s by default, in the same bounds. The session time-out, if that is longer. Choose more than the
    /// longest time that the records of one ask take.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.rebalance_timeout = timeout;
        self
    }

    /// How many bytes may wait to be taken, of all partitions together; 32 MiB by default. Each
    /// partition gets an equal share. A broker may overdraw a share by one message: 256 KiB, or one
    /// batch where that is larger.
    pub fn credit_bytes(mut self, bytes: u64) -> Self {
        self.credit_bytes = bytes;
        self
    }

    /// How large a compressed batch may become; 64 MiB by default. One that is larger is an error.
    pub fn expanded_bytes_max(mut self, bytes: usize) -> Self {
        self.expanded_bytes_max = bytes;
        self
    }

    /// The consumer: ready once the coordinator has taken it into the group. Partitions are assigned
    /// to it as it is asked for records.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; [`ErrorKind::Refused`] where the coordinator refuses it, as where a
    /// limit is reached; [`ErrorKind::Unreachable`] after the request timeout.
    pub async fn build(self) -> Result<Consumer> {
        let settings = self.settings()?;
        let mut consumer = self.begin(settings);
        consumer.joined().await?;
        Ok(consumer)
    }

    fn settings(&self) -> Result<Settings> {
        check_name("a group's name", &self.group)?;
        if let Some(instance) = &self.instance {
            check_name("an instance id", instance)?;
        }
        if !matches!(self.start, Start::Earliest | Start::Latest | Start::Time(_)) {
            let text = "where nothing is committed, a consumer starts with Start::Earliest, Start::Latest or Start::Time; seek goes elsewhere";
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        Ok(Settings {
            group: self.group.clone(),
            instance: self.instance.clone(),
            topics: topics(&self.topics)?,
            session_timeout_ms: timeout_ms("the session time-out", self.session_timeout)?,
            rebalance_timeout_ms: timeout_ms("the rebalance time-out", self.rebalance_timeout)?,
            client: self.client.inner.config.client_name.clone(),
        })
    }

    fn begin(self, settings: Settings) -> Consumer {
        let client = self.client;
        let clock = Clock::start();
        let mailbox = Arc::new(Mailbox::default());
        let (membership, commands) = mpsc::unbounded_channel();
        let member = Membership::new(client.clone(), settings, clock, commands, mailbox.clone());
        tokio::spawn(member.run());
        let (orders, ordered) = mpsc::unbounded_channel();
        let group = self.group.clone();
        let committing = commits::carry_out(client.clone(), group, ordered, mailbox.clone());
        tokio::spawn(committing);
        let now = Instant::now();
        let first_commit_at = match self.auto_commit {
            AutoCommit::Every(every) => later(now, every),
            AutoCommit::Off | AutoCommit::EachAsk => now,
        };
        Consumer {
            streams: Streams::new(client.clone(), self.expanded_bytes_max),
            client,
            group: self.group.into(),
            start: self.start,
            auto_commit: self.auto_commit,
            out_of_range: self.out_of_range,
            credit_bytes: self.credit_bytes,
            is_static: self.instance.is_some(),
            clock,
            mailbox,
            membership,
            orders,
            openings: JoinSet::new(),
            holdings: Holdings::default(),
            target: None,
            is_settled: false,
            valid_until: None,
            items: Default::default(),
            refusal: None,
            commits: Commits::new(first_commit_at),
        }
    }
}

/// Topics to subscribe to, each once.
pub(super) fn topics<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Result<Vec<String>> {
    let mut topics: Vec<String> = topics.into_iter().map(Into::into).collect();
    topics.sort();
    topics.dedup();
    match topics.len() {
        1..=TOPICS_MAX => Ok(topics),
        0 => {
            let text = "a consumer subscribes to one topic at least";
            Err(Error::new(ErrorKind::InvalidConfig, text))
        }
        count => {
            let text = format!("a consumer subscribes to {TOPICS_MAX} topics at most, not {count}");
            Err(Error::new(ErrorKind::InvalidConfig, text))
        }
    }
}

/// Checks the name of a group or instance.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if is_group_name(name) {
        return Ok(());
    }
    let text = format!(
        "{what} has 1 to {GROUP_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, unlike `{}`",
        name.escape_debug()
    );
    Err(Error::new(ErrorKind::InvalidConfig, text))
}

/// What else a time-out may be is the brokers' matter.
fn timeout_ms(what: &str, timeout: Duration) -> Result<u32> {
    match u32::try_from(timeout.as_millis()) {
        Ok(ms) if ms > 0 => Ok(ms),
        _ => {
            let text = format!("{what} cannot be {timeout:?}");
            Err(Error::new(ErrorKind::InvalidConfig, text))
        }
    }
}
