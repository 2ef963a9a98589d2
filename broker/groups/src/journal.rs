//! Changes on their way to being committed, and the answers that wait for them.
//!
//! A change takes effect in memory at once, so that the next request is judged by it, and is appended
//! after all changes before it. An answer leaves once the last change of its group is committed. One
//! append is on at a time; what changes meanwhile goes with the next. If an append fails, it and
//! everything after it is taken back, newest first: nobody was told of any of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton_protocol::error::ErrorCode;
use baton_protocol::groups::GroupResponse;
use baton_protocol::ids::Tick;

use crate::event::{Effect, RequestId, Token};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::rules::{Rule, Rules};
use crate::state::State;

type Answer = Result<GroupResponse, Refusal>;

#[derive(Clone, Debug)]
struct Waiting {
    request: RequestId,
    until: Token,
    answer: Answer,
    deadline: Tick,
}

/// What is not committed yet.
#[derive(Clone, Debug)]
pub struct Journal {
    rules: Rules,
    answer_timeout_ms: u64,
    waiting_max: usize,
    /// The token of the next append.
    next: Token,
    in_flight: Option<Token>,
    /// What takes back the append in flight, oldest change first.
    undo_in_flight: Vec<Record>,
    fresh: Vec<Record>,
    undo_fresh: Vec<Record>,
    /// The append that carries the last change of each group that has one under way.
    changed_in: BTreeMap<String, Token>,
    waiting: VecDeque<Waiting>,
}

impl Journal {
    /// Nothing under way.
    pub fn new(rules: Rules, answer_timeout_ms: u64, waiting_max: usize) -> Self {
        Journal {
            rules,
            answer_timeout_ms,
            waiting_max,
            next: Token(1),
            in_flight: None,
            undo_in_flight: Vec::new(),
            fresh: Vec::new(),
            undo_fresh: Vec::new(),
            changed_in: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Whether so much waits that no more requests are taken.
    pub fn is_full(&self) -> bool {
        self.waiting.len().max(self.fresh.len()) >= self.waiting_max
    }

    /// Whether anything is not committed yet.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_none() && self.fresh.is_empty()
    }

    /// Makes a change.
    pub fn change(&mut self, state: &mut State, record: Record) {
        let undo = state.apply(record.clone());
        self.changed_in.insert(record.group().to_owned(), self.next);
        self.fresh.push(record);
        self.undo_fresh.push(undo);
    }

    /// Answers a request as soon as what the answer tells (of one group, or of all) is committed.
    pub fn answer(
        &mut self,
        now: Tick,
        request: RequestId,
        group: Option<&str>,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        let until = match group {
            Some(group) => self.changed_in.get(group).copied(),
            None => self.changed_in.values().max().copied(),
        };
        match until {
            Some(until) if self.rules.hold(Rule::AnsweredOnceCommitted) => {
                self.waiting.push_back(Waiting {
                    request,
                    until,
                    answer,
                    deadline: now.after_ms(self.answer_timeout_ms),
                });
            }
            _ => out.push(Effect::Reply {
                request,
                result: answer,
            }),
        }
    }

    /// Appends what has changed, unless an append is on.
    pub fn send(&mut self, out: &mut Vec<Effect>) {
        if self.in_flight.is_some() || self.fresh.is_empty() {
            return;
        }
        let token = self.next;
        self.next = Token(token.0 + 1);
        self.in_flight = Some(token);
        self.undo_in_flight = std::mem::take(&mut self.undo_fresh);
        out.push(Effect::Append {
            token,
            records: std::mem::take(&mut self.fresh),
        });
    }

    /// An append is committed.
    pub fn committed(&mut self, token: Token, out: &mut Vec<Effect>) {
        if self.in_flight != Some(token) {
            return;
        }
        self.in_flight = None;
        self.undo_in_flight.clear();
        self.changed_in.retain(|_, until| *until > token);
        let waiting = std::mem::take(&mut self.waiting);
        for one in waiting {
            if one.until > token {
                self.waiting.push_back(one);
            } else {
                out.push(Effect::Reply {
                    request: one.request,
                    result: one.answer,
                });
            }
        }
    }

    /// An append failed: takes back what is not committed, and refuses whoever waits. The groups
    /// that this changes.
    pub fn failed(
        &mut self,
        state: &mut State,
        token: Token,
        code: ErrorCode,
        out: &mut Vec<Effect>,
    ) -> BTreeSet<String> {
        if self.in_flight != Some(token) {
            return BTreeSet::new();
        }
        let undone: Vec<Record> = self.undo_in_flight.drain(..).collect();
        let undone = undone.into_iter().chain(self.undo_fresh.drain(..));
        let undone: Vec<Record> = undone.collect();
        let groups = undone.iter().map(|undo| undo.group().to_owned()).collect();
        if self.rules.hold(Rule::FailedAppendIsUndone) {
            for undo in undone.into_iter().rev() {
                state.apply(undo);
            }
        }
        self.refuse_all(&Refusal::NotStored(code), out);
        self.forget();
        groups
    }

    /// Refuses those that have waited too long. What they asked for may be committed yet.
    pub fn expire(&mut self, now: Tick, out: &mut Vec<Effect>) {
        // All wait equally long, so that the first is the oldest.
        while let Some(first) = self.waiting.front() {
            if now < first.deadline {
                break;
            }
            out.push(Effect::Reply {
                request: first.request,
                result: Err(Refusal::CommitTimeout),
            });
            self.waiting.pop_front();
        }
    }

    /// The lead is lost: what becomes of what is under way is not known here any more.
    pub fn lost(&mut self, out: &mut Vec<Effect>) {
        self.refuse_all(&Refusal::LeadLost, out);
        self.forget();
    }

    fn refuse_all(&mut self, refusal: &Refusal, out: &mut Vec<Effect>) {
        for waiting in self.waiting.drain(..) {
            out.push(Effect::Reply {
                request: waiting.request,
                result: Err(refusal.clone()),
            });
        }
    }

    fn forget(&mut self) {
        self.in_flight = None;
        self.undo_in_flight.clear();
        self.fresh.clear();
        self.undo_fresh.clear();
        self.changed_in.clear();
    }
}
