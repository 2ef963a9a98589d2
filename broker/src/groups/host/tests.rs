use std::collections::BTreeMap;

use baton_groups::Topic;
use baton_protocol::groups::{Commit, CommittedOffset, OffsetCommit};
use baton_protocol::ids::{PartitionIndex, TopicId};
use baton_storage::ReadError;

use super::*;
use crate::groups::log::decode_batch;

const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(7));

const GROUP: &str = "g";

/// A host with its surroundings: a log of committed records, and what is under way.
struct Stand {
    host: Host,
    log: Vec<Record>,
    ms: u64,
    reign: u32,
    /// Reads that were ordered and not done.
    reads: VecDeque<(LeaderEpoch, Option<Offset>, Offset)>,
    /// Batches that were ordered, and nothing is said of yet.
    batches: VecDeque<(u64, Bytes)>,
    answers: BTreeMap<u64, Result<GroupResponse, WireError>>,
    requests: u64,
}

impl Stand {
    fn new(batch_bytes_max: usize) -> Stand {
        Stand {
            host: Host::new(Config::default(), Rules::default(), batch_bytes_max),
            log: Vec::new(),
            ms: 0,
            reign: 0,
            reads: VecDeque::new(),
            batches: VecDeque::new(),
            answers: BTreeMap::new(),
            requests: 0,
        }
    }

    /// One in office, with an empty log.
    fn in_office() -> Stand {
        let mut stand = Stand::new(16 << 20);
        stand.lead();
        stand.read_all();
        assert!(stand.host.core().in_office());
        stand
    }

    fn act(&mut self, act: impl FnOnce(&mut Host, Now, &mut Vec<Order>)) {
        let now = Now {
            tick: Tick(self.ms),
            unix_ms: 1_600_000_000_000 + self.ms,
        };
        let mut orders = Vec::new();
        act(&mut self.host, now, &mut orders);
        for order in orders {
            match order {
                Order::Read { reign, from, up_to } => self.reads.push_back((reign, from, up_to)),
                Order::Append { number, batch, .. } => self.batches.push_back((number, batch)),
                Order::Reply { request, result } => {
                    let again = self.answers.insert(request.0, result);
                    assert!(again.is_none(), "{request:?} is answered twice");
                }
            }
        }
    }

    fn set_lead(&mut self, lead: Option<Lead>) {
        self.act(|host, now, out| host.set_lead(now, lead, out));
    }

    /// Its replica leads in a new epoch, and is ready.
    fn lead(&mut self) {
        let topic = Topic {
            id: TOPIC,
            partitions: 1_000,
        };
        let topics = Arc::new(Topics::new([("t".to_owned(), topic)]));
        self.act(|host, now, out| host.set_topics(now, topics, out));
        self.reign += 1;
        let epoch = LeaderEpoch(self.reign);
        let ready_at = Some(Offset(self.log.len() as u64));
        self.set_lead(Some(Lead {
            epoch,
            ready_at: None,
        }));
        assert!(self.reads.is_empty(), "not before it is ready");
        self.set_lead(Some(Lead { epoch, ready_at }));
    }

    /// Does the read that was ordered first: three records at a time.
    fn read(&mut self) {
        let (reign, from, up_to) = self.reads.pop_front().expect("ordered");
        let from = from.unwrap_or_default().0 as usize;
        let to = (from + 3).min(up_to.0 as usize);
        let piece = Piece {
            records: self.log[from..to].to_vec(),
            next: (to < up_to.0 as usize).then_some(Offset(to as u64)),
        };
        self.act(|host, now, out| host.was_read(now, reign, Ok(piece), out));
    }

    fn read_all(&mut self) {
        while !self.reads.is_empty() {
            self.read();
        }
    }

    fn request(&mut self, body: GroupRequest) -> u64 {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.act(|host, now, out| host.request(now, request, body, out));
        self.requests
    }

    /// A reader commits `offset` in as many partitions.
    fn commit(&mut self, offset: u64, partitions: u32, metadata: usize) -> u64 {
        let one = |partition| OffsetCommit {
            topic: TOPIC,
            partition: PartitionIndex(partition),
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(1),
            metadata: "m".repeat(metadata),
            back_from: None,
        };
        self.request(GroupRequest::Commit(Commit {
            group: GROUP.to_owned(),
            member: None,
            offsets: (0..partitions).map(one).collect(),
        }))
    }

    /// What becomes of the batch that was ordered first.
    fn batch_is(&mut self, fate: Fate) {
        let (number, batch) = self.batches.pop_front().expect("ordered");
        if fate == Fate::Committed {
            self.log.extend(decode_batch(&batch).expect("own records"));
        }
        self.act(|host, now, out| host.appended(now, number, fate, out));
    }

    fn tick(&mut self, ms: u64) {
        self.ms += ms;
        self.act(|host, now, out| host.tick(now, out));
    }

    fn code(&self, request: u64) -> ErrorCode {
        let answer = self.answers.get(&request).expect("answered");
        answer.as_ref().expect_err("refused").code
    }

    fn offsets(&mut self) -> Vec<CommittedOffset> {
        let group = GROUP.to_owned();
        let request = self.request(GroupRequest::FetchOffsets { group });
        match self.answers.remove(&request) {
            Some(Ok(GroupResponse::Offsets(offsets))) => offsets,
            other => panic!("{other:?}"),
        }
    }
}

fn done() -> Result<GroupResponse, WireError> {
    let refused = Vec::new();
    Ok(GroupResponse::Committed { refused })
}

#[test]
fn who_asks_too_early_is_told_to_come_again() {
    let mut stand = Stand::new(1 << 20);
    let first = stand.commit(1, 1, 0);
    assert_eq!(stand.code(first), ErrorCode::NotCoordinator);
    stand.lead();
    let second = stand.commit(1, 1, 0);
    assert_eq!(stand.code(second), ErrorCode::NotReady);
    assert!(ErrorCode::NotReady.is_retriable());
    stand.read_all();
    let third = stand.commit(1, 1, 0);
    assert!(
        !stand.answers.contains_key(&third),
        "not before it is stored"
    );
    stand.batch_is(Fate::Committed);
    assert_eq!(stand.answers[&third], done());
}

#[test]
fn the_next_reign_knows_all_and_hears_nothing_of_the_last() {
    let mut stand = Stand::in_office();
    stand.commit(5, 10, 0);
    stand.batch_is(Fate::Committed);
    stand.set_lead(None);
    stand.lead();
    assert_eq!(stand.reads.len(), 1);
    stand.read();
    // The lead changes while it reads; what was read for the last reign comes after that.
    let late = stand.reads.pop_front().expect("more to read");
    stand.set_lead(None);
    stand.lead();
    let piece = Piece::default();
    stand.act(|host, now, out| host.was_read(now, late.0, Ok(piece), out));
    assert!(!stand.host.core().in_office());
    stand.read_all();
    assert!(stand.host.core().in_office());
    assert_eq!(stand.offsets().len(), 10);
}

#[test]
fn what_is_refused_has_not_happened() {
    let mut stand = Stand::in_office();
    let request = stand.commit(5, 1, 0);
    stand.batch_is(Fate::NotStored(ErrorCode::NotEnoughReplicas));
    assert_eq!(stand.code(request), ErrorCode::NotEnoughReplicas);
    assert_eq!(stand.offsets(), []);
}

#[test]
fn what_is_not_known_is_not_said_and_the_log_decides() {
    let mut stand = Stand::in_office();
    let request = stand.commit(5, 1, 0);
    let (number, batch) = stand.batches[0].clone();
    stand.batch_is(Fate::Unknown);
    stand.tick(50);
    assert!(!stand.answers.contains_key(&request));
    stand.set_lead(None);
    assert_eq!(stand.code(request), ErrorCode::LeaderChanged);
    // The batch was stored after all, and its fate is told late.
    stand.log.extend(decode_batch(&batch).expect("own records"));
    stand.lead();
    stand.read_all();
    stand.act(|host, now, out| host.appended(now, number, Fate::Committed, out));
    assert_eq!(stand.offsets().len(), 1);
}

#[test]
fn an_append_that_is_stored_in_part_is_carried_on() {
    let mut stand = Stand::in_office();
    let request = stand.commit(5, 1_000, 4_096);
    stand.batch_is(Fate::Committed);
    stand.batch_is(Fate::NotStored(ErrorCode::NotEnoughReplicas));
    assert!(stand.batches.is_empty(), "one at a time");
    stand.tick(50);
    assert!(stand.batches.is_empty(), "after a pause");
    stand.tick(AGAIN_AFTER_MS);
    let mut more = 0;
    while !stand.batches.is_empty() {
        assert!(!stand.answers.contains_key(&request));
        stand.batch_is(Fate::Committed);
        more += 1;
    }
    assert!(more >= 3, "{more} batches of four megabytes");
    assert_eq!(stand.answers[&request], done());
    assert_eq!(stand.offsets().len(), 1_000);
    // The group itself, and its offsets, each once.
    assert_eq!(stand.log.len(), 1_001);
}

#[test]
fn what_fits_no_batch_is_refused_and_hurts_nobody_else() {
    let mut stand = Stand::new(1_000);
    stand.lead();
    stand.read_all();
    let request = stand.commit(5, 1, 1_000);
    assert_eq!(stand.code(request), ErrorCode::MessageTooLarge);
    stand.tick(50);
    let request = stand.commit(5, 1, 10);
    stand.batch_is(Fate::Committed);
    assert_eq!(stand.answers[&request], done());
}

#[test]
fn a_log_that_cannot_be_read_is_read_again_from_the_start() {
    let mut stand = Stand::in_office();
    stand.commit(5, 10, 0);
    stand.batch_is(Fate::Committed);
    stand.set_lead(None);
    stand.lead();
    stand.read();
    let (reign, ..) = stand.reads.pop_front().expect("more to read");
    let damaged = || {
        Err(ReplayError::Unreadable(ReadError::Damaged {
            segment: Offset(0),
            position: 9,
        }))
    };
    stand.act(|host, now, out| host.was_read(now, reign, damaged(), out));
    let request = stand.commit(6, 1, 0);
    assert_eq!(stand.code(request), ErrorCode::NotReady);
    assert!(stand.host.needs_ticks());
    stand.tick(50);
    assert!(stand.reads.is_empty());
    stand.tick(AGAIN_AFTER_MS);
    stand.read_all();
    assert_eq!(stand.offsets().len(), 10);
}

#[test]
fn without_groups_no_time_has_to_be_told() {
    let mut stand = Stand::in_office();
    assert!(!stand.host.needs_ticks());
    stand.commit(5, 1, 0);
    assert!(stand.host.needs_ticks());
    stand.batch_is(Fate::Committed);
    assert!(stand.host.needs_ticks());
    stand.set_lead(None);
    assert!(!stand.host.needs_ticks());
}
