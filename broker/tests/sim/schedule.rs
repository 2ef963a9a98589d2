//! What is to happen, in the order of time.

use std::collections::BTreeMap;

use baton::driver::{FlushWork, Push, ReadWork};
use baton::groups::host::Fate;
use baton_controller::core::{SessionId, Token};
use baton_controller::session::{FromController, ToController};
use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset, Tick, TopicPartition};
use baton_protocol::peer::ReplicaMessage;
use bytes::Bytes;

use crate::groups::Answer;
use crate::oracle::RecordId;

/// One process of a broker. What was meant for an earlier one is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(pub u64);

/// The time in office of one controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign(pub u64);

/// A fault's place in the schedule of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultIndex(pub usize);

/// A producer's or consumer's place in the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientIndex(pub usize);

/// Which batch of which producer a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub producer: ClientIndex,
    /// Counts the producer's beginnings: it begins anew with each incarnation of its topic.
    pub beginning: u64,
    pub sequence: u32,
    pub first: RecordId,
    pub records: u32,
}

/// What happens in a process of a broker.
pub enum BrokerEvent {
    Tick,
    Peer {
        from: BrokerId,
        partition: TopicPartition,
        message: ReplicaMessage,
        payload: Bytes,
    },
    Opened(TopicPartition),
    Flushed(TopicPartition, FlushWork),
    WasRead(TopicPartition, Push, ReadWork),
    Word(SessionId, FromController),
    SessionEnded(SessionId),
    Produce(TopicPartition, Attempt),
    /// A member's request.
    AskGroup(u64),
    GroupsRead {
        partition: TopicPartition,
        reign: LeaderEpoch,
        from: Option<Offset>,
        up_to: Offset,
    },
    AppendGroups {
        partition: TopicPartition,
        number: u64,
        reign: LeaderEpoch,
        batch: Bytes,
    },
    GroupsAppended {
        partition: TopicPartition,
        number: u64,
        fate: Fate,
    },
}

/// What happens at the controller.
pub enum ControllerEvent {
    Tick,
    Begins,
    Message(SessionId, ToController),
    Closed(SessionId),
    /// The oldest proposal is committed.
    Commit,
    Failed(Token),
}

/// Anything that happens.
pub enum Event {
    Broker(BrokerId, Run, BrokerEvent),
    Controller(Reign, ControllerEvent),
    Start(BrokerId),
    Answer(Attempt, Option<Offset>),
    ProducerTick(ClientIndex),
    ConsumerTick(ClientIndex),
    MemberTick(ClientIndex),
    GroupAnswer(u64, Answer),
    AdminTick,
    Fault(FaultIndex),
    FaultEnds(FaultIndex),
}

/// When an event happens, when it first was due, and a number that rises.
type Place = (Tick, Tick, u64);

/// The events that are due, and the time.
pub struct Schedule {
    now: Tick,
    scheduled: u64,
    /// Where the event that happens now stood.
    place: Place,
    events: BTreeMap<Place, Event>,
}

impl Schedule {
    pub fn new() -> Schedule {
        Schedule {
            now: Tick(0),
            scheduled: 0,
            place: (Tick(0), Tick(0), 0),
            events: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Tick {
        self.now
    }

    pub fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now.after_ms(ms), event);
    }

    pub fn at(&mut self, at: Tick, event: Event) {
        self.scheduled += 1;
        let at = at.max(self.now);
        self.events.insert((at, at, self.scheduled), event);
    }

    /// Puts the event that happens now off, since its target cannot take it. What was put off keeps
    /// its order, and comes before all else that is due then: a connection keeps its order through
    /// a freeze, however often that is prolonged.
    pub fn defer(&mut self, until: Tick, event: Event) {
        let (_, due, number) = self.place;
        self.events.insert((until, due, number), event);
    }

    /// Moves the time to the next event.
    pub fn pop(&mut self) -> Option<Event> {
        let (place, event) = self.events.pop_first()?;
        (self.now, self.place) = (place.0, place);
        Some(event)
    }
}
