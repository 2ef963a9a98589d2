//! How faults begin and end.

use baton_protocol::ids::BrokerId;

use crate::cluster::World;
use crate::faults::Fault;
use crate::observation::Observation;
use crate::schedule::{Event, FaultIndex};

impl World {
    /// A fault that would break more than was promised to hold, or that has nothing to break, does
    /// nothing.
    pub fn begin_fault(&mut self, index: FaultIndex) {
        let now = self.schedule.now();
        let fault = self.faults[index.0].fault;
        let up = |world: &World, id: BrokerId| world.brokers[&id].process.is_some();
        match fault {
            Fault::Kill(id, ms) if up(self, id) => {
                self.stats.count("kills");
                self.stop(id);
                self.start_later(id, ms);
            }
            Fault::LoseLeader(which, mute_ms, _) => self.mute_leader(which, mute_ms, index),
            Fault::PowerCut(id, kept, ms) => self.power_cut(&[id], kept, ms, index),
            Fault::PowerCutOfAll(kept, ms) => {
                self.stats.count("power cuts of all");
                let all: Vec<BrokerId> = self.brokers.keys().copied().collect();
                self.power_cut(&all, kept, ms, index);
            }
            Fault::Freeze(id, ms) if up(self, id) => {
                self.stats.count("freezes");
                let broker = self.brokers.get_mut(&id).expect("a broker");
                broker.frozen_until = broker.frozen_until.max(now.after_ms(ms));
            }
            Fault::CutWay(from, to, ms) if from != to => {
                self.stats.count("ways cut");
                self.network.cut(from, to);
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::Isolate(id, controller_too, ms) => {
                self.stats.count("isolations");
                self.each_way_of(id, |world, from, to| world.network.cut(from, to));
                if controller_too {
                    self.network.cut_controller(id);
                }
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::CutController(id, ms) => {
                self.stats.count("controller cut off");
                self.network.cut_controller(id);
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::BreakSession(id) => self.break_session(id),
            Fault::BreakLink(a, b) => {
                self.set_link(a, b, None);
                self.set_link(b, a, None);
            }
            Fault::SlowNetwork(id, ms) => {
                self.network.set_slow(id, true);
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::MoveController(gap_ms) => {
                self.stats.count("controller moves");
                self.move_controller(gap_ms);
            }
            Fault::OutvoteController(gap_ms, ms) => {
                self.stats.count("controllers outvoted");
                self.outvote_controller(gap_ms, index);
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::StallController(ms) => {
                self.stats.count("controller stalls");
                self.controller.stalled_until = now.after_ms(ms);
            }
            Fault::ClockJump(id, ms) => {
                self.stats.count("clock jumps");
                self.brokers.get_mut(&id).expect("a broker").clock_ahead_ms += ms;
            }
            Fault::ControllerClockJump(ms) => {
                self.stats.count("clock jumps");
                self.controller.clock_ahead_ms += ms;
            }
            Fault::SlowCommands(ms) => self.controller.slow_until = now.after_ms(ms),
            Fault::LoseOutcomes(ms) => self.controller.outcomes_lost_until = now.after_ms(ms),
            Fault::SlowDisk(id, ms) => {
                self.stats.count("disks slow");
                self.brokers.get_mut(&id).expect("a broker").disk_slow_until = now.after_ms(ms);
            }
            Fault::HungDisk(id, ms) => {
                self.stats.count("disks hung");
                self.brokers
                    .get_mut(&id)
                    .expect("a broker")
                    .disk_hangs_until = now.after_ms(ms);
            }
            Fault::FullDisk(id, ms) => {
                self.stats.count("disks full");
                self.brokers[&id].disk.lock().full = true;
                self.schedule.after(ms, Event::FaultEnds(index));
            }
            Fault::FlushError(id) if up(self, id) && self.may_lose(id) => {
                self.stats.count("flush errors");
                self.brokers[&id].disk.lock().flush_fails = true;
            }
            Fault::Wipe(id, ms) if self.may_lose(id) => {
                self.stats.count("wipes");
                self.wipe(id);
                self.start_later(id, ms);
            }
            Fault::LoseLog(id, ms) if self.may_lose(id) => self.lose_log(id, ms),
            Fault::OlderDisk(id, ms) if self.may_lose(id) => self.restore_disk(id, ms),
            Fault::BitFlip(id, ms) if self.may_lose(id) => self.flip_bit(id, ms),
            Fault::Kill(..)
            | Fault::Freeze(..)
            | Fault::CutWay(..)
            | Fault::FlushError(_)
            | Fault::Wipe(..)
            | Fault::LoseLog(..)
            | Fault::OlderDisk(..)
            | Fault::BitFlip(..) => {}
        }
    }

    pub fn end_fault(&mut self, index: FaultIndex) {
        let fault = self.faults[index.0].fault;
        match fault {
            Fault::CutWay(from, to, _) => self.network.mend(from, to),
            Fault::LoseLeader(_, _, down_ms) => {
                if let Some((leader, deaf)) = self.muted.remove(&index) {
                    for other in deaf {
                        self.network.mend(leader, other);
                    }
                    if !self.peace {
                        self.stop(leader);
                        self.start_later(leader, down_ms);
                    }
                }
            }
            Fault::Isolate(id, controller_too, _) => {
                self.each_way_of(id, |world, from, to| world.network.mend(from, to));
                if controller_too {
                    self.network.mend_controller(id);
                }
            }
            Fault::CutController(id, _) => self.network.mend_controller(id),
            Fault::SlowNetwork(id, _) => self.network.set_slow(id, false),
            Fault::OutvoteController(..) => self.tell_former(index),
            Fault::FullDisk(id, _) => self.brokers[&id].disk.lock().full = false,
            Fault::PowerCut(id, ..) => {
                self.powerless.remove(&id);
            }
            Fault::PowerCutOfAll(..) => self.powerless.clear(),
            _ => {}
        }
    }

    fn mute_leader(&mut self, which: u64, ms: u64, index: FaultIndex) {
        let partitions = self.controller.committed.partitions();
        let leaders: Vec<(BrokerId, Vec<BrokerId>)> = partitions
            .filter_map(|(_, record)| Some((record.leader?.broker, record.replicas.clone())))
            .filter(|(leader, _)| self.brokers[leader].process.is_some())
            .collect();
        let Some(at) = which.checked_rem(leaders.len() as u64) else {
            return;
        };
        let (leader, mut deaf) = leaders[at as usize].clone();
        deaf.retain(|id| *id != leader);
        if !deaf.is_empty() {
            deaf.remove(which as usize % deaf.len());
        }
        self.stats.count("leaders lost");
        for other in &deaf {
            self.network.cut(leader, *other);
        }
        self.muted.insert(index, (leader, deaf));
        self.schedule.after(ms, Event::FaultEnds(index));
    }

    fn power_cut(&mut self, ids: &[BrokerId], kept: u64, ms: u64, index: FaultIndex) {
        for id in ids {
            self.stats.count("power cuts");
            self.powerless.insert(*id);
            self.cut_power(*id, kept);
            let stagger = self.random.between(0, 300);
            self.start_later(*id, ms + stagger);
        }
        self.schedule.after(ms, Event::FaultEnds(index));
    }

    fn lose_log(&mut self, id: BrokerId, ms: u64) {
        self.stop(id);
        let mut disk = self.brokers[&id].disk.lock();
        let which = self.random.below(disk.logs.len().max(1) as u64) as usize;
        if let Some(partition) = disk.logs.keys().nth(which).copied() {
            self.stats.count("logs lost");
            disk.logs.remove(&partition);
            disk.lost_logs.insert(partition);
        }
        drop(disk);
        self.observed.push(Observation::DiskChanged);
        self.start_later(id, ms);
    }

    /// Puts back the copy of the disk that was made at the last such fault, and makes the next. A
    /// copy that shows the broker's last life is left alone: nothing could tell it from the disk.
    fn restore_disk(&mut self, id: BrokerId, ms: u64) {
        self.stop(id);
        let now = self.brokers[&id].disk.lock().copy();
        let shown = now.shown_life;
        let older = self.copies_of_disks.insert(id, now);
        if let Some(older) = older.filter(|older| older.shown_life < shown) {
            self.stats.count("disks restored");
            *self.brokers[&id].disk.lock() = older;
            self.lose(id);
        }
        self.start_later(id, ms);
    }

    fn flip_bit(&mut self, id: BrokerId, ms: u64) {
        self.stop(id);
        let mut disk = self.brokers[&id].disk.lock();
        let which = self.random.below(disk.logs.len().max(1) as u64) as usize;
        if let Some(file) = disk.logs.values_mut().nth(which)
            && file.flip_bit(&mut self.random)
        {
            self.stats.count("bits flipped");
        }
        drop(disk);
        self.observed.push(Observation::DiskChanged);
        self.start_later(id, ms);
    }

    fn each_way_of(&mut self, id: BrokerId, act: impl Fn(&mut World, BrokerId, BrokerId)) {
        let others: Vec<BrokerId> = self.brokers.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != id) {
            act(self, id, other);
            act(self, other, id);
        }
    }

    /// Everything is well from now on: all ways are open, all disks sound, all brokers up.
    pub fn heal(&mut self) {
        self.network.heal();
        self.end_former();
        self.powerless.clear();
        self.controller.slow_until = self.schedule.now();
        self.controller.outcomes_lost_until = self.schedule.now();
        let ids: Vec<BrokerId> = self.brokers.keys().copied().collect();
        for id in ids {
            let mut disk = self.brokers[&id].disk.lock();
            disk.full = false;
            disk.flush_fails = false;
            drop(disk);
            self.start(id);
        }
    }
}
