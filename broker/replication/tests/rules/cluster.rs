//! A cluster in memory: replicas, their logs, a network and a controller, all moved by hand.
//!
//! Carries the core's effects out on lists of entries, keeps apart what a power cut would leave,
//! and checks after every step what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_protocol::client::Acks;
use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, Tick};
use baton_protocol::peer::{Append, ReplicaMessage};
use baton_replication::event::{
    Effect, EntryShape, FenceAnswer, HandoverProposal, Input, Proposal, RequestId, SetProposal,
};
use baton_replication::producers::{ProducerStamp, ProducerTable};
use baton_replication::rules::Rules;
use baton_replication::{Config, Replica};

use crate::checker::Checker;
use crate::controller::Controller;
use crate::network::{Network, Packet};
use crate::node::{Content, Entry, FlushMode, Node, Reading, shape_of};
use crate::trace;

/// What the effects of a step are about.
enum InHand {
    Nothing,
    Batch(EntryShape, Content),
    Entries(Vec<Entry>),
}

/// The cluster.
pub struct Cluster {
    rules: Rules,
    config: Config,
    /// The time.
    pub now: Tick,
    /// Whom the controller does not hear.
    pub unheard: BTreeSet<u32>,
    /// Its brokers.
    pub nodes: BTreeMap<u32, Node>,
    /// What is on its way.
    pub network: Network,
    /// The metadata.
    pub controller: Controller,
    /// Set changes on their way to the controller.
    pub proposals: VecDeque<(BrokerLife, SetProposal)>,
    /// Successors on their way to the controller.
    pub handovers: VecDeque<(BrokerLife, HandoverProposal)>,
    /// Answers to fences on their way to the controller.
    pub answers: VecDeque<FenceAnswer>,
    /// The memory of this history.
    pub checker: Checker,
    /// What happened, line by line, since it was last taken.
    pub trace: Vec<String>,
    /// Whether a trace is kept.
    pub traced: bool,
    /// Whether it tells of metadata and flushes too.
    pub verbose: bool,
    /// Whether what is to be pushed has to be waited for: it is read when [`Cluster::finish_read`] says
    /// so.
    pub slow_reads: bool,
    /// Every set change that was ever proposed.
    pub proposed: Vec<SetProposal>,
    requests: BTreeMap<RequestId, Content>,
}

impl Cluster {
    /// A cluster of empty logs, all brokers connected, without a leader.
    pub fn new(
        rules: Rules,
        config: Config,
        flush: FlushMode,
        brokers: u32,
        in_sync: BTreeSet<u32>,
        k: u32,
    ) -> Self {
        let mut cluster = Cluster {
            rules,
            config,
            now: Tick(10_000),
            unheard: BTreeSet::new(),
            nodes: BTreeMap::new(),
            network: Network::default(),
            controller: Controller::new(rules, brokers, in_sync, k, flush.of_the_topic()),
            proposals: VecDeque::new(),
            handovers: VecDeque::new(),
            answers: VecDeque::new(),
            checker: Checker::default(),
            trace: Vec::new(),
            traced: true,
            verbose: false,
            slow_reads: false,
            proposed: Vec::new(),
            requests: BTreeMap::new(),
        };
        for id in 1..=brokers {
            let node = Node {
                replica: None,
                log: Vec::new(),
                disk: Vec::new(),
                start: Offset::ZERO,
                disk_start: Offset::ZERO,
                lost: false,
                published: Offset::ZERO,
                learned: 1,
                flush,
                flushing: None,
                reading: Vec::new(),
            };
            cluster.nodes.insert(id, node);
        }
        for id in 1..=brokers {
            let replica = cluster.controller.view.replicas.get(&BrokerId(id));
            let life = replica.expect("a replica").life;
            cluster.start(BrokerLife {
                broker: BrokerId(id),
                epoch: life,
            });
        }
        cluster
    }

    /// Starts a replica on what its disk holds, with the metadata as it stands.
    fn start(&mut self, me: BrokerLife) {
        let id = me.broker.0;
        let peers: Vec<BrokerId> = self
            .nodes
            .keys()
            .filter(|peer| **peer != id)
            .map(|peer| BrokerId(*peer))
            .collect();
        let view = self.controller.view.clone();
        let learned = self.controller.history.len();
        if let Some(node) = self.nodes.get_mut(&id) {
            node.flushing = None;
            node.reading.clear();
            node.published = node.start;
            node.learned = learned;
            let shape = shape_of(&node.log, node.start);
            node.replica = Some(Replica::new(
                me,
                self.config,
                self.rules,
                shape,
                view,
                peers,
            ));
        }
    }

    /// Whether the broker runs.
    pub fn is_up(&self, id: u32) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.replica.is_some())
    }

    /// All brokers.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    /// Hands a replica an input that carries no entries.
    pub fn input(&mut self, id: u32, input: Input) -> Result<(), String> {
        self.step(id, input, &InHand::Nothing)
    }

    /// A producer sends a batch to a broker. The content of a repeated one is the same.
    pub fn produce(
        &mut self,
        id: u32,
        name: &str,
        records: u32,
        producer: Option<ProducerStamp>,
        acks: Acks,
        timeout_ms: u32,
    ) -> Result<(), String> {
        let request = RequestId(self.requests.len() as u64);
        let content = Content::new(name);
        self.requests.insert(request, content);
        // Offset and epoch are the leader's to fill in.
        let shape = EntryShape {
            epoch: LeaderEpoch::NONE,
            base: Offset::ZERO,
            end: Offset(u64::from(records)),
            producer,
        };
        let proposal = Proposal {
            request,
            records,
            producer,
            acks,
            timeout_ms,
        };
        self.step(id, Input::Propose(proposal), &InHand::Batch(shape, content))
    }

    /// A message arrives. Nothing arrives where nobody listens.
    pub fn receive(&mut self, packet: Packet) -> Result<(), String> {
        let Packet {
            to,
            message,
            entries,
            producers,
            ..
        } = packet;
        if !self.is_up(to) {
            return Ok(());
        }
        match message {
            ReplicaMessage::Append(append) => {
                let shapes = entries.iter().map(|entry| entry.shape).collect();
                self.step(to, Input::Append(append, shapes), &InHand::Entries(entries))
            }
            ReplicaMessage::Reset(reset) => self.input(to, Input::Reset(reset, producers)),
            ReplicaMessage::Ack(ack) => self.input(to, Input::Ack(ack)),
            ReplicaMessage::Mismatch(mismatch) => self.input(to, Input::Mismatch(mismatch)),
            ReplicaMessage::Refused(refused) => self.input(to, Input::Refused(refused)),
        }
    }

    /// The flush that is on ends. It covers what was in the log when it began; of what has been
    /// cut since then it writes nothing, yet it claims the end that it was asked for.
    pub fn finish_flush(&mut self, id: u32) -> Result<(), String> {
        let flushing = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.flushing.take());
        let Some(covered) = flushing else {
            return Err(format!("{id} does not flush"));
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.write_to_disk(&covered);
        }
        let end = covered.last().map_or(Offset::ZERO, |entry| entry.shape.end);
        self.input(id, Input::Flushed { end })
    }

    /// What is read to be pushed is there: the `nth` of what this broker reads, as the log is now, or as
    /// it was when the reading began. It leaves only if it is still wanted.
    pub fn finish_read(&mut self, id: u32, nth: usize, as_it_was: bool) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id).filter(|n| nth < n.reading.len()) else {
            return Err(format!("{id} does not read"));
        };
        let mut reading = node.reading.remove(nth);
        if !as_it_was {
            reading.entries = node.read(&reading.append, reading.bytes_max);
        }
        let wanted = node
            .replica
            .as_ref()
            .is_some_and(|replica| replica.awaits(reading.to, &reading.append));
        if !wanted {
            let to = reading.to;
            self.trace.push(format!("{id}: reads in vain for {to}"));
            return Ok(());
        }
        let mut queue = VecDeque::new();
        self.send_entries(id, reading, &mut queue)?;
        self.carry_out_all(id, queue, &InHand::Nothing)
    }

    /// A broker learns the next state of the partition, or all that it has not learned yet.
    pub fn learn(&mut self, id: u32, all: bool) -> Result<(), String> {
        while self.is_up(id) && self.nodes[&id].learned < self.controller.history.len() {
            let view = self.controller.history[self.nodes[&id].learned].clone();
            if let Some(node) = self.nodes.get_mut(&id) {
                node.learned += 1;
            }
            self.input(id, Input::Metadata(view.into()))?;
            if !all {
                break;
            }
        }
        Ok(())
    }

    /// Time passes, and every replica looks up.
    pub fn tick(&mut self, ms: u64) -> Result<(), String> {
        self.now = self.now.after_ms(ms);
        for id in self.ids() {
            if self.is_up(id) {
                self.tick_one(id)?;
            }
        }
        Ok(())
    }

    /// A tick that finds a replica at rest does nothing: hosts rely on that.
    fn tick_one(&mut self, id: u32) -> Result<(), String> {
        let replica = self.nodes.get(&id).and_then(|node| node.replica.as_ref());
        if let Some(replica) = replica.filter(|replica| replica.is_at_rest()) {
            let mut effects = Vec::new();
            replica.clone().step(self.now, Input::Tick, &mut effects);
            if !effects.is_empty() {
                return Err(format!("{id} is at rest, and a tick has {effects:?}"));
            }
        }
        self.input(id, Input::Tick)
    }

    /// A broker's process dies; with `power_cut`, what was not flushed is gone.
    pub fn crash(&mut self, id: u32, power_cut: bool) {
        if self.verbose {
            self.trace.push(format!("{id}: down"));
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.replica = None;
            if power_cut {
                node.lost |= node.flushes_at_intervals() && node.disk.len() < node.log.len();
                node.log = node.disk.clone();
            }
            // The entries are all there still.
            node.start = node.disk_start;
        }
    }

    /// A broker that is down loses its whole disk.
    pub fn wipe(&mut self, id: u32) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lost = true;
            node.log.clear();
            node.disk.clear();
            (node.start, node.disk_start) = (Offset::ZERO, Offset::ZERO);
        }
    }

    /// What the log holds reaches the disk without anybody asking.
    pub fn write_back(&mut self, id: u32) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk = node.log.clone();
            node.disk_start = node.start;
        }
    }

    /// A broker starts again in a new life. What its log holds is flushed first.
    pub fn restart(&mut self, id: u32, suspect: bool) -> Result<(), String> {
        let me = self.controller.register(id, suspect);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk = node.log.clone();
        }
        self.start(me);
        let view = self.controller.view.clone();
        self.input(id, Input::Metadata(view.into()))
    }

    /// The controller compares and sets one proposal; whether it was accepted.
    pub fn apply(&mut self, from: BrokerLife, proposal: &SetProposal) -> bool {
        let accepted = self.controller.apply(from, proposal);
        if accepted {
            for life in &proposal.verified {
                // What a later life has lost, nobody has verified.
                if let Some(node) = self.nodes.get_mut(&life.broker.0)
                    && node.replica.as_ref().is_some_and(|r| r.me() == *life)
                {
                    node.lost = false;
                }
            }
        }
        accepted
    }

    fn step(&mut self, id: u32, input: Input, in_hand: &InHand) -> Result<(), String> {
        let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) else {
            return Err(format!("{id} is down"));
        };
        let mut effects = Vec::new();
        if self.verbose {
            self.trace.extend(trace::input(id, &input));
        }
        if !self.unheard.contains(&id) {
            replica.step(self.now, Input::ControllerHeard(self.now), &mut effects);
        }
        replica.step(self.now, input, &mut effects);
        self.carry_out_all(id, VecDeque::from(effects), in_hand)
    }

    fn carry_out_all(
        &mut self,
        id: u32,
        mut queue: VecDeque<Effect>,
        in_hand: &InHand,
    ) -> Result<(), String> {
        while let Some(effect) = queue.pop_front() {
            if self.traced {
                self.trace
                    .extend(trace::effect(id, &effect, &self.requests));
            }
            self.carry_out(id, effect, in_hand, &mut queue)?;
        }
        Checker::agrees(id, &self.nodes[&id])?;
        self.flush_at_once(id)
    }

    fn flush_at_once(&mut self, id: u32) -> Result<(), String> {
        let node = &self.nodes[&id];
        match !node.flush.is_manual() && node.is_flushing() {
            true => self.finish_flush(id),
            false => Ok(()),
        }
    }

    fn carry_out(
        &mut self,
        id: u32,
        effect: Effect,
        in_hand: &InHand,
        queue: &mut VecDeque<Effect>,
    ) -> Result<(), String> {
        match effect {
            Effect::AppendBatch { base, epoch, .. } => {
                let InHand::Batch(shape, content) = in_hand else {
                    return Err(format!("{id} stores a batch that nobody sent"));
                };
                let end = base.plus(shape.end.0);
                let shape = EntryShape {
                    epoch,
                    base,
                    end,
                    ..*shape
                };
                let content = *content;
                self.store(id, &[Entry { shape, content }])
            }
            Effect::AppendEpochStart { base, epoch } => {
                let me = self.nodes[&id].replica.as_ref().map(Replica::me);
                let content = me.map_or(Content::new("*"), Content::epoch_start);
                let shape = EntryShape {
                    epoch,
                    base,
                    end: base.plus(1),
                    producer: None,
                };
                self.store(id, &[Entry { shape, content }])
            }
            Effect::AppendEntries { skip } => {
                let InHand::Entries(entries) = in_hand else {
                    return Err(format!("{id} stores entries that nobody sent"));
                };
                self.store(id, &entries[skip..])
            }
            Effect::Truncate { to, .. } => self.truncate(id, to),
            Effect::AdvanceStart { to } => {
                self.checker.expired(id, &self.nodes[&id], to)?;
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.start = to;
                }
                Ok(())
            }
            Effect::Reset { start, .. } => self.begin_anew(id, start),
            Effect::Flush => self.begin_flush(id),
            Effect::Push {
                to,
                append,
                bytes_max,
            } => self.push(id, to, append, bytes_max, queue),
            Effect::Send { to, message } => {
                let producers = match &message {
                    ReplicaMessage::Reset(reset) => {
                        let replica = self.nodes[&id].replica.as_ref();
                        replica.map(|replica| replica.log().producers.below(reset.start))
                    }
                    _ => None,
                };
                let producers = producers.unwrap_or_default();
                self.network.send(id, to.0, message, Vec::new(), producers);
                Ok(())
            }
            Effect::Reply { request, result } => match result {
                Ok(acknowledged) => {
                    let content = self.requests[&request];
                    self.checker.acknowledged(request, content, &acknowledged)
                }
                Err(_) => Ok(()),
            },
            Effect::PublishHighWatermark(to) => {
                let published = self
                    .checker
                    .published(id, &self.nodes, &self.controller, to);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.published = to;
                }
                published
            }
            Effect::AnswerFence(answer) => {
                self.answers.push_back(answer);
                Ok(())
            }
            Effect::ProposeInSync(proposal) => {
                self.proposed.push(proposal.clone());
                if let Some(replica) = &self.nodes[&id].replica {
                    self.proposals.push_back((replica.me(), proposal));
                }
                Ok(())
            }
            Effect::ProposeHandover(proposal) => {
                if let Some(replica) = &self.nodes[&id].replica {
                    self.handovers.push_back((replica.me(), proposal));
                }
                Ok(())
            }
            Effect::AskOffsets { limit, .. } => {
                self.controller.change_limit(limit);
                Ok(())
            }
            Effect::RoleChanged { leading: Some(_) } => self.checker.leads(id, &self.nodes[&id]),
            Effect::RoleChanged { leading: None } | Effect::Ignored { .. } | Effect::Broken(_) => {
                Ok(())
            }
        }
    }

    fn store(&mut self, id: u32, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            self.checker.wrote(entry)?;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.log.extend_from_slice(entries);
        }
        Ok(())
    }

    fn truncate(&mut self, id: u32, to: Offset) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let mid_entry = |e: &Entry| e.shape.base < to && to < e.shape.end;
        if let Some(entry) = node.log.iter().find(|entry| mid_entry(entry)) {
            return Err(format!("{id} cuts {entry} in two at {to}"));
        }
        node.log.retain(|entry| entry.shape.end <= to);
        node.disk.retain(|entry| entry.shape.end <= to);
        Ok(())
    }

    /// What lies below its new start it counts as a holder of: all of that is committed.
    fn begin_anew(&mut self, id: u32, start: Offset) -> Result<(), String> {
        let below = self.checker.begins_anew(id, &self.nodes[&id], start)?;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.log = below;
            node.disk = node.log.clone();
            (node.start, node.disk_start) = (start, start);
            node.published = node.published.min(start);
        }
        Ok(())
    }

    fn begin_flush(&mut self, id: u32) -> Result<(), String> {
        match self.nodes.get_mut(&id) {
            Some(node) if node.flushing.is_none() => {
                node.flushing = Some(node.log.clone());
                Ok(())
            }
            _ => Err(format!("{id} asks for a second flush")),
        }
    }

    fn push(
        &mut self,
        id: u32,
        to: BrokerId,
        append: Append,
        bytes_max: u64,
        queue: &mut VecDeque<Effect>,
    ) -> Result<(), String> {
        let reading = Reading {
            to,
            entries: self.nodes[&id].read(&append, bytes_max),
            append,
            bytes_max,
        };
        match self.nodes.get_mut(&id) {
            Some(node) if self.slow_reads && bytes_max > 0 => {
                node.reading.push(reading);
                Ok(())
            }
            _ => self.send_entries(id, reading, queue),
        }
    }

    /// Sends what was read, and tells the replica how far it goes, which may push more.
    fn send_entries(
        &mut self,
        id: u32,
        reading: Reading,
        queue: &mut VecDeque<Effect>,
    ) -> Result<(), String> {
        let Reading {
            to,
            append,
            bytes_max,
            entries,
        } = reading;
        if self.traced {
            self.trace.push(trace::append(id, to, &append, &entries));
        }
        let bytes = entries.iter().map(Entry::bytes).sum();
        let end = entries.last().map(|entry| entry.shape.end);
        let message = ReplicaMessage::Append(append.clone());
        let none = ProducerTable::default();
        self.network.send(id, to.0, message, entries, none);
        if bytes_max == 0 {
            return Ok(());
        }
        let end = end.ok_or_else(|| format!("{id} pushes what is not there"))?;
        if let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) {
            let mut more = Vec::new();
            let pushed = Input::Pushed {
                to,
                append,
                end,
                bytes,
            };
            replica.step(self.now, pushed, &mut more);
            queue.extend(more);
        }
        Ok(())
    }
}
