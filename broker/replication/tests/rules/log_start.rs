//! A leader whose log begins above what a follower holds: there is nothing to push to it, and it is
//! reset.

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick,
};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::{Mismatch, ReplicaMessage, Reset};
use baton_replication::by_broker::ByBroker;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::{Breach, Effect, Input, PartitionView, ReplicaView};
use baton_replication::producers::ProducerTable;
use baton_replication::rules::Rules;
use baton_replication::{Config, LogShape, Replica};

fn life(id: u32) -> BrokerLife {
    BrokerLife {
        broker: BrokerId(id),
        epoch: BrokerEpoch(1),
    }
}

/// A leader of epoch 2 with the log [100, 200) of epoch 1, and a follower.
fn leader() -> Replica {
    let replica = ReplicaView {
        life: BrokerEpoch(1),
        fenced: false,
        suspect: false,
    };
    let view = PartitionView {
        epoch: LeaderEpoch(2),
        leader: Some(life(1)),
        version: PartitionVersion(1),
        in_sync: [BrokerId(1), BrokerId(2)].into(),
        sync_followers_commit: 1,
        sync_followers_elect: 1,
        flush: Flush::Ack,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::MAX,
        compacted: false,
        replicas: ByBroker::from([(BrokerId(1), replica), (BrokerId(2), replica)]),
    };
    let log = LogShape {
        start: Offset(100),
        end: Offset(200),
        durable_end: Offset(200),
        high_watermark: Offset(100),
        epochs: EpochHistory::new(vec![(LeaderEpoch(1), Offset(99))]),
        ..LogShape::default()
    };
    let (config, rules) = (Config::default(), Rules::default());
    let mut leader = Replica::new(life(1), config, rules, log, view.clone(), [BrokerId(2)]);
    leader.step(Tick(0), Input::Metadata(view.into()), &mut Vec::new());
    leader
}

/// Where the follower is asked after this input, if it is.
fn asked_at(leader: &mut Replica, now: Tick, input: Input) -> Option<Offset> {
    let mut out = Vec::new();
    leader.step(now, input, &mut out);
    out.into_iter().find_map(|effect| match effect {
        Effect::Push { append, .. } => Some(append.prev_end),
        _ => None,
    })
}

#[test]
fn an_empty_follower_below_the_log_start_is_not_asked_in_circles() {
    let mut leader = leader();
    let empty = |prev_end: u64| {
        Input::Mismatch(Mismatch {
            epoch: LeaderEpoch(2),
            from: life(2),
            prev_end: Offset(prev_end),
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            history: Vec::new(),
        })
    };
    let first = asked_at(&mut leader, Tick(1), empty(200));
    assert_eq!(first, Some(Offset(100)), "it is asked at the log start");
    let mut out = Vec::new();
    leader.step(Tick(2), empty(100), &mut out);
    let reset = out.iter().find_map(|effect| match effect {
        Effect::Send {
            message: ReplicaMessage::Reset(reset),
            ..
        } => Some((reset.prev_epoch, reset.start)),
        _ => None,
    });
    assert_eq!(reset, Some((LeaderEpoch(1), Offset(100))));
    assert!(
        !out.iter()
            .any(|effect| matches!(effect, Effect::Push { .. }))
    );
    let in_time = asked_at(&mut leader, Tick(600), Input::Tick);
    assert_eq!(in_time, Some(Offset(100)), "the message may be lost");
}

/// What a follower whose log is [0, 10) of epoch 1, known to be committed up to 6, does when it is told
/// to begin anew.
fn told_to_begin_anew(prev_epoch: u32, start: u64, epoch: u32) -> Vec<Effect> {
    let log = LogShape {
        end: Offset(10),
        durable_end: Offset(10),
        high_watermark: Offset(6),
        epochs: EpochHistory::new(vec![(LeaderEpoch(1), Offset(0))]),
        ..LogShape::default()
    };
    let view = leader().view().clone();
    let mut follower = Replica::new(life(2), Config::default(), Rules::default(), log, view, []);
    let reset = Reset {
        epoch: LeaderEpoch(epoch),
        leader: life(1),
        to: BrokerEpoch(1),
        start: Offset(start),
        prev_epoch: LeaderEpoch(prev_epoch),
        high_watermark: Offset(100),
    };
    let mut out = Vec::new();
    let input = Input::Reset(reset, ProducerTable::default());
    follower.step(Tick(0), input, &mut out);
    out
}

#[test]
fn only_a_log_that_lacks_or_differs_begins_anew_and_nothing_committed_is_discarded() {
    let begins = |out: &[Effect]| {
        out.iter().find_map(|effect| match effect {
            Effect::Reset {
                start, keep_from, ..
            } => Some((start.0, keep_from.0)),
            _ => None,
        })
    };
    // It ends below, or holds there what was never committed.
    assert_eq!(begins(&told_to_begin_anew(2, 50, 2)), Some((50, 6)));
    assert_eq!(begins(&told_to_begin_anew(2, 8, 2)), Some((8, 6)));
    // It continues there.
    let held = told_to_begin_anew(1, 8, 2);
    assert!(matches!(
        held[..],
        [Effect::Send {
            message: ReplicaMessage::Ack(_),
            ..
        }]
    ));
    // What is committed differs.
    let broken = told_to_begin_anew(2, 5, 2);
    let breach = Breach::TruncateBelowWatermark {
        to: Offset(5),
        high_watermark: Offset(6),
    };
    assert_eq!(broken, [Effect::Broken(breach)]);
    // A deposed leader, and one whose election is not known to have ended.
    let refused = told_to_begin_anew(2, 50, 1);
    assert!(matches!(
        refused[..],
        [Effect::Send {
            message: ReplicaMessage::Refused(_),
            ..
        }]
    ));
    assert_eq!(told_to_begin_anew(2, 5, 3), []);
    // Nonsense.
    for (prev_epoch, start) in [(3, 50), (2, 101)] {
        let out = told_to_begin_anew(prev_epoch, start, 2);
        assert!(matches!(out[..], [Effect::Ignored { .. }]));
    }
}
