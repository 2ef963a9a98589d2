//! As many records as go: the next is sent as soon as there is room in the producer's buffer.

use std::time::Instant;

use bytes::Bytes;

use super::{Outcome, Recorder, Samples, Sink, Until, collect};

/// About one acknowledgement in so many bytes is timed; timing each would measure the timing.
const TIMED_ONE_IN_BYTES: usize = 32 << 10;

/// The end is looked for once in so many records.
const LOOK_ONE_IN: u64 = 256;

/// Sends records of `size` bytes until it is over, and waits until all are acknowledged.
///
/// # Errors
/// If a record is not acknowledged.
pub async fn as_fast_as_it_goes(
    producer: &impl Sink,
    size: usize,
    until: &Until,
) -> anyhow::Result<Outcome> {
    let one_in = (TIMED_ONE_IN_BYTES / size.max(1)).max(1) as u64;
    let value = Bytes::from(vec![b'x'; size]);
    let (recorder, told) = Recorder::new();
    let collecting = tokio::spawn(collect(told));
    let begun = Instant::now();
    let mut sent = 0u64;
    while !sent.is_multiple_of(LOOK_ONE_IN) || !until.is_over(begun, sent) {
        let timed = sent.is_multiple_of(one_in).then(Instant::now);
        let ack = producer.send(value.clone()).await?;
        if let Some(intended) = timed {
            recorder.watch(ack, intended);
        }
        sent += 1;
    }
    producer.flush().await?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(recorder);
    let list = collecting.await??;
    Ok(Outcome {
        records: sent,
        bytes: sent * size as u64,
        seconds,
        samples: Samples::new(begun, one_in, list),
    })
}
