//! Producers against a broker that answers, refuses, or says nothing.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_client::{
    Acks, Compression, ErrorKind, Offset, PartitionIndex, Record, partition_of_key,
};
use baton_protocol::batch::{BatchHeader, EXPANDED_BYTES_MAX, RecordIter, expand_records};
use support::{FakeBroker, PATIENCE, TOPIC};
use tokio::time::timeout;

fn record(value: impl Into<bytes::Bytes>) -> Record {
    Record::to(TOPIC).value(value)
}

/// The values that the broker was sent, with their partitions, in order.
fn values(broker: &FakeBroker) -> Vec<(u32, String)> {
    let produced = broker.conduct.produced.lock().expect("produced");
    let mut values = Vec::new();
    for (partition, batch) in produced.iter() {
        let header = BatchHeader::parse(batch).expect("a batch");
        let records = expand_records(batch, &header, EXPANDED_BYTES_MAX).expect("expands");
        for record in RecordIter::of(&records, &header) {
            let value = record.expect("sound").value.expect("a value").to_vec();
            values.push((*partition, String::from_utf8(value).expect("text")));
        }
    }
    values
}

#[tokio::test]
async fn records_go_where_they_should_and_acknowledgements_say_where() {
    let broker = FakeBroker::start(4).await;
    let client = broker.client().await;
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        broker.conduct.produced.lock().expect("produced").clear();
        broker.conduct.taken.lock().expect("counted").clear();
        let producer = client.producer().compression(codec).build().await;
        let producer = producer.expect("a producer");
        let mut acks = Vec::new();
        for number in 0..50 {
            let record = record(format!("{number} {}", "x".repeat(50)));
            let key = format!("key {}", number % 7);
            acks.push(producer.send(record.key(key)).await.expect("taken"));
        }
        producer.flush().await.expect("delivered");
        let mut next = [0; 4];
        for (number, ack) in acks.into_iter().enumerate() {
            let at = ack.await.expect("acknowledged");
            let key = format!("key {}", number % 7);
            assert_eq!(at.partition, partition_of_key(key.as_bytes(), 4));
            let next = &mut next[at.partition.0 as usize];
            assert_eq!((&*at.topic, at.offset), (TOPIC, Some(Offset(*next))));
            *next += 1;
        }
        assert_eq!(values(&broker).len(), 50, "{codec}");
    }
}

#[tokio::test]
async fn a_partitioner_of_ones_own_decides_and_a_wrong_one_is_refused() {
    let broker = FakeBroker::start(3).await;
    let client = broker.client().await;
    let last = |_: &Record, partitions| Some(PartitionIndex(partitions - 1));
    let producer = client.producer().partitioner(last).build().await;
    let producer = producer.expect("a producer");
    let ack = producer.send(record("a").key("b")).await.expect("taken");
    assert_eq!(ack.await.expect("stored").partition, PartitionIndex(2));
    // A record that names its partition is not asked about.
    let ack = producer.send(record("a").partition(1)).await;
    let at = ack.expect("taken").await.expect("stored");
    assert_eq!(at.partition, PartitionIndex(1));

    let beyond = |_: &Record, partitions| Some(PartitionIndex(partitions));
    let wrong = client.producer().partitioner(beyond).build().await;
    let error = wrong.expect("a producer").send(record("a")).await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::UnknownPartition);
    assert_eq!(error.topic(), Some(TOPIC));
}

#[tokio::test]
async fn a_broker_that_never_answers_costs_bounded_memory_and_time() {
    let broker = FakeBroker::start(2).await;
    broker.conduct.is_silent.store(true, Ordering::SeqCst);
    let client = broker.client().await;
    let settings = client
        .producer()
        .max_in_flight_bytes(100_000)
        .batch_bytes(10_000)
        .linger(Duration::ZERO)
        .delivery_timeout(Duration::from_secs(2));
    let producer = settings.build().await.expect("a producer");
    let mut acks = Vec::new();
    let refused = loop {
        match producer.try_send(record(vec![b'x'; 1_000]).key("k")) {
            Ok(ack) => acks.push(ack),
            Err(refused) => break refused,
        }
        assert!(acks.len() < 100, "more than fits");
        assert!(producer.in_flight_bytes() <= 100_000);
    };
    assert!(acks.len() > 90, "{} fit", acks.len());
    assert_eq!(refused.error.kind(), ErrorKind::BufferFull);
    assert!(refused.error.is_retriable());
    assert_eq!(refused.record.value.as_ref().map(|v| v.len()), Some(1_000));

    // Whoever waits gets room once the first records are given up.
    let waiting = timeout(PATIENCE, producer.send(*refused.record)).await;
    acks.push(waiting.expect("in time").expect("taken"));
    let mut unknown = 0;
    for ack in acks {
        let error = timeout(PATIENCE, ack).await.expect("in time");
        let error = error.expect_err("never acknowledged");
        match error.kind() {
            ErrorKind::DeliveryUnknown => unknown += 1,
            ErrorKind::NotDelivered => {}
            other => panic!("{other:?}: {error}"),
        }
        assert_eq!(error.topic(), Some(TOPIC));
        assert!(error.partition().is_some());
    }
    assert!(unknown > 0, "what was sent may be stored");
    let error = timeout(PATIENCE, producer.flush()).await.expect("in time");
    error.expect_err("flush tells what nobody may have looked at");
    assert_eq!(producer.in_flight_bytes(), 0);
    producer.flush().await.expect("told once");
}

#[tokio::test]
async fn a_dropped_acknowledgement_hides_no_error() {
    let broker = FakeBroker::start(1).await;
    broker.conduct.is_silent.store(true, Ordering::SeqCst);
    let client = broker.client().await;
    let settings = client
        .producer()
        .delivery_timeout(Duration::from_millis(300));
    let producer = settings.build().await.expect("a producer");
    drop(producer.send(record("a")).await.expect("taken"));
    let flushed = timeout(PATIENCE, producer.flush()).await.expect("in time");
    let error = flushed.expect_err("not delivered");
    assert_eq!(error.kind(), ErrorKind::DeliveryUnknown);
    assert!(error.is_outcome_unknown());
}

#[tokio::test]
async fn what_is_refused_for_now_is_sent_again_once_and_in_order() {
    let broker = FakeBroker::start(1).await;
    broker.conduct.refusals.store(7, Ordering::SeqCst);
    let client = broker.client().await;
    let settings = client.producer().linger(Duration::ZERO).batch_bytes(200);
    let producer = settings.build().await.expect("a producer");
    let records = (0..100).map(|number| record(format!("{number:0>100}")));
    let placed = timeout(PATIENCE, producer.send_all(records)).await;
    let placed = placed.expect("in time").expect("delivered");
    assert_eq!(placed.len(), 100);
    let produced = broker.conduct.produced.lock().expect("produced").clone();
    let mut sequences: Vec<u32> = Vec::new();
    for (_, batch) in &produced {
        let header = BatchHeader::parse(batch).expect("a batch");
        sequences.push(header.producer().expect("stamped").sequence);
    }
    // What the broker took while an earlier one was refused comes again: it would know it by its
    // sequence. None is missing, and the first takings are in order.
    sequences.dedup();
    let mut rising = sequences.clone();
    rising.sort_unstable();
    rising.dedup();
    assert_eq!(rising.first(), Some(&0));
    assert!(rising.len() >= 50, "{} batches", rising.len());
}

#[tokio::test]
async fn a_producer_that_is_closed_takes_no_more_and_one_that_is_dropped_delivers() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let slow = || client.producer().linger(Duration::from_secs(3_600));
    let producer = slow().build().await.expect("a producer");
    let clone = producer.clone();
    drop(producer.send(record("a")).await.expect("taken"));
    let closed = timeout(PATIENCE, producer.close()).await;
    closed.expect("in time").expect("delivered");
    let error = clone.send(record("b")).await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);

    let producer = slow().build().await.expect("a producer");
    let ack = producer.send(record("c")).await.expect("taken");
    drop(producer);
    let delivered = timeout(PATIENCE, ack).await.expect("in time");
    delivered.expect("delivered");
    let sent: Vec<String> = values(&broker)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    assert_eq!(sent, ["a", "c"]);
}

#[tokio::test]
async fn a_lane_that_was_idle_ends_and_comes_back() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let settings = client.producer().idle_timeout(Duration::from_millis(20));
    let producer = settings.build().await.expect("a producer");
    for round in 0..5 {
        let ack = producer.send(record(format!("{round}"))).await;
        ack.expect("taken").await.expect("delivered");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(values(&broker).len(), 5);
}

#[tokio::test]
async fn nonsense_is_refused_at_once() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.expect("a producer");
    for (bad, kind) in [
        (Record::to("nowhere").value("a"), ErrorKind::UnknownTopic),
        (record("a").partition(9), ErrorKind::UnknownPartition),
        (record(vec![0; 2 << 20]), ErrorKind::TooLarge),
        (
            (0..1_001).fold(record("a"), |record, _| record.header("h", "v")),
            ErrorKind::Refused,
        ),
    ] {
        let error = producer.send(bad.clone()).await.expect_err("refused");
        assert_eq!(error.kind(), kind);
        assert!(!error.is_retriable());
        assert_eq!(error.topic(), Some(&*bad.topic));
        assert_eq!(error.partition(), bad.partition);
        let refused = producer.try_send(bad.clone()).expect_err("refused");
        assert!(format!("{refused:?}").len() < 10_000);
        assert_eq!((refused.error.kind(), *refused.record), (kind, bad));
    }
    let none = client.producer().batch_bytes(0).build().await;
    let error = none.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    for brokers in [vec![], vec!["localhost".to_owned()]] {
        let error = baton_client::Client::builder(brokers).connect();
        let error = error.await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}

#[tokio::test]
async fn without_acknowledgements_what_is_sent_counts_as_delivered() {
    let broker = FakeBroker::start(1).await;
    broker.conduct.is_silent.store(true, Ordering::SeqCst);
    let client = broker.client().await;
    let producer = client.producer().acks(Acks::None).build().await;
    let producer = producer.expect("a producer");
    let ack = producer.send(record("a")).await.expect("taken");
    let at = timeout(PATIENCE, ack).await.expect("in time");
    assert_eq!(at.expect("sent").offset, None);
}

#[tokio::test]
async fn without_acknowledgements_memory_is_bounded_too_though_the_broker_does_not_read() {
    let broker = FakeBroker::start(1).await;
    broker.conduct.is_deaf.store(true, Ordering::SeqCst);
    let client = broker.client().await;
    let settings = client.producer().acks(Acks::None).linger(Duration::ZERO);
    let settings = settings.max_in_flight_bytes(500_000);
    let settings = settings.delivery_timeout(Duration::from_secs(60));
    let producer = settings.build().await.expect("a producer");
    let value = bytes::Bytes::from(vec![b'x'; 100_000]);
    let mut taken = 0;
    // What the system's buffers take is on its way; after that, room is waited for.
    while let Ok(sent) = timeout(Duration::from_secs(1), producer.send(record(value.clone()))).await
    {
        drop(sent.expect("taken"));
        taken += value.len();
        assert!(taken < 1 << 30, "nothing bounds it");
    }
    assert!(producer.in_flight_bytes() > 300_000);
    assert!(producer.in_flight_bytes() <= 500_000);
}

/// Five batches are sent at once; the last is answered long after it was sent, but never long after the one
/// before it.
#[tokio::test]
async fn what_waits_on_a_slow_link_is_not_taken_for_silence() {
    let broker = FakeBroker::start(1).await;
    broker.conduct.pause_ms.store(1_300, Ordering::SeqCst);
    let client = broker.client().await;
    // Silence is what lasts for this and five seconds more.
    let settings = client.producer().commit_timeout(Duration::from_millis(100));
    let producer = settings.batch_bytes(1).build().await.expect("a producer");
    for n in 0..5 {
        let sent = producer.send(record(format!("{n}"))).await;
        drop(sent.expect("taken"));
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("delivered");
    let produced = broker.conduct.produced.lock().expect("produced").len();
    assert_eq!(produced, 5, "sent again");
}

/// The buffer holds less than one batch of the size that was asked for, and nobody has a reason to wait for
/// the linger.
#[tokio::test]
async fn a_buffer_smaller_than_a_batch_does_not_wait_for_the_linger() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let settings = client.producer().linger(Duration::from_secs(600));
    let settings = settings.max_in_flight_bytes(100_000).batch_bytes(1 << 20);
    let producer = settings.build().await.expect("a producer");
    let value = bytes::Bytes::from(vec![b'x'; 1_000]);
    for _ in 0..1_000 {
        let sent = timeout(PATIENCE, producer.send(record(value.clone()))).await;
        drop(sent.expect("there is room").expect("taken"));
    }
}
