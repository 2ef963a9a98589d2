//! Readers against a broker whose log, compression and failures the test chooses.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_client::{
    Client, Compression, ErrorKind, Message, Offset, PartitionIndex, Reader, ReaderBuilder, Start,
    Until,
};
use futures::StreamExt;
use support::{BATCH_RECORDS, FakeBroker, PATIENCE, TOPIC, entry};
use tokio::time::timeout;

const RECORDS: u64 = 10_000;

async fn broker(partitions: u32) -> FakeBroker {
    let broker = FakeBroker::start(partitions).await;
    broker.conduct.records.store(RECORDS, Ordering::SeqCst);
    broker
}

async fn next(reader: &mut Reader) -> Option<baton_client::Result<Message>> {
    let next = timeout(PATIENCE, reader.next()).await;
    next.expect("in time")
}

async fn offsets(reader: ReaderBuilder) -> BTreeMap<u32, Vec<u64>> {
    let mut reader = reader.until(Until::End).build().await.expect("a reader");
    let mut offsets: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    while let Some(message) = next(&mut reader).await {
        let message = message.expect("readable");
        assert_eq!(message.timestamp_ms, message.offset.0 as i64);
        let of = offsets.entry(message.partition.0).or_default();
        of.push(message.offset.0);
    }
    offsets
}

#[tokio::test]
async fn each_record_comes_once_in_order_whatever_breaks() {
    let broker = broker(3).await;
    let client = broker.client().await;
    let all: Vec<u64> = (0..RECORDS).collect();
    for (codec, pushes) in [
        (Compression::None, 0),
        (Compression::Lz4, 0),
        (Compression::Zstd, 7),
        (Compression::None, 13),
    ] {
        *broker.conduct.codec.lock().expect("a codec") = codec;
        let breaking = &broker.conduct.pushes_per_connection;
        breaking.store(pushes, Ordering::SeqCst);
        let reader = client.reader(TOPIC).from(Start::Earliest);
        let read = offsets(reader.credit_bytes(100_000)).await;
        assert_eq!(read.len(), 3);
        for (partition, offsets) in read {
            assert!(offsets == all, "{codec}, partition {partition}");
        }
    }
}

#[tokio::test]
async fn reading_begins_and_ends_where_it_is_told() {
    let broker = broker(2).await;
    let client = broker.client().await;
    let from = BTreeMap::from([(PartitionIndex(1), Offset(9_950))]);
    let read = offsets(client.reader(TOPIC).from(Start::Offsets(from))).await;
    assert_eq!((read[&0].len(), read[&1].len()), (10_000, 50));
    assert_eq!(read[&1][0], 9_950, "in the middle of a batch");

    let until = BTreeMap::from([(PartitionIndex(1), Offset(150))]);
    let reader = client.reader(TOPIC).partitions([1]).from(Start::Earliest);
    let mut reader = reader.until(Until::Offsets(until)).build().await;
    let reader = reader.as_mut().expect("a reader");
    let mut count = 0;
    while let Some(message) = next(reader).await {
        assert_eq!(message.expect("readable").offset, Offset(count));
        count += 1;
    }
    assert_eq!((count, reader.position(1)), (150, Some(Offset(150))));

    let latest = client.reader(TOPIC).until(Until::End).build().await;
    assert!(next(&mut latest.expect("a reader")).await.is_none());
}

#[tokio::test]
async fn a_reader_that_stands_still_is_sent_no_more_than_its_credit() {
    let broker = broker(4).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest);
    let mut reader = reader.credit_bytes(40_000).build().await.expect("a reader");
    next(&mut reader).await.expect("one").expect("readable");
    // Time enough to be sent everything.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let batch = entry(0, Compression::None).len() as u64;
    let most = 40_000 + 4 * batch;
    let pushed = broker.conduct.pushed_bytes.load(Ordering::SeqCst);
    assert!(pushed <= most + batch, "{pushed} bytes were pushed");
    assert!(reader.waiting_bytes() <= most);
    assert!(pushed < RECORDS * 100, "not everything");
    let mut count = 1;
    while count < 4 * RECORDS {
        let messages = timeout(PATIENCE, reader.next_batch(333)).await;
        let messages = messages.expect("in time").expect("more").expect("readable");
        assert!(messages.len() <= 333);
        assert!(reader.waiting_bytes() <= most);
        count += messages.len() as u64;
    }
    assert_eq!(reader.lag().values().sum::<u64>(), 0);
    assert_eq!(broker.conduct.subscriptions.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_offset_outside_the_log_is_an_error_with_both_bounds_and_seek_goes_on() {
    let broker = broker(2).await;
    let client = broker.client().await;
    let beyond = BTreeMap::from([(PartitionIndex(0), Offset(99_999))]);
    let reader = client.reader(TOPIC).from(Start::Offsets(beyond));
    let mut reader = reader.build().await.expect("a reader");
    let mut seen = 0;
    let error = loop {
        match next(&mut reader).await.expect("an item") {
            Ok(message) => {
                assert_eq!(message.partition, PartitionIndex(1));
                seen += 1;
            }
            Err(error) => break error,
        }
    };
    let (start, end) = (Offset(0), Offset(RECORDS));
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange { start, end });
    assert_eq!(error.partition(), Some(PartitionIndex(0)));
    // The other partition goes on, and so does this one, once it is told where.
    reader.seek(0, Offset(RECORDS - 10)).expect("read");
    while seen < RECORDS + 10 {
        next(&mut reader).await.expect("more").expect("readable");
        seen += 1;
    }
    assert_eq!(reader.position(0), Some(end));
    assert_eq!(reader.position(1), Some(end));
    let error = reader.seek(2, Offset(0)).expect_err("not read");
    assert_eq!(error.kind(), ErrorKind::UnknownPartition);
    assert_eq!(error.partition(), Some(PartitionIndex(2)));
}

#[tokio::test]
async fn an_error_says_what_it_is_about_though_there_is_none() {
    let broker = broker(2).await;
    let client = broker.client().await;
    let (admin, at) = (client.admin(), Some(PartitionIndex(77)));
    let none: Vec<(&str, baton_client::Error)> = vec![
        ("a topic", client.topic("no `pe").await.expect_err("none")),
        (
            "a reader",
            client.reader("no `pe").build().await.err().expect("none"),
        ),
        (
            "a status",
            admin
                .partition_status("no `pe", 0, true)
                .await
                .expect_err("none"),
        ),
    ];
    for (what, error) in none {
        assert_eq!(error.kind(), ErrorKind::UnknownTopic, "{what}");
        assert_eq!((error.topic(), error.partition()), (Some("no `pe"), None));
        assert_eq!(error.to_string(), "there is no topic named `no `pe`");
    }
    let reader = client.reader(TOPIC).partitions([0, 77]).build().await;
    let status = admin.partition_status(TOPIC, 77, true).await;
    for error in [reader.err(), status.err()] {
        let error = error.expect("there is no such partition");
        assert_eq!(error.kind(), ErrorKind::UnknownPartition);
        assert_eq!((error.topic(), error.partition()), (Some(TOPIC), at));
        let text = "t/77: there is no such partition; the topic has 2, numbered from 0";
        assert_eq!(error.to_string(), text);
    }
    let nothing = client.reader(TOPIC).partitions([]).build().await.err();
    assert_eq!(nothing.expect("refused").kind(), ErrorKind::InvalidConfig);
    // By name and as it was looked up.
    let topic = client.topic(TOPIC).await.expect("the topic");
    let by_name = admin.partition_status(TOPIC, 1, true).await.expect("known");
    let looked_up = admin
        .partition_status(&topic, PartitionIndex(1), true)
        .await;
    assert_eq!(by_name, looked_up.expect("known"));
}

#[tokio::test]
async fn an_earliest_start_is_where_the_log_begins_when_reading_does() {
    let broker = broker(1).await;
    let starts = &broker.conduct.log_start;
    let expires = &broker.conduct.expires_then;
    let client = broker.client().await;
    let earliest = || client.reader(TOPIC).from(Start::Earliest);

    starts.store(500, Ordering::SeqCst);
    let mut reader = earliest().build().await.expect("a reader");
    assert_eq!(reader.position(0), None, "nobody was asked");
    assert!(reader.positions().is_empty() && reader.lag().is_empty());
    let first = next(&mut reader).await.expect("one").expect("readable");
    assert_eq!(first.offset, Offset(500));
    assert_eq!(reader.position(0), Some(Offset(501)));

    // What is there when the end is looked for has expired when it is to be read.
    expires.store(700, Ordering::SeqCst);
    let read = offsets(earliest()).await;
    assert!(read[&0].iter().copied().eq(700..RECORDS));
    let mut reader = earliest().until(Until::End).build().await.expect("one");
    starts.store(RECORDS + 300, Ordering::SeqCst);
    broker
        .conduct
        .records
        .store(RECORDS + 300, Ordering::SeqCst);
    assert!(next(&mut reader).await.is_none(), "all of it has expired");

    // An empty log has a place to begin at, too.
    let mut reader = earliest().build().await.expect("a reader");
    let nothing = timeout(Duration::from_millis(200), reader.next()).await;
    assert!(nothing.is_err());
    assert_eq!(reader.position(0), Some(Offset(RECORDS + 300)));
}

#[tokio::test]
async fn what_expires_once_reading_has_begun_is_an_error() {
    let broker = broker(1).await;
    let client = broker.client().await;
    let breaking = &broker.conduct.pushes_per_connection;
    breaking.store(3, Ordering::SeqCst);
    let reader = client.reader(TOPIC).from(Start::Earliest).build().await;
    let mut reader = reader.expect("a reader");
    for offset in 0..3 * BATCH_RECORDS {
        let message = next(&mut reader).await.expect("one").expect("readable");
        assert_eq!(message.offset, Offset(offset));
        broker.conduct.log_start.store(5_000, Ordering::SeqCst);
    }
    let error = next(&mut reader).await.expect("an item");
    let error = error.expect_err("a gap");
    let (start, end) = (Offset(5_000), Offset(RECORDS));
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange { start, end });
}

#[tokio::test]
async fn a_leader_that_does_not_answer_stops_its_own_partition_only() {
    let broker = FakeBroker::start_beside_a_frozen_one(3).await;
    broker.conduct.records.store(RECORDS, Ordering::SeqCst);
    let builder = Client::builder([broker.address.clone()]);
    let builder = builder.connect_timeout(Duration::from_millis(200));
    let builder = builder.request_timeout(Duration::from_millis(500));
    let client = builder.connect().await.expect("connects");
    let reader = client.reader(TOPIC).from(Start::Earliest).build().await;
    let mut reader = reader.expect("a reader");
    for _ in 0..2 * RECORDS {
        let message = next(&mut reader).await.expect("more").expect("readable");
        assert_ne!(message.partition, PartitionIndex(2));
    }
    let end = Offset(RECORDS);
    let reached = BTreeMap::from([(PartitionIndex(0), end), (PartitionIndex(1), end)]);
    assert_eq!(reader.positions(), reached, "of the third nothing is known");
    // To go on there is to begin with the first record of the third.
    let on = client.reader(TOPIC).from(Start::Offsets(reached));
    let on = on.build().await.expect("a reader");
    assert_eq!(on.position(2), None);

    // What is to begin or end with this moment cannot wait.
    for (start, until) in [
        (Start::Latest, Until::Forever),
        (Start::Time(7), Until::Forever),
        (Start::Earliest, Until::End),
    ] {
        let reader = client.reader(TOPIC).partitions([2]);
        let error = reader.from(start).until(until).build().await.err();
        let error = error.expect("this moment is not known");
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        let place = (error.topic(), error.partition());
        assert_eq!(place, (Some(TOPIC), Some(PartitionIndex(2))));
    }
}

#[tokio::test]
async fn when_all_partitions_failed_the_stream_ends_until_one_is_sought() {
    let broker = broker(1).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Offset(Offset(50_000)));
    let mut reader = reader.build().await.expect("a reader");
    next(&mut reader)
        .await
        .expect("an error")
        .expect_err("out of range");
    assert!(next(&mut reader).await.is_none());
    reader.seek(0, Offset(5)).expect("read");
    let message = next(&mut reader).await.expect("one").expect("readable");
    assert_eq!(message.offset, Offset(5));
}

#[tokio::test]
async fn a_seek_forgets_what_had_come_and_can_go_back() {
    let broker = broker(2).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest);
    let mut reader = reader.credit_bytes(60_000).build().await.expect("a reader");
    for target in [5_000, 17, 9_999, 0] {
        for _ in 0..250 {
            next(&mut reader).await.expect("more").expect("readable");
        }
        reader.seek(0, Offset(target)).expect("read");
        assert_eq!(reader.position(0), Some(Offset(target)));
        loop {
            let message = next(&mut reader).await.expect("more").expect("readable");
            if message.partition.0 == 0 {
                assert_eq!(message.offset, Offset(target));
                break;
            }
            if reader.lag()[&PartitionIndex(1)] == 0 {
                reader.seek(1, Offset(0)).expect("read");
            }
        }
    }
}

#[tokio::test]
async fn a_paused_partition_gives_nothing_and_loses_nothing() {
    let broker = broker(2).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest);
    let reader = reader.credit_bytes(100_000).until(Until::End);
    let mut reader = reader.build().await.expect("a reader");
    for _ in 0..150 {
        next(&mut reader).await.expect("more").expect("readable");
    }
    reader.pause([0]).expect("read");
    let paused_at = reader.position(0).expect("read").0;
    let mut other = reader.position(1).expect("read").0;
    while other < RECORDS {
        let message = next(&mut reader).await.expect("more").expect("readable");
        assert_eq!((message.partition.0, message.offset), (1, Offset(other)));
        other += 1;
    }
    let nothing = timeout(Duration::from_millis(200), reader.next()).await;
    assert!(nothing.is_err(), "the paused one is not at its end");
    assert_eq!(reader.position(0), Some(Offset(paused_at)));
    reader.resume([0]).expect("read");
    for offset in paused_at..RECORDS {
        let message = next(&mut reader).await.expect("more").expect("readable");
        assert_eq!((message.partition.0, message.offset), (0, Offset(offset)));
    }
    assert!(next(&mut reader).await.is_none());
}

#[tokio::test]
async fn what_came_while_a_partition_was_paused_does_not_go_past_what_cannot_be_read() {
    let broker = broker(1).await;
    let compressed = &broker.conduct.compressed;
    compressed
        .lock()
        .expect("offsets")
        .insert(2 * BATCH_RECORDS);
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest);
    let reader = reader.credit_bytes(100_000).expanded_bytes_max(1_000);
    let mut reader = reader.build().await.expect("a reader");
    next(&mut reader).await.expect("one").expect("readable");
    reader.pause([0]).expect("read");
    let nothing = timeout(Duration::from_millis(300), reader.next()).await;
    assert!(nothing.is_err(), "it is paused");
    assert!(reader.waiting_bytes() > 50_000, "several batches wait");
    reader.resume([0]).expect("read");
    for offset in 1..2 * BATCH_RECORDS {
        let message = next(&mut reader).await.expect("more").expect("readable");
        assert_eq!(message.offset, Offset(offset));
    }
    let error = next(&mut reader).await.expect("an item");
    let error = error.expect_err("too far").to_string();
    assert!(error.contains("offset 200 "), "{error}");
    assert_eq!(reader.position(0), Some(Offset(2 * BATCH_RECORDS)));
    assert!(next(&mut reader).await.is_none(), "it stands still");
    assert_eq!(reader.waiting_bytes(), 0);
    reader.seek(0, Offset(3 * BATCH_RECORDS)).expect("read");
    let message = next(&mut reader).await.expect("one").expect("readable");
    assert_eq!(message.offset, Offset(3 * BATCH_RECORDS));
}

#[tokio::test]
async fn dropping_a_future_of_the_next_record_loses_none() {
    let broker = broker(1).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest).until(Until::End);
    let mut reader = reader.credit_bytes(30_000).build().await.expect("a reader");
    let mut expected = 0;
    loop {
        // Sometimes the time is up before anything is at hand.
        let message = tokio::select! {
            biased;
            () = tokio::task::yield_now() => continue,
            message = reader.next_batch(10) => message,
        };
        let Some(messages) = message else {
            break;
        };
        for message in messages.expect("readable") {
            assert_eq!(message.offset, Offset(expected));
            expected += 1;
        }
    }
    assert_eq!(expected, RECORDS);
}

#[tokio::test]
async fn a_reader_is_a_stream() {
    let broker = broker(1).await;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Earliest).until(Until::End);
    let reader = reader.build().await.expect("a reader");
    let values = reader.map(|message| message.expect("readable").value);
    let count = timeout(PATIENCE, values.count()).await.expect("in time");
    assert_eq!(count as u64, RECORDS);
}

#[tokio::test]
async fn a_batch_that_expands_too_far_is_an_error_that_can_be_gone_past() {
    let broker = broker(1).await;
    *broker.conduct.codec.lock().expect("a codec") = Compression::Zstd;
    let client = broker.client().await;
    let reader = client.reader(TOPIC).from(Start::Offset(Offset(3)));
    let reader = reader.expanded_bytes_max(1_000).build().await;
    let mut reader = reader.expect("a reader");
    let error = next(&mut reader).await.expect("an item");
    let error = error.expect_err("too far");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("1000 bytes"), "{error}");
    assert_eq!(reader.position(0), Some(Offset(3)));
    *broker.conduct.codec.lock().expect("a codec") = Compression::None;
    reader.seek(0, Offset(BATCH_RECORDS)).expect("read");
    let message = next(&mut reader).await.expect("one").expect("readable");
    assert_eq!(message.offset, Offset(BATCH_RECORDS));
}
