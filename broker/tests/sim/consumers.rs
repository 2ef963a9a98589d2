//! Consumers: each reads a partition from its beginning, on its leader or on any replica, up to the
//! watermark of whoever serves it.

use baton_protocol::batch::{EntryIter, RecordIter};
use baton_protocol::ids::{BrokerId, Offset, PartitionIndex, TopicId, TopicPartition};

use crate::cluster::World;
use crate::compaction::id_of;
use crate::observation::Observation;
use crate::schedule::{ClientIndex, Event};
use crate::topics::NAMES;

/// Entries that one read gives at most.
const ENTRIES_MAX: usize = 24;

pub struct Consumer {
    topic: &'static str,
    index: PartitionIndex,
    /// Which of the replicas it reads from; none for the leader.
    replica: Option<usize>,
    incarnation: Option<TopicId>,
    position: Offset,
}

/// For every partition that a topic can have, one that reads on the leader and one that does not.
pub fn all() -> Vec<Consumer> {
    let partitions = NAMES.iter().flat_map(|name| [(*name, 0), (*name, 1)]);
    let consumers = partitions.flat_map(|(topic, index)| {
        [None, Some(1)].map(|replica| Consumer {
            topic,
            index: PartitionIndex(index),
            replica,
            incarnation: None,
            position: Offset::ZERO,
        })
    });
    consumers.collect()
}

impl World {
    pub fn on_consumer_tick(&mut self, index: ClientIndex) {
        let pause = self.random.between(200, 500);
        self.schedule.after(pause, Event::ConsumerTick(index));
        let consumer = &mut self.consumers[index.0];
        let Some(topic) = self.controller.committed.topic_named(consumer.topic) else {
            return;
        };
        if consumer.incarnation != Some(topic.id) {
            consumer.incarnation = Some(topic.id);
            consumer.position = Offset::ZERO;
        }
        let Some(record) = topic.partition(consumer.index) else {
            return;
        };
        if consumer.replica.is_some() && self.random.chance(80) {
            consumer.replica = Some(self.random.below(record.replicas.len() as u64) as usize);
        }
        let partition = TopicPartition {
            topic: topic.id,
            partition: consumer.index,
        };
        let server = match consumer.replica {
            Some(at) => record.replicas.get(at).copied(),
            None => record.leader.map(|leader| leader.broker),
        };
        if let Some(server) = server
            && self.brokers[&server].frozen_until <= self.schedule.now()
        {
            self.read(index, server, partition);
        }
    }

    fn read(&mut self, index: ClientIndex, broker: BrokerId, partition: TopicPartition) {
        let server = &self.brokers[&broker];
        let Some(driver) = server.driver(&partition) else {
            return;
        };
        let log = driver.replica().log();
        let (start, high_watermark) = (log.start, log.high_watermark);
        let disk = server.disk.lock();
        let Some(file) = disk.logs.get(&partition) else {
            return;
        };
        let consumer = &mut self.consumers[index.0];
        if consumer.position < start {
            // What has expired is out of range, and the error says where the log starts.
            consumer.position = start;
            self.stats.count("consumers overtaken");
        }
        let from = file.place_of(consumer.position);
        let mut told = Vec::new();
        let readable = file.entries()[from..].iter();
        for stored in readable
            .take_while(|stored| stored.end <= high_watermark)
            .take(ENTRIES_MAX)
        {
            consumer.position = stored.end;
            told.push((stored.base, stored.end, stored.epoch));
            let entry = EntryIter::new(file.bytes_of(stored)).next();
            let entry = entry.expect("an entry").expect("a sound entry");
            if entry.header.is_control() {
                continue;
            }
            for record in RecordIter::new(entry.batch, &entry.header) {
                let record = record.expect("a sound record");
                self.stats.count("records read");
                self.observed.push(Observation::Read {
                    consumer: index,
                    broker,
                    partition,
                    offset: record.offset,
                    record: id_of(&record),
                });
            }
        }
        drop(disk);
        for (base, end, epoch) in told {
            self.tell(|| {
                format!("{partition}: {index:?} reads {base} to {end} of epoch {epoch} on broker {broker}")
            });
        }
    }
}
