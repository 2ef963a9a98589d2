use std::time::Duration;

use baton_protocol::batch::{BatchBuilder, EntryIter, LeaderStamp};
use baton_protocol::ids::{LeaderEpoch, PartitionIndex, TopicId};
use baton_storage::{Log, LogIdentity};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::config::Config;

const IDENTITY: LogIdentity = LogIdentity {
    topic: TopicId(Uuid::from_u128(9)),
    partition: PartitionIndex(0),
};

/// The offsets of the next message's entries; none if there is none for a while.
async fn next(messages: &mut mpsc::UnboundedReceiver<Outgoing>) -> Option<Vec<u64>> {
    let wait = Duration::from_millis(200);
    let message = timeout(wait, messages.recv()).await.ok()??;
    let entries = EntryIter::new(message.payload());
    let bases = entries.map(|entry| entry.expect("an entry").header.base_offset().0);
    Some(bases.collect())
}

/// Pushes a log from its start.
fn pusher(
    log: &Log,
    watermark: watch::Receiver<Offset>,
    credit: Arc<Semaphore>,
    out: UnboundedSender<Outgoing>,
) -> Pusher {
    Pusher {
        subscription: 1,
        position: Offset(0),
        reader: log.reader(),
        cold_reads: ColdReads::default(),
        watermark,
        credit,
        out,
    }
}

#[tokio::test]
async fn nobody_is_pushed_what_lies_beyond_the_watermark_or_beyond_his_credit() {
    let dir = tempfile::tempdir().expect("a directory");
    let opened = Log::open(dir.path(), IDENTITY, Config::default().log.storage());
    let (mut log, _) = opened.expect("opens");
    for offset in 0..6 {
        let mut builder = BatchBuilder::with_capacity(64);
        builder.push(1, None, Some(b"value"), &[]);
        let batch = builder.build(None).to_vec();
        log.reserve(2 * batch.len()).expect("there is room");
        let stored = log.append_batch(&batch, &LeaderStamp::new(Offset(offset), LeaderEpoch(1)));
        stored.expect("stored");
    }
    let (to, watermark) = watch::channel(Offset(2));
    let (out, mut messages) = mpsc::unbounded_channel();
    let credit = Arc::new(Semaphore::new(1_000));
    tokio::spawn(pusher(&log, watermark, credit.clone(), out).run());
    assert_eq!(next(&mut messages).await, Some(vec![0, 1]));
    assert_eq!(next(&mut messages).await, None, "the rest is not committed");
    to.send_replace(Offset(3));
    assert_eq!(next(&mut messages).await, Some(vec![2]));
    let left = credit.available_permits();
    credit.forget_permits(left);
    to.send_replace(Offset(6));
    assert_eq!(next(&mut messages).await, None, "there is no credit left");
    credit.add_permits(1_000);
    assert_eq!(next(&mut messages).await, Some(vec![3, 4, 5]));
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let first = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(first.expect("a number"))
}

#[test]
fn what_is_committed_and_cannot_be_read_is_waited_for_and_not_spun_on() {
    const A_WHILE: Duration = Duration::from_millis(500);
    let dir = tempfile::tempdir().expect("a directory");
    let opened = Log::open(dir.path(), IDENTITY, Config::default().log.storage());
    let (log, _) = opened.expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let before = processor_time();
    runtime.block_on(async {
        // The log has nothing up to there.
        let (_to, watermark) = watch::channel(Offset(50));
        let (out, _messages) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(1_000));
        tokio::spawn(pusher(&log, watermark, credit, out).run());
        tokio::time::sleep(A_WHILE).await;
    });
    let busy = processor_time() - before;
    assert!(busy < A_WHILE / 4, "{busy:?}");
}
