//! One record after the other.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Other things may be done once in so many records.
const YIELD_ONE_IN: u64 = 256;

/// What came of it.
pub struct OneByOne {
    /// From each record's sending to its acknowledgement, in nanoseconds.
    pub nanos: Histogram<u64>,
    /// From the first to the last of them.
    pub seconds: f64,
}

/// Has a record sent and acknowledged again and again.
///
/// # Errors
/// If one is not acknowledged.
pub async fn one_by_one(
    duration: Duration,
    mut send: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<OneByOne> {
    let mut nanos = Histogram::new(3)?;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let sent = Instant::now();
        send().await?;
        nanos.record(sent.elapsed().as_nanos() as u64)?;
        if nanos.len().is_multiple_of(YIELD_ONE_IN) {
            tokio::task::yield_now().await;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(OneByOne { nanos, seconds })
}
