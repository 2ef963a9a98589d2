//! From what the consumer holds to what it shall hold: partitions are given up and begun with.

use baton_protocol::ids::TopicPartition;

use super::Consumer;
use super::builder::{AutoCommit, OutOfRange};
use super::event::Event;
use super::holdings::{Stage, Step};
use super::mailbox::Opened;
use super::membership::Command;
use super::opening::Opening;
use crate::error::{Error, ErrorKind, Result};
use crate::partition::Partition;
use crate::streaming::{Begin, Source};

impl Consumer {
    /// Goes on towards the assignment. True if there is something to give out.
    pub(super) fn converge(&mut self) -> bool {
        if self.is_settled {
            return false;
        }
        let Some(target) = self.target.take() else {
            return false;
        };
        // What was to be given up was told, and the user has asked again.
        if self.holdings.is_giving_up() && self.commits.under_way == 0 {
            self.holdings.gave_up();
        }
        while let Some(step) = self.holdings.next(&target) {
            match step {
                Step::Begin(membership, lost) => {
                    drop(self.membership.send(Command::Begin(membership)));
                    let mut names = Vec::with_capacity(lost.len());
                    for (at, topic) in lost {
                        self.streams.remove(at);
                        names.push(Partition::new(topic, at.partition));
                    }
                    if !names.is_empty() {
                        self.items.push_back(Ok(Event::Lost(names)));
                    }
                }
                Step::GiveUp(losing) => self.give_up(&losing),
                Step::TakeUp(new) => self.take_up(&new),
                Step::Applied(membership, epoch) => {
                    drop(self.membership.send(Command::Applied(membership, epoch)));
                }
            }
        }
        self.target = Some(target);
        self.is_settled = !self.holdings.is_giving_up();
        !self.items.is_empty()
    }

    pub(super) fn give_up(&mut self, losing: &[TopicPartition]) {
        let reached = self.streams.progress();
        for at in losing {
            self.streams.remove(*at);
            if let Some(held) = self.holdings.get_mut(*at) {
                held.stage = Stage::GivenUp(reached.get(at).copied());
            }
        }
        self.share_credit();
        if self.auto_commit != AutoCommit::Off {
            let offsets = self.worth_committing(|at| losing.contains(&at));
            self.order(offsets);
        }
        let names = losing.iter().filter_map(|at| self.holdings.name(*at));
        self.items.push_back(Ok(Event::Revoked(names.collect())));
    }

    pub(super) fn take_up(&mut self, new: &[TopicPartition]) {
        let held = new.iter().filter_map(|at| {
            let held = self.holdings.get(*at)?;
            let Stage::Opening(opening) = held.stage else {
                return None;
            };
            Some((held.place(*at), opening))
        });
        let opening = Opening {
            client: self.client.clone(),
            group: self.group.clone(),
            member: self.holdings.committing(),
            start: self.start.clone(),
            partitions: held.collect(),
            mailbox: self.mailbox.clone(),
        };
        self.openings.spawn(opening.run());
        let names = new.iter().filter_map(|at| self.holdings.name(*at));
        self.items.push_back(Ok(Event::Assigned(names.collect())));
    }

    pub(super) fn opened(&mut self, at: TopicPartition, opening: u64, start: Result<Opened>) {
        let Some(held) = self.holdings.get_mut(at) else {
            return;
        };
        // It may have been given up and taken up again since.
        if !matches!(held.stage, Stage::Opening(number) if number == opening) {
            return;
        }
        match start {
            Ok(opened) => self.open(at, opened),
            // The coordinator takes it back.
            Err(error) if error.kind() == ErrorKind::UnknownTopic => {}
            Err(error) => {
                held.stage = Stage::Stuck;
                self.items.push_back(Err(error));
            }
        }
    }

    /// Begins to stream.
    pub(super) fn open(&mut self, at: TopicPartition, opened: Opened) {
        let Some(held) = self.holdings.get_mut(at) else {
            return;
        };
        held.stage = Stage::Open;
        held.committed = opened.committed;
        held.settled = Some(opened.start);
        let start = held.sought.unwrap_or(opened.start);
        held.goes_back = held.committed.is_some_and(|committed| start < committed);
        let begin = match opened.is_earliest && held.sought.is_none() {
            true => Begin::Earliest(Some(start)),
            false => Begin::At(start),
        };
        let (place, is_paused) = (held.place(at), held.is_paused);
        let credit_bytes = self.share();
        self.streams.add(Source {
            place,
            begin,
            end: None,
            credit_bytes,
        });
        if is_paused {
            self.streams.pause(at);
        }
        self.share_credit();
    }

    /// Each partition's share of the credit; one byte lets a broker push one message.
    pub(super) fn share(&self) -> u64 {
        let held = self.holdings.kept().count() as u64;
        (self.credit_bytes / held.max(1)).max(1)
    }

    pub(super) fn share_credit(&mut self) {
        let share = self.share();
        self.streams.share_credit(share);
    }

    /// What to do about an error of a partition: none where it needs not be told.
    pub(super) fn judge(&mut self, error: Error) -> Option<Error> {
        let Some((topic, partition)) = error.topic().zip(error.partition()) else {
            return Some(error);
        };
        let at = self.holdings.named(topic, partition)?;
        match error.kind() {
            // The coordinator takes it back.
            ErrorKind::UnknownTopic => None,
            // Beyond the end, that policy would skip what is yet to come: it is an error always.
            ErrorKind::OffsetOutOfRange { start, end }
                if self
                    .streams
                    .position(at)
                    .is_some_and(|position| position < start) =>
            {
                let to = match self.out_of_range {
                    OutOfRange::Error => return Some(error),
                    OutOfRange::Earliest => start,
                    OutOfRange::Latest => end,
                };
                tracing::warn!(%error, %to, "goes on where there are records");
                self.streams.seek(at, to);
                None
            }
            _ => Some(error),
        }
    }
}
