//! Consumer groups: the real host and the real core on every broker that leads their partition, and
//! members that come to share the partitions of all topics and commit rising offsets. Requests and
//! answers get lost and late, members come too late and begin anew.
//!
//! What must hold: whoever takes the office knows every offset that was acknowledged, or a later one;
//! what the present leader answers shows no less; and in peace every partition has one owner. That no
//! two consume a partition is shown elsewhere, by the explorer of the groups crate: here a leader that is
//! cut off goes on answering for longer than sessions last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use baton::driver::{CheckedBatch, ProduceError};
use baton::groups::host::{Fate, Host, Lead, Now, Order};
use baton::groups::log::{self, Piece, ReplayError};
use baton_groups::event::RequestId as AskedId;
use baton_groups::{Config, Topic, Topics};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::{
    Commit, CommittingMember, GROUPS_TOPIC, GroupRequest, GroupResponse, Heartbeat,
    HeartbeatAnswer, OffsetCommit, Subscription,
};
use baton_protocol::ids::{
    BrokerId, GroupEpoch, LeaderEpoch, MemberId, MetadataIndex, Offset, PartitionIndex, Tick,
    TopicPartition,
};
use baton_replication::event::RequestId;
use bytes::Bytes;
use uuid::Uuid;

use crate::cluster::{QUIET_FROM, World};
use crate::random::Random;
use crate::schedule::{BrokerEvent, ClientIndex, Event};
use crate::topics::NAMES;

/// In so many simulations of a thousand there are groups.
const GROUPS: u64 = 250;

const GROUP: &str = "group";

const MEMBERS: usize = 3;

const SESSION_MS: u32 = 3_000;

/// How long a member waits for an answer before it asks again.
const PATIENCE_MS: u64 = 700;

/// Small, so that what a request changes takes several batches now and then.
const BATCH_BYTES_MAX: usize = 900;

/// How late a batch of a coordinator may come to its replica.
const APPEND_LATE_MS: u64 = 3_000;

/// Entries that one read gives at most.
const ENTRIES_MAX: usize = 16;

/// In so many cases of a thousand a request or an answer is lost.
const LOST: u64 = 30;

pub type Answer = Result<GroupResponse, WireError>;

/// All about groups that is of no one broker.
#[derive(Default)]
pub struct Groups {
    pub are_on: bool,
    pub members: Vec<Member>,
    /// The greatest offset of each partition that a coordinator acknowledged.
    acknowledged: BTreeMap<TopicPartition, Offset>,
    requests: BTreeMap<u64, Asked>,
    next_request: u64,
    next_member: u128,
}

/// A request on its way.
struct Asked {
    member: ClientIndex,
    id: MemberId,
    sent_at: Tick,
    body: GroupRequest,
    /// What was acknowledged when it was sent.
    known: BTreeMap<TopicPartition, Offset>,
}

/// A member, as its contract wants it.
#[derive(Default)]
pub struct Member {
    id: MemberId,
    joined: bool,
    epoch: GroupEpoch,
    owns: BTreeMap<TopicPartition, Offset>,
    session_ends: Option<Tick>,
    heartbeat_at: Option<Tick>,
    commit_at: Option<Tick>,
}

/// The coordinators of one process.
#[derive(Default)]
pub struct Coordinators {
    pub hosts: BTreeMap<TopicPartition, Host>,
    /// Whose request is whose batch.
    appends: BTreeMap<RequestId, (TopicPartition, u64)>,
    topics: Option<(MetadataIndex, Arc<Topics>)>,
}

impl Groups {
    pub fn new(seed: u64) -> Groups {
        let are_on = Random::new(seed, 0x67).chance(GROUPS);
        let mut groups = Groups {
            are_on,
            ..Groups::default()
        };
        for _ in 0..if are_on { MEMBERS } else { 0 } {
            let member = groups.fresh();
            groups.members.push(member);
        }
        groups
    }

    fn fresh(&mut self) -> Member {
        self.next_member += 1;
        Member {
            id: MemberId(Uuid::from_u128(self.next_member)),
            ..Member::default()
        }
    }
}

impl World {
    // ---- members ----------------------------------------------------------------------------

    pub fn on_member_tick(&mut self, index: ClientIndex) {
        let pause = self.random.between(100, 300);
        self.schedule.after(pause, Event::MemberTick(index));
        let now = self.schedule.now();
        let member = &self.groups.members[index.0];
        let over = member.session_ends.is_some_and(|ends| now >= ends);
        // Some die without a word, and come back as another.
        let dies = !self.peace && self.random.chance(2);
        if over || dies {
            self.stats.count("members began anew");
            let fresh = self.groups.fresh();
            self.groups.members[index.0] = fresh;
        }
        let member = &self.groups.members[index.0];
        let due = |at: Option<Tick>| at.is_none_or(|at| now.since_ms(at) >= PATIENCE_MS);
        if due(member.heartbeat_at) {
            let body = heartbeat(member);
            self.groups.members[index.0].heartbeat_at = Some(now);
            self.ask_group(index, body);
        }
        let member = &self.groups.members[index.0];
        if due(member.commit_at) && !member.owns.is_empty() && now < QUIET_FROM {
            self.commit_offsets(index, now);
        }
        if self.random.chance(50) && now < QUIET_FROM {
            let group = GROUP.to_owned();
            self.ask_group(index, GroupRequest::FetchOffsets { group });
        }
    }

    fn commit_offsets(&mut self, index: ClientIndex, now: Tick) {
        let metadata = self.random.weighted(&[(9, 0), (1, 400)]);
        let progress = self.random.between(0, 3);
        let member = &mut self.groups.members[index.0];
        member.commit_at = Some(now);
        let offsets = member.owns.iter_mut().map(|(at, position)| {
            *position = position.plus(progress);
            OffsetCommit {
                topic: at.topic,
                partition: at.partition,
                offset: *position,
                leader_epoch: LeaderEpoch(1),
                metadata: "m".repeat(metadata),
                back_from: None,
            }
        });
        let body = GroupRequest::Commit(Commit {
            group: GROUP.to_owned(),
            offsets: offsets.collect(),
            member: Some(CommittingMember {
                member: member.id,
                epoch: member.epoch,
            }),
        });
        self.ask_group(index, body);
    }

    fn ask_group(&mut self, index: ClientIndex, body: GroupRequest) {
        let Some(topic) = self.controller.committed.topic_named(GROUPS_TOPIC) else {
            return;
        };
        let record = &topic.partitions[0];
        let leader = record.leader.map(|leader| leader.broker);
        let guess = self.random.pick(&record.replicas);
        let target = leader.filter(|_| !self.random.chance(50)).unwrap_or(guess);
        self.groups.next_request += 1;
        let request = self.groups.next_request;
        let asked = Asked {
            member: index,
            id: self.groups.members[index.0].id,
            sent_at: self.schedule.now(),
            body,
            known: self.groups.acknowledged.clone(),
        };
        self.groups.requests.insert(request, asked);
        if self.peace || !self.random.chance(LOST) {
            let delay = self.random.between(1, 4);
            self.later(target, delay, BrokerEvent::AskGroup(request));
        }
    }

    pub fn on_group_answer(&mut self, request: u64, answer: Answer) {
        let Some(asked) = self.groups.requests.remove(&request) else {
            return;
        };
        let member = &mut self.groups.members[asked.member.0];
        if member.id != asked.id {
            return;
        }
        match answer {
            Ok(GroupResponse::Heartbeat(told)) => hear(member, asked.sent_at, &told),
            Ok(GroupResponse::Committed { refused }) => {
                member.commit_at = None;
                for one in refused {
                    let at = TopicPartition {
                        topic: one.topic,
                        partition: one.partition,
                    };
                    // Somebody else has got further: from there it goes on.
                    if let (Some(position), Some(committed)) =
                        (member.owns.get_mut(&at), one.committed)
                    {
                        *position = committed.max(*position);
                    }
                }
            }
            Ok(GroupResponse::Offsets(offsets)) => {
                for one in offsets {
                    let at = TopicPartition {
                        topic: one.topic,
                        partition: one.partition,
                    };
                    if let Some(position) = member.owns.get_mut(&at) {
                        *position = one.offset.max(*position);
                    }
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => match error.code {
                ErrorCode::UnknownMember | ErrorCode::FencedMember => {
                    self.stats.count("members put out");
                    let fresh = self.groups.fresh();
                    self.groups.members[asked.member.0] = fresh;
                }
                code => {
                    assert!(code.is_retriable(), "{error}");
                    match asked.body {
                        GroupRequest::Heartbeat(_) => member.heartbeat_at = None,
                        _ => member.commit_at = None,
                    }
                }
            },
        }
    }

    // ---- brokers ----------------------------------------------------------------------------

    /// A replica's log was opened: it has a coordinator if it is of the topic of groups.
    pub fn host_groups(&mut self, id: BrokerId, partition: TopicPartition) {
        let rules = self.rules.groups;
        let process = self.process(id);
        let state = process.state.as_ref();
        let topic = state.and_then(|state| state.topics.get(&partition.topic));
        if topic.is_some_and(|topic| topic.name == GROUPS_TOPIC) {
            let host = Host::new(Config::default(), rules, BATCH_BYTES_MAX);
            process.coordinators.hosts.insert(partition, host);
        }
    }

    pub fn on_ask_group(&mut self, id: BrokerId, request: u64) {
        let Some(asked) = self.groups.requests.get(&request) else {
            return;
        };
        let body = asked.body.clone();
        let hosts = &self.process(id).coordinators.hosts;
        let Some(partition) = hosts.keys().next().copied() else {
            let error = WireError::new(ErrorCode::NotCoordinator, "not here");
            return self.answer_group(request, Err(error));
        };
        self.act_on_host(id, partition, |host, now, out| {
            host.request(now, AskedId(request), body, out);
        });
    }

    pub fn tick_coordinators(&mut self, id: BrokerId) {
        let hosts = &self.process(id).coordinators.hosts;
        let due = hosts.iter().filter(|(_, host)| host.needs_ticks());
        let due: Vec<TopicPartition> = due.map(|(partition, _)| *partition).collect();
        for partition in due {
            self.act_on_host(id, partition, |host, now, out| host.tick(now, out));
        }
    }

    /// As the actor does: the host is told how things are before anything else.
    pub fn act_on_host(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        act: impl FnOnce(&mut Host, Now, &mut Vec<Order>),
    ) {
        let now = Now {
            tick: self.clock_of(id),
            unix_ms: 1_600_000_000_000 + self.schedule.now().0,
        };
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let hosts = broker
            .process
            .as_ref()
            .map(|process| &process.coordinators.hosts);
        let Some(told) = hosts.and_then(|hosts| Some(hosts.get(&partition)?.lead())) else {
            return;
        };
        let driver = broker.driver(&partition);
        let lead = driver.and_then(|driver| Lead::of(driver.replica(), told));
        let process = broker.process.as_mut().expect("it runs");
        let hosts = &mut process.coordinators.hosts;
        let mut host = hosts.remove(&partition).expect("seen above");
        let was_in_office = host.core().in_office();
        let mut orders = Vec::new();
        if lead.is_some()
            && let Some(state) = &process.state
        {
            let known = process.coordinators.topics.take();
            let known = known.filter(|(index, _)| *index == state.index);
            let known = known.unwrap_or_else(|| {
                let topics = state.topics.values().map(|topic| {
                    let partitions = topic.partitions.len() as u32;
                    let id = topic.id;
                    (topic.name.clone(), Topic { id, partitions })
                });
                (state.index, Arc::new(Topics::new(topics)))
            });
            let topics = known.1.clone();
            process.coordinators.topics = Some(known);
            host.set_topics(now, topics, &mut orders);
        }
        host.set_lead(now, lead, &mut orders);
        act(&mut host, now, &mut orders);
        if host.core().in_office() && !was_in_office {
            self.stats.count("coordinators took office");
            self.check_office(id, partition, &host);
        }
        let process = self.process(id);
        process.coordinators.hosts.insert(partition, host);
        for order in orders {
            self.carry_out(id, partition, order);
        }
    }

    fn carry_out(&mut self, id: BrokerId, partition: TopicPartition, order: Order) {
        match order {
            Order::Reply { request, result } => {
                self.note_group_answer(id, partition, request.0, &result);
                self.answer_group(request.0, result);
            }
            Order::Read { reign, from, up_to } => {
                let delay = self.random.between(1, 30);
                let event = BrokerEvent::GroupsRead {
                    partition,
                    reign,
                    from,
                    up_to,
                };
                self.later(id, delay, event);
            }
            Order::Append {
                number,
                reign,
                batch,
            } => {
                // A coordinator that puts a large group in order may be at it for longer than a lead lasts.
                let most = match self.peace {
                    true => 1,
                    false => self.random.weighted(&[(30, 1), (1, APPEND_LATE_MS)]),
                };
                let delay = self.random.between(0, most);
                let event = BrokerEvent::AppendGroups {
                    partition,
                    number,
                    reign,
                    batch,
                };
                self.later(id, delay, event);
            }
        }
    }

    fn answer_group(&mut self, request: u64, answer: Answer) {
        if self.peace || !self.random.chance(LOST) {
            let delay = self.random.between(1, 4);
            self.schedule
                .after(delay, Event::GroupAnswer(request, answer));
        }
    }

    pub fn on_groups_read(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        reign: LeaderEpoch,
        from: Option<Offset>,
        up_to: Offset,
    ) {
        let piece = self.read_groups(id, partition, from.unwrap_or_default(), up_to);
        self.act_on_host(id, partition, |host, now, out| {
            host.was_read(now, reign, piece, out);
        });
    }

    fn read_groups(
        &self,
        id: BrokerId,
        partition: TopicPartition,
        from: Offset,
        up_to: Offset,
    ) -> Result<Piece, ReplayError> {
        let disk = self.brokers[&id].disk.lock();
        let file = disk.logs.get(&partition).ok_or(ReplayError::NotYet)?;
        if file.end() < up_to {
            return Err(ReplayError::NotYet);
        }
        let entries = file.entries().iter().skip(file.place_of(from));
        let entries = entries.take_while(|entry| entry.end <= up_to);
        let (mut bytes, mut end) = (Vec::new(), up_to);
        for (count, entry) in entries.enumerate() {
            if count == ENTRIES_MAX {
                end = entry.base;
                break;
            }
            bytes.extend_from_slice(file.bytes_of(entry));
        }
        Ok(Piece {
            records: log::decode(&Bytes::from(bytes))?,
            next: (end < up_to).then_some(end),
        })
    }

    pub fn on_append_groups(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        number: u64,
        reign: LeaderEpoch,
        batch: Bytes,
    ) {
        let batch = CheckedBatch::check(batch, BATCH_BYTES_MAX).expect("a sound batch");
        let process = self.process(id);
        let request = RequestId(process.next_request);
        process.next_request += 1;
        let appends = &mut process.coordinators.appends;
        appends.insert(request, (partition, number));
        self.drive(id, partition, |driver, now, out| {
            driver.append_own(now, request, reign, &batch, out);
        });
    }

    /// Whether this answer of a replica is about a batch of its coordinator, which hears of it then.
    pub fn is_answer_to_coordinator(
        &mut self,
        id: BrokerId,
        request: RequestId,
        result: &Result<baton_replication::event::Acknowledged, ProduceError>,
    ) -> bool {
        let appends = &mut self.process(id).coordinators.appends;
        let Some((partition, number)) = appends.remove(&request) else {
            return false;
        };
        let fate = match result {
            Ok(_) => Fate::Committed,
            Err(error) if error.is_outcome_unknown() => Fate::Unknown,
            Err(_) => Fate::NotStored(ErrorCode::Unavailable),
        };
        if !matches!(fate, Fate::Committed) {
            self.stats.count("changes of groups not stored");
        }
        let delay = self.random.between(0, 1);
        let event = BrokerEvent::GroupsAppended {
            partition,
            number,
            fate,
        };
        self.later(id, delay, event);
        true
    }

    // ---- what must hold ---------------------------------------------------------------------

    /// Whether a broker is the leader of the last epoch that there is.
    fn is_present_leader(&self, id: BrokerId, partition: TopicPartition) -> bool {
        let record = self.controller.committed.partition(&partition);
        let driver = self.brokers[&id].driver(&partition);
        let leads = driver.and_then(|driver| driver.replica().leading());
        record.is_some_and(|record| {
            record.leader.is_some_and(|leader| leader.broker == id) && leads == Some(record.epoch)
        })
    }

    fn topic_exists(&self, at: &TopicPartition) -> bool {
        self.controller.committed.partition(at).is_some()
    }

    /// Whoever coordinates knows what was acknowledged.
    fn check_office(&self, id: BrokerId, partition: TopicPartition, host: &Host) {
        if !self.is_present_leader(id, partition) {
            return;
        }
        let group = host.core().state().group(GROUP);
        for (at, acknowledged) in &self.groups.acknowledged {
            let found = group.and_then(|group| Some(group.offsets.get(at)?.offset));
            assert!(
                found >= Some(*acknowledged) || !self.topic_exists(at),
                "broker {id} coordinates with {found:?} of {at}, {acknowledged} was acknowledged"
            );
        }
    }

    fn note_group_answer(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        request: u64,
        answer: &Answer,
    ) {
        let Some(asked) = self.groups.requests.get(&request) else {
            return;
        };
        match (&asked.body, answer) {
            (GroupRequest::Commit(commit), Ok(GroupResponse::Committed { refused })) => {
                self.trace.add(commit.offsets.len() as u64);
                for one in &commit.offsets {
                    let is_it = |refused: &&baton_protocol::groups::CommitRefused| {
                        (refused.topic, refused.partition) == (one.topic, one.partition)
                    };
                    if refused.iter().find(is_it).is_some() {
                        self.stats.count("offsets of groups refused");
                        continue;
                    }
                    self.stats.count("offsets of groups acknowledged");
                    let at = TopicPartition {
                        topic: one.topic,
                        partition: one.partition,
                    };
                    let acknowledged = self.groups.acknowledged.entry(at).or_default();
                    *acknowledged = one.offset.max(*acknowledged);
                }
            }
            (GroupRequest::FetchOffsets { .. }, Ok(GroupResponse::Offsets(told)))
                if self.is_present_leader(id, partition) =>
            {
                for (at, known) in &asked.known {
                    let found = told
                        .iter()
                        .find(|one| (one.topic, one.partition) == (at.topic, at.partition));
                    let found = found.map(|one| one.offset);
                    assert!(
                        found >= Some(*known) || !self.topic_exists(at),
                        "broker {id} tells {found:?} of {at}, {known} was acknowledged"
                    );
                }
            }
            _ => {}
        }
    }

    /// In peace every partition of every topic has one owner, and the leader knows all offsets.
    pub fn check_groups_at_rest(&self) {
        if !self.groups.are_on {
            return;
        }
        let state = &self.controller.committed;
        let topic = state.topic_named(GROUPS_TOPIC);
        let topic = topic.expect("the topic of groups was made");
        let partition = TopicPartition {
            topic: topic.id,
            partition: PartitionIndex(0),
        };
        let leader = topic.partitions[0].leader.expect("led").broker;
        let process = self.brokers[&leader].process.as_ref().expect("it runs");
        let host = &process.coordinators.hosts[&partition];
        assert!(host.core().in_office(), "nobody coordinates");
        assert!(host.core().is_settled(), "something waits to be stored");
        host.core().verify_settled();
        self.check_office(leader, partition, host);
        let owned = self
            .groups
            .members
            .iter()
            .flat_map(|member| member.owns.keys());
        let mut owned: Vec<TopicPartition> = owned.copied().collect();
        owned.sort();
        let of_names = NAMES.iter().filter_map(|name| state.topic_named(name));
        let all: BTreeSet<TopicPartition> = of_names
            .flat_map(|topic| {
                (0..topic.partitions.len() as u32).map(|index| TopicPartition {
                    topic: topic.id,
                    partition: PartitionIndex(index),
                })
            })
            .collect();
        assert_eq!(owned, all.into_iter().collect::<Vec<_>>(), "one owner each");
        let acknowledged = self.stats.of("offsets of groups acknowledged");
        assert!(
            acknowledged >= 20,
            "too little was committed: {acknowledged}"
        );
    }
}

fn heartbeat(member: &Member) -> GroupRequest {
    let subscription = Subscription {
        version: 1,
        topics: NAMES.iter().map(|name| (*name).to_owned()).collect(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: SESSION_MS,
        client: String::new(),
    };
    GroupRequest::Heartbeat(Heartbeat {
        group: GROUP.to_owned(),
        member: member.id,
        instance: None,
        epoch: member.epoch,
        subscription: (!member.joined).then_some(subscription),
    })
}

/// Takes what the coordinator says; what is new in it is consumed from the beginning until the
/// committed offset is known.
fn hear(member: &mut Member, sent_at: Tick, told: &HeartbeatAnswer) {
    member.joined = true;
    member.session_ends = Some(sent_at.after_ms(u64::from(SESSION_MS)));
    let Some(assignment) = &told.assignment else {
        return;
    };
    if told.epoch <= member.epoch {
        return;
    }
    member.epoch = told.epoch;
    member.heartbeat_at = None;
    let assigned = assignment.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| TopicPartition {
            topic: topic.topic,
            partition: *partition,
        })
    });
    let before = std::mem::take(&mut member.owns);
    let position = |at| before.get(&at).copied().unwrap_or_default();
    member.owns = assigned.map(|at| (at, position(at))).collect();
}
