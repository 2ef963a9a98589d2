//! One random history, from its seed alone: produces, losses, repetitions, crashes, power cuts,
//! elections and set changes; in the end everything is healed, and all replicas have to agree.

use std::collections::BTreeSet;

use baton_protocol::client::Acks;
use baton_protocol::ids::{BrokerId, Offset, PartitionVersion, ProducerId};
use baton_replication::event::Input;
use baton_replication::producers::ProducerStamp;
use baton_replication::rules::Rules;
use baton_replication::{Config, Replica};

use crate::cluster::Cluster;
use crate::node::{FlushMode, Node, RECORD_BYTES};

/// How many entries a history may write.
const ENTRIES_MAX: usize = 40;

/// How many rounds the healed cluster has to agree in.
const HEALING_ROUNDS: usize = 400;

/// Random numbers from a seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).copied()
    }
}

/// How often what happens: produce, deliver, flush, tick, learn, elect, change the set, crash,
/// restart, hand over, read, disturb.
const WEIGHTS: [usize; 12] = [8, 40, 10, 6, 10, 12, 6, 3, 3, 3, 20, 2];

/// And how often entries expire, in the histories in which they do.
const EXPIRE_WEIGHT: usize = 4;

/// One history.
pub struct History {
    /// This history's own weights: some things are common in it, and others rare, so that among
    /// many histories are such as no average one would show.
    weights: [usize; 13],
    /// How many pushes in a hundred have to wait for their entries.
    slow_reads: usize,
    rng: Rng,
    /// What it happens to.
    pub cluster: Cluster,
    flush: FlushMode,
    batches: u32,
    /// Producer 7 has written this many batches; it repeats the last ones at will.
    sequence: u32,
    refusals: Vec<(u32, PartitionVersion)>,
}

impl History {
    /// The history of a seed, before its first step.
    pub fn new(rules: Rules, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let brokers = 3 + rng.below(3) as u32;
        let k = 1 + rng.below(2.min(brokers as usize - 2)) as u32;
        let members = k + 1 + rng.below((brokers - k) as usize) as u32;
        let in_sync: BTreeSet<u32> = (1..=members).collect();
        let flush = match rng.below(3) {
            0 => FlushMode::Interval,
            _ => FlushMode::Manual,
        };
        let config = Config {
            window_bytes: 4 * RECORD_BYTES,
            append_bytes_max: 2 * RECORD_BYTES,
            in_sync_lag_ms: 1_000,
            // Written back at random, see below.
            flush_interval_ms: u64::MAX,
            ..Config::default()
        };
        let mut cluster = Cluster::new(rules, config, flush, brokers, in_sync, k);
        cluster.traced = false;
        let usual = WEIGHTS.map(|weight| weight * [1, 4, 4, 12][rng.below(4)]);
        let slow_reads = [0, 20, 100][rng.below(3)];
        let mut weights = [0; 13];
        weights[..usual.len()].copy_from_slice(&usual);
        if seed.is_multiple_of(2) {
            weights[usual.len()] = EXPIRE_WEIGHT * [1, 4][rng.below(2)];
        }
        History {
            weights,
            slow_reads,
            rng,
            cluster,
            flush,
            batches: 0,
            sequence: 0,
            refusals: Vec::new(),
        }
    }

    /// Lives it through; what it breaks.
    pub fn run(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.act()?;
            self.nothing_is_broken()?;
        }
        self.heal()
    }

    fn nothing_is_broken(&self) -> Result<(), String> {
        for (id, node) in &self.cluster.nodes {
            if node.replica.as_ref().is_some_and(Replica::is_broken) {
                return Err(format!("{id} is broken"));
            }
        }
        Ok(())
    }

    fn act(&mut self) -> Result<(), String> {
        let mut left = self.rng.below(self.weights.iter().sum());
        let action = self.weights.iter().position(|weight| match left < *weight {
            true => true,
            false => {
                left -= weight;
                false
            }
        });
        self.cluster.slow_reads = self.rng.percent(self.slow_reads);
        match action {
            Some(0) => self.produce(),
            Some(1) => self.deliver(),
            Some(2) => self.flush(),
            Some(3) => {
                let ms = [20, 100, 300, 700][self.rng.below(4)];
                self.cluster.tick(ms)
            }
            Some(4) => {
                let id = self.any();
                self.cluster.learn(id, false)
            }
            Some(5) => self.elect(),
            Some(6) => self.change_set(),
            Some(7) => self.crash(),
            Some(8) => self.restart(),
            Some(9) => self.hand_over(),
            Some(10) => self.read(),
            Some(11) => self.disturb(),
            _ => self.expire(),
        }
    }

    fn any(&mut self) -> u32 {
        1 + self.rng.below(self.cluster.nodes.len()) as u32
    }

    fn any_where(&mut self, wanted: impl Fn(&Cluster, u32) -> bool) -> Option<u32> {
        let ids = self.cluster.ids();
        let fit: Vec<u32> = ids
            .into_iter()
            .filter(|id| wanted(&self.cluster, *id))
            .collect();
        self.rng.one_of(&fit)
    }

    fn produce(&mut self) -> Result<(), String> {
        let leads = |cluster: &Cluster, id: u32| cluster.nodes[&id].leading().is_some();
        let Some(id) = self.any_where(leads) else {
            return Ok(());
        };
        if self.cluster.nodes[&id].log.len() >= ENTRIES_MAX {
            return Ok(());
        }
        if self.rng.percent(30) {
            // An idempotent producer: the next batch, or one of the last again.
            let back = self.rng.below(3) as u32;
            let sequence = self.sequence.saturating_sub(back);
            self.sequence = self.sequence.max(sequence + 1);
            let stamp = ProducerStamp {
                id: ProducerId(7),
                epoch: 0,
                sequence,
                records: 1,
            };
            let name = format!("p{sequence}");
            return self
                .cluster
                .produce(id, &name, 1, Some(stamp), Acks::Committed, 2_000);
        }
        self.batches += 1;
        let name = format!("b{}", self.batches);
        let records = 1 + self.rng.below(2) as u32;
        let acks = match self.rng.percent(20) {
            true => Acks::Leader,
            false => Acks::Committed,
        };
        self.cluster.produce(id, &name, records, None, acks, 2_000)
    }

    /// Mostly in order, as a connection delivers; sometimes not, as two connections do.
    fn deliver(&mut self) -> Result<(), String> {
        let packet = match self.rng.percent(60) {
            true => self.cluster.network.next(),
            false => {
                let nth = self.rng.below(self.cluster.network.waiting_in_all());
                let copy = self.rng.percent(25);
                self.cluster.network.pick(nth, copy)
            }
        };
        match packet {
            Some(packet) if !self.rng.percent(4) => self.cluster.receive(packet),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.flush == FlushMode::Interval {
            let id = self.any();
            if self.cluster.is_up(id) {
                self.cluster.write_back(id);
            }
            return Ok(());
        }
        match self.any_where(|cluster, id| cluster.nodes[&id].is_flushing()) {
            Some(id) => self.cluster.finish_flush(id),
            None => Ok(()),
        }
    }

    /// What is read to be pushed is there, in whatever order.
    fn read(&mut self) -> Result<(), String> {
        let reads = |cluster: &Cluster, id: u32| !cluster.nodes[&id].reading.is_empty();
        match self.any_where(|cluster, id| cluster.is_up(id) && reads(cluster, id)) {
            Some(id) => {
                let nth = self.rng.below(self.cluster.nodes[&id].reading.len());
                let as_it_was = self.rng.percent(50);
                self.cluster.finish_read(id, nth, as_it_was)
            }
            None => Ok(()),
        }
    }

    fn elect(&mut self) -> Result<(), String> {
        if !self.cluster.controller.is_electing() {
            let leader = self.cluster.controller.view.leader;
            let gone = leader.is_none_or(|leader| !self.cluster.is_up(leader.broker.0));
            if gone || self.rng.percent(6) {
                self.cluster.controller.begin_election();
            }
            return Ok(());
        }
        if self.rng.percent(60) {
            let members = self.cluster.controller.members();
            let epoch = self.cluster.controller.view.epoch;
            if let Some(id) = self.rng.one_of(&members)
                && self.cluster.is_up(id)
            {
                self.cluster.input(id, Input::Fence(epoch))?;
            }
        }
        if let Some(answer) = self.cluster.answers.pop_front()
            && self.rng.percent(90)
        {
            self.cluster.controller.take_answer(answer);
        }
        // Too few answers yet: it goes on.
        drop(self.cluster.controller.decide());
        Ok(())
    }

    /// The leader is asked to hand over, or a successor that was proposed is named.
    fn hand_over(&mut self) -> Result<(), String> {
        if let Some((from, proposal)) = self.cluster.handovers.front().copied() {
            // It may be late, or arrive again.
            if self.rng.percent(60) {
                return Ok(());
            }
            if self.rng.percent(70) {
                self.cluster.handovers.pop_front();
            }
            self.cluster.controller.apply_handover(from, &proposal);
            return Ok(());
        }
        let leads = |cluster: &Cluster, id: u32| cluster.nodes[&id].leading().is_some();
        let to = BrokerId(self.any());
        match self.any_where(leads) {
            Some(id) => {
                let timeout_ms = 400;
                self.cluster.input(id, Input::HandOver { to, timeout_ms })
            }
            None => Ok(()),
        }
    }

    /// The leader's host lets go of the beginning of the log, or would.
    fn expire(&mut self) -> Result<(), String> {
        let leads = |cluster: &Cluster, id: u32| cluster.nodes[&id].leading().is_some();
        let Some(id) = self.any_where(leads) else {
            return Ok(());
        };
        let node = &self.cluster.nodes[&id];
        let ends: Vec<_> = node.log.iter().map(|entry| entry.shape.end).collect();
        match self.rng.one_of(&ends) {
            Some(to) => self.cluster.input(id, Input::AdvanceStart { to }),
            None => Ok(()),
        }
    }

    fn change_set(&mut self) -> Result<(), String> {
        if self.rng.percent(30) && !self.refusals.is_empty() {
            let nth = self.rng.below(self.refusals.len());
            let (id, version) = self.refusals.remove(nth);
            if self.cluster.is_up(id) {
                self.cluster
                    .input(id, Input::SetChangeRefused { version })?;
            }
            return Ok(());
        }
        let nth = self.rng.below(self.cluster.proposals.len());
        let Some((from, proposal)) = self.cluster.proposals.get(nth).cloned() else {
            return Ok(());
        };
        if !self.rng.percent(30) {
            self.cluster.proposals.remove(nth);
        }
        if !self.cluster.apply(from, &proposal) {
            self.refusals.push((from.broker.0, proposal.version));
        }
        Ok(())
    }

    /// Whether this broker may lose what it acknowledged, so that no more than k members of any
    /// set that is or may be have.
    fn may_lose(&self, id: u32) -> bool {
        let view = &self.cluster.controller.view;
        let k = view.sync_followers_elect as usize;
        let asked =
            self.cluster.proposed.iter().filter(|proposal| {
                proposal.epoch == view.epoch && proposal.version == view.version
            });
        let mut sets = asked
            .map(|proposal| &proposal.new_set)
            .chain([&view.in_sync]);
        sets.all(|set| {
            let lost = set.iter().filter(|member| {
                member.0 == id
                    || self.cluster.nodes[&member.0].lost
                    || self.cluster.controller.is_suspect(member.0)
            });
            lost.count() <= k
        })
    }

    fn crash(&mut self) -> Result<(), String> {
        let Some(id) = self.any_where(Cluster::is_up) else {
            return Ok(());
        };
        let power_cut = self.rng.percent(50);
        let harmless = self.flush != FlushMode::Interval || !power_cut;
        if !harmless && !self.may_lose(id) {
            return Ok(());
        }
        self.cluster.crash(id, power_cut);
        if self.rng.percent(15) && self.may_lose(id) {
            self.cluster.wipe(id);
        }
        if self.rng.percent(50) {
            self.cluster.network.disconnect(id);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        match self.any_where(|cluster, id| !cluster.is_up(id)) {
            Some(id) => self.restart_one(id),
            None => Ok(()),
        }
    }

    fn restart_one(&mut self, id: u32) -> Result<(), String> {
        let lost = self.cluster.nodes[&id].lost;
        self.cluster
            .controller
            .change_replica(id, |replica| replica.fenced = false);
        self.cluster.restart(id, lost)?;
        for peer in self.cluster.ids() {
            if peer != id && self.cluster.is_up(peer) {
                self.cluster.input(peer, Input::LinkUp(BrokerId(id)))?;
            }
        }
        Ok(())
    }

    /// A link breaks or stands again; the controller takes a broker for dead.
    fn disturb(&mut self) -> Result<(), String> {
        let id = self.any();
        let peer = self.any();
        match self.rng.below(4) {
            0 if id != peer && self.cluster.is_up(id) => {
                self.cluster.input(id, Input::LinkDown(BrokerId(peer)))
            }
            1 | 2 if id != peer && self.cluster.is_up(id) && self.cluster.is_up(peer) => {
                self.cluster.input(id, Input::LinkUp(BrokerId(peer)))
            }
            3 => {
                let down = !self.cluster.is_up(id);
                let controller = &mut self.cluster.controller;
                controller.change_replica(id, |replica| replica.fenced = down);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends all faults, and gives the cluster time to agree.
    fn heal(&mut self) -> Result<(), String> {
        self.cluster.slow_reads = false;
        for id in self.cluster.ids() {
            if !self.cluster.is_up(id) {
                self.restart_one(id)?;
            }
            self.cluster
                .controller
                .change_replica(id, |replica| replica.fenced = false);
        }
        for id in self.cluster.ids() {
            for peer in self.cluster.ids() {
                if id != peer {
                    self.cluster.input(id, Input::LinkUp(BrokerId(peer)))?;
                }
            }
        }
        for _ in 0..HEALING_ROUNDS {
            self.heal_a_bit()?;
            self.nothing_is_broken()?;
            if self.agrees() {
                return Ok(());
            }
        }
        match self.waits_for_good() {
            true => Ok(()),
            false => Err(format!("healed, but without agreement: {}", self.picture())),
        }
    }

    fn heal_a_bit(&mut self) -> Result<(), String> {
        let ids = self.cluster.ids();
        for id in &ids {
            self.cluster.learn(*id, true)?;
            while !self.cluster.nodes[id].reading.is_empty() {
                self.cluster.finish_read(*id, 0, false)?;
            }
            if self.cluster.nodes[id].is_flushing() {
                self.cluster.finish_flush(*id)?;
            }
        }
        let leader = self.cluster.controller.view.leader;
        let leads = leader.is_some_and(|leader| {
            self.cluster.controller.life(leader.broker.0) == Some(leader.epoch)
        });
        if !leads {
            if !self.cluster.controller.is_electing() {
                self.cluster.controller.begin_election();
            }
            let epoch = self.cluster.controller.view.epoch;
            for id in &ids {
                self.cluster.input(*id, Input::Fence(epoch))?;
            }
        }
        while let Some(answer) = self.cluster.answers.pop_front() {
            self.cluster.controller.take_answer(answer);
        }
        if self.cluster.controller.is_electing() {
            drop(self.cluster.controller.decide());
        }
        while let Some((from, proposal)) = self.cluster.proposals.pop_front() {
            if !self.cluster.apply(from, &proposal) {
                self.cluster.learn(from.broker.0, true)?;
                let version = proposal.version;
                self.cluster
                    .input(from.broker.0, Input::SetChangeRefused { version })?;
            }
        }
        while let Some((from, proposal)) = self.cluster.handovers.pop_front() {
            self.cluster.controller.apply_handover(from, &proposal);
        }
        for _ in 0..200 {
            match self.cluster.network.next() {
                Some(packet) => self.cluster.receive(packet)?,
                None => break,
            }
        }
        self.cluster.tick(100)
    }

    /// Whether more members than may be lost have lost what they held: an election rightly waits
    /// for the operator. It takes a broker that fails on its way into the set.
    fn waits_for_good(&self) -> bool {
        let controller = &self.cluster.controller;
        let members = controller.members().into_iter();
        let suspects = members.filter(|id| controller.is_suspect(*id)).count();
        controller.is_electing() && suspects > controller.view.sync_followers_elect as usize
    }

    /// Whether there is one leader, everything is committed, and every replica is in the set and
    /// holds it.
    fn agrees(&self) -> bool {
        let view = &self.cluster.controller.view;
        let Some(leader_id) = &view.leader.map(|leader| leader.broker) else {
            return false;
        };
        let leader = &self.cluster.nodes[&leader_id.0];
        let ready = leader.replica.as_ref().is_some_and(Replica::is_ready);
        let end = self.cluster.checker.committed_end();
        ready
            && view.in_sync.len() == self.cluster.nodes.len()
            && view
                .replicas
                .iter()
                .all(|(id, replica)| !replica.suspect || id == leader_id)
            && self.cluster.nodes.values().all(|node| {
                node.log == leader.log
                    && has_followed(node, leader.start)
                    && node.published == end
                    && node.log.len() == self.cluster.checker.committed.len()
            })
    }

    fn picture(&self) -> String {
        let mut lines = vec![crate::trace::metadata(&self.cluster)];
        let ids = self.cluster.ids();
        lines.extend(
            ids.iter()
                .map(|id| crate::trace::status(&self.cluster, *id)),
        );
        lines.join("\n")
    }
}

/// Whether a replica starts where its leader does, or as far up as its own log is known to be durable:
/// without flushes that are waited for, that may be less.
fn has_followed(node: &Node, start: Offset) -> bool {
    let durable = node
        .replica
        .as_ref()
        .map(|replica| replica.log().durable_end);
    durable.is_some_and(|durable| node.start >= start.min(durable))
}
