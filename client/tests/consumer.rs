//! Consumers against a broker whose log, offsets and failures the test chooses.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_client::{
    AutoCommit, Consumer, ConsumerBuilder, ErrorKind, Event, Message, Offset, OutOfRange,
};
use support::{BATCH_RECORDS, FakeBroker, PATIENCE, TOPIC, entry};
use tokio::time::timeout;

const RECORDS: u64 = 10_000;

async fn broker(partitions: u32) -> FakeBroker {
    let broker = FakeBroker::start(partitions).await;
    broker.conduct.records.store(RECORDS, Ordering::SeqCst);
    broker
}

async fn settings(broker: &FakeBroker) -> ConsumerBuilder {
    broker.client().await.consumer("g").subscribe([TOPIC])
}

/// A consumer that was told what it has.
async fn begin(builder: ConsumerBuilder) -> Consumer {
    let mut consumer = builder.build().await.expect("a consumer");
    let first = timeout(PATIENCE, consumer.next()).await.expect("in time");
    assert!(matches!(first, Some(Ok(Event::Assigned(_)))), "{first:?}");
    consumer
}

async fn next(consumer: &mut Consumer) -> baton_client::Result<Message> {
    let next = timeout(PATIENCE, consumer.next_record()).await;
    next.expect("in time").expect("open")
}

fn committed(broker: &FakeBroker, partition: u32) -> Option<u64> {
    let committed = broker.conduct.committed.lock().expect("offsets");
    committed.get(&partition).copied()
}

/// Asks for the next item in vain, for a while.
async fn ask_in_vain(consumer: &mut Consumer) {
    let item = timeout(Duration::from_millis(200), consumer.next()).await;
    assert!(item.is_err(), "{item:?}");
}

fn commit_at(broker: &FakeBroker, offset: u64) {
    let mut committed = broker.conduct.committed.lock().expect("offsets");
    committed.insert(0, offset);
}

#[tokio::test]
async fn a_record_is_done_when_the_next_item_is_asked_for() {
    let broker = broker(1).await;
    let builder = settings(&broker).await.auto_commit(AutoCommit::EachAsk);
    let mut consumer = begin(builder).await;
    let mut last = next(&mut consumer).await.expect("one").offset;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(committed(&broker, 0), None, "it may be in the midst of it");
    while committed(&broker, 0).is_none() {
        last = next(&mut consumer).await.expect("one").offset;
        tokio::task::yield_now().await;
    }
    assert!(
        committed(&broker, 0).expect("committed") <= last.0,
        "the last one is not done"
    );
    // A commit takes what was given out, the last one too; a consumer that is dropped commits nothing.
    consumer.commit().await.expect("committed");
    assert_eq!(committed(&broker, 0), Some(last.0 + 1));
    next(&mut consumer).await.expect("one");
    drop(consumer);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(committed(&broker, 0), Some(last.0 + 1));
}

#[tokio::test]
async fn who_goes_back_while_a_commit_is_under_way_commits_there_next() {
    let broker = broker(1).await;
    let builder = settings(&broker).await.auto_commit(AutoCommit::EachAsk);
    let mut consumer = begin(builder).await;
    for _ in 0..150 {
        next(&mut consumer).await.expect("one");
        tokio::task::yield_now().await;
    }
    // This asks for a commit, which nobody has had time to answer.
    tokio::time::sleep(Duration::from_millis(300)).await;
    next(&mut consumer).await.expect("one");
    next(&mut consumer).await.expect("one");
    consumer.seek((TOPIC, 0), Offset(50)).expect("its own");
    consumer.commit().await.expect("committed");
    assert_eq!(committed(&broker, 0), Some(50));
    assert_eq!(next(&mut consumer).await.expect("one").offset, Offset(50));
}

#[tokio::test]
async fn commits_by_interval_go_on_while_nothing_comes() {
    let broker = broker(2).await;
    let every = AutoCommit::Every(Duration::from_millis(50));
    let mut consumer = begin(settings(&broker).await.auto_commit(every)).await;
    for _ in 0..2 * RECORDS {
        next(&mut consumer).await.expect("one");
    }
    let wait = async {
        while [committed(&broker, 0), committed(&broker, 1)] != [Some(RECORDS); 2] {
            ask_in_vain(&mut consumer).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("committed");
    consumer.close().await.expect("closed");
}

#[tokio::test]
async fn what_lies_below_the_log_goes_by_the_policy() {
    let broker = broker(1).await;
    broker.conduct.log_start.store(500, Ordering::SeqCst);
    commit_at(&broker, 100);
    let off = settings(&broker).await.auto_commit(AutoCommit::Off);
    let mut consumer = begin(off.clone()).await;
    let error = next(&mut consumer).await.expect_err("deleted");
    let (start, end) = (Offset(500), Offset(RECORDS));
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange { start, end });
    ask_in_vain(&mut consumer).await;
    consumer.seek((TOPIC, 0), start).expect("its own");
    assert_eq!(next(&mut consumer).await.expect("one").offset, start);

    let mut consumer = begin(off.clone().out_of_range(OutOfRange::Earliest)).await;
    assert_eq!(next(&mut consumer).await.expect("one").offset, start);

    let mut consumer = begin(off.out_of_range(OutOfRange::Latest)).await;
    ask_in_vain(&mut consumer).await;
    assert_eq!(consumer.position((TOPIC, 0)), Some(end));
    assert_eq!(
        committed(&broker, 0),
        Some(100),
        "nothing was committed by it"
    );
}

#[tokio::test]
async fn an_offset_that_there_is_not_cannot_be_committed() {
    let broker = broker(2).await;
    let mut consumer = begin(settings(&broker).await.auto_commit(AutoCommit::Off)).await;
    next(&mut consumer).await.expect("one");
    let beyond = [((TOPIC, 0), Offset(5)), ((TOPIC, 1), Offset(RECORDS + 1))];
    let error = consumer.commit_offsets(beyond).await.expect_err("refused");
    let (start, end) = (Offset(0), Offset(RECORDS));
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange { start, end });
    assert_eq!(
        (error.topic(), error.partition()),
        (Some(TOPIC), Some(1.into()))
    );
    assert_eq!(committed(&broker, 0), None, "nor what came with it");
    // What has come meanwhile may be skipped.
    broker
        .conduct
        .records
        .store(RECORDS + 700, Ordering::SeqCst);
    let ahead = [((TOPIC, 1), Offset(RECORDS + 700))];
    consumer.commit_offsets(ahead).await.expect("committed");
    assert_eq!(committed(&broker, 1), Some(RECORDS + 700));

    let elsewhere = [((TOPIC, 7), Offset(1))];
    let error = consumer.commit_offsets(elsewhere).await;
    let error = error.expect_err("not its own");
    assert_eq!(error.kind(), ErrorKind::UnknownPartition);
    assert_eq!(
        (error.topic(), error.partition()),
        (Some(TOPIC), Some(7.into()))
    );
}

#[tokio::test]
async fn what_expires_before_anything_was_consumed_is_not_missed() {
    let broker = broker(1).await;
    broker.conduct.expires_then.store(700, Ordering::SeqCst);
    let mut consumer = begin(settings(&broker).await).await;
    let first = next(&mut consumer).await.expect("no error");
    assert_eq!(first.offset, Offset(700));
}

#[tokio::test]
async fn what_lies_beyond_the_log_is_an_error_whatever_the_policy() {
    for policy in [OutOfRange::Error, OutOfRange::Earliest, OutOfRange::Latest] {
        let broker = broker(1).await;
        commit_at(&broker, RECORDS + 7);
        let builder = settings(&broker).await.out_of_range(policy);
        let mut consumer = begin(builder.auto_commit(AutoCommit::EachAsk)).await;
        let error = next(&mut consumer).await.expect_err("beyond the end");
        assert!(
            matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }),
            "{error}"
        );
        ask_in_vain(&mut consumer).await;
        assert_eq!(consumer.position((TOPIC, 0)), Some(Offset(RECORDS + 7)));
        consumer.close().await.expect("closed");
        assert_eq!(committed(&broker, 0), Some(RECORDS + 7), "{policy:?}");
    }
}

#[tokio::test]
async fn a_consumer_that_stands_still_is_sent_no_more_than_its_credit() {
    let broker = broker(3).await;
    let credit = 60_000;
    let mut consumer = begin(settings(&broker).await.credit_bytes(credit)).await;
    next(&mut consumer).await.expect("one");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let message = entry(0, Default::default()).len() as u64;
    // What the one record came with may be taken already.
    let pushed = broker.conduct.pushed_bytes.load(Ordering::SeqCst);
    assert!(
        pushed <= credit + 4 * message,
        "{pushed} bytes of {credit}, messages of {message}"
    );
}

#[tokio::test]
async fn dropping_a_future_of_the_next_item_loses_none() {
    let broker = broker(1).await;
    broker
        .conduct
        .pushes_per_connection
        .store(9, Ordering::SeqCst);
    let mut consumer = begin(settings(&broker).await.credit_bytes(50_000)).await;
    let mut offsets = Vec::new();
    while offsets.len() < RECORDS as usize {
        let nap = Duration::from_micros(1_000 + offsets.len() as u64 % 700);
        tokio::select! {
            biased;
            () = tokio::time::sleep(nap), if offsets.len() % 3 == 0 => {}
            batch = consumer.next_batch(BATCH_RECORDS as usize / 3) => {
                let batch = batch.expect("open").expect("readable");
                offsets.extend(batch.iter().map(|message| message.offset.0));
            }
        }
    }
    assert!(
        offsets.iter().copied().eq(0..RECORDS),
        "each once, in order"
    );
}
