//! A member of a group as its contract wants it ([`baton_protocol::groups`]): when it says what to the
//! coordinator, what it may consume, and until when.
//!
//! It is pure: time, answers and wishes come in by [`Member::step`], and what is to be done comes out.
//! It sends nothing and reads no clock. It does not know of records either: what is consumed, and when
//! something has been given up, is the consumer's matter, which says [`Input::Applied`].
//!
//! One membership follows another. Each has an id of its own, and a number by which the consumer tells
//! them apart: what belongs to an earlier one is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::{
    AssignedTopic, GroupRequest, Heartbeat, HeartbeatAnswer, Subscription,
};
use baton_protocol::ids::{GroupEpoch, MemberId, Tick, TopicPartition};

/// Pause before what failed and can be retried is tried again.
const RETRY_MS: u64 = 100;

/// The same where another process holds the instance id, and after a refusal that only a person can
/// mend.
const RETRY_LATER_MS: u64 = 1_000;

/// What a member is made with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub group: String,
    pub instance: Option<String>,
    pub topics: Vec<String>,
    pub session_timeout_ms: u32,
    pub rebalance_timeout_ms: u32,
    /// A name for people.
    pub client: String,
}

/// What a member comes to know.
#[derive(Debug)]
pub(crate) enum Input {
    /// Time has passed.
    Tick,
    /// What was sent last has come to this.
    Answered(Result<HeartbeatAnswer, Failure>),
    /// The consumer consumes nothing but what the assignment of this membership and epoch has.
    Applied(u64, GroupEpoch),
    /// The consumer has given up all that it had in earlier memberships, and can begin with this one.
    Begin(u64),
    /// Other topics are wanted.
    Subscribe(Vec<String>),
    /// The consumer consumes nothing any more, and the membership shall end.
    Leave {
        /// Another process of the same instance id shall get the same partitions.
        keep_seat: bool,
    },
}

/// What came of a request that did not succeed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Nobody answered in time.
    NoAnswer,
    /// It was refused.
    Refused(WireError),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send this to the coordinator, and forget what was sent before; what comes of it is
    /// [`Input::Answered`].
    Send(GroupRequest),
    /// This may be consumed, and nothing else. Of another membership than before: all that was
    /// consumed until now is lost at this moment.
    Assign(Assignment),
    /// The coordinator does not take this member. It goes on asking.
    Refused(WireError),
    /// The membership has ended, as it was wished.
    Left,
}

/// What a member may consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Counts memberships.
    pub membership: u64,
    pub member: MemberId,
    pub epoch: GroupEpoch,
    /// The partitions, with the names of their topics.
    pub partitions: BTreeMap<TopicPartition, Arc<str>>,
    /// When this membership ends, if nothing more is heard; none before it was answered.
    pub valid_until: Option<Tick>,
}

/// Why a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    SessionOver,
    NotGivenUpInTime,
    Unknown,
}

/// What is on its way.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Heartbeat {
        at: Tick,
        epoch: GroupEpoch,
        version: Option<u64>,
    },
    Leave,
}

/// The state machine.
pub(crate) struct Member {
    settings: Settings,
    draw_id: Box<dyn FnMut() -> MemberId + Send>,
    membership: u64,
    id: MemberId,
    subscription_version: u64,
    /// The version that the coordinator is known to have.
    told_version: Option<u64>,
    /// The newest epoch that was told, and its partitions.
    told: GroupEpoch,
    assigned: BTreeMap<TopicPartition, Arc<str>>,
    /// The epoch of the assignment that has been applied.
    applied: GroupEpoch,
    sent: Option<Sent>,
    /// When to send next, if nothing is on its way.
    send_at: Tick,
    session_ends: Option<Tick>,
    /// It is put out then, unless a heartbeat that shows this epoch is answered before.
    revoke_by: Option<(GroupEpoch, Tick)>,
    /// The consumer knows that the membership before this one is over. Until then nothing is asked for: it
    /// would get partitions that it does not look after.
    may_begin: bool,
    /// It shall leave, and keep its seat or not.
    leaving: Option<bool>,
    /// The coordinator may know of this membership.
    has_asked: bool,
    is_over: bool,
}

impl Member {
    /// A member that has not joined yet. Ids are drawn from `draw_id`, one for each membership.
    pub fn new(
        settings: Settings,
        mut draw_id: impl FnMut() -> MemberId + Send + 'static,
    ) -> Member {
        let id = draw_id();
        Member {
            settings,
            draw_id: Box::new(draw_id),
            membership: 1,
            id,
            subscription_version: 1,
            told_version: None,
            told: GroupEpoch::NONE,
            assigned: BTreeMap::new(),
            applied: GroupEpoch::NONE,
            sent: None,
            send_at: Tick(0),
            session_ends: None,
            revoke_by: None,
            may_begin: true,
            leaving: None,
            has_asked: false,
            is_over: false,
        }
    }

    /// When to look again, if nothing happens before.
    pub fn wakes_at(&self) -> Option<Tick> {
        if self.is_over {
            return None;
        }
        let sends = self.sent.is_none() && self.may_begin;
        let send = sends.then_some(self.send_at);
        let deadlines = [send, self.session_ends, self.revoke_by.map(|(_, by)| by)];
        deadlines.into_iter().flatten().min()
    }

    /// Takes an input, and adds what is to be done.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        if self.is_over {
            return;
        }
        // An answer that comes too late is too late, whatever it says.
        self.check_deadlines(now, out);
        match input {
            Input::Tick => {}
            Input::Answered(answer) => self.answered(now, answer, out),
            Input::Applied(membership, epoch) => {
                if membership == self.membership && epoch == self.told && epoch > self.applied {
                    self.applied = epoch;
                    self.send_at = now;
                }
            }
            Input::Begin(membership) => {
                if membership == self.membership && !self.may_begin {
                    self.may_begin = true;
                    self.send_at = now;
                }
            }
            Input::Subscribe(topics) => {
                if topics != self.settings.topics {
                    self.settings.topics = topics;
                    self.subscription_version += 1;
                    self.send_at = now;
                }
            }
            Input::Leave { keep_seat } => {
                self.leaving = Some(keep_seat && self.settings.instance.is_some());
                self.send_at = now;
            }
        }
        self.send(now, out);
    }

    fn send(&mut self, now: Tick, out: &mut Vec<Output>) {
        if self.is_over || self.sent.is_some() || now < self.send_at {
            return;
        }
        if let Some(keep_seat) = self.leaving {
            if !self.has_asked {
                return self.left(out);
            }
            self.sent = Some(Sent::Leave);
            out.push(Output::Send(GroupRequest::Leave {
                group: self.settings.group.clone(),
                member: self.id,
                keep_seat,
            }));
            return;
        }
        if !self.may_begin {
            return;
        }
        let is_told = self.told_version == Some(self.subscription_version);
        let subscription = (!is_told).then(|| self.subscription());
        self.sent = Some(Sent::Heartbeat {
            at: now,
            epoch: self.applied,
            version: subscription.as_ref().map(|one| one.version),
        });
        self.has_asked = true;
        out.push(Output::Send(GroupRequest::Heartbeat(Heartbeat {
            group: self.settings.group.clone(),
            member: self.id,
            instance: self.settings.instance.clone(),
            epoch: self.applied,
            subscription,
        })));
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            version: self.subscription_version,
            topics: self.settings.topics.clone(),
            session_timeout_ms: self.settings.session_timeout_ms,
            rebalance_timeout_ms: self.settings.rebalance_timeout_ms,
            client: self.settings.client.clone(),
        }
    }

    fn answered(
        &mut self,
        now: Tick,
        answer: Result<HeartbeatAnswer, Failure>,
        out: &mut Vec<Output>,
    ) {
        // Nothing is on its way where a deadline has just ended the membership.
        let Some(sent) = self.sent.take() else {
            return;
        };
        match (sent, answer) {
            (Sent::Heartbeat { at, epoch, version }, Ok(answer)) => {
                self.told_version = version.or(self.told_version);
                self.send_at = at.after_ms(u64::from(answer.heartbeat_interval_ms));
                self.told(at, epoch, answer, out);
                let is_known = self.told_version == Some(self.subscription_version);
                if self.leaving.is_some() || !is_known || self.applied > epoch {
                    self.send_at = now;
                }
            }
            (Sent::Leave, Ok(_)) => self.left(out),
            (sent, Err(failure)) => self.failed(now, sent, failure, out),
        }
    }

    fn failed(&mut self, now: Tick, sent: Sent, failure: Failure, out: &mut Vec<Output>) {
        let is_leave = matches!(sent, Sent::Leave);
        let pause = match failure {
            Failure::NoAnswer => RETRY_MS,
            Failure::Refused(error) => match error.code {
                _ if is_leave && !error.code.is_retriable() => return self.left(out),
                ErrorCode::UnknownMember | ErrorCode::FencedMember => {
                    return self.lose(now, Loss::Unknown, out);
                }
                ErrorCode::InstanceInUse => {
                    out.push(Output::Refused(error));
                    RETRY_LATER_MS
                }
                code if code.is_retriable() => RETRY_MS,
                _ => {
                    out.push(Output::Refused(error));
                    RETRY_LATER_MS
                }
            },
        };
        self.send_at = now.after_ms(pause);
        if self.leaving.is_some() && !is_leave {
            self.send_at = now;
        }
    }

    fn left(&mut self, out: &mut Vec<Output>) {
        self.is_over = true;
        out.push(Output::Left);
    }

    /// A heartbeat that was sent then, and showed this epoch, was answered.
    fn told(
        &mut self,
        sent: Tick,
        shown: GroupEpoch,
        answer: HeartbeatAnswer,
        out: &mut Vec<Output>,
    ) {
        let session = u64::from(self.settings.session_timeout_ms);
        self.session_ends = self.session_ends.max(Some(sent.after_ms(session)));
        if answer.epoch < self.told {
            return;
        }
        if self.revoke_by.is_some_and(|(epoch, _)| epoch <= shown) {
            self.revoke_by = None;
        }
        if let Some(within) = answer.revoke_within_ms {
            let by = sent.after_ms(u64::from(within));
            let (epoch, before) = self.revoke_by.unwrap_or((answer.epoch, by));
            self.revoke_by = Some((epoch, before.min(by)));
        }
        if let Some(assignment) = answer.assignment
            && answer.epoch > self.told
        {
            self.told = answer.epoch;
            self.assigned = by_partition(assignment);
        }
        out.push(Output::Assign(self.assignment()));
    }

    fn assignment(&self) -> Assignment {
        let deadlines = [self.session_ends, self.revoke_by.map(|(_, by)| by)];
        Assignment {
            membership: self.membership,
            member: self.id,
            epoch: self.told,
            partitions: self.assigned.clone(),
            valid_until: deadlines.into_iter().flatten().min(),
        }
    }

    fn check_deadlines(&mut self, now: Tick, out: &mut Vec<Output>) {
        if self.session_ends.is_some_and(|ends| now >= ends) {
            self.lose(now, Loss::SessionOver, out);
        } else if self.revoke_by.is_some_and(|(_, by)| now >= by) {
            self.lose(now, Loss::NotGivenUpInTime, out);
        }
    }

    /// The membership is over: everything is given up at once, and another one begins once the
    /// consumer knows.
    fn lose(&mut self, now: Tick, why: Loss, out: &mut Vec<Output>) {
        tracing::debug!(group = self.settings.group, member = %self.id, ?why, "membership lost");
        if self.leaving.is_some() {
            return self.left(out);
        }
        self.id = (self.draw_id)();
        self.membership += 1;
        self.told_version = None;
        self.told = GroupEpoch::NONE;
        self.assigned = BTreeMap::new();
        self.applied = GroupEpoch::NONE;
        self.sent = None;
        self.send_at = now;
        self.session_ends = None;
        self.revoke_by = None;
        self.may_begin = false;
        self.has_asked = false;
        out.push(Output::Assign(self.assignment()));
    }
}

fn by_partition(assignment: Vec<AssignedTopic>) -> BTreeMap<TopicPartition, Arc<str>> {
    let mut partitions = BTreeMap::new();
    for topic in assignment {
        let name: Arc<str> = topic.name.into();
        for partition in topic.partitions {
            let at = TopicPartition {
                topic: topic.topic,
                partition,
            };
            partitions.insert(at, name.clone());
        }
    }
    partitions
}

#[cfg(test)]
mod tests;
