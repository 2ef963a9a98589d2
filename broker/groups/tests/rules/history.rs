//! One random history, from its seed alone: members that join, leave, stall and die, topics that
//! grow, vanish and come again, requests and answers that are lost, late and repeated, appends that
//! fail, coordinators that lose their office with part of an append kept. In the end everything is
//! healed, and the group has to be in balance.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use baton_groups::event::RequestId;
use baton_groups::rules::Rules;
use baton_groups::{Config, Topic, Topics};
use baton_protocol::groups::{Commit, GroupRequest, OffsetReset, Subscription};
use baton_protocol::ids::{LeaderEpoch, MemberId, Offset, Tick, TopicId, TopicPartition};
use uuid::Uuid;

use crate::client::Client;
use crate::host::{Answer, Host};
use crate::rng::Rng;

const GROUP: &str = "g";
const CLIENTS: usize = 4;
const SESSION_MS: u32 = 4_000;
const REBALANCE_MS: u32 = 3_000;
/// How often what happens: heartbeat, apply, consume, commit, deliver, answer, append, tick, fail
/// over, client comes or goes, operator, topics.
const WEIGHTS: [usize; 12] = [12, 10, 18, 14, 30, 25, 14, 14, 2, 3, 2, 2];

/// A request on its way, or that was delivered: who sent it when.
#[derive(Clone)]
struct Sent {
    client: Option<MemberId>,
    at: Tick,
    body: GroupRequest,
}

pub struct History {
    weights: [usize; 12],
    rng: Rng,
    pub host: Host,
    topics: BTreeMap<String, Topic>,
    clients: Vec<Option<Client>>,
    ids: u128,
    sent: BTreeMap<RequestId, Sent>,
    requests: Vec<RequestId>,
    answers: Vec<(RequestId, Answer)>,
    /// Offsets that may come to stand below others: where resets and seeks went.
    went_back: BTreeSet<(TopicPartition, Offset)>,
    seen_of_log: usize,
    /// The committed offsets in what was seen of the log.
    offsets: BTreeMap<TopicPartition, Offset>,
    /// For whoever looks for a reason.
    pub told: Option<Vec<String>>,
    pub handovers: usize,
}

impl History {
    pub fn new(rules: Rules, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let weights = WEIGHTS.map(|weight| weight * [1, 3, 4, 10][rng.below(4)]);
        let mut history = History {
            weights,
            rng,
            host: Host::new(Config::default(), rules, Topics::default()),
            topics: BTreeMap::new(),
            clients: (0..CLIENTS).map(|_| None).collect(),
            ids: 1,
            sent: BTreeMap::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            went_back: BTreeSet::new(),
            seen_of_log: 0,
            offsets: BTreeMap::new(),
            told: None,
            handovers: 0,
        };
        for name in ["a", "b"] {
            history.make_topic(name);
        }
        history
    }

    /// Lives it through; what it breaks.
    pub fn run(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.act()?;
            self.check()?;
        }
        self.heal()
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(format!("{}: {}", self.host.now, what()));
        }
    }

    fn id(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    fn act(&mut self) -> Result<(), String> {
        let mut left = self.rng.below(self.weights.iter().sum());
        let action = self.weights.iter().position(|weight| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        match action {
            Some(0) => self.heartbeat(),
            Some(1) => self.apply(),
            Some(2) => self.consume(),
            Some(3) => self.commit(),
            Some(4) => self.deliver()?,
            Some(5) => self.answer(),
            Some(6) => self.append()?,
            Some(7) => {
                let ms = [50, 100, 400, 1_500][self.rng.below(4)];
                self.pass_time(ms);
            }
            Some(8) => self.fail_over(),
            Some(9) => self.come_or_go(),
            Some(10) => self.operate(),
            _ => self.change_topics(),
        }
        Ok(())
    }

    /// A client that is at work.
    fn some_client(&mut self) -> Option<usize> {
        let number = self.rng.below(CLIENTS);
        self.clients[number].as_ref().map(|_| number)
    }

    fn send(&mut self, client: Option<MemberId>, body: GroupRequest) {
        let request = RequestId(self.id() as u64);
        let at = self.host.now;
        self.tell(|| format!("sends {request:?} {body:?}"));
        self.sent.insert(request, Sent { client, at, body });
        self.requests.push(request);
    }

    fn heartbeat(&mut self) {
        let Some(number) = self.some_client() else {
            return;
        };
        let Some(client) = &self.clients[number] else {
            return;
        };
        let body = client.heartbeat(GROUP);
        self.send(Some(client.id), body);
    }

    fn apply(&mut self) {
        let Some(number) = self.some_client() else {
            return;
        };
        let Some(client) = &mut self.clients[number] else {
            return;
        };
        let losing = client.losing();
        let last: Vec<Commit> = losing
            .iter()
            .map(|at| client.commit(GROUP, *at, None))
            .collect();
        client.apply();
        let id = client.id;
        self.tell(|| format!("{id} applies, gives up {losing:?}"));
        for commit in last {
            self.send(Some(id), GroupRequest::Commit(commit));
        }
    }

    fn consume(&mut self) {
        let Some(number) = self.some_client() else {
            return;
        };
        let (pick, by) = (self.rng.below(8), 1 + self.rng.below(20) as u64);
        let Some(client) = &mut self.clients[number] else {
            return;
        };
        if let Some(position) = client.owns.values_mut().nth(pick) {
            *position = position.plus(by);
        }
    }

    fn commit(&mut self) {
        let Some(number) = self.some_client() else {
            return;
        };
        let (pick, back) = (self.rng.below(4), self.rng.percent(10));
        let Some(client) = &mut self.clients[number] else {
            return;
        };
        let Some(at) = client.owns.keys().nth(pick).copied() else {
            return;
        };
        let mut back_from = None;
        if back {
            // The user goes back from what it believes is committed.
            let from = client.owns[&at];
            let to = Offset(from.0 / 2);
            client.owns.insert(at, to);
            self.went_back.insert((at, to));
            back_from = Some(from);
        }
        let body = GroupRequest::Commit(client.commit(GROUP, at, back_from));
        let id = client.id;
        self.send(Some(id), body);
    }

    /// A request arrives, is lost, or stays on its way although it has arrived.
    fn deliver(&mut self) -> Result<(), String> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let at = self.rng.below(self.requests.len());
        let request = self.requests[at];
        if !self.rng.percent(15) {
            self.requests.swap_remove(at);
        }
        if self.rng.percent(8) {
            return Ok(());
        }
        self.arrive(request)
    }

    fn arrive(&mut self, request: RequestId) -> Result<(), String> {
        let Some(sent) = self.sent.get(&request).cloned() else {
            return Ok(());
        };
        self.tell(|| format!("{request:?} arrives"));
        let before = self.host.core.state().clone();
        self.host.request(request, sent.body.clone());
        let GroupRequest::Commit(commit) = &sent.body else {
            return Ok(());
        };
        // What takes effect must not be another's.
        for one in &commit.offsets {
            let at = TopicPartition {
                topic: one.topic,
                partition: one.partition,
            };
            let offset = |state: &baton_groups::state::State| {
                let state = state.group(GROUP)?.offsets.get(&at)?;
                Some(state.offset)
            };
            let changed = offset(&before) != offset(self.host.core.state());
            let clients = self.clients.iter().flatten();
            let mut others = clients.filter(|client| Some(client.id) != sent.client);
            if changed && others.any(|client| client.owns.contains_key(&at)) {
                return Err(format!("{request:?}: a commit of {at}, which another owns"));
            }
        }
        Ok(())
    }

    /// What the coordinator has answered is on its way; some of it arrives.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.below(self.answers.len());
        let (request, answer) = self.answers.swap_remove(at);
        if self.rng.percent(10) {
            self.answers.push((request, answer.clone()));
        }
        if !self.rng.percent(8) {
            self.hear(request, &answer);
        }
    }

    fn hear(&mut self, request: RequestId, answer: &Answer) {
        let Some(sent) = self.sent.get(&request).cloned() else {
            return;
        };
        self.tell(|| format!("{request:?} is answered: {answer:?}"));
        let GroupRequest::Heartbeat(heartbeat) = &sent.body else {
            return;
        };
        let committed = &self.host.committed;
        let clients = self.clients.iter_mut().flatten();
        let Some(client) = clients.into_iter().find(|one| Some(one.id) == sent.client) else {
            return;
        };
        for at in client.answered(sent.at, heartbeat, answer) {
            let offsets = committed.group(GROUP).map(|group| &group.offsets);
            let offset = offsets.and_then(|offsets| offsets.get(&at));
            let offset = offset.map_or(Offset::ZERO, |state| state.offset);
            client.owns.insert(at, offset);
            self.handovers += 1;
        }
        client.tick(self.host.now);
        self.bury();
    }

    /// Members that are over are gone; others may come in their place.
    fn bury(&mut self) {
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|client| client.over) {
                *client = None;
            }
        }
    }

    /// The append that is on ends.
    fn append(&mut self) -> Result<(), String> {
        if self.rng.percent(12) {
            self.tell(|| "the append fails".to_owned());
            self.host.fail();
        } else if let Some(records) = self.host.commit() {
            self.tell(|| format!("committed {records:?}"));
        }
        Ok(())
    }

    fn pass_time(&mut self, ms: u64) {
        let now = self.host.now.after_ms(ms);
        for client in self.clients.iter_mut().flatten() {
            client.tick(now);
        }
        self.bury();
        self.host.tick(ms);
    }

    fn fail_over(&mut self) {
        let records = self.host.in_flight.as_ref().map_or(0, |(_, r)| r.len());
        let kept = self.rng.below(records + 1);
        self.tell(|| format!("fails over, {kept} of {records} records are kept"));
        self.host.lose(kept);
        if self.rng.percent(50) {
            let ms = 1_000 * self.rng.below(4) as u64;
            self.pass_time(ms);
        }
        self.host.take_office();
    }

    fn come_or_go(&mut self) {
        let number = self.rng.below(CLIENTS);
        match self.clients[number].take() {
            None => self.clients[number] = Some(self.new_client(number)),
            Some(client) if self.rng.percent(40) => {
                // It dies, or leaves in order; what it sent before may still arrive.
                self.tell(|| format!("{} is gone", client.id));
                let keep_seat = client.instance.is_some() && self.rng.percent(60);
                if self.rng.percent(60) {
                    let body = GroupRequest::Leave {
                        group: GROUP.to_owned(),
                        member: client.id,
                        keep_seat,
                    };
                    self.send(None, body);
                }
            }
            Some(mut client) => {
                let topics = self.some_topics();
                client.subscribe(topics);
                self.clients[number] = Some(client);
            }
        }
    }

    fn some_topics(&mut self) -> Vec<String> {
        let choices: [&[&str]; 4] = [&["a", "b"], &["a", "b"], &["a"], &["b", "c"]];
        let choice = choices[self.rng.below(4)];
        choice.iter().map(|name| (*name).to_owned()).collect()
    }

    fn new_client(&mut self, number: usize) -> Client {
        let id = MemberId(Uuid::from_u128(self.id()));
        // The odd ones are static members.
        let instance = (number % 2 == 1).then(|| format!("i{number}"));
        let subscription = Subscription {
            version: 1,
            topics: self.some_topics(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            client: String::new(),
        };
        Client::new(id, instance, subscription)
    }

    /// An operator resets offsets, from what is committed, or deletes the group.
    fn operate(&mut self) {
        let group = GROUP.to_owned();
        if self.rng.percent(20) {
            self.send(None, GroupRequest::Delete { group });
            return;
        }
        let committed = &self.host.committed;
        let offsets = committed.group(GROUP).map(|group| group.offsets.clone());
        let offsets: Vec<OffsetReset> = offsets
            .iter()
            .flatten()
            .map(|(at, state)| OffsetReset {
                topic: at.topic,
                partition: at.partition,
                from: Some(state.offset),
                to: Offset(state.offset.0 / 3),
                leader_epoch: LeaderEpoch(1),
            })
            .collect();
        for one in &offsets {
            let at = TopicPartition {
                topic: one.topic,
                partition: one.partition,
            };
            self.went_back.insert((at, one.to));
        }
        self.send(None, GroupRequest::Reset { group, offsets });
    }

    fn make_topic(&mut self, name: &str) {
        let topic = Topic {
            id: TopicId(Uuid::from_u128(self.id())),
            partitions: 1 + self.rng.below(5) as u32,
        };
        self.topics.insert(name.to_owned(), topic);
        self.host.set_topics(Topics::new(self.topics.clone()));
    }

    fn change_topics(&mut self) {
        let name = ["a", "b", "c"][self.rng.below(3)];
        match self.topics.get_mut(name) {
            None => self.make_topic(name),
            Some(_) if self.rng.percent(30) => {
                self.topics.remove(name);
            }
            Some(topic) if topic.partitions < 8 => topic.partitions += 1,
            Some(_) => {}
        }
        let topics = self.topics.clone();
        self.tell(|| format!("topics {topics:?}"));
        self.host.set_topics(Topics::new(topics));
    }
}
