//! What comes out of a broker's replicas, and where it goes.

use baton::driver::{BrokenReason, Driver, Output, Push, ReadWork};
use baton_controller::command::{Handover, OffsetGrant, SetChange};
use baton_controller::session::{FenceAnswer, ToController};
use baton_protocol::ids::{BrokerId, TopicPartition};
use baton_protocol::peer::ReplicaMessage;
use baton_replication::event::Breach;
use bytes::Bytes;

use crate::cluster::World;
use crate::observation::Observation;
use crate::schedule::{BrokerEvent, Event};

/// So many of a thousand reads take long on a disk that is well: others read too.
const SLOW_READS: u64 = 50;

impl World {
    pub fn dispatch(&mut self, id: BrokerId, partition: TopicPartition, output: Output) {
        match output {
            Output::Send {
                to,
                message,
                payload,
            } => self.send(id, to, partition, &message, &payload),
            Output::Reply { request, result } => self.on_reply(id, partition, request, result),
            Output::Flush(work) => {
                let now = self.schedule.now();
                let delay = if self.brokers[&id].disk_slow_until > now {
                    self.random.between(100, 700)
                } else {
                    self.random.between(1, 15)
                };
                self.later(id, delay, BrokerEvent::Flushed(partition, work));
            }
            Output::Read(push, work) => self.wait_for_read(id, partition, push, work),
            Output::HighWatermark(to) => {
                let replica = self.brokers[&id].driver(&partition).map(Driver::replica);
                let leading = replica.and_then(|replica| Some((replica, replica.leading()?)));
                if let Some((leader, epoch)) = leading {
                    if self.is_promised_in(&partition, epoch) {
                        self.oracle.commit(partition, to, leader.log());
                    } else {
                        self.oracle.commit_in_vain(partition, to);
                    }
                }
                self.observed
                    .push(Observation::HighWatermark(id, partition, to));
            }
            Output::FenceAnswer(answer) => {
                let answer = FenceAnswer {
                    partition,
                    epoch: answer.epoch,
                    last_epoch: answer.last_epoch,
                    durable_end: answer.durable_end,
                    log: answer.log,
                    log_start: answer.log_start,
                    life: answer.life,
                    suspect: answer.suspect,
                };
                self.tell(|| format!("{answer:?}"));
                self.observed.push(Observation::FenceAnswered(answer));
                self.tell_controller(id, ToController::FenceAnswers(vec![answer]));
            }
            Output::ProposeInSync(proposal) => {
                let change = SetChange {
                    partition,
                    epoch: proposal.epoch,
                    version: proposal.version,
                    new_set: proposal.new_set,
                    verified: proposal.verified,
                    sync_followers_elect: proposal.sync_followers_elect,
                };
                self.tell_controller(id, ToController::ProposeInSync(vec![change]));
            }
            Output::AskOffsets { epoch, limit } => {
                let grant = OffsetGrant {
                    partition,
                    epoch,
                    limit,
                };
                self.tell_controller(id, ToController::AskOffsets(vec![grant]));
            }
            Output::ProposeHandover(proposal) => {
                self.stats.count("handovers proposed");
                let handover = Handover {
                    partition,
                    epoch: proposal.epoch,
                    version: proposal.version,
                    to: proposal.to,
                    log_end: proposal.log_end,
                };
                self.tell_controller(id, ToController::ProposeHandovers(vec![handover]));
            }
            Output::RoleChanged { leading } => {
                if let Some(epoch) = leading {
                    self.tell(|| format!("broker {id} leads {partition} in epoch {epoch}"));
                    self.stats.count("reigns");
                    self.observed.push(Observation::Leads(id, partition, epoch));
                }
            }
            Output::Truncated { .. } => {}
            Output::BeganAnew(at) => {
                self.stats.count("logs begun anew");
                self.tell(|| {
                    format!(
                        "broker {id}: {partition} begins anew at {}, as epoch {} asks",
                        at.start, at.epoch
                    )
                });
            }
            Output::Broken(reason) => self.on_broken(id, partition, &reason),
            Output::BadPeer { why } => panic!("broker {id}, {partition}: {why}"),
        }
    }

    /// Reads what a push waits for: seen as it is now or as it is when the read ends, which may be in
    /// another reign.
    fn wait_for_read(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        push: Push,
        work: ReadWork,
    ) {
        self.stats.count("reads waited for");
        let slow = self.brokers[&id].disk_slow_until > self.schedule.now();
        let delay = match slow || self.random.chance(SLOW_READS) {
            true => self.random.between(100, 1_500),
            false => self.random.between(1, 15),
        };
        let work: ReadWork = if self.random.chance(500) {
            let result = work();
            Box::new(move || result)
        } else {
            work
        };
        self.later(id, delay, BrokerEvent::WasRead(partition, push, work));
    }

    /// A disk that failed is no matter of one replica: the broker ends, and says so when it is back.
    /// One that is full ends nothing: room is made sure of before anything is stored.
    fn on_broken(&mut self, id: BrokerId, partition: TopicPartition, reason: &BrokenReason) {
        match reason {
            BrokenReason::Storage(error) if error.shortage().is_some() => {
                panic!("broker {id}, {partition}: ended for want of room: {error}")
            }
            BrokenReason::Storage(_) | BrokenReason::Breach(Breach::FlushFailed) => {
                self.stats.count("brokers ended by their disk");
                self.brokers[&id].disk.lock().failed = true;
                self.lose(id);
                self.stop(id);
                let back = self.random.between(200, 1_500);
                self.schedule.after(back, Event::Start(id));
            }
            BrokenReason::Breach(breach @ Breach::TruncateBelowWatermark { .. }) => {
                panic!("broker {id}, {partition}: {breach:?}")
            }
        }
    }

    fn send(
        &mut self,
        from: BrokerId,
        to: BrokerId,
        partition: TopicPartition,
        message: &ReplicaMessage,
        payload: &Bytes,
    ) {
        let Some(run) = self.process(from).links.get(&to).copied() else {
            return;
        };
        let (copies, delays) = self.network.copies(&mut self.random, from, to);
        for delay in &delays[..copies as usize] {
            let event = BrokerEvent::Peer {
                from,
                partition,
                message: message.clone(),
                payload: payload.clone(),
            };
            self.schedule.after(*delay, Event::Broker(to, run, event));
        }
    }
}
