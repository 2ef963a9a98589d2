//! A broker that leads thousands of partitions dies.

use baton_controller::core::SessionId;
use baton_controller::session::{FenceAnswer, FromController, ToController};
use baton_protocol::admin::AdminRequest;
use baton_protocol::ids::{LeaderEpoch, Offset, TopicId, TopicPartition};
use uuid::Uuid;

use crate::stage::Stage;

const BIG: TopicId = TopicId(Uuid::from_u128(10));

/// Partitions of a topic led by each of three brokers in turn.
const PARTITIONS: u32 = 7_500;

fn big_topic() -> Stage {
    let mut stage = Stage::new(1);
    let request = AdminRequest::CreateTopic {
        name: "big".into(),
        partitions: Some(PARTITIONS),
        replicas: Some(3),
        sync_followers: Some(1),
        flush: None,
        unclean_election: Some(false),
        policy: baton_protocol::policy::TopicPolicy::default(),
    };
    let admin = ToController::Admin {
        id: 8,
        request,
        fresh_topic_id: BIG,
    };
    stage.say(1, admin);
    stage
}

/// The fences in each message that a broker was sent.
fn fences(stage: &Stage, session: u64) -> Vec<Vec<(TopicPartition, LeaderEpoch)>> {
    let sent = stage.sent[&SessionId(session)].iter();
    let fences = sent.filter_map(|message| match message {
        FromController::Fence(fences) => Some(fences.clone()),
        _ => None,
    });
    fences.collect()
}

fn without_leader(stage: &Stage) -> usize {
    let partitions = stage.log.partitions();
    partitions.filter(|(_, p)| p.leader.is_none()).count()
}

fn answer_all(stage: &mut Stage, broker: u32) {
    let life = stage.life(broker);
    let mut asked: Vec<_> = fences(stage, u64::from(broker)).concat();
    asked.dedup();
    let answers = asked.into_iter().map(|(partition, epoch)| FenceAnswer {
        partition,
        epoch,
        last_epoch: LeaderEpoch(1),
        durable_end: Offset(10),
        log: (LeaderEpoch(1), Offset(10)),
        log_start: Offset::ZERO,
        life,
        suspect: false,
    });
    let answers = answers.collect();
    stage.say(u64::from(broker), ToController::FenceAnswers(answers));
}

#[test]
fn its_partitions_are_asked_for_some_at_a_time_and_get_leaders() {
    let mut stage = big_topic();
    stage.kill_leader();
    // And the small topic's.
    let deposed = PARTITIONS as usize / 3 + 1;
    assert_eq!(without_leader(&stage), deposed);
    for session in [2, 3] {
        let messages = fences(&stage, session);
        assert!(messages.iter().all(|fences| fences.len() <= 1_000));
        assert_eq!(messages.concat().len(), deposed, "each of them once");
    }
    answer_all(&mut stage, 2);
    assert_eq!(without_leader(&stage), deposed, "one vote of two");
    answer_all(&mut stage, 3);
    assert_eq!(without_leader(&stage), 0);
}

#[test]
fn who_does_not_answer_is_asked_ever_less() {
    let mut stage = big_topic();
    stage.kill_leader();
    let first = fences(&stage, 2).concat().len();
    stage.pass(10_000);
    // After 0.2, 0.6, 1.4, 3, 6.2 and 9.4 seconds.
    assert_eq!(fences(&stage, 2).concat().len(), 7 * first);
    answer_all(&mut stage, 3);
    answer_all(&mut stage, 2);
    assert_eq!(without_leader(&stage), 0);
    stage.pass(10_000);
    assert_eq!(fences(&stage, 2).concat().len(), 7 * first);
}
