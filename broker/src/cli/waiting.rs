//! Why nothing comes, said to whoever waits for records: a reader and a member of a group try again by
//! themselves whatever can be tried again, and say nothing of it.
//!
//! It looks at what the client knows of the cluster anyhow, and asks nobody but a group's coordinator,
//! and that only before the group has taken the consumer in.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use baton_client::Client;
use baton_protocol::metadata::{ClusterView, TopicRecord};
use tokio::time::{sleep, timeout};

use crate::cli::bootstrap::no_topic;
use crate::cli::output::{count, named, note};

/// How long nothing may come before it is looked why.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long the coordinator may take to describe the group.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);

/// What is waited for.
pub struct Waiting<'a> {
    /// Of which cluster.
    pub client: &'a Client,
    /// Records of this topic.
    pub topic: &'a str,
    /// Of this partition only.
    pub partition: Option<u32>,
    /// As a member of this group.
    pub group: Option<&'a str>,
    /// Under this instance id.
    pub instance: Option<&'a str>,
    /// Reading has begun; the group has taken the consumer in.
    pub has_begun: AtomicBool,
    /// Records that have come.
    pub records: AtomicU64,
}

impl Waiting<'_> {
    /// Says why nothing comes, each reason once until something comes.
    pub async fn watch_over(&self) -> Infallible {
        let (mut seen, mut said) = (0, None::<String>);
        loop {
            sleep(SILENCE_MAX).await;
            let now = self.records.load(Ordering::Relaxed);
            if now != seen {
                (seen, said) = (now, None);
                continue;
            }
            let why = self.why().await;
            if let Some(why) = why.as_ref().filter(|why| said.as_ref() != Some(why)) {
                note!("waiting, {} so far: {why}", count(now, "record", "records"));
            }
            said = why;
        }
    }

    async fn why(&self) -> Option<String> {
        if let Some(error) = self.client.trouble() {
            return Some(error.to_string());
        }
        let view = self.client.view();
        let Some(topic) = view.topics.get(self.topic) else {
            return Some(no_topic(self.topic));
        };
        if let Some(why) = leaderless(&view, topic, self.partition) {
            return Some(why);
        }
        match self.group {
            _ if self.has_begun.load(Ordering::Relaxed) => None,
            Some(group) => Some(self.why_not_taken_in(group).await),
            None => Some("a leader has not said yet where its log begins and ends".to_owned()),
        }
    }

    async fn why_not_taken_in(&self, group: &str) -> String {
        let admin = self.client.admin();
        let described = timeout(DESCRIBE_LIMIT, admin.describe_group(group)).await;
        if let (Some(instance), Ok(Ok(group))) = (self.instance, &described) {
            let mut members = group.members.iter();
            let has_it = |id: &Option<String>| id.as_deref() == Some(instance);
            if members.any(|member| has_it(&member.instance) && !member.away) {
                return format!(
                    "another consumer is in group {} as instance {instance}; it is waited for until that one ends, or its session is over",
                    group.group
                );
            }
        }
        match described {
            Ok(Err(error)) => format!("group {group} has not taken this consumer in yet: {error}"),
            _ => format!("group {group} has not taken this consumer in yet"),
        }
    }
}

/// Which partitions nobody leads, if there are such.
fn leaderless(view: &ClusterView, topic: &TopicRecord, only: Option<u32>) -> Option<String> {
    let partitions = topic.partitions.iter().zip(0u32..);
    let wanted = partitions.filter(|(_, index)| only.is_none_or(|only| only == *index));
    let without = wanted.filter(|(partition, _)| {
        let leader = partition
            .leader
            .and_then(|leader| view.brokers.get(&leader.broker));
        leader.is_none_or(|leader| leader.fenced)
    });
    let without: Vec<String> = without.map(|(_, index)| index.to_string()).collect();
    if without.is_empty() {
        return None;
    }
    let why = match view.controller {
        Some(_) => "see `baton cluster status`",
        None => "and no controller is known, which would name one; see `baton cluster status`",
    };
    Some(format!(
        "{}/{} without a leader; {why}",
        topic.name,
        named(&without)
    ))
}
