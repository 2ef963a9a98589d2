//! Messages on their way between replicas. Nothing moves unless it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_protocol::peer::ReplicaMessage;
use baton_replication::producers::ProducerTable;

use crate::node::Entry;

/// A message with the entries it carries.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Broker that it is for.
    pub to: u32,
    /// What it says.
    pub message: ReplicaMessage,
    /// An append's entries.
    pub entries: Vec<Entry>,
    /// What a reset tells of producers.
    pub producers: ProducerTable,
    /// Order of sending.
    sequence: u64,
}

/// The queues, one per pair and direction.
#[derive(Debug, Default)]
pub struct Network {
    queues: BTreeMap<(u32, u32), VecDeque<Packet>>,
    blocked: BTreeSet<(u32, u32)>,
    frozen: BTreeSet<u32>,
    held: BTreeMap<String, Packet>,
    sent: u64,
}

impl Network {
    /// Queues a message.
    pub fn send(
        &mut self,
        from: u32,
        to: u32,
        message: ReplicaMessage,
        entries: Vec<Entry>,
        producers: ProducerTable,
    ) {
        self.sent += 1;
        let sequence = self.sent;
        self.queues
            .entry((from, to))
            .or_default()
            .push_back(Packet {
                to,
                message,
                entries,
                producers,
                sequence,
            });
    }

    /// Whether nothing passes between the two on its own.
    fn stopped(&self, from: u32, to: u32) -> bool {
        self.blocked.contains(&(from, to)) || !self.reaches(from) || !self.reaches(to)
    }

    /// Whether a broker is in touch with the others and with the controller.
    pub fn reaches(&self, broker: u32) -> bool {
        !self.frozen.contains(&broker)
    }

    /// Takes the message that has waited longest of those that may pass.
    pub fn next(&mut self) -> Option<Packet> {
        let (_, pair) = self
            .queues
            .iter()
            .filter(|((from, to), _)| !self.stopped(*from, *to))
            .filter_map(|(pair, queue)| queue.front().map(|packet| (packet.sequence, *pair)))
            .min()?;
        self.take(pair.0, pair.1)
    }

    /// Takes the first message of one direction, stopped or not.
    pub fn take(&mut self, from: u32, to: u32) -> Option<Packet> {
        self.queues.get_mut(&(from, to))?.pop_front()
    }

    /// How many messages wait in one direction.
    pub fn waiting(&self, from: u32, to: u32) -> usize {
        self.queues.get(&(from, to)).map_or(0, VecDeque::len)
    }

    /// How many messages wait in all.
    pub fn waiting_in_all(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Takes the `nth` waiting message, or a copy of it: for schedules that keep no order.
    pub fn pick(&mut self, mut nth: usize, copy: bool) -> Option<Packet> {
        for queue in self.queues.values_mut() {
            if nth < queue.len() {
                return match copy {
                    true => queue.get(nth).cloned(),
                    false => queue.remove(nth),
                };
            }
            nth -= queue.len();
        }
        None
    }

    /// Puts the first message of one direction aside; a copy of it, if it is to go its way too.
    pub fn hold(&mut self, from: u32, to: u32, name: &str, copy: bool) -> Result<(), String> {
        let queue = self.queues.entry((from, to)).or_default();
        let packet = match copy {
            true => queue.front().cloned(),
            false => queue.pop_front(),
        };
        let packet = packet.ok_or_else(|| format!("nothing waits from {from} to {to}"))?;
        self.held.insert(name.to_owned(), packet);
        Ok(())
    }

    /// A copy of a message that was put aside.
    pub fn held(&self, name: &str) -> Result<Packet, String> {
        let held = self.held.get(name).cloned();
        held.ok_or_else(|| format!("nothing is held as {name}"))
    }

    /// What was on its way to or from a broker is lost with its connections.
    pub fn disconnect(&mut self, broker: u32) {
        self.queues
            .retain(|(from, to), _| *from != broker && *to != broker);
    }

    /// Lets nothing pass in one direction, or lets it pass again.
    pub fn block(&mut self, from: u32, to: u32, on: bool) {
        match on {
            true => self.blocked.insert((from, to)),
            false => self.blocked.remove(&(from, to)),
        };
    }

    /// Cuts a broker off from everybody, or ends that.
    pub fn freeze(&mut self, broker: u32, on: bool) {
        match on {
            true => self.frozen.insert(broker),
            false => self.frozen.remove(&broker),
        };
    }
}
