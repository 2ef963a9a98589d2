//! A member as its contract wants it (`baton_protocol::groups`), reduced to what it may consume.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::{
    Commit, CommittingMember, GroupRequest, GroupResponse, Heartbeat, HeartbeatAnswer,
    OffsetCommit, Subscription,
};
use baton_protocol::ids::{GroupEpoch, LeaderEpoch, MemberId, Offset, Tick, TopicPartition};

use crate::host::Answer;

pub struct Client {
    pub id: MemberId,
    pub instance: Option<String>,
    pub subscription: Subscription,
    subscription_told: bool,
    /// The epoch of the assignment that it has applied.
    pub applied: GroupEpoch,
    /// The newest epoch that it was told.
    told: GroupEpoch,
    /// The assignment of `told`.
    assigned: BTreeSet<TopicPartition>,
    /// What it consumes, with its position.
    pub owns: BTreeMap<TopicPartition, Offset>,
    /// Its session ends then, as far as it knows.
    session_ends: Option<Tick>,
    /// It is put out then, unless a heartbeat that shows this epoch is answered before.
    revoke_by: Option<(GroupEpoch, Tick)>,
    /// It has left, or was put out: it joins anew under another id.
    pub over: bool,
}

impl Client {
    pub fn new(id: MemberId, instance: Option<String>, subscription: Subscription) -> Self {
        Client {
            id,
            instance,
            subscription,
            subscription_told: false,
            applied: GroupEpoch::NONE,
            told: GroupEpoch::NONE,
            assigned: BTreeSet::new(),
            owns: BTreeMap::new(),
            session_ends: None,
            revoke_by: None,
            over: false,
        }
    }

    pub fn heartbeat(&self, group: &str) -> GroupRequest {
        let wanted = self.subscription.clone();
        GroupRequest::Heartbeat(Heartbeat {
            group: group.to_owned(),
            member: self.id,
            instance: self.instance.clone(),
            epoch: self.applied,
            subscription: (!self.subscription_told).then_some(wanted),
        })
    }

    pub fn subscribe(&mut self, topics: Vec<String>) {
        self.subscription.topics = topics;
        self.subscription.version += 1;
        self.subscription_told = false;
    }

    /// Commits its position in one partition.
    pub fn commit(&self, group: &str, at: TopicPartition, back_from: Option<Offset>) -> Commit {
        Commit {
            group: group.to_owned(),
            member: Some(CommittingMember {
                member: self.id,
                epoch: self.told,
            }),
            offsets: vec![OffsetCommit {
                topic: at.topic,
                partition: at.partition,
                offset: self.owns[&at],
                leader_epoch: LeaderEpoch(1),
                metadata: self.id.to_string(),
                back_from,
            }],
        }
    }

    /// A heartbeat that was sent then was answered. What it may newly consume.
    pub fn answered(
        &mut self,
        sent: Tick,
        heartbeat: &Heartbeat,
        answer: &Answer,
    ) -> Vec<TopicPartition> {
        match answer {
            Ok(GroupResponse::Heartbeat(answer)) => self.told(sent, heartbeat, answer),
            Err(refusal) => {
                let code = refusal.code();
                if matches!(code, ErrorCode::UnknownMember | ErrorCode::FencedMember) {
                    self.give_up_everything();
                }
                Vec::new()
            }
            Ok(_) => Vec::new(),
        }
    }

    fn told(
        &mut self,
        sent: Tick,
        heartbeat: &Heartbeat,
        answer: &HeartbeatAnswer,
    ) -> Vec<TopicPartition> {
        let session = u64::from(self.subscription.session_timeout_ms);
        self.session_ends = self.session_ends.max(Some(sent.after_ms(session)));
        let subscription = heartbeat.subscription.as_ref();
        let version = subscription.map(|one| one.version);
        self.subscription_told |= version == Some(self.subscription.version);
        if answer.epoch < self.told {
            return Vec::new();
        }
        if self
            .revoke_by
            .is_some_and(|(epoch, _)| epoch <= heartbeat.epoch)
        {
            self.revoke_by = None;
        }
        if let Some(within) = answer.revoke_within_ms {
            let by = sent.after_ms(u64::from(within));
            let (epoch, before) = self.revoke_by.unwrap_or((answer.epoch, by));
            self.revoke_by = Some((epoch, before.min(by)));
        }
        let Some(assignment) = &answer.assignment else {
            return Vec::new();
        };
        if answer.epoch == self.told {
            return Vec::new();
        }
        self.told = answer.epoch;
        self.assigned = assignment
            .iter()
            .flat_map(|topic| {
                topic.partitions.iter().map(|partition| TopicPartition {
                    topic: topic.topic,
                    partition: *partition,
                })
            })
            .collect();
        let owns = &self.owns;
        let new = self.assigned.iter().filter(|at| !owns.contains_key(at));
        new.copied().collect()
    }

    /// What it has to give up.
    pub fn losing(&self) -> Vec<TopicPartition> {
        let owns = self.owns.keys();
        owns.filter(|at| !self.assigned.contains(at))
            .copied()
            .collect()
    }

    /// Gives up what it lost: its assignment is applied.
    pub fn apply(&mut self) {
        let assigned = &self.assigned;
        self.owns.retain(|at, _| assigned.contains(at));
        self.applied = self.told;
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Tick) {
        let past = |deadline: Option<Tick>| deadline.is_some_and(|at| now >= at);
        if past(self.session_ends) || past(self.revoke_by.map(|(_, by)| by)) {
            self.give_up_everything();
        }
    }

    pub fn give_up_everything(&mut self) {
        self.owns.clear();
        self.over = true;
    }
}
