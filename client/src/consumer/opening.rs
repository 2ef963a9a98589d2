//! Where a partition that was assigned is consumed from: where its group has come to, or, where nothing
//! is committed yet, where the consumer was told to begin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::groups::{
    Commit, CommittedOffset, CommittingMember, GroupRequest, GroupResponse, OffsetCommit,
};
use baton_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use baton_protocol::metadata::{ClusterView, TopicRecord};
use futures_util::stream::{self, StreamExt};

use super::commits::refused_as_a_whole;
use super::mailbox::{Mailbox, Notice, Opened};
use crate::ask::unexpected;
use crate::client::Client;
use crate::coordinator::given_up;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::reader::Start;

/// Partitions that are looked after at the same time.
const AT_ONCE: usize = 64;

/// Pause before a question that took its whole time is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for a cluster's view to show a topic, before looking again.
const LOOK: Duration = Duration::from_secs(60);

/// Partitions that were taken up.
pub(super) struct Opening {
    pub client: Client,
    pub group: Arc<str>,
    pub member: CommittingMember,
    /// Where to begin with a partition that nothing is committed of.
    pub start: Start,
    /// With the numbers that their notices bear.
    pub partitions: Vec<(Place, u64)>,
    pub mailbox: Arc<Mailbox>,
}

impl Opening {
    /// Finds out for each partition, and leaves a notice. It tries for as long as it is let.
    pub async fn run(self) {
        let committed = match self.committed().await {
            Ok(committed) => committed,
            Err(error) => {
                for (place, opening) in &self.partitions {
                    self.tell(place, *opening, Err(error.clone().at(place)));
                }
                return;
            }
        };
        let (this, committed) = (&self, &committed);
        let partitions = self.partitions.clone();
        let each = stream::iter(partitions).map(|(place, opening)| async move {
            let start = this.start_of(&place, committed.get(&place.id)).await;
            let start = start.map_err(|error| error.at(&place));
            this.tell(&place, opening, start);
        });
        each.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    fn tell(&self, place: &Place, opening: u64, start: Result<Opened>) {
        let at = place.id;
        self.mailbox.note(Notice::Opened { at, opening, start });
    }

    async fn committed(&self) -> Result<BTreeMap<TopicPartition, Offset>> {
        let limit = self.client.inner.config.request_timeout;
        let offsets = patiently(|| fetch(&self.client, &self.group, limit)).await?;
        let offsets = offsets.into_iter();
        Ok(offsets.map(|one| (place_of(&one), one.offset)).collect())
    }

    async fn start_of(&self, place: &Place, committed: Option<&Offset>) -> Result<Opened> {
        let topic = self.topic(place).await;
        if let Some(committed) = committed {
            return Ok(Opened {
                start: *committed,
                is_earliest: false,
                committed: Some(*committed),
            });
        }
        // Where the log ends is to be known only from a leader that knows all that was acknowledged.
        let is_earliest = self.start == Start::Earliest;
        let partition = place.id.partition;
        let admin = self.client.admin();
        let status = patiently(|| admin.partition_status(&topic, partition, !is_earliest)).await?;
        let start = match self.start {
            Start::Time(ms) => patiently(|| admin.offset_for_time(&topic, partition, ms)).await?,
            Start::Latest => status.high_watermark,
            _ => status.log_start,
        };
        if is_earliest {
            return Ok(Opened {
                start,
                is_earliest,
                committed: None,
            });
        }
        // Whoever comes next would begin elsewhere, and what lies between might be skipped.
        self.commit(place, start, status.epoch).await?;
        Ok(Opened {
            start,
            is_earliest,
            committed: Some(start),
        })
    }

    /// The topic. The coordinator may know it before this client does.
    async fn topic(&self, place: &Place) -> TopicRecord {
        let metadata = &self.client.inner.metadata;
        let found = |view: &ClusterView| place.topic_in(view).cloned();
        loop {
            match metadata.wait_for(LOOK, found).await {
                Ok(topic) => return topic,
                // It was deleted, then: the coordinator takes the partition back.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    async fn commit(&self, place: &Place, offset: Offset, leader_epoch: LeaderEpoch) -> Result<()> {
        let limit = self.client.inner.config.request_timeout;
        let commit = Commit {
            group: self.group.to_string(),
            member: Some(self.member),
            offsets: vec![OffsetCommit {
                topic: place.id.topic,
                partition: place.id.partition,
                offset,
                leader_epoch,
                metadata: String::new(),
                back_from: None,
            }],
        };
        let committed = patiently(|| async {
            let request = GroupRequest::Commit(commit.clone());
            let asked = self.client.ask_group(&self.group, request, limit).await;
            match asked.map_err(given_up)? {
                GroupResponse::Committed { refused } => match refused.into_iter().next() {
                    Some(refused) => Err(Error::from(refused.error)),
                    None => Ok(()),
                },
                other => Err(unexpected(&other)),
            }
        });
        committed.await.map_err(refused_as_a_whole)
    }
}

/// Asks until there is an answer that stays.
async fn patiently<T, F: Future<Output = Result<T>>>(mut ask: impl FnMut() -> F) -> Result<T> {
    loop {
        match ask().await {
            Err(error) if error.is_retriable() => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// All committed offsets of a group.
pub(crate) async fn fetch(
    client: &Client,
    group: &str,
    limit: Duration,
) -> Result<Vec<CommittedOffset>> {
    let request = GroupRequest::FetchOffsets {
        group: group.to_owned(),
    };
    match client.ask_group(group, request, limit).await {
        Ok(GroupResponse::Offsets(offsets)) => Ok(offsets),
        Ok(other) => Err(unexpected(&other)),
        Err(failures) => Err(given_up(failures)),
    }
}

/// The partition of a committed offset.
pub(crate) fn place_of(one: &CommittedOffset) -> TopicPartition {
    TopicPartition {
        topic: one.topic,
        partition: one.partition,
    }
}
