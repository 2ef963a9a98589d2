//! A coordinator and its partition: a list of records that are committed, and one append under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_groups::event::{RequestId, Token};
use baton_groups::record::Record;
use baton_groups::rules::Rules;
use baton_groups::state::State;
use baton_groups::{Config, Coordinator, Effect, Input, Refusal, Topics};
use baton_protocol::error::ErrorCode;
use baton_protocol::groups::{GroupRequest, GroupResponse};
use baton_protocol::ids::Tick;

pub type Answer = Result<GroupResponse, Refusal>;

/// 2020-09-13, so that times stay readable.
const UNIX_MS: u64 = 1_600_000_000_000;

pub struct Host {
    config: Config,
    rules: Rules,
    pub core: Coordinator,
    pub log: Vec<Record>,
    /// What the committed records make.
    pub committed: State,
    pub in_flight: Option<(Token, Vec<Record>)>,
    pub answers: Vec<(RequestId, Answer)>,
    pub topics: Arc<Topics>,
    pub now: Tick,
}

impl Host {
    pub fn new(config: Config, rules: Rules, topics: Topics) -> Self {
        let mut host = Host {
            core: Coordinator::new(config.clone(), rules),
            config,
            rules,
            log: Vec::new(),
            committed: State::default(),
            in_flight: None,
            answers: Vec::new(),
            topics: Arc::new(topics),
            now: Tick(0),
        };
        host.take_office();
        host
    }

    fn unix_ms(&self) -> u64 {
        UNIX_MS + self.now.0
    }

    pub fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.step(self.now, input, &mut out);
        for effect in out {
            match effect {
                Effect::Append { token, records } => {
                    assert!(self.in_flight.is_none(), "one append at a time");
                    assert!(!records.is_empty());
                    self.in_flight = Some((token, records));
                }
                Effect::Reply { request, result } => self.answers.push((request, result)),
            }
        }
    }

    pub fn request(&mut self, request: RequestId, body: GroupRequest) {
        self.feed(Input::Request { request, body });
    }

    pub fn tick(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        let unix_ms = self.unix_ms();
        self.feed(Input::Tick { unix_ms });
    }

    pub fn set_topics(&mut self, topics: Topics) {
        self.topics = Arc::new(topics);
        self.feed(Input::Topics(self.topics.clone()));
    }

    /// The append that is on is committed.
    pub fn commit(&mut self) -> Option<Vec<Record>> {
        let (token, records) = self.in_flight.take()?;
        self.store(records.iter().cloned());
        self.feed(Input::Committed(token));
        Some(records)
    }

    /// The append that is on fails.
    pub fn fail(&mut self) {
        if let Some((token, _)) = self.in_flight.take() {
            let code = ErrorCode::NotEnoughReplicas;
            self.feed(Input::Failed { token, code });
        }
    }

    /// The lead is lost. Of the append that is on, the next leader has the first `kept` records.
    pub fn lose(&mut self, kept: usize) {
        let in_flight = self.in_flight.take();
        let records = in_flight.into_iter().flat_map(|(_, records)| records);
        let kept: Vec<Record> = records.take(kept).collect();
        self.store(kept);
        self.feed(Input::Lost);
    }

    /// Another broker leads: it knows what the partition says, which may have been compacted.
    pub fn take_office(&mut self) {
        self.core = Coordinator::new(self.config.clone(), self.rules);
        for record in compacted(&self.log) {
            let stored = (record.key(), record.value());
            let read = Record::decode(&stored.0, stored.1.as_deref());
            self.feed(Input::Replay(read.expect("own records are understood")));
        }
        let topics = self.topics.clone();
        let unix_ms = self.unix_ms();
        self.feed(Input::Ready { topics, unix_ms });
    }

    fn store(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            self.committed.apply(record.clone());
            self.log.push(record);
        }
    }
}

/// The last record of every key.
fn compacted(log: &[Record]) -> Vec<Record> {
    let mut last: BTreeMap<Vec<u8>, Record> = BTreeMap::new();
    for record in log {
        last.insert(record.key(), record.clone());
    }
    last.into_values().collect()
}
