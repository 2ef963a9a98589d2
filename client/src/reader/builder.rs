//! What a reader reads, from where, and how much of it waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_protocol::batch::EXPANDED_BYTES_MAX;
use baton_protocol::ids::{Offset, PartitionIndex, TopicId, TopicPartition};
use baton_protocol::metadata::TopicRecord;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Reader;
use crate::client::{Client, no_partition};
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use crate::streaming::{Begin, Source, Streams};

/// The least credit of a partition: one byte lets a broker push one message.
const CREDIT_BYTES_MIN: u64 = 1;

/// Leaders that are asked at the same time for where their logs begin and end.
const QUESTIONS_AT_ONCE: usize = 64;

/// Where reading begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At the first offset there is when the partition's leader is reached. Nobody is asked before: a
    /// leader that is gone delays its partitions only.
    Earliest,
    /// At the end of what is committed when the reader is built: the next record that comes. The
    /// default. [`ReaderBuilder::build`] asks the leaders for it, all of them.
    #[default]
    Latest,
    /// At this offset, in every partition that is read.
    Offset(Offset),
    /// At these offsets; a partition that is not named begins at the first one there is.
    Offsets(BTreeMap<PartitionIndex, Offset>),
    /// In each partition at the first record with this timestamp or a later one, in milliseconds since
    /// 1970; where all are older, at the next record that comes. Timestamps need not rise with offsets:
    /// records that follow may be older. [`ReaderBuilder::build`] asks the leaders, all of them.
    Time(i64),
    /// Where this group has come to, by what it has committed ([`Client::offsets`]). A partition that it
    /// has committed nothing of is begun at the first offset there is.
    Committed(String),
}

/// Where reading ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// Nowhere: the reader waits for what comes. The default.
    #[default]
    Forever,
    /// At the end of what is committed when the reader is built, which asks all leaders for it.
    End,
    /// Before these offsets; a partition that is not named is read without end.
    Offsets(BTreeMap<PartitionIndex, Offset>),
}

/// A reader's settings; see [`Client::reader`].
#[derive(Clone)]
#[must_use = "nothing is read before `build`"]
pub struct ReaderBuilder {
    client: Client,
    topic: Arc<str>,
    partitions: Option<Vec<PartitionIndex>>,
    start: Start,
    until: Until,
    credit_bytes: u64,
    expanded_bytes_max: usize,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: Arc<str>) -> Self {
        ReaderBuilder {
            client,
            topic,
            partitions: None,
            start: Start::default(),
            until: Until::default(),
            credit_bytes: 32 << 20,
            expanded_bytes_max: EXPANDED_BYTES_MAX,
        }
    }

    /// The partitions to read, one at least; all by default.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        let mut partitions: Vec<_> = partitions.into_iter().map(PartitionIndex).collect();
        partitions.sort_unstable();
        partitions.dedup();
        self.partitions = Some(partitions);
        self
    }

    /// Where to begin; [`Start::Latest`] by default.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to end; [`Until::Forever`] by default.
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
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
    /// One batch at a time is expanded, as its records are taken.
    pub fn expanded_bytes_max(mut self, bytes: usize) -> Self {
        self.expanded_bytes_max = bytes;
        self
    }

    /// The reader.
    ///
    /// Where reading begins and ends is settled when this is ready, but for [`Start::Earliest`]: so for
    /// [`Start::Latest`], [`Start::Time`] and [`Until::End`] the leader of each partition is asked, and for
    /// [`Start::Committed`] the group's coordinator. A reader that began later than that, where one of them
    /// cannot be reached, would skip records without a word; it is not built instead. Whoever would rather
    /// go without the partition that the error names chooses [`ReaderBuilder::partitions`].
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`];
    /// [`ErrorKind::OffsetOutOfRange`] for a start beyond [`Until::End`]; [`ErrorKind::Unreachable`] where
    /// one of those who have to be asked cannot be, within the request timeout;
    /// [`ErrorKind::InvalidConfig`] without a partition. A start outside the log shows with the first
    /// record.
    pub async fn build(self) -> Result<Reader> {
        let topic = self.client.topic(&self.topic).await?;
        let topic_id = topic.id;
        let partitions = self.chosen(&topic)?;
        let committed = self.committed(topic_id).await?;
        let credit_bytes = self.credit_bytes / (partitions.len() as u64).max(1);
        let builder = &self;
        let (topic, committed) = (&topic, &committed);
        let sources: Vec<Source> = stream::iter(partitions)
            .map(|partition| async move {
                let id = TopicPartition {
                    topic: topic.id,
                    partition,
                };
                let committed = committed.get(&id).copied();
                let (begin, end) = builder.bounds(topic, partition, committed).await?;
                let topic = builder.topic.clone();
                Ok::<_, Error>(Source {
                    place: Place { topic, id },
                    begin,
                    end,
                    credit_bytes: credit_bytes.max(CREDIT_BYTES_MIN),
                })
            })
            .buffered(QUESTIONS_AT_ONCE)
            .try_collect()
            .await?;
        let mut streams = Streams::new(self.client.clone(), self.expanded_bytes_max);
        for source in sources {
            streams.add(source);
        }
        Ok(Reader {
            topic: self.topic,
            topic_id,
            streams,
        })
    }

    /// Where the group has come to, if that is where to begin.
    async fn committed(&self, topic: TopicId) -> Result<BTreeMap<TopicPartition, Offset>> {
        match &self.start {
            Start::Committed(group) => {
                let offsets = self.client.offsets(group.clone());
                offsets.of_topic(topic).await
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    fn chosen(&self, topic: &TopicRecord) -> Result<Vec<PartitionIndex>> {
        let count = topic.partitions.len();
        let Some(chosen) = &self.partitions else {
            return Ok((0..count as u32).map(PartitionIndex).collect());
        };
        if chosen.is_empty() {
            let text = "a reader reads one partition at least";
            return Err(Error::new(ErrorKind::InvalidConfig, text).in_topic(self.topic.clone()));
        }
        if let Some(bad) = chosen
            .iter()
            .find(|partition| partition.0 as usize >= count)
        {
            return Err(no_partition(&self.topic, *bad, count));
        }
        Ok(chosen.clone())
    }

    /// Where to begin and end with a partition. Its leader is asked only where that matters.
    async fn bounds(
        &self,
        topic: &TopicRecord,
        partition: PartitionIndex,
        committed: Option<Offset>,
    ) -> Result<(Begin, Option<Offset>)> {
        let given = match &self.start {
            Start::Offset(offset) => Some(*offset),
            Start::Offsets(offsets) => offsets.get(&partition).copied(),
            Start::Committed(_) => committed,
            Start::Earliest | Start::Latest | Start::Time(_) => None,
        };
        let is_asked =
            self.until == Until::End || matches!(self.start, Start::Latest | Start::Time(_));
        if !is_asked {
            let begin = given.map_or(Begin::Earliest(None), Begin::At);
            return Ok((begin, self.end_before(partition)));
        }
        // Before a leader's watermark covers all that was ever acknowledged, it may know of nothing so
        // new that there is.
        let admin = self.client.admin();
        let status = admin.partition_status(topic, partition, true).await?;
        let now = status.high_watermark;
        let end = match &self.until {
            Until::End => Some(now),
            _ => self.end_before(partition),
        };
        let begin = match (&self.start, given) {
            (_, Some(offset)) => Begin::At(offset),
            (Start::Latest, None) => Begin::At(now),
            (Start::Time(ms), None) => {
                let found = admin.offset_for_time(topic, partition, *ms).await?;
                // What has come since does not count where the end is to be read to.
                match self.until {
                    Until::End => Begin::At(found.min(now)),
                    _ => Begin::At(found),
                }
            }
            (_, None) => Begin::Earliest(Some(status.log_start)),
        };
        match begin {
            Begin::At(start) if self.until == Until::End && start > now => {
                let text = format!("there is no offset {start}: what is committed ends at {now}");
                let (start, end) = (status.log_start, now);
                let kind = ErrorKind::OffsetOutOfRange { start, end };
                let place = Place::of(topic, partition);
                Err(Error::new(kind, text).at(&place))
            }
            _ => Ok((begin, end)),
        }
    }

    /// The offset that was given as the end, if one was.
    fn end_before(&self, partition: PartitionIndex) -> Option<Offset> {
        match &self.until {
            Until::Offsets(offsets) => offsets.get(&partition).copied(),
            Until::Forever | Until::End => None,
        }
    }
}
