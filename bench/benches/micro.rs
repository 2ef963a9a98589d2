//! The parts of a produced record's way, each by itself. `cargo bench -p baton-bench --bench micro`
//! measures them and compares with the last time.

#[path = "../../client/tests/support/mod.rs"]
mod fake_broker;
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::config::Config;
use baton::driver::CheckedBatch;
use baton_client::{Record, decode_entries};
use baton_protocol::batch::{
    BatchBuilder, BatchHeader, EntryIter, LeaderStamp, RecordIter, entry_crc, validate_produced,
};
use baton_protocol::client::{Acks, ClientRequest, RequestBody};
use baton_protocol::frame::{Decoder, encode_header};
use baton_protocol::ids::{Offset, Tick};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Ack;
use baton_replication::event::{Effect, Input, Proposal, RequestId};
use baton_replication::rules::Rules;
use baton_replication::{LogShape, Replica};
use baton_storage::{Log, LogIdentity, entry_bytes};
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

use self::support::{BATCH_BYTES, EPOCH, PARTITION, Replicas, batch_of, life, view};

/// Sizes of a record's value.
const SIZES: [usize; 2] = [100, 1024];

/// Records that are sent in one go.
const SENT_AT_ONCE: u64 = 1_000;

/// Batches that a log gets before it is replaced by a new one.
const LOG_BATCHES: u64 = 256;

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for size in SIZES {
        let (batch, records) = batch_of(size);
        group.throughput(Throughput::Elements(records));
        let value = vec![b'x'; size];
        group.bench_function(BenchmarkId::new("encode", size), |b| {
            b.iter(|| {
                let mut builder = BatchBuilder::with_capacity(BATCH_BYTES);
                for _ in 0..records {
                    builder.push(1_000, None, Some(black_box(&value)), &[]);
                }
                builder.build(None)
            });
        });
        let header = BatchHeader::parse(&batch).expect("a batch");
        group.bench_function(BenchmarkId::new("decode", size), |b| {
            b.iter(|| {
                let records = RecordIter::new(black_box(&batch), &header);
                records.map(|r| r.expect("a record").offset.0).sum::<u64>()
            });
        });
        group.bench_function(BenchmarkId::new("validate", size), |b| {
            b.iter(|| validate_produced(black_box(&batch), 1 << 20).is_ok());
        });
    }
    group.finish();
}

fn entries(c: &mut Criterion) {
    let (log, _dir) = log_of(8);
    let chunk = log.read(Offset::ZERO, 1 << 20).expect("readable");
    let bytes = chunk.expect("entries").bytes;
    let mut group = c.benchmark_group("entry");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse and verify", |b| {
        b.iter(|| {
            EntryIter::new(black_box(&bytes))
                .filter(Result::is_ok)
                .count()
        });
    });
    group.finish();
}

fn empty_log() -> (Log, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = LogIdentity {
        topic: PARTITION.topic,
        partition: PARTITION.partition,
    };
    let config = Config::default().log.storage();
    let (log, _) = Log::open(dir.path(), identity, config).expect("opens");
    (log, dir)
}

fn append(log: &mut Log, batch: &[u8]) {
    log.reserve(entry_bytes(batch)).expect("room");
    log.append_batch(batch, &LeaderStamp::new(log.end(), EPOCH))
        .expect("stored");
}

fn log_of(batches: u64) -> (Log, TempDir) {
    let (mut log, dir) = empty_log();
    let (batch, _) = batch_of(1024);
    for _ in 0..batches {
        append(&mut log, &batch);
    }
    (log, dir)
}

fn logs(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    let (batch, _) = batch_of(1024);
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("append", |b| {
        b.iter_custom(|batches| timed_appends(batches, &batch));
    });
    let (log, _dir) = log_of(LOG_BATCHES);
    let (reader, end) = (log.reader(), log.end());
    let mut at = 0;
    // Nothing is copied, so bytes a second would say nothing.
    group.throughput(Throughput::Elements(1));
    group.bench_function("fetch slice", |b| {
        b.iter(|| {
            // Steps that share no divisor with the log's length visit all of it.
            at = (at + 7_919) % end.0;
            reader.read(Offset(at), BATCH_BYTES + 1_024, end).is_ok()
        });
    });
    group.finish();
}

/// In logs of limited length, so that the disk is not filled.
fn timed_appends(batches: u64, batch: &[u8]) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = batches;
    while left > 0 {
        let some = left.min(LOG_BATCHES);
        let (mut log, _dir) = empty_log();
        let begun = Instant::now();
        for _ in 0..some {
            append(&mut log, batch);
        }
        took += begun.elapsed();
        left -= some;
    }
    took
}

/// A leader's core, whose every effect is as good as done.
struct Leader {
    replica: Replica,
    end: Offset,
    now: u64,
}

impl Leader {
    fn new() -> Leader {
        let nobody = baton_replication::event::PartitionView {
            epoch: baton_protocol::ids::LeaderEpoch(0),
            leader: None,
            ..view(Flush::Ack)
        };
        let links = [2, 3].map(baton_protocol::ids::BrokerId);
        let config = baton_replication::Config::default();
        let rules = Rules::default();
        let replica = Replica::new(life(1), config, rules, LogShape::default(), nobody, links);
        let mut leader = Leader {
            replica,
            end: Offset::ZERO,
            now: 1,
        };
        leader.step(Input::Metadata(view(Flush::Ack).into()));
        leader.acknowledge();
        leader
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.replica.step(Tick(self.now), input, &mut effects);
        for effect in effects {
            self.end = self.replica.log().end;
            let end = self.end;
            match effect {
                Effect::Flush => self.step(Input::Flushed { end }),
                Effect::Push {
                    to,
                    append,
                    bytes_max,
                } if bytes_max > 0 => {
                    let bytes = BATCH_BYTES as u64;
                    self.step(Input::Pushed {
                        to,
                        append,
                        end,
                        bytes,
                    });
                }
                _ => {}
            }
        }
    }

    fn acknowledge(&mut self) {
        for follower in [2, 3] {
            self.step(Input::Ack(Ack {
                epoch: EPOCH,
                from: life(follower),
                last_epoch: EPOCH,
                durable_end: self.end,
                log_end: self.end,
            }));
        }
    }

    fn produce(&mut self) {
        self.now += 1;
        self.step(Input::Propose(Proposal {
            request: RequestId(self.now),
            records: 100,
            producer: None,
            acks: Acks::Committed,
            timeout_ms: 1_000,
        }));
        self.acknowledge();
    }
}

fn cores(c: &mut Criterion) {
    let mut leader = Leader::new();
    let mut group = c.benchmark_group("core");
    group.throughput(Throughput::Elements(1));
    group.bench_function("batch from proposal to commit", |b| {
        b.iter(|| leader.produce());
    });
    group.finish();
    assert_eq!(leader.replica.log().high_watermark, leader.end);
}

fn frames(c: &mut Criterion) {
    let (batch, _) = batch_of(1024);
    let request = ClientRequest {
        id: 9,
        body: RequestBody::Produce {
            topic: PARTITION.topic,
            partition: PARTITION.partition,
            acks: Acks::Committed,
            timeout_ms: 1_000,
        },
    };
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(1));
    let mut out = BytesMut::with_capacity(1 << 10);
    group.bench_function("encode header", |b| {
        b.iter(|| {
            out.clear();
            encode_header(black_box(&request), batch.len(), &mut out).is_ok()
        });
    });
    let mut whole = BytesMut::new();
    encode_header(&request, 0, &mut whole).expect("encoded");
    group.bench_function("decode", |b| {
        b.iter(|| {
            let mut bytes = BytesMut::from(black_box(&whole[..]));
            let frame = Decoder::default().decode(&mut bytes).expect("sound");
            frame.expect("whole").message::<ClientRequest>().is_ok()
        });
    });
    group.finish();
}

/// What the client library makes of a record, both ways.
fn clients(c: &mut Criterion) {
    let mut group = c.benchmark_group("client");
    let topic: Arc<str> = fake_broker::TOPIC.into();
    for size in SIZES {
        let (batch, records) = batch_of(size);
        let mut entry = entry_crc(&batch).to_be_bytes().to_vec();
        entry.extend_from_slice(&batch);
        let entries = Bytes::from(entry);
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::new("take records", size), |b| {
            b.iter(|| {
                let messages = decode_entries(topic.clone(), 0, black_box(entries.clone()));
                messages.map(|m| m.expect("a record").offset.0).sum::<u64>()
            });
        });
    }
    // The broker and the lane have threads of their own: what is measured is the thread that sends,
    // unless those cannot keep up.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let producer = runtime.block_on(async {
        let broker = fake_broker::FakeBroker::start(1).await;
        let forgetful = &broker.conduct.is_forgetful;
        forgetful.store(true, std::sync::atomic::Ordering::SeqCst);
        let client = broker.client().await;
        client.producer().build().await.expect("a producer")
    });
    for size in SIZES {
        let value = Bytes::from(vec![b'x'; size]);
        group.throughput(Throughput::Elements(SENT_AT_ONCE));
        group.bench_function(BenchmarkId::new("send", size), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    for _ in 0..SENT_AT_ONCE {
                        let record = Record::to(topic.clone()).value(value.clone());
                        drop(producer.send(record).await.expect("taken"));
                    }
                });
            });
        });
    }
    group.finish();
}

/// All but the sockets and the actors: three logs, three cores, three drivers.
fn drivers(c: &mut Criterion) {
    let mut group = c.benchmark_group("three replicas");
    let (batch, _) = batch_of(1024);
    let batch = CheckedBatch::check(batch, 1 << 20).expect("a batch");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.sample_size(20);
    group.bench_function("batch, flush interval", |b| {
        b.iter_custom(|batches| {
            let mut took = Duration::ZERO;
            let mut left = batches;
            while left > 0 {
                let some = left.min(LOG_BATCHES);
                let mut replicas = Replicas::new(Flush::Interval);
                let begun = Instant::now();
                (0..some).for_each(|_| replicas.produce(&batch));
                took += begun.elapsed();
                left -= some;
            }
            took
        });
    });
    group.finish();
}

criterion_group!(
    benches, batches, clients, entries, logs, cores, frames, drivers
);
criterion_main!(benches);
