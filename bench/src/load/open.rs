//! Records at a rate of their own: each has an intended time, and its latency counts from there. A
//! cluster that stands still does not make the load stand still, so the records that were due in the
//! meantime are counted as late as their senders would have found them (no coordinated omission).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::{Outcome, Recorder, Samples, Sink, Until, collect};

/// Acknowledgements that are timed in a second; of a higher rate only some are.
const TIMED_PER_SECOND: f64 = 10_000.0;

/// Bytes at the front of a value that tell when it was meant to be sent.
const STAMP_BYTES: usize = 8;

/// What is sent.
#[derive(Clone, Debug)]
pub struct OpenLoad {
    /// Records a second.
    pub rate: f64,
    /// Bytes of a record's value.
    pub size: usize,
    /// When it ends.
    pub until: Until,
    /// Have each value begin with the nanoseconds from this moment to its intended time.
    pub stamped_from: Option<Instant>,
}

impl OpenLoad {
    fn value(&self, plain: &Bytes, intended: Instant) -> Bytes {
        let Some(epoch) = self.stamped_from else {
            return plain.clone();
        };
        let nanos = intended.duration_since(epoch).as_nanos() as u64;
        let mut value = BytesMut::from(&plain[..]);
        value.resize(self.size.max(STAMP_BYTES), b'x');
        value[..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
        value.freeze()
    }
}

/// The intended time that a stamped value tells.
pub fn stamp_of(value: &[u8], epoch: Instant) -> Option<Instant> {
    let nanos = u64::from_be_bytes(value.get(..STAMP_BYTES)?.try_into().ok()?);
    Some(epoch + Duration::from_nanos(nanos))
}

/// Sends at a rate until it is over, and waits until all are acknowledged.
///
/// # Errors
/// If a record is not acknowledged.
pub async fn at_a_rate(producer: impl Sink + Clone, load: OpenLoad) -> anyhow::Result<Outcome> {
    let (recorder, told) = Recorder::new();
    let collecting = tokio::spawn(collect(told));
    let (size, pace) = (load.size, producer.clone());
    let runtime = Handle::current();
    // On a thread of its own: timers of the runtime are too coarse.
    let sending = tokio::task::spawn_blocking(move || send(&runtime, &pace, &load, &recorder));
    let (begun, sent, one_in) = sending.await??;
    producer.flush().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let list = collecting.await??;
    Ok(Outcome {
        records: sent,
        bytes: sent * size as u64,
        seconds,
        samples: Samples::new(begun, one_in, list),
    })
}

fn send(
    runtime: &Handle,
    producer: &impl Sink,
    load: &OpenLoad,
    recorder: &Recorder,
) -> anyhow::Result<(Instant, u64, u64)> {
    let one_in = (load.rate / TIMED_PER_SECOND).ceil().max(1.0) as u64;
    let plain = Bytes::from(vec![b'x'; load.size]);
    let begun = Instant::now();
    let mut sent = 0u64;
    loop {
        let intended = begun + Duration::from_secs_f64(sent as f64 / load.rate);
        let ahead = intended.saturating_duration_since(Instant::now());
        if !ahead.is_zero() {
            std::thread::sleep(ahead);
        }
        if load.until.is_over(begun, sent) {
            return Ok((begun, sent, one_in));
        }
        let value = load.value(&plain, intended);
        let ack = runtime.block_on(producer.send(value))?;
        if sent.is_multiple_of(one_in) {
            recorder.watch(ack, intended);
        }
        sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_as_it_was_given() {
        let epoch = Instant::now();
        let load = OpenLoad {
            rate: 1.0,
            size: 100,
            until: Until::Records(1),
            stamped_from: Some(epoch),
        };
        let intended = epoch + Duration::from_nanos(123_456_789);
        let value = load.value(&Bytes::from(vec![b'x'; 100]), intended);
        assert_eq!(value.len(), 100);
        assert_eq!(stamp_of(&value, epoch), Some(intended));
        assert_eq!(stamp_of(b"short", epoch), None);
    }
}
