//! Which heartbeats are owed an answer, and which may have it.
//!
//! By the answer a leader without synchronous followers goes on for a while, as if it had been told that
//! nobody else is named. Only whoever leads the Raft group can say that, and whoever led it does not notice
//! that it leads no more. So an answer waits until it is known that this node led when the heartbeat came.
//! How that is known is the host's business.

use std::collections::VecDeque;

use baton_protocol::ids::{BrokerId, Tick};

use crate::core::{ControllerCore, Effect, Purpose, SessionId};
use crate::rules::Rule;
use crate::session::FromController;

/// A heartbeat that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Where it came.
    pub session: SessionId,
    /// Whose it is.
    pub broker: BrokerId,
    /// Whether that was taken for alive when it came.
    pub alive: bool,
    came_at: Tick,
}

/// What is owed, in the order in which the heartbeats came.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats {
    owed: VecDeque<Owed>,
}

impl Heartbeats {
    /// A heartbeat came.
    pub fn came(&mut self, session: SessionId, broker: BrokerId, alive: bool, now: Tick) {
        self.owed.push_back(Owed {
            session,
            broker,
            alive,
            came_at: now,
        });
    }

    /// The next heartbeat that is to be answered, if this node led for sure at `led_at`. One that came in the
    /// same millisecond may have come after that moment.
    pub fn due(&mut self, led_at: Tick) -> Option<Owed> {
        let is_due = self.owed.front()?.came_at < led_at;
        is_due.then(|| self.owed.pop_front()).flatten()
    }

    /// A connection ended: nobody waits there any more.
    pub fn forget(&mut self, session: SessionId) {
        self.owed.retain(|owed| owed.session != session);
    }
}

impl ControllerCore {
    /// Whether a broker may reckon with keeping its leads. One that is about to lose some may not, though it
    /// should turn out to be alive before they are lost.
    fn is_taken_for_alive(&self, broker: BrokerId) -> bool {
        let mut proposed = self.purposes.values();
        let is_deposed = |purpose: &Purpose| match purpose {
            Purpose::Depositions(brokers) => brokers.contains(&broker),
            _ => false,
        };
        !self.state.is_fenced(broker)
            && !self.doubted.contains(&broker)
            && !proposed.any(is_deposed)
    }

    /// A broker's heartbeat is owed an answer.
    pub(crate) fn owe(
        &mut self,
        id: SessionId,
        broker: BrokerId,
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        let alive = self.is_taken_for_alive(broker);
        self.heartbeats.came(id, broker, alive, now);
        if !self.state.rules.hold(Rule::HeartbeatsAwaitTheMajority) {
            self.answer_heartbeats(Tick(u64::MAX), out);
        }
    }

    /// Answers the heartbeats that came before `led_at`, when this node led. What has been learned of a
    /// broker since is in the answer.
    pub(crate) fn answer_heartbeats(&mut self, led_at: Tick, out: &mut Vec<Effect>) {
        while let Some(owed) = self.heartbeats.due(led_at) {
            let alive = owed.alive && self.is_taken_for_alive(owed.broker);
            let answer = FromController::HeartbeatAck { alive };
            out.push(Effect::Send(owed.session, answer));
        }
    }
}
