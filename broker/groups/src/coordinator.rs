//! The coordinator of the groups of one partition: what it does with each input.

use std::collections::BTreeSet;
use std::sync::Arc;

use baton_protocol::groups::{GroupRequest, GroupResponse, is_group_name};
use baton_protocol::ids::Tick;

use crate::event::{Config, Effect, Input, RequestId};
use crate::journal::Journal;
use crate::reconcile;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::rules::{Rule, Rules};
use crate::sessions::Sessions;
use crate::state::State;
use crate::topics::Topics;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Office {
    /// Another broker leads the partition, or nobody.
    None,
    /// This broker leads it, and is reading it.
    Replaying,
    /// This broker coordinates.
    Held,
}

/// The wall clock, as it was told last.
#[derive(Clone, Copy, Debug, Default)]
struct WallClock {
    at: Tick,
    unix_ms: u64,
}

/// The coordinator.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub(crate) config: Config,
    pub(crate) rules: Rules,
    office: Office,
    pub(crate) topics: Arc<Topics>,
    clock: WallClock,
    pub(crate) state: State,
    pub(crate) journal: Journal,
    pub(crate) sessions: Sessions,
    pub(crate) retention_checked: Tick,
    /// Groups whose last changes were taken back: what called for them may call for them still.
    pub(crate) unsettled: BTreeSet<String>,
}

impl Coordinator {
    /// One that is not in office.
    pub fn new(config: Config, rules: Rules) -> Self {
        Coordinator {
            journal: Journal::new(rules, config.answer_timeout_ms, config.waiting_max),
            config,
            rules,
            office: Office::None,
            topics: Arc::default(),
            clock: WallClock::default(),
            state: State::default(),
            sessions: Sessions::default(),
            retention_checked: Tick(0),
            unsettled: BTreeSet::new(),
        }
    }

    /// Takes an input; what is to be done is added to `out`.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Tick { unix_ms } => {
                self.clock = WallClock { at: now, unix_ms };
                self.tick(now, out);
            }
            Input::Replay(record) => {
                assert!(self.office != Office::Held, "a replay comes before office");
                self.office = Office::Replaying;
                self.state.apply(record);
            }
            Input::Ready { topics, unix_ms } => {
                assert!(self.office != Office::Held, "one cannot be ready twice");
                self.clock = WallClock { at: now, unix_ms };
                self.take_office(now, topics);
            }
            Input::Lost => self.lose_office(out),
            Input::Topics(topics) if self.office == Office::Held => {
                self.topics_changed(now, topics);
            }
            // They come with the office.
            Input::Topics(_) => {}
            Input::Request { request, body } => self.request(now, request, body, out),
            Input::Committed(token) => self.journal.committed(token, out),
            Input::Failed { token, code } => {
                let groups = self.journal.failed(&mut self.state, token, code, out);
                for group in &groups {
                    self.sessions.fit(now, group, self.state.group(group));
                }
                self.unsettled.extend(groups);
            }
        }
        self.journal.send(out);
        #[cfg(debug_assertions)]
        self.verify();
    }

    /// Whether this broker coordinates the partition's groups.
    pub fn in_office(&self) -> bool {
        self.office == Office::Held
    }

    /// The groups, changes that are not committed yet included.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether everything that has changed is committed.
    pub fn is_settled(&self) -> bool {
        self.journal.is_settled()
    }

    /// The present time, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self, now: Tick) -> u64 {
        self.clock.unix_ms + now.since_ms(self.clock.at)
    }

    fn tick(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if self.office != Office::Held {
            return;
        }
        self.journal.expire(now, out);
        for group in std::mem::take(&mut self.unsettled) {
            self.put_in_order(now, &group);
        }
        // What cannot be stored now need not be decided now.
        if !self.journal.is_full() {
            self.expire_members(now);
            self.expire_offsets(now);
        }
    }

    fn take_office(&mut self, now: Tick, topics: Arc<Topics>) {
        self.office = Office::Held;
        self.topics = topics;
        self.sessions = Sessions::default();
        self.retention_checked = now;
        let names: Vec<String> = self.state.groups().keys().cloned().collect();
        for name in names {
            self.put_in_order(now, &name);
            if !self.rules.hold(Rule::FullSessionAtANewCoordinator) {
                self.sessions.end_all(now, &name);
            }
        }
    }

    /// Does what a group calls for, without knowing what has changed.
    fn put_in_order(&mut self, now: Tick, group: &str) {
        self.drop_offsets_of_gone_topics(group);
        self.settle(now, group);
    }

    fn lose_office(&mut self, out: &mut Vec<Effect>) {
        self.office = Office::None;
        self.journal.lost(out);
        self.state = State::default();
        self.sessions = Sessions::default();
        self.unsettled.clear();
    }

    fn topics_changed(&mut self, now: Tick, topics: Arc<Topics>) {
        let before = std::mem::replace(&mut self.topics, topics);
        let changed = self.topics.changed(&before);
        if changed.is_empty() {
            return;
        }
        let names: Vec<String> = self.state.groups().keys().cloned().collect();
        for name in names {
            self.drop_offsets_of_gone_topics(&name);
            let group = self.state.group(&name);
            if group.is_some_and(|group| group.wants_any(&changed)) {
                self.settle(now, &name);
            }
        }
    }

    fn request(
        &mut self,
        now: Tick,
        request: RequestId,
        body: GroupRequest,
        out: &mut Vec<Effect>,
    ) {
        let refusal = match self.office {
            Office::None => Some(Refusal::NotCoordinator),
            Office::Replaying => Some(Refusal::Starting),
            Office::Held if self.journal.is_full() => Some(Refusal::Overloaded),
            Office::Held => None,
        };
        if let Some(refusal) = refusal {
            out.push(Effect::Reply {
                request,
                result: Err(refusal),
            });
            return;
        }
        let group = body.group().map(str::to_owned);
        if let Some(group) = &group
            && self.unsettled.remove(group)
        {
            self.put_in_order(now, group);
        }
        let answer = self.carry_out(now, body);
        self.journal
            .answer(now, request, group.as_deref(), answer, out);
    }

    fn carry_out(&mut self, now: Tick, body: GroupRequest) -> Result<GroupResponse, Refusal> {
        if let Some(group) = body.group() {
            check_name("the group's name", group)?;
        }
        match body {
            GroupRequest::Heartbeat(heartbeat) => self.heartbeat(now, heartbeat),
            GroupRequest::Leave {
                group,
                member,
                keep_seat,
            } => self.leave(now, &group, member, keep_seat),
            GroupRequest::Commit(commit) => self.commit(now, commit),
            GroupRequest::FetchOffsets { group } => Ok(self.fetch_offsets(&group)),
            GroupRequest::List => Ok(self.list()),
            GroupRequest::Describe { group } => self.describe(&group),
            GroupRequest::Reset { group, offsets } => self.reset(now, &group, &offsets),
            GroupRequest::Delete { group } => self.delete(&group),
        }
    }

    /// Makes a change.
    pub(crate) fn change(&mut self, record: Record) {
        self.journal.change(&mut self.state, record);
    }

    /// Whether one more group may be made.
    pub(crate) fn room_for_group(&self, name: &str) -> Result<(), Refusal> {
        let max = self.config.groups_max;
        if self.state.group(name).is_none() && self.state.groups().len() >= max {
            return Err(Refusal::Full {
                what: "groups",
                max,
            });
        }
        Ok(())
    }

    /// Brings a group in order after anything about it has changed: partitions are taken back and
    /// given, its own record is kept, its members' clocks run.
    pub(crate) fn settle(&mut self, now: Tick, name: &str) {
        let Some(group) = self.state.group(name) else {
            self.sessions.fit(now, name, None);
            return;
        };
        let changes = reconcile::changes(group, &self.topics, &self.rules);
        let before = group.meta.clone();
        let mut meta = group.meta.clone().unwrap_or_default();
        // After part of an append was lost a member may be ahead of its group.
        let epochs = group.members.values().map(|member| member.epoch);
        meta.epoch = epochs.fold(meta.epoch, Ord::max);
        if let Some(changes) = &changes {
            meta.epoch = meta.epoch.max(changes.epoch);
        }
        meta.idle_since_ms = match (group.members.is_empty(), meta.idle_since_ms) {
            (true, None) => Some(self.unix_ms(now)),
            (true, since) => since,
            (false, _) => None,
        };
        if before.as_ref() != Some(&meta) {
            self.change(Record::Group {
                group: name.to_owned(),
                value: Some(meta),
            });
        }
        for (member, value) in changes.into_iter().flat_map(|changes| changes.members) {
            self.change(Record::Member {
                group: name.to_owned(),
                member,
                value: Some(value),
            });
        }
        self.sessions.fit(now, name, self.state.group(name));
    }
}

/// Whether a name is one.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), Refusal> {
    if is_group_name(name) {
        return Ok(());
    }
    Err(Refusal::Name {
        what,
        name: name.chars().take(64).collect(),
    })
}
