//! `baton consume`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::bail;
use baton_client::{Chunk, Client, ConsumedRecord, ReaderConfig, Start};
use baton_protocol::ids::{Offset, PartitionIndex};
use baton_protocol::metadata::TopicRecord;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::output::unwritten;
use crate::cli::{Global, block_on, bootstrap, bytes};

/// Flags of `baton consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topic.
    topic: String,
    /// Begin with the first record there is. Without this or --offset: with the next one that comes.
    #[arg(long, conflicts_with = "offset")]
    from_start: bool,
    /// Begin with this offset, in every partition that is read.
    #[arg(long)]
    offset: Option<u64>,
    /// Read only this partition.
    #[arg(long)]
    partition: Option<u32>,
    /// End after this many records.
    #[arg(long)]
    count: Option<u64>,
    /// End with what is committed now.
    #[arg(long, conflicts_with = "follow")]
    until_end: bool,
    /// Go on for ever; so it is without --until-end or --count.
    #[arg(long)]
    follow: bool,
    /// Print keys too, and this between key and value.
    #[arg(long)]
    key_separator: Option<String>,
    /// Print partition and offset before each record.
    #[arg(long)]
    show_offsets: bool,
}

/// Prints records.
pub fn run(args: &ConsumeArgs, global: &Global) -> anyhow::Result<()> {
    block_on(async {
        let client = bootstrap::connect(global).await?;
        let topic = client.topic(&args.topic).await?;
        let partitions = partitions(args, &topic)?;
        if args.count == Some(0) {
            return Ok(());
        }
        let ends = match args.until_end {
            true => Some(ends(&client, &topic, &partitions).await?),
            false => None,
        };
        let start = match args.offset {
            Some(offset) => Start::Offset(Offset(offset)),
            None if args.from_start => Start::Earliest,
            None => Start::Latest,
        };
        let config = ReaderConfig {
            partitions: Some(partitions),
            start,
            ..ReaderConfig::default()
        };
        let printer = Printer {
            out: BufWriter::with_capacity(1 << 16, std::io::stdout()),
            args,
            as_json: global.json,
            left: args.count.unwrap_or(u64::MAX),
        };
        read(&client, config, ends, printer).await
    })
}

fn partitions(args: &ConsumeArgs, topic: &TopicRecord) -> anyhow::Result<Vec<PartitionIndex>> {
    let count = topic.partitions.len() as u32;
    match args.partition {
        Some(partition) if partition >= count => {
            bail!(
                "topic {} has no partition {partition}; it has {count}, numbered from 0",
                topic.name
            )
        }
        Some(partition) => Ok(vec![PartitionIndex(partition)]),
        None => Ok((0..count).map(PartitionIndex).collect()),
    }
}

/// Where each partition ends now: its watermark, from a leader that knows it.
async fn ends(
    client: &Client,
    topic: &TopicRecord,
    partitions: &[PartitionIndex],
) -> anyhow::Result<BTreeMap<PartitionIndex, Offset>> {
    let mut ends = BTreeMap::new();
    for partition in partitions {
        let status = client.partition_status(topic, *partition, true).await?;
        ends.insert(*partition, status.high_watermark);
    }
    Ok(ends)
}

async fn read(
    client: &Client,
    config: ReaderConfig,
    mut ends: Option<BTreeMap<PartitionIndex, Offset>>,
    mut printer: Printer<'_>,
) -> anyhow::Result<()> {
    // A partition that is empty, or read from its end on, sends nothing that would end it.
    if let (Some(ends), Start::Offset(offset)) = (&mut ends, &config.start) {
        if let Some((partition, end)) = ends.iter().find(|(_, end)| *offset > **end) {
            bail!(
                "there is no offset {offset} in partition {partition}: what is committed ends at {end}"
            );
        }
        ends.retain(|_, end| *end > *offset);
    }
    if let Some(ends) = &mut ends {
        ends.retain(|_, end| *end > Offset::ZERO);
        if ends.is_empty() || config.start == Start::Latest {
            return Ok(());
        }
    }
    let name = printer.args.topic.clone();
    let mut reader = client.reader(&name, config).await?;
    while let Some(chunk) = reader.next().await {
        let chunk = chunk?;
        let limit = ends
            .as_ref()
            .map(|ends| ends.get(&chunk.partition).copied().unwrap_or(Offset::ZERO));
        printer.print(&chunk, limit)?;
        if let (Some(ends), Some(limit)) = (&mut ends, limit)
            && chunk.next >= limit
        {
            ends.remove(&chunk.partition);
        }
        if printer.left == 0 || ends.as_ref().is_some_and(BTreeMap::is_empty) {
            break;
        }
    }
    printer.out.flush().map_err(unwritten)
}

struct Printer<'a> {
    out: BufWriter<std::io::Stdout>,
    args: &'a ConsumeArgs,
    as_json: bool,
    left: u64,
}

impl Printer<'_> {
    fn print(&mut self, chunk: &Chunk, limit: Option<Offset>) -> anyhow::Result<()> {
        for record in &chunk.records {
            if self.left == 0 || limit.is_some_and(|limit| record.offset >= limit) {
                break;
            }
            self.left -= 1;
            self.print_record(record)?;
        }
        if !self.args.until_end {
            self.out.flush()?;
        }
        Ok(())
    }

    fn print_record(&mut self, record: &ConsumedRecord) -> anyhow::Result<()> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if self.as_json {
            let mut object = Map::new();
            for (name, field) in [
                ("partition", json!(record.partition)),
                ("offset", json!(record.offset)),
                ("epoch", json!(record.epoch)),
                ("timestamp_ms", json!(record.timestamp_ms)),
            ] {
                object.insert(name.to_owned(), field);
            }
            bytes::insert(&mut object, "key", key);
            bytes::insert(&mut object, "value", value);
            writeln!(self.out, "{}", Value::from(object))?;
            return Ok(());
        }
        if self.args.show_offsets {
            write!(self.out, "{}\t{}\t", record.partition, record.offset)?;
        }
        if let Some(separator) = &self.args.key_separator {
            self.out.write_all(key.unwrap_or_default())?;
            self.out.write_all(separator.as_bytes())?;
        }
        self.out.write_all(value.unwrap_or_default())?;
        self.out.write_all(b"\n")?;
        Ok(())
    }
}
