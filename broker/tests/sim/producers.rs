//! Producers: idempotent, several batches under way, every answer sought until it is there.

use std::collections::VecDeque;

use baton::driver::{CheckedBatch, ProduceError};
use baton_protocol::batch::{BatchBuilder, ProducerState};
use baton_protocol::client::Acks;
use baton_protocol::ids::{
    BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerId, Tick, TopicId, TopicPartition,
};
use baton_replication::Input;
use baton_replication::event::{Acknowledged, Refusal, RequestId};

use crate::cluster::{QUIET_FROM, World};
use crate::compaction::{deletes, key_of};
use crate::observation::Observation;
use crate::oracle::{RecordId, Told};
use crate::schedule::{Attempt, BrokerEvent, ClientIndex, Event};
use crate::topics::NAMES;

/// How long a producer waits for an answer before it asks again, in milliseconds.
const PATIENCE_MS: u64 = 700;

/// How long a leader may let it wait, in milliseconds.
const TIMEOUT_MS: u32 = 600;

/// How far the newest batch may be ahead of the oldest without an answer: no further than the
/// brokers remember.
const UNDER_WAY_MAX: u64 = 3;

/// Producers for each partition.
const PER_PARTITION: usize = 2;

const BATCH_BYTES_MAX: usize = 1 << 20;

struct UnderWay {
    /// Counts the producer's batches.
    number: u64,
    attempt: Attempt,
    batch: CheckedBatch,
    sent_at: Option<Tick>,
    sent: u32,
}

/// One producer of one partition.
pub struct Producer {
    topic: &'static str,
    index: PartitionIndex,
    incarnation: Option<TopicId>,
    beginning: u64,
    id: ProducerId,
    /// How firmly its batches must be held before they are acknowledged.
    acks: Acks,
    next_sequence: u32,
    next_number: u64,
    under_way: VecDeque<UnderWay>,
}

impl Producer {
    pub fn is_waiting(&self) -> bool {
        !self.under_way.is_empty()
    }
}

/// Producers for every partition that a topic can have.
pub fn all() -> Vec<Producer> {
    let partitions = NAMES.iter().flat_map(|name| [(*name, 0), (*name, 1)]);
    let producers = partitions.flat_map(|(topic, index)| {
        (0..PER_PARTITION).map(move |which| Producer {
            topic,
            index: PartitionIndex(index),
            incarnation: None,
            beginning: 0,
            id: ProducerId(0),
            acks: if which == 0 {
                Acks::Committed
            } else {
                Acks::Leader
            },
            next_sequence: 0,
            next_number: 0,
            under_way: VecDeque::new(),
        })
    });
    producers.collect()
}

impl World {
    pub fn on_producer_tick(&mut self, index: ClientIndex) {
        let pause = self.random.between(100, 300);
        self.schedule.after(pause, Event::ProducerTick(index));
        let now = self.schedule.now();
        let producer = &mut self.producers[index.0];
        let topic = self.controller.committed.topic_named(producer.topic);
        if topic.map(|topic| topic.id) != producer.incarnation {
            self.next_producer_id += 1;
            producer.id = ProducerId(self.next_producer_id);
            producer.incarnation = topic.map(|topic| topic.id);
            producer.beginning += 1;
            producer.next_sequence = 0;
            producer.under_way.clear();
        }
        let Some(record) = topic.and_then(|topic| topic.partition(producer.index)) else {
            return;
        };
        let leader = record.leader.map(|leader| leader.broker);
        let guess = self.random.pick(&record.replicas);
        let target = match leader {
            Some(leader) if !self.random.chance(50) => leader,
            _ => guess,
        };
        let oldest = producer
            .under_way
            .iter()
            .map(|waiting| waiting.number)
            .min();
        if oldest.is_none_or(|oldest| producer.next_number - oldest < UNDER_WAY_MAX)
            && now < QUIET_FROM
            && self.random.chance(700)
        {
            self.make_batch(index);
        }
        self.send_due(index, target);
    }

    fn make_batch(&mut self, index: ClientIndex) {
        let records = self.random.weighted(&[(6, 1), (2, 2), (1, 5)]);
        let padding = self.random.weighted(&[(40, 0), (6, 300), (1, 6_000)]);
        let first = RecordId(self.next_record);
        let compacts = self.compacting.is_on;
        self.next_record += u64::from(records);
        let producer = &mut self.producers[index.0];
        let sequence = producer.next_sequence;
        producer.next_sequence += records;
        producer.next_number += 1;
        let mut builder = BatchBuilder::with_capacity(128 + padding);
        for i in 0..u64::from(records) {
            let record = RecordId(first.0 + i);
            let mut value = vec![0; 8 + padding];
            value[..8].copy_from_slice(&record.0.to_be_bytes());
            let key = key_of(record);
            let key = compacts.then_some(&key[..]);
            let value = (!compacts || !deletes(record)).then_some(&value[..]);
            builder.push(record.0 as i64, key, value, &[]);
        }
        let batch = builder.build(Some(ProducerState {
            id: producer.id,
            epoch: 0,
            sequence,
        }));
        let batch = CheckedBatch::check(batch, BATCH_BYTES_MAX).expect("a sound batch");
        producer.under_way.push_back(UnderWay {
            number: producer.next_number,
            attempt: Attempt {
                producer: index,
                beginning: producer.beginning,
                sequence,
                first,
                records,
            },
            batch,
            sent_at: None,
            sent: 0,
        });
    }

    fn send_due(&mut self, index: ClientIndex, target: BrokerId) {
        let now = self.schedule.now();
        let producer = &mut self.producers[index.0];
        let Some(topic) = producer.incarnation else {
            return;
        };
        let partition = TopicPartition {
            topic,
            partition: producer.index,
        };
        let mut due = Vec::new();
        for waiting in &mut producer.under_way {
            let patient = |sent: Tick| now.since_ms(sent) < PATIENCE_MS;
            if !waiting.sent_at.is_some_and(patient) {
                waiting.sent_at = Some(now);
                waiting.sent += 1;
                due.push(waiting.attempt);
            }
        }
        for attempt in due {
            let delay = self.random.between(1, 4);
            self.later(target, delay, BrokerEvent::Produce(partition, attempt));
        }
    }

    pub fn on_produce(&mut self, id: BrokerId, partition: TopicPartition, attempt: Attempt) {
        let producer = &self.producers[attempt.producer.0];
        let acks = producer.acks;
        let mut under_way = producer.under_way.iter();
        let Some(batch) = under_way
            .find(|waiting| waiting.attempt == attempt)
            .map(|waiting| waiting.batch.clone())
        else {
            return;
        };
        if self.brokers[&id].driver(&partition).is_none() {
            return self.answer(attempt, None);
        }
        let process = self.process(id);
        let request = RequestId(process.next_request);
        process.next_request += 1;
        process.requests.insert(request, (partition, attempt));
        let heard = process.controller_heard;
        self.drive(id, partition, |driver, now, out| {
            if let Some(at) = heard {
                driver.input(now, Input::ControllerHeard(at), out);
            }
            driver.produce(now, request, &batch, acks, TIMEOUT_MS, out);
        });
    }

    pub fn on_reply(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        request: RequestId,
        result: Result<Acknowledged, ProduceError>,
    ) {
        if self.is_answer_to_coordinator(id, request, &result) {
            return;
        }
        let epoch = self.brokers[&id]
            .driver(&partition)
            .and_then(|driver| driver.replica().leading());
        let attempt = self.process(id).requests.remove(&request);
        let (_, attempt) = attempt.expect("a request is answered once");
        let acknowledged = match result {
            Ok(acknowledged) => acknowledged,
            Err(error) => {
                self.stats.count("requests refused");
                if matches!(error, ProduceError::Refused(Refusal::OutOfOffsets)) {
                    self.stats.count("requests beyond the offset limit");
                }
                self.note_refusal(partition, epoch, attempt, &error);
                return self.answer(attempt, None);
            }
        };
        let Acknowledged { base, epoch: first } = acknowledged;
        let Some(base) = base else {
            // Held by the leader alone: that is no promise, and the producer goes on.
            self.stats.count("batches acknowledged by the leader alone");
            self.observed.push(Observation::AcknowledgedByLeader {
                broker: id,
                partition,
                first: attempt.first,
            });
            return self.answer(attempt, Some(Offset::ZERO));
        };
        let told = Told {
            base,
            epoch: first,
            first: attempt.first,
            records: attempt.records,
        };
        self.trace.add(base.0);
        if epoch.is_some_and(|epoch| self.is_promised_in(&partition, epoch)) {
            self.oracle.acknowledge(partition, told);
        } else {
            self.stats.count("batches acknowledged in vain");
        }
        self.observed.push(Observation::Acknowledged {
            broker: id,
            partition,
            epoch,
            told,
        });
        self.answer(attempt, Some(base));
    }

    /// A producer that has gone ahead while an election lost what it was told goes on; one that is
    /// told that its sequence does not follow begins anew, as a client does. The leader of the present
    /// epoch says that to nobody whose batches before are all committed, unless an election may have lost
    /// them: expired or not, they are known.
    fn note_refusal(
        &mut self,
        partition: TopicPartition,
        epoch: Option<LeaderEpoch>,
        attempt: Attempt,
        error: &ProduceError,
    ) {
        if !matches!(error, ProduceError::Refused(Refusal::OutOfOrder { .. })) {
            return;
        }
        let record = self.controller.committed.partition(&partition);
        let is_whole = record.is_some_and(|record| {
            epoch == Some(record.epoch) && record.lossy_epoch == LeaderEpoch::NONE
        });
        let producer = &mut self.producers[attempt.producer.0];
        let oldest = producer.under_way.front();
        if oldest.is_some_and(|oldest| oldest.attempt == attempt) {
            let is_known = producer.acks == Acks::Committed && is_whole;
            assert!(
                !is_known,
                "{partition}: the leader does not know the producer of {attempt:?}, whose batches before are committed"
            );
            self.stats.count("producers out of order");
            self.next_producer_id += 1;
            producer.id = ProducerId(self.next_producer_id);
            producer.beginning += 1;
            producer.next_sequence = 0;
            producer.under_way.clear();
        }
    }

    fn answer(&mut self, attempt: Attempt, base: Option<Offset>) {
        let lost = !self.peace && self.random.chance(30);
        if !lost {
            let delay = self.random.between(1, 4);
            self.schedule.after(delay, Event::Answer(attempt, base));
        }
    }

    pub fn on_answer(&mut self, attempt: Attempt, base: Option<Offset>) {
        let producer = &mut self.producers[attempt.producer.0];
        let mut under_way = producer.under_way.iter();
        let Some(at) = under_way.position(|waiting| waiting.attempt == attempt) else {
            return;
        };
        if base.is_none() {
            // With the next tick, when the leader may be another.
            producer.under_way[at].sent_at = None;
            return;
        }
        if let Some(waiting) = producer.under_way.remove(at) {
            self.stats.count("batches acknowledged");
            if waiting.sent > 1 {
                self.stats.count("batches acknowledged after retries");
            }
        }
    }
}
