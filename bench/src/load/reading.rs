//! Reading a topic: all there is, or as records come.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use baton_client::{Chunk, Client, Reader, ReaderConfig};
use baton_protocol::ids::PartitionIndex;
use baton_protocol::metadata::TopicRecord;

/// How long a reader may be without anything new.
const STANDSTILL: Duration = Duration::from_secs(30);

/// What was read.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// For how long.
    pub seconds: f64,
}

impl Read {
    /// Megabytes a second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }
}

/// Reads a topic from its start to where it ends now; at most so many megabytes a second, if that is
/// said.
///
/// # Errors
/// If the reader fails, or nothing comes.
pub async fn all_there_is(
    client: &Client,
    topic: &TopicRecord,
    mb_per_s_max: Option<f64>,
) -> anyhow::Result<Read> {
    let mut ends = Vec::new();
    for index in 0..topic.partitions.len() as u32 {
        let status = client
            .partition_status(topic, PartitionIndex(index), true)
            .await?;
        ends.push(status.high_watermark);
    }
    let begun = Instant::now();
    let mut reader = client.reader(&topic.name, ReaderConfig::default()).await?;
    let (mut records, mut bytes) = (0, 0);
    let mut open = ends.iter().filter(|end| end.0 > 0).count();
    while open > 0 {
        let chunk = next(&mut reader).await?;
        records += chunk.records.len() as u64;
        bytes += value_bytes(&chunk);
        let end = ends[chunk.partition.0 as usize];
        // The chunk that reaches the end is the only one that begins below it and does not end so.
        let first = chunk.records.first().map(|record| record.offset);
        if chunk.next >= end && first.is_none_or(|first| first < end) {
            open -= 1;
        }
        if let Some(limit) = mb_per_s_max {
            let due = Duration::from_secs_f64(bytes as f64 / 1e6 / limit);
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
    }
    Ok(Read {
        records,
        bytes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The next records of a reader, which are waited for a long time but not for ever.
///
/// # Errors
/// If the reader fails, or nothing comes.
pub async fn next(reader: &mut Reader) -> anyhow::Result<Chunk> {
    let chunk = tokio::time::timeout(STANDSTILL, reader.next()).await;
    let chunk = chunk.context("nothing comes from the reader")?;
    Ok(chunk.context("the reader ended")??)
}

/// Bytes of the values of a chunk.
pub fn value_bytes(chunk: &Chunk) -> u64 {
    let values = chunk.records.iter().filter_map(|r| r.value.as_ref());
    values.map(|value| value.len() as u64).sum()
}

/// Checks that a topic was read in full.
///
/// # Errors
/// If records are missing, or there are more than were written.
pub fn check_all(read: &Read, written: u64) -> anyhow::Result<()> {
    ensure!(
        read.records == written,
        "{written} records were written and {} read",
        read.records
    );
    Ok(())
}
