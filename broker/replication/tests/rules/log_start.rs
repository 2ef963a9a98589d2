//! A leader whose log begins above what a follower holds: there is nothing to push to it.

use std::collections::BTreeMap;

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick,
};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Mismatch;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::{Effect, Input, PartitionView, ReplicaView};
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
        replicas: BTreeMap::from([(BrokerId(1), replica), (BrokerId(2), replica)]),
    };
    let log = LogShape {
        start: Offset(100),
        end: Offset(200),
        durable_end: Offset(200),
        high_watermark: Offset(100),
        epochs: EpochHistory::new(vec![(LeaderEpoch(1), Offset(100))]),
        ..LogShape::default()
    };
    let (config, rules) = (Config::default(), Rules::default());
    let mut leader = Replica::new(life(1), config, rules, log, view.clone(), [BrokerId(2)]);
    leader.step(Tick(0), Input::Metadata(view), &mut Vec::new());
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
    let at_once = asked_at(&mut leader, Tick(2), empty(100));
    assert_eq!(at_once, None);
    let in_time = asked_at(&mut leader, Tick(600), Input::Tick);
    assert_eq!(in_time, Some(Offset(100)));
}
