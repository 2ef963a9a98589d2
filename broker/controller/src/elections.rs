//! The elections that are on: who is asked, and what is proposed once enough have answered.
//!
//! There may be thousands at a time, when a broker with many leads has died. So answers are looked at
//! where they belong, and the clock is asked only about those that it decides.

use std::collections::BTreeSet;

use baton_protocol::ids::{BrokerId, LeaderEpoch, Tick, TopicPartition};

use crate::command::{Command, Elected};
use crate::core::{ControllerCore, Effect, Purpose};
use crate::election::{Election, Patience};
use crate::session::{FenceAnswer, FromController};
use crate::state::ClusterState;

/// Most partitions that one message or command is about: a frame has a limit, and whoever reads a
/// message has other things to do in between.
const TOGETHER_MAX: usize = 1_000;

impl ControllerCore {
    pub(crate) fn begin_elections(
        &mut self,
        elections: Vec<(TopicPartition, LeaderEpoch)>,
        out: &mut Vec<Effect>,
    ) {
        for some in elections.chunks(TOGETHER_MAX) {
            let leader = |(id, _): &(TopicPartition, LeaderEpoch)| self.state.partition(id)?.leader;
            let deposed = some.iter().filter_map(leader);
            let deposed = deposed.map(|leader| leader.broker).collect();
            let command = Command::BeginElections(some.to_vec());
            self.propose(command, Purpose::Depositions(deposed), out);
        }
    }

    pub(crate) fn open_elections(
        &mut self,
        begun: &[(TopicPartition, LeaderEpoch)],
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        let (mut members, mut opened) = (BTreeSet::new(), BTreeSet::new());
        for (id, _) in begun {
            if let Some(partition) = self.state.partition(id)
                && partition.leader.is_none()
            {
                members.extend(partition.in_sync.iter().copied());
                opened.insert(*id);
                self.elections
                    .insert(*id, Election::new(partition.epoch, now));
            }
        }
        for member in members {
            self.send_fences(member, |id| opened.contains(id), out);
        }
    }

    /// A result was committed. It may still not have been accepted: the winner has begun another
    /// life meanwhile, or this is a late copy and a later election is on. Then that goes on.
    pub(crate) fn close_election(&mut self, elected: &Elected) {
        let partition = self.state.partition(&elected.partition);
        if partition.is_none_or(|p| p.leader.is_some()) {
            self.elections.remove(&elected.partition);
        } else if let Some(election) = self.elections.get_mut(&elected.partition)
            && election.epoch == elected.epoch
        {
            election.decided = false;
            self.reconsider = true;
        }
    }

    /// What became of the results that were proposed is not known: they are proposed again.
    pub(crate) fn undo_decisions(&mut self) {
        for election in self.elections.values_mut() {
            election.decided = false;
        }
        self.reconsider = true;
    }

    /// Sends a broker those of the fences that it has not answered in its present life.
    pub(crate) fn send_fences(
        &self,
        broker: BrokerId,
        wanted: impl Fn(&TopicPartition) -> bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.session_of(broker) else {
            return;
        };
        let open = self.elections.iter().filter(|(id, election)| {
            let member = |id| {
                let partition = self.state.partition(id);
                partition.is_some_and(|p| p.in_sync.contains(&broker))
            };
            wanted(id) && !election.has_answered(&self.state, broker) && member(id)
        });
        let fences: Vec<_> = open.map(|(id, election)| (*id, election.epoch)).collect();
        for some in fences.chunks(TOGETHER_MAX) {
            out.push(Effect::Send(session, FromController::Fence(some.to_vec())));
        }
    }

    /// Sends fences again that were not answered for a while: a broker may have had no use for them
    /// yet, or may have lost the answer.
    pub(crate) fn repeat_fences(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let mut due = BTreeSet::new();
        for (id, election) in &mut self.elections {
            if election.ask_again(now) {
                due.insert(*id);
            }
        }
        if due.is_empty() {
            return;
        }
        for broker in self.state.brokers.keys() {
            self.send_fences(*broker, |id| due.contains(id), out);
        }
    }

    pub(crate) fn on_fence_answers(
        &mut self,
        answers: &[FenceAnswer],
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        let mut elected = Vec::new();
        for answer in answers {
            let id = answer.partition;
            if self.state.is_current(answer.life)
                && let Some(election) = self.elections.get_mut(&id)
            {
                election.answer(*answer);
                elected.extend(decide(&self.state, id, election, now));
            }
        }
        self.propose_leaders(elected, out);
    }

    /// Decides what time decides, and everything if something else has happened.
    pub(crate) fn decide_by_time(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.reconsider) {
            return self.decide_elections(now, out);
        }
        let mut elected = Vec::new();
        for (id, election) in &mut self.elections {
            if !election.decided && is_timed(&self.state, id) {
                elected.extend(decide(&self.state, *id, election, now));
            }
        }
        self.propose_leaders(elected, out);
    }

    /// Looks at all elections.
    pub(crate) fn decide_elections(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let elections = self.elections.iter_mut();
        let elected =
            elections.filter_map(|(id, election)| decide(&self.state, *id, election, now));
        let elected = elected.collect();
        self.propose_leaders(elected, out);
    }

    fn propose_leaders(&mut self, elected: Vec<Elected>, out: &mut Vec<Effect>) {
        for some in elected.chunks(TOGETHER_MAX) {
            let command = Command::ElectLeaders(some.to_vec());
            self.propose(command, Purpose::Elections, out);
        }
    }
}

/// Whether an election of this partition may be decided by nothing but the passing of time.
fn is_timed(state: &ClusterState, id: &TopicPartition) -> bool {
    let partition = state.partition(id);
    let asynchronous = partition.is_some_and(|partition| partition.sync_followers_elect == 0);
    asynchronous || patience(state, id) == Patience::Ends
}

fn patience(state: &ClusterState, id: &TopicPartition) -> Patience {
    let topic = state.topics.get(&id.topic);
    match topic.is_some_and(|topic| topic.config.unclean_election) {
        true => Patience::Ends,
        false => Patience::Endless,
    }
}

/// The result, once there is one that was not proposed yet.
fn decide(
    state: &ClusterState,
    id: TopicPartition,
    election: &mut Election,
    now: Tick,
) -> Option<Elected> {
    if election.decided {
        return None;
    }
    let partition = state.partition(&id)?;
    let (answer, grade) = election.winner(state, partition, patience(state, &id), now)?;
    election.decided = true;
    Some(Elected {
        partition: id,
        epoch: election.epoch,
        leader: answer.life,
        grade,
        log: answer.log,
    })
}
