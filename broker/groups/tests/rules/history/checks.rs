//! What has to hold of a history: after every step, and once everything is healed.

use std::collections::{BTreeMap, BTreeSet};

use baton_groups::event::RequestId;
use baton_groups::record::Record;
use baton_protocol::groups::{GroupPhase, GroupRequest, GroupResponse};
use baton_protocol::ids::{MemberId, PartitionIndex, TopicPartition};

use super::{CLIENTS, GROUP, History, REBALANCE_MS, SESSION_MS};
use crate::client::Client;

impl History {
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.one_consumer_each()?;
        self.offsets_do_not_go_back()?;
        self.answers_are_committed()?;
        if self.host.core.is_settled() && *self.host.core.state() != self.host.committed {
            return Err("the state is not what the log says".to_owned());
        }
        Ok(())
    }

    /// No partition is consumed by two, whatever each of them knows.
    fn one_consumer_each(&self) -> Result<(), String> {
        let mut owners: BTreeMap<TopicPartition, MemberId> = BTreeMap::new();
        for client in self.clients.iter().flatten() {
            for at in client.owns.keys() {
                // Of a topic that is gone there is nothing to consume.
                if let Some(other) = owners.insert(*at, client.id) {
                    return Err(format!("{at} is consumed by {other} and {}", client.id));
                }
            }
        }
        Ok(())
    }

    fn offsets_do_not_go_back(&mut self) -> Result<(), String> {
        for record in &self.host.log[self.seen_of_log..] {
            let Record::Offset { at, value, .. } = record else {
                continue;
            };
            let Some(value) = value else {
                self.offsets.remove(at);
                continue;
            };
            let before = self.offsets.insert(*at, value.offset);
            let back = before.is_some_and(|before| value.offset < before);
            if back && !self.went_back.contains(&(*at, value.offset)) {
                return Err(format!("{at} went back to {}", value.offset));
            }
        }
        self.seen_of_log = self.host.log.len();
        Ok(())
    }

    /// What leaves the coordinator is in the log.
    fn answers_are_committed(&mut self) -> Result<(), String> {
        let new = std::mem::take(&mut self.host.answers);
        for (request, answer) in new {
            let sent = &self.sent[&request];
            match (&answer, &sent.body) {
                (Ok(GroupResponse::Heartbeat(told)), GroupRequest::Heartbeat(asked)) => {
                    let is_it = |record: &Record| {
                        matches!(record, Record::Member { member, value: Some(value), .. }
                            if *member == asked.member && value.epoch >= told.epoch)
                    };
                    if !self.host.log.iter().any(is_it) {
                        return Err(format!("{request:?} tells what is not committed"));
                    }
                }
                (Ok(GroupResponse::Committed { refused }), GroupRequest::Commit(commit)) => {
                    let one = &commit.offsets[0];
                    let is_it = |record: &Record| {
                        matches!(record, Record::Offset { at, value: Some(value), .. }
                            if at.topic == one.topic
                            && at.partition == one.partition
                            && value.offset == one.offset)
                    };
                    if refused.is_empty() && !self.host.log.iter().any(is_it) {
                        return Err(format!("{request:?} is answered and not in the log"));
                    }
                }
                _ => {}
            }
            self.answers.push((request, answer));
        }
        Ok(())
    }

    /// From here on nothing is lost or late, and members do what they have to.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.tell(|| "is healed".to_owned());
        self.requests.clear();
        self.answers.clear();
        let rounds = (u64::from(SESSION_MS.max(REBALANCE_MS)) * 4) / 100;
        for _ in 0..rounds {
            for number in 0..CLIENTS {
                self.serve(number)?;
            }
            self.pass_time(100);
            while self.host.commit().is_some() {}
            self.check()?;
        }
        self.in_balance()
    }

    fn serve(&mut self, number: usize) -> Result<(), String> {
        let Some(client) = &mut self.clients[number] else {
            // Static members come back; of the others some stay away.
            if number != 2 {
                self.clients[number] = Some(self.new_client(number));
            }
            return Ok(());
        };
        client.apply();
        let (id, body) = (client.id, client.heartbeat(GROUP));
        self.send(Some(id), body);
        let request = self.requests.pop().expect("just sent");
        self.arrive(request)?;
        while self.host.commit().is_some() {}
        self.check()?;
        for (request, answer) in std::mem::take(&mut self.answers) {
            self.hear(request, &answer);
        }
        self.check()
    }

    fn in_balance(&mut self) -> Result<(), String> {
        self.host.core.verify_settled();
        let state = self.host.committed.clone();
        let group = state.group(GROUP).ok_or("there is no group")?;
        let clients: Vec<&Client> = self.clients.iter().flatten().collect();
        let ids: BTreeSet<MemberId> = clients.iter().map(|client| client.id).collect();
        let members: BTreeSet<MemberId> = group.members.keys().copied().collect();
        if ids != members {
            return Err(format!("members are {members:?}, at work are {ids:?}"));
        }
        let wants = |client: &Client, at: TopicPartition| {
            let names = client.subscription.topics.iter();
            let mut topics = names.filter_map(|name| self.topics.get(name));
            topics.any(|topic| topic.id == at.topic && at.partition.0 < topic.partitions)
        };
        let mut owner: BTreeMap<TopicPartition, &Client> = BTreeMap::new();
        for client in &clients {
            owner.extend(client.owns.keys().map(|at| (*at, *client)));
        }
        for topic in self.topics.values() {
            for index in 0..topic.partitions {
                let at = TopicPartition {
                    topic: topic.id,
                    partition: PartitionIndex(index),
                };
                let mut wanting = clients.iter().filter(|client| wants(client, at));
                let Some(own) = owner.remove(&at) else {
                    if wanting.next().is_some() {
                        return Err(format!("nobody consumes {at}"));
                    }
                    continue;
                };
                if !wants(own, at) {
                    return Err(format!("{} consumes {at} unasked", own.id));
                }
                if let Some(lighter) = wanting.find(|one| one.owns.len() + 1 < own.owns.len()) {
                    return Err(format!("{} has more than {}", own.id, lighter.id));
                }
            }
        }
        if !owner.is_empty() {
            return Err(format!("{:?} do not exist", owner.keys()));
        }
        self.is_stable()
    }

    fn is_stable(&mut self) -> Result<(), String> {
        let request = RequestId(self.id() as u64);
        let group = GROUP.to_owned();
        self.host.request(request, GroupRequest::Describe { group });
        match self.host.answers.pop() {
            Some((_, Ok(GroupResponse::Group(group)))) if group.phase == GroupPhase::Stable => {
                Ok(())
            }
            other => Err(format!("is not stable: {other:?}")),
        }
    }
}
