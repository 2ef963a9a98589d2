//! What the micro-benchmarks share: batches, and three replicas without sockets.

#![allow(dead_code, reason = "each bench uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use baton::caretaker::Caretaker;
use baton::config::Config;
use baton::driver::{CheckedBatch, Driver, Output};
use baton::failure::Failure;
use baton::hosting;
use baton_protocol::batch::BatchBuilder;
use baton_protocol::client::Acks;
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionIndex, PartitionVersion, Tick,
    TopicId, TopicPartition,
};
use baton_protocol::metadata::Flush;
use baton_replication::Input;
use baton_replication::event::{PartitionView, ReplicaView, RequestId};
use baton_storage::Trust;
use bytes::Bytes;
use tempfile::TempDir;
use uuid::Uuid;

/// Bytes of a batch, about.
pub const BATCH_BYTES: usize = 128 << 10;

/// The partition.
pub const PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(Uuid::from_u128(7)),
    partition: PartitionIndex(0),
};

/// The epoch that broker 1 leads in.
pub const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// A full batch of records of this size, and how many they are.
pub fn batch_of(size: usize) -> (Bytes, u64) {
    let value = vec![b'x'; size];
    let mut builder = BatchBuilder::with_capacity(BATCH_BYTES);
    let room = BatchBuilder::record_bytes_max(None, Some(&value), &[]);
    while builder.bytes() + room <= BATCH_BYTES {
        builder.push(1_000, None, Some(&value), &[]);
    }
    let records = u64::from(builder.records());
    (builder.build(None), records)
}

/// A broker's only life.
pub fn life(broker: u32) -> BrokerLife {
    BrokerLife {
        broker: BrokerId(broker),
        epoch: BrokerEpoch(1),
    }
}

/// Three replicas, all in sync; broker 1 leads, and one follower has to hold what is acknowledged.
pub fn view(flush: Flush) -> PartitionView {
    let replica = ReplicaView {
        life: BrokerEpoch(1),
        fenced: false,
        suspect: false,
    };
    let ids = || (1..=3).map(BrokerId);
    PartitionView {
        epoch: EPOCH,
        leader: Some(life(1)),
        version: PartitionVersion::default(),
        in_sync: ids().collect::<BTreeSet<_>>(),
        sync_followers_commit: 1,
        sync_followers_elect: 1,
        flush,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::MAX,
        compacted: false,
        replicas: ids().map(|id| (id, replica)).collect(),
    }
}

/// Three drivers with their logs; what one sends, another is handed at once.
pub struct Replicas {
    drivers: BTreeMap<BrokerId, Driver>,
    now: Tick,
    requests: u64,
    acknowledged: u64,
    _dir: TempDir,
}

impl Replicas {
    /// Empty logs in a new directory.
    pub fn new(flush: Flush) -> Replicas {
        let dir = tempfile::tempdir().expect("a directory");
        let mut replicas = Replicas {
            drivers: BTreeMap::new(),
            now: Tick(1),
            requests: 0,
            acknowledged: 0,
            _dir: dir,
        };
        for id in 1..=3 {
            let path = replicas._dir.path().join(id.to_string());
            let config = Config::default();
            let caretaker = Caretaker::start(0, 1 << 20, Failure::new(&path)).expect("a thread");
            let trust = Trust::PageCache;
            let opened = hosting::open(&path, PARTITION, false, trust, &config, &caretaker);
            let links = (1..=3).filter(|other| *other != id).map(BrokerId);
            let nobody = PartitionView {
                epoch: LeaderEpoch(0),
                leader: None,
                ..view(flush)
            };
            let driver = opened.expect("opens").into_driver(
                life(id),
                baton_replication::Config::default(),
                nobody,
                links.collect(),
            );
            replicas.drivers.insert(BrokerId(id), driver);
        }
        for id in [2, 3, 1].map(BrokerId) {
            let mut out = Vec::new();
            let input = Input::Metadata(view(flush).into());
            replicas.driver(id).input(Tick(1), input, &mut out);
            replicas.carry_out(id, out);
        }
        replicas
    }

    fn driver(&mut self, id: BrokerId) -> &mut Driver {
        self.drivers.get_mut(&id).expect("there are three")
    }

    /// Produces a batch, and goes on until it is committed, and the followers know that.
    pub fn produce(&mut self, batch: &CheckedBatch) {
        self.now = Tick(self.now.0 + 1);
        self.requests += 1;
        let (now, request) = (self.now, RequestId(self.requests));
        let mut out = Vec::new();
        let leader = self.driver(BrokerId(1));
        leader.produce(now, request, batch, Acks::Committed, 1_000, &mut out);
        self.carry_out(BrokerId(1), out);
        assert_eq!(self.acknowledged, self.requests, "every batch is committed");
    }

    fn carry_out(&mut self, of: BrokerId, out: Vec<Output>) {
        let mut queue: VecDeque<(BrokerId, Output)> = out.into_iter().map(|o| (of, o)).collect();
        while let Some((from, output)) = queue.pop_front() {
            let (mut next, now) = (Vec::new(), self.now);
            let who = match output {
                Output::Send {
                    to,
                    message,
                    payload,
                } => {
                    let driver = self.driver(to);
                    driver.receive(now, message, &payload, &mut next);
                    to
                }
                Output::Flush(work) => {
                    self.driver(from).flushed(now, work(), &mut next);
                    from
                }
                Output::Read(push, work) => {
                    self.driver(from).read(now, push, work(), &mut next);
                    from
                }
                Output::Reply { result, .. } => {
                    result.expect("it is stored");
                    self.acknowledged += 1;
                    continue;
                }
                _ => continue,
            };
            queue.extend(next.into_iter().map(|output| (who, output)));
        }
    }
}
