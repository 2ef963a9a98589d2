//! What must hold in every history, whatever happens: checked while it unfolds.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_replication::event::{Acknowledged, RequestId};

use crate::controller::Controller;
use crate::node::{Content, Entry, Node};

/// The memory of a history.
#[derive(Debug, Default)]
pub struct Checker {
    /// Every entry that was ever in a log: one content per (epoch, offset).
    written: BTreeMap<(LeaderEpoch, Offset), Entry>,
    /// What is committed, from the log's beginning.
    pub committed: Vec<Entry>,
    /// The leader epoch that committed each.
    committed_in: Vec<Option<LeaderEpoch>>,
    /// Sequences of producers in what is committed: each once.
    sequences: BTreeSet<(u64, u16, u32)>,
}

impl Checker {
    /// Equal (epoch, offset) means equal entries.
    pub fn wrote(&mut self, entry: &Entry) -> Result<(), String> {
        let key = (entry.shape.epoch, entry.shape.base);
        let first = self.written.entry(key).or_insert(*entry);
        match first == entry {
            true => Ok(()),
            false => Err(format!("two entries at {}:{}", key.0, key.1)),
        }
    }

    /// The end of what is committed.
    pub fn committed_end(&self) -> Offset {
        let last = self.committed.last();
        last.map_or(Offset::ZERO, |entry| entry.shape.end)
    }

    /// What is committed is lost, but for what this log holds of it.
    pub fn give_up_all_but(&mut self, log: &[Entry]) {
        let pairs = self.committed.iter().zip(log);
        let kept = pairs
            .take_while(|(committed, held)| committed == held)
            .count();
        self.committed.truncate(kept);
        self.committed_in.truncate(kept);
    }

    /// A replica published its watermark. A leader's moves what is committed; anybody else's lies
    /// within it.
    pub fn published(
        &mut self,
        id: u32,
        nodes: &BTreeMap<u32, Node>,
        controller: &Controller,
        to: Offset,
    ) -> Result<(), String> {
        let node = &nodes[&id];
        for (i, entry) in node.log.iter().enumerate() {
            if entry.shape.end > to {
                break;
            }
            match self.committed.get(i) {
                Some(known) if known == entry => {}
                Some(known) => {
                    return Err(format!("{id} exposes {entry} where {known} is committed"));
                }
                None if node.leading().is_none() => {
                    return Err(format!("{id} exposes {entry}, which is not committed"));
                }
                None => {
                    self.is_held(id, entry, nodes, controller)?;
                    self.commit(*entry, node.leading(), nodes)?;
                }
            }
        }
        Ok(())
    }

    /// Something that is committed is held by k+1 members, durably and with n at the committing
    /// epoch or above, so that no other log wins against theirs in an election; but for those that
    /// are known to have lost what they held.
    fn is_held(
        &self,
        by: u32,
        entry: &Entry,
        nodes: &BTreeMap<u32, Node>,
        controller: &Controller,
    ) -> Result<(), String> {
        let members = controller.members();
        let holders = members.iter().filter(|id| {
            let node = &nodes[id];
            node.lost
                || controller.is_suspect(**id)
                || node.counts_as_holder_of(entry, nodes[&by].leading())
        });
        let needed = controller.view.sync_followers_elect as usize + 1;
        match holders.count() {
            count if count < needed => Err(format!(
                "{by} commits {entry}, which {count} members hold where {needed} are needed"
            )),
            _ => Ok(()),
        }
    }

    fn commit(
        &mut self,
        entry: Entry,
        epoch: Option<LeaderEpoch>,
        nodes: &BTreeMap<u32, Node>,
    ) -> Result<(), String> {
        self.committed.push(entry);
        self.committed_in.push(epoch);
        let at = self.committed.len() - 1;
        for (id, node) in nodes {
            if node.leading() > epoch && node.log.get(at) != Some(&entry) {
                return Err(format!("{id} leads without {entry}, which is committed"));
            }
        }
        if let Some(stamp) = entry.shape.producer
            && !self
                .sequences
                .insert((stamp.id.0, stamp.epoch, stamp.sequence))
        {
            return Err(format!("{entry} was in the log before"));
        }
        Ok(())
    }

    /// A leader holds everything that was committed in an epoch before its own. It may take up an
    /// office that is history already: what was committed since then is no concern of its.
    pub fn leads(&self, id: u32, node: &Node) -> Result<(), String> {
        let committed = self.committed.iter().zip(&self.committed_in);
        for (i, (entry, epoch)) in committed.enumerate() {
            if *epoch < node.leading() && node.log.get(i) != Some(entry) {
                return Err(format!("{id} leads without {entry}, which is committed"));
            }
        }
        Ok(())
    }

    /// Only what is committed expires, and no start goes back.
    pub fn expired(&self, id: u32, node: &Node, to: Offset) -> Result<(), String> {
        if to > self.committed_end() {
            return Err(format!("{id} lets go of what is not committed, up to {to}"));
        }
        match to > node.start {
            true => Ok(()),
            false => Err(format!("{id} moves its start back to {to}")),
        }
    }

    /// A replica discards what it holds, and begins anew at `start`: below that everything is committed,
    /// and of what lies above nothing that it held. Returns what lies below.
    pub fn begins_anew(&self, id: u32, node: &Node, start: Offset) -> Result<Vec<Entry>, String> {
        if start > self.committed_end() {
            return Err(format!(
                "{id} begins anew at {start}, which is not committed"
            ));
        }
        let below = |entry: &&Entry| entry.shape.end <= start;
        let mut held = node.log.iter().zip(&self.committed);
        if let Some((entry, _)) = held.find(|(held, known)| held == known && !below(held)) {
            return Err(format!("{id} discards {entry}, which is committed"));
        }
        Ok(self.committed.iter().filter(below).copied().collect())
    }

    /// Only what is committed is acknowledged, and it is what the request brought.
    pub fn acknowledged(
        &self,
        request: RequestId,
        content: Content,
        acknowledged: &Acknowledged,
    ) -> Result<(), String> {
        let Acknowledged { base, epoch } = *acknowledged;
        let Some(base) = base else {
            return Ok(());
        };
        let shape = |entry: &&Entry| (entry.shape.base, entry.shape.epoch);
        let there = self
            .committed
            .iter()
            .find(|entry| shape(entry) == (base, epoch));
        match there {
            Some(entry) if entry.content == content => Ok(()),
            Some(entry) => Err(format!("request {} is answered with {entry}", request.0)),
            None => Err(format!(
                "request {} is acknowledged at {}:{}, which is not committed",
                request.0, epoch, base
            )),
        }
    }

    /// What the core believes of its log is what is in the log.
    pub fn agrees(id: u32, node: &Node) -> Result<(), String> {
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        if replica.is_broken() {
            return Ok(());
        }
        replica.verify();
        let log = replica.log();
        let end = |entries: &[Entry]| entries.last().map_or(Offset::ZERO, |entry| entry.shape.end);
        if log.start != node.start {
            return Err(format!("{id} believes in a start at {}", log.start));
        }
        if log.end != end(&node.log) {
            return Err(format!("{id} believes in an end of {}", log.end));
        }
        let flushed = end(&node.disk);
        if !node.flushes_at_intervals() && log.durable_end > flushed {
            return Err(format!(
                "{id} believes {} durable, not {flushed}",
                log.durable_end
            ));
        }
        for entry in node.log.iter().filter(|entry| entry.shape.end > log.start) {
            if log.epochs.at(entry.shape.base) != entry.shape.epoch {
                return Err(format!("{id} knows another epoch of {entry}"));
            }
        }
        if log.high_watermark < node.published {
            return Err(format!("{id} moves its watermark back"));
        }
        Ok(())
    }
}
