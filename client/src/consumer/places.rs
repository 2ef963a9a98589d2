//! Where the consumer is, and where its user wants it to be.

use std::collections::BTreeMap;

use baton_protocol::ids::{Offset, TopicPartition};

use super::Consumer;
use super::builder::AutoCommit;
use super::holdings::Stage;
use super::mailbox::Opened;
use super::membership::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::partition::Partition;
use crate::reader::Progress;

impl Consumer {
    pub(super) fn id(&self, partition: &Partition) -> Result<TopicPartition> {
        let found = self.holdings.named(&partition.topic, partition.index);
        found.ok_or_else(|| {
            let text = format!("{partition} is not assigned to this consumer");
            let error = Error::new(ErrorKind::UnknownPartition, text);
            error.about(partition.topic.clone(), partition.index)
        })
    }

    /// The same where it is not being given up.
    pub(super) fn id_kept(&self, partition: &Partition) -> Result<TopicPartition> {
        let at = self.id(partition)?;
        match self.holdings.get(at).map(|held| held.stage) {
            Some(Stage::Open | Stage::Opening(_) | Stage::Stuck) => Ok(at),
            _ => {
                let text = format!("{partition} is being given up");
                let error = Error::new(ErrorKind::UnknownPartition, text);
                Err(error.about(partition.topic.clone(), partition.index))
            }
        }
    }

    /// Goes on at another offset of a partition; also where it failed. What had come of it and was not
    /// given out is dropped. It says where this consumer reads, and that the next commit may go back
    /// there; nothing is committed by it. An offset outside the log shows as an error when records are
    /// asked for.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`](crate::ErrorKind::UnknownPartition) for a partition that is not assigned to this consumer.
    pub fn seek(&mut self, partition: impl Into<Partition>, offset: Offset) -> Result<()> {
        let at = self.id_kept(&partition.into())?;
        self.streams.seek(at, offset);
        let last_commit = self.commits.last;
        let Some(held) = self.holdings.get_mut(at) else {
            return Ok(());
        };
        held.seek(offset, last_commit);
        if matches!(held.stage, Stage::Stuck) {
            let opened = Opened {
                start: offset,
                is_earliest: false,
                committed: None,
            };
            self.open(at, opened);
            return Ok(());
        }
        self.commits.is_due = self.auto_commit != AutoCommit::Off;
        Ok(())
    }

    /// Gives out no records of these partitions until they are resumed. They stay this consumer's; what
    /// has come of them waits, within the credit. A partition that is assigned anew is not paused.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPartition`](crate::ErrorKind::UnknownPartition) for a partition that is not assigned to this consumer; those
    /// before it are paused.
    pub fn pause<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Goes on with partitions that were paused.
    ///
    /// # Errors
    /// As for [`Consumer::pause`].
    pub fn resume<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.set_paused(partitions, false)
    }

    pub(super) fn set_paused<P: Into<Partition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
        is_paused: bool,
    ) -> Result<()> {
        for partition in partitions {
            let at = self.id_kept(&partition.into())?;
            if let Some(held) = self.holdings.get_mut(at) {
                held.is_paused = is_paused;
            }
            match is_paused {
                true => self.streams.pause(at),
                false => self.streams.resume(at),
            };
        }
        Ok(())
    }

    /// Subscribes to other topics. What is not wanted any more is given up as what goes to others is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for no topic at all, or too many.
    pub fn subscribe<T: Into<String>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let topics = super::builder::topics(topics)?;
        drop(self.membership.send(Command::Subscribe(topics)));
        Ok(())
    }

    /// The partitions that are assigned to this consumer.
    pub fn assignment(&self) -> Vec<Partition> {
        let kept = self.holdings.kept();
        let mut names: Vec<Partition> = kept
            .map(|(at, held)| Partition::new(held.topic.clone(), at.partition))
            .collect();
        names.sort();
        names
    }

    /// The offset of the next record of a partition, after those that were given out; none for a
    /// partition that is not assigned to this consumer, or where it is not known yet where to begin.
    pub fn position(&self, partition: impl Into<Partition>) -> Option<Offset> {
        let partition = partition.into();
        let at = self.holdings.named(&partition.topic, partition.index)?;
        self.streams.position(at)
    }

    /// The committed offset of a partition, as far as this consumer knows: as it was when the partition
    /// was assigned, or as it was committed by this consumer since.
    pub fn committed_offset(&self, partition: impl Into<Partition>) -> Option<Offset> {
        let partition = partition.into();
        let at = self.holdings.named(&partition.topic, partition.index)?;
        self.holdings.get(at)?.committed
    }

    /// How far each partition has been read, and what the client knows of its end. It learns that
    /// with the records that come, so of a partition that is paused, or whose credit is used up, it
    /// may be less than there is.
    pub fn progress(&self) -> BTreeMap<Partition, Progress> {
        let progress = self.streams.progress().into_iter();
        progress
            .filter_map(|(at, reached)| Some((self.holdings.name(at)?, Progress::new(reached))))
            .collect()
    }

    /// How many offsets lie between each partition's position and the end of what is committed to the
    /// log, as the client knows it ([`Progress::lag`]).
    pub fn lag(&self) -> BTreeMap<Partition, u64> {
        let progress = self.progress().into_iter();
        progress.map(|(p, progress)| (p, progress.lag())).collect()
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }
}
