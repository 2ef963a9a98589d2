//! Reading a topic: all there is, or as records come.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use baton_client::{Client, Message, Reader, Start, Until};
use baton_protocol::metadata::TopicRecord;

/// How long a reader may be without anything new.
const STANDSTILL: Duration = Duration::from_secs(30);

/// Records that are taken from a reader at a time.
const AT_ONCE: usize = 1_024;

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
    let begun = Instant::now();
    let reader = client.reader(&*topic.name).from(Start::Earliest);
    let mut reader = reader.until(Until::End).build().await?;
    let (mut records, mut bytes) = (0, 0);
    while let Some(messages) = next(&mut reader).await? {
        records += messages.len() as u64;
        bytes += value_bytes(&messages);
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

/// The next records of a reader, which are waited for a long time but not for ever. None at its end.
///
/// # Errors
/// If the reader fails, or nothing comes.
pub async fn next(reader: &mut Reader) -> anyhow::Result<Option<Vec<Message>>> {
    let messages = tokio::time::timeout(STANDSTILL, reader.next_batch(AT_ONCE)).await;
    let messages = messages.context("nothing comes from the reader")?;
    Ok(messages.transpose()?)
}

/// Bytes of the values of records.
pub fn value_bytes(messages: &[Message]) -> u64 {
    let values = messages.iter().filter_map(|message| message.value.as_ref());
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
