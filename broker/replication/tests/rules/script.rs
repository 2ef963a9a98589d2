//! The commands of a golden script.
//!
//! Messages, flushes, metadata and time move only when a command moves them. A broker that is
//! frozen is cut off from the others and from the controller.

use std::error::Error;

use baton_protocol::client::Acks;
use baton_protocol::ids::{BrokerId, BrokerLife, Offset, PartitionVersion, ProducerId};
use baton_replication::Config;
use baton_replication::event::Input;
use baton_replication::producers::ProducerStamp;
use baton_replication::rules::Rules;
use goldenscript::Context;

use crate::cluster::Cluster;
use crate::node::{FlushMode, RECORD_BYTES, ReadMode};
use crate::trace;

/// More messages than any script needs: beyond it, they go in circles.
const DELIVERIES_MAX: usize = 2_000;

/// A command.
#[derive(goldenscript::Command)]
pub enum Command {
    /// Forms a cluster of brokers 1 to n. `outside` of them, the last ones, are not in the in-sync
    /// set yet. `window` counts records.
    Cluster {
        brokers: u32,
        #[arg(key)]
        k: u32,
        #[arg(key, optional)]
        flush: FlushMode,
        #[arg(key, optional)]
        outside: u32,
        #[arg(key)]
        window: Option<u64>,
        #[arg(key)]
        append: Option<u64>,
    },
    /// Fences every member in reach, takes the answers, names the leader, tells everybody in reach.
    /// With a broker given, that one has to win; `times` over.
    Elect {
        winner: Option<u32>,
        #[arg(key)]
        times: Option<u32>,
    },
    /// Begins an election, and fences these.
    Fence(#[arg(optional)] Vec<u32>),
    /// Fences these, in the election that is on.
    FenceAlso(Vec<u32>),
    /// The controller decides the election, but tells nobody.
    Decide,
    /// The controller names a leader whatever the answers say, and tells nobody: for what no
    /// election brings about. If `unclean`, what that one does not hold is given up as lost; if
    /// `recorded`, the metadata says so, as after an election that may lose entries, and how much of
    /// its log it keeps.
    Appoint {
        broker: u32,
        #[arg(key, optional)]
        unclean: bool,
        #[arg(key, optional)]
        recorded: bool,
        #[arg(key)]
        kept: Option<u64>,
    },
    /// These learn all that the controller has committed.
    Learn(Vec<u32>),
    /// The controller takes all proposals, and tells everybody in reach; nobody if `quiet`.
    Apply {
        #[arg(key, optional)]
        quiet: bool,
    },
    /// All proposals on their way are lost.
    LoseProposals,
    /// A refusal of this version arrives.
    Refuse {
        broker: u32,
        #[arg(key)]
        version: u64,
    },
    /// The controller flags a broker as suspect.
    Suspect(u32),
    /// The controller holds a broker for dead.
    Fenced(u32),
    /// The controller holds a broker for alive again.
    Unfenced(u32),
    /// The controller hears no heartbeats of a broker any more.
    Unheard(u32),
    /// It does again.
    Heard(u32),
    /// The topic's k is changed.
    SyncFollowers(u32),
    /// A producer sends a batch.
    Produce {
        broker: u32,
        name: String,
        #[arg(key)]
        records: Option<u32>,
        #[arg(key)]
        producer: Option<u64>,
        #[arg(key, optional)]
        sequence: u32,
        #[arg(key, optional)]
        epoch: u16,
        #[arg(key)]
        timeout: Option<u32>,
        #[arg(key)]
        acks: Option<String>,
    },
    /// Delivers everything that may pass until nothing moves any more; or what waits in one
    /// direction now, whatever may pass.
    Deliver {
        from: Option<u32>,
        to: Option<u32>,
        #[arg(key)]
        count: Option<usize>,
    },
    /// Loses what waits in one direction.
    Drop {
        from: u32,
        to: u32,
        #[arg(key)]
        count: Option<usize>,
    },
    /// Puts the first message of a direction aside.
    Hold { from: u32, to: u32, name: String },
    /// Puts a copy of the first message of a direction aside.
    Copy { from: u32, to: u32, name: String },
    /// Delivers a copy of a message that was put aside.
    Release(String),
    /// Lets nothing pass in one direction.
    Block { from: u32, to: u32 },
    /// Lets it pass again.
    Unblock { from: u32, to: u32 },
    /// Cuts a broker off.
    Freeze(u32),
    /// Ends that; the broker learns nothing by it.
    Thaw(u32),
    /// A connection breaks: what is on its way is lost, and both sides are told.
    LinkDown { a: u32, b: u32 },
    /// A connection stands again.
    LinkUp { a: u32, b: u32 },
    /// From here on, what is to be pushed is pushed at once, or when it has been `read`.
    Reads(ReadMode),
    /// What the first broker has been reading longest for the other is there.
    Read { broker: u32, to: u32 },
    /// The flush that is on ends.
    Flush(u32),
    /// The flush that is on fails.
    FailFlush(u32),
    /// A broker has stored so much since the last flush that the next one is due.
    FlushDue(u32),
    /// A process dies. With `power=cut`, what was not flushed is gone.
    Crash {
        broker: u32,
        #[arg(key)]
        power: Option<String>,
    },
    /// A process dies, and its disk is lost.
    Wipe(u32),
    /// A broker starts in a new life; everybody in reach learns of it.
    Restart {
        broker: u32,
        #[arg(key, optional)]
        suspect: bool,
        #[arg(key, optional)]
        quiet: bool,
    },
    /// The leader is asked to hand over to another broker.
    HandOver {
        broker: u32,
        to: u32,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// What lies below this offset may go.
    Expire { broker: u32, to: u64 },
    /// Time passes.
    Tick {
        ms: u64,
        #[arg(key)]
        times: Option<u32>,
    },
    /// Who holds what.
    Status(#[arg(optional)] Vec<u32>),
}

/// Runs the commands of one script.
pub struct Runner {
    rules: Rules,
    cluster: Option<Cluster>,
}

impl Runner {
    /// A runner under these rules.
    pub fn new(rules: Rules) -> Self {
        Runner {
            rules,
            cluster: None,
        }
    }

    fn form(&mut self, command: &Command) -> Result<(), String> {
        let Command::Cluster {
            brokers,
            k,
            flush,
            outside,
            window,
            append,
        } = command
        else {
            return Err("a script begins with its cluster".to_owned());
        };
        let mut config = Config::default();
        if flush.at_intervals() {
            config.flush_interval_ms = u64::MAX;
        }
        if let Some(records) = window {
            config.window_bytes = records * RECORD_BYTES;
        }
        if let Some(records) = append {
            config.append_bytes_max = records * RECORD_BYTES;
        }
        let in_sync = (1..=brokers - outside).collect();
        let cluster = Cluster::new(self.rules, config, *flush, *brokers, in_sync, *k);
        self.cluster = Some(cluster);
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let Some(cluster) = &mut self.cluster else {
            self.form(command)?;
            return Ok(String::new());
        };
        cluster.run(command)?;
        Ok(cluster.trace.drain(..).map(|line| line + "\n").collect())
    }
}

impl Cluster {
    fn run(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Cluster { .. } => return Err("the cluster stands already".to_owned()),
            Command::Elect { winner, times } => {
                for _ in 0..times.unwrap_or(1) {
                    self.elect(*winner)?;
                }
            }
            Command::Fence(ids) => {
                self.controller.begin_election();
                self.fence(ids)?;
            }
            Command::FenceAlso(ids) => self.fence(ids)?,
            Command::Decide => self.decide(),
            Command::Appoint {
                broker,
                unclean,
                recorded,
                kept,
            } => {
                let epoch = self.controller.life(*broker).ok_or("no such broker")?;
                if *unclean {
                    self.checker.give_up_all_but(&self.nodes[broker].log);
                }
                let broker = BrokerId(*broker);
                let winner = BrokerLife { broker, epoch };
                match recorded {
                    true => self
                        .controller
                        .grant_lossy(winner, kept.map_or(Offset::MAX, Offset)),
                    false => self.controller.grant(winner),
                }
            }
            Command::Learn(ids) => {
                for id in ids {
                    self.learn(*id, true)?;
                }
            }
            Command::Apply { quiet } => self.apply_all(*quiet)?,
            Command::LoseProposals => {
                self.proposals.clear();
                self.handovers.clear();
            }
            Command::Refuse { broker, version } => {
                let version = PartitionVersion(*version);
                self.input(*broker, Input::SetChangeRefused { version })?;
            }
            Command::Suspect(id) => {
                self.controller.change_replica(*id, |r| r.suspect = true);
                self.tell_all()?;
            }
            Command::Fenced(id) => {
                self.controller.change_replica(*id, |r| r.fenced = true);
                self.tell_all()?;
            }
            Command::Unfenced(id) => {
                self.controller.change_replica(*id, |r| r.fenced = false);
                self.tell_all()?;
            }
            Command::SyncFollowers(k) => {
                self.controller.change(|view| {
                    view.sync_followers_commit = *k;
                    view.sync_followers_elect = view.sync_followers_elect.min(*k);
                });
                self.tell_all()?;
            }
            Command::Produce {
                broker,
                name,
                records,
                producer,
                sequence,
                epoch,
                timeout,
                acks,
            } => {
                let records = records.unwrap_or(1);
                let stamp = producer.map(|id| ProducerStamp {
                    id: ProducerId(id),
                    epoch: *epoch,
                    sequence: *sequence,
                    records,
                });
                let timeout_ms = timeout.unwrap_or(60_000);
                let acks = match acks.as_deref() {
                    None => Acks::Committed,
                    Some("leader") => Acks::Leader,
                    Some("none") => Acks::None,
                    Some(other) => return Err(format!("acks={other} is unknown")),
                };
                self.produce(*broker, name, records, stamp, acks, timeout_ms)?;
            }
            Command::Deliver { from, to, count } => match (from, to) {
                (Some(from), Some(to)) => self.deliver_from(*from, *to, *count)?,
                _ => self.deliver()?,
            },
            Command::Drop { from, to, count } => {
                for _ in 0..count.unwrap_or(usize::MAX) {
                    if self.network.take(*from, *to).is_none() {
                        break;
                    }
                }
            }
            Command::Hold { from, to, name } => self.network.hold(*from, *to, name, false)?,
            Command::Copy { from, to, name } => self.network.hold(*from, *to, name, true)?,
            Command::Release(name) => {
                let packet = self.network.held(name)?;
                self.receive(packet)?;
            }
            Command::Unheard(id) => {
                self.unheard.insert(*id);
            }
            Command::Heard(id) => {
                self.unheard.remove(id);
            }
            Command::Block { from, to } => self.network.block(*from, *to, true),
            Command::Unblock { from, to } => self.network.block(*from, *to, false),
            Command::Freeze(id) => self.network.freeze(*id, true),
            Command::Thaw(id) => self.network.freeze(*id, false),
            Command::LinkDown { a, b } => {
                for (from, to) in [(*a, *b), (*b, *a)] {
                    while self.network.take(from, to).is_some() {}
                    self.tell_link(from, to, false)?;
                }
            }
            Command::LinkUp { a, b } => {
                self.tell_link(*a, *b, true)?;
                self.tell_link(*b, *a, true)?;
            }
            Command::Reads(mode) => self.slow_reads = *mode == ReadMode::Slow,
            Command::Read { broker, to } => {
                let reading = &self.nodes.get(broker).ok_or("no such broker")?.reading;
                let first = reading.iter().position(|reading| reading.to.0 == *to);
                let first = first.ok_or_else(|| format!("{broker} reads nothing for {to}"))?;
                self.finish_read(*broker, first, false)?;
            }
            Command::Flush(id) => self.finish_flush(*id)?,
            Command::FailFlush(id) => self.input(*id, Input::FlushFailed)?,
            Command::FlushDue(id) => self.input(*id, Input::FlushDue)?,
            Command::Crash { broker, power } => {
                self.crash(*broker, power.is_some());
                self.network.disconnect(*broker);
                self.tell_links_of(*broker, false)?;
            }
            Command::Wipe(broker) => {
                self.crash(*broker, true);
                self.wipe(*broker);
                self.network.disconnect(*broker);
                self.tell_links_of(*broker, false)?;
            }
            Command::Restart {
                broker,
                suspect,
                quiet,
            } => {
                self.restart(*broker, *suspect)?;
                self.tell_links_of(*broker, true)?;
                if !quiet {
                    self.tell_all()?;
                }
            }
            Command::HandOver {
                broker,
                to,
                timeout,
            } => {
                let to = BrokerId(*to);
                let timeout_ms = timeout.unwrap_or(1_000);
                self.input(*broker, Input::HandOver { to, timeout_ms })?;
            }
            Command::Expire { broker, to } => {
                let to = Offset(*to);
                self.input(*broker, Input::AdvanceStart { to })?;
            }
            Command::Tick { ms, times } => {
                for _ in 0..times.unwrap_or(1) {
                    self.tick(*ms)?;
                }
            }
            Command::Status(ids) => {
                let all = ids.is_empty();
                let ids = if all { self.ids() } else { ids.clone() };
                if all {
                    self.trace.push(trace::metadata(self));
                }
                for id in ids {
                    self.trace.push(trace::status(self, id));
                }
            }
        }
        Ok(())
    }

    fn elect(&mut self, winner: Option<u32>) -> Result<(), String> {
        self.controller.begin_election();
        let members = self.controller.members().into_iter();
        let in_reach: Vec<u32> = members
            .filter(|id| self.is_up(*id) && self.network.reaches(*id))
            .collect();
        self.fence(&in_reach)?;
        let leader = self.controller.decide()?;
        if winner.is_some_and(|id| id != leader.broker.0) {
            return Err(format!("{leader} wins"));
        }
        self.tell_all()
    }

    fn fence(&mut self, ids: &[u32]) -> Result<(), String> {
        let epoch = self.controller.view.epoch;
        for id in ids {
            self.input(*id, Input::Fence(epoch))?;
        }
        for answer in std::mem::take(&mut self.answers) {
            self.controller.take_answer(answer);
        }
        Ok(())
    }

    fn decide(&mut self) {
        let line = match self.controller.decide() {
            Ok(_) => trace::metadata(self),
            Err(why) => format!("controller: {why}"),
        };
        self.trace.push(line);
    }

    /// Everybody in reach learns what the controller has committed.
    fn tell_all(&mut self) -> Result<(), String> {
        for id in self.ids() {
            if self.network.reaches(id) {
                self.learn(id, true)?;
            }
        }
        Ok(())
    }

    fn apply_all(&mut self, quiet: bool) -> Result<(), String> {
        for (from, proposal) in std::mem::take(&mut self.handovers) {
            let line = match self.controller.apply_handover(from, &proposal) {
                true => trace::metadata(self),
                false => format!("controller: refuses v{} of {from}", proposal.version),
            };
            self.trace.push(line);
            if !quiet && self.network.reaches(from.broker.0) {
                self.tell_all()?;
            }
        }
        for (from, proposal) in std::mem::take(&mut self.proposals) {
            let accepted = self.apply(from, &proposal);
            self.trace.push(match accepted {
                true => trace::metadata(self),
                false => format!("controller: refuses v{} of {from}", proposal.version),
            });
            if quiet || !self.network.reaches(from.broker.0) {
                continue;
            }
            self.tell_all()?;
            if !accepted && self.is_up(from.broker.0) {
                let version = proposal.version;
                self.input(from.broker.0, Input::SetChangeRefused { version })?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), String> {
        for _ in 0..DELIVERIES_MAX {
            match self.network.next() {
                Some(packet) => self.receive(packet)?,
                None => return Ok(()),
            }
        }
        Err("the messages go in circles".to_owned())
    }

    fn deliver_from(&mut self, from: u32, to: u32, count: Option<usize>) -> Result<(), String> {
        let waiting = self.network.waiting(from, to);
        if waiting == 0 {
            return Err(format!("nothing waits from {from} to {to}"));
        }
        for _ in 0..count.unwrap_or(waiting) {
            if let Some(packet) = self.network.take(from, to) {
                self.receive(packet)?;
            }
        }
        Ok(())
    }

    fn tell_link(&mut self, at: u32, peer: u32, up: bool) -> Result<(), String> {
        if !self.is_up(at) {
            return Ok(());
        }
        let input = match up {
            true => Input::LinkUp(BrokerId(peer)),
            false => Input::LinkDown(BrokerId(peer)),
        };
        self.input(at, input)
    }

    fn tell_links_of(&mut self, broker: u32, up: bool) -> Result<(), String> {
        for id in self.ids() {
            if id != broker && self.network.reaches(id) {
                self.tell_link(id, broker, up)?;
            }
        }
        Ok(())
    }
}
