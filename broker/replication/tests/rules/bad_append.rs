//! An append that no leader writes: ignored and reported, and the replica goes on.

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick,
};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Append;
use baton_replication::by_broker::ByBroker;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::{Effect, EntryShape, Input, PartitionView, ReplicaView};
use baton_replication::rules::Rules;
use baton_replication::{Config, LogShape, Replica};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn life(id: u32) -> BrokerLife {
    BrokerLife {
        broker: BrokerId(id),
        epoch: BrokerEpoch(1),
    }
}

/// A follower of 1 that holds [0, 10) of epoch 1.
fn follower() -> Replica {
    let replica = ReplicaView {
        life: BrokerEpoch(1),
        fenced: false,
        suspect: false,
    };
    let view = PartitionView {
        epoch: EPOCH,
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
        end: Offset(10),
        durable_end: Offset(10),
        epochs: EpochHistory::new(vec![(EPOCH, Offset::ZERO)]),
        ..LogShape::default()
    };
    let (config, rules) = (Config::default(), Rules::default());
    Replica::new(life(2), config, rules, log, view, [BrokerId(1)])
}

/// What comes of one entry [base, end) behind `prev_end`.
fn append(replica: &mut Replica, prev_end: u64, base: u64, end: u64) -> Vec<Effect> {
    let append = Append {
        leader: life(1),
        to: BrokerEpoch(1),
        epoch: EPOCH,
        prev_epoch: EPOCH,
        prev_end: Offset(prev_end),
        high_watermark: Offset::ZERO,
        log_start: Offset::ZERO,
    };
    let entry = EntryShape {
        epoch: EPOCH,
        base: Offset(base),
        end: Offset(end),
        producer: None,
    };
    let mut out = Vec::new();
    replica.step(Tick(1), Input::Append(append, vec![entry]), &mut out);
    out
}

#[test]
fn an_entry_that_overlaps_one_of_its_epoch_is_ignored_and_the_next_good_one_taken() {
    let mut follower = follower();
    for (prev_end, base, end) in [(8, 8, 12), (5, 3, 8), (10, 10, 10), (5, 5, 11)] {
        let out = append(&mut follower, prev_end, base, end);
        assert!(
            matches!(out[..], [Effect::Ignored { .. }]),
            "[{base}, {end}) behind {prev_end}: {out:?}"
        );
    }
    let out = append(&mut follower, 10, 10, 12);
    assert!(out.contains(&Effect::AppendEntries { skip: 0 }), "{out:?}");
}
