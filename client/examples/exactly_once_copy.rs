//! Copies a topic's partition into a file, each record once, whatever happens to this process.
//!
//! The offset is stored with the result, by one and the same write: each line of the file begins with
//! the offset of its record. A start cuts off a line that was not written to its end, and goes on
//! after the last whole one. Nothing else is remembered, so nothing can disagree.
//!
//! `cargo run -p baton-client --example exactly_once_copy -- <topic> <partition> <file> [broker,...]`

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};

use anyhow::Context;
use baton_client::{Client, Message, Offset, Start, Until};

/// Records that are written, and made durable, together.
const AT_ONCE: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "exactly_once_copy <topic> <partition> <file> [broker,...]";
    let (topic, partition) = args.next().zip(args.next()).context(usage)?;
    let path = args.next().context(usage)?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let partition: u32 = partition.parse()?;

    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    let begin = go_on_after(&mut file)?;
    let client = Client::builder(brokers.split(',')).connect().await?;
    let reader = client.reader(topic).partitions([partition]);
    let reader = match begin {
        Some(offset) => reader.from(Start::Offset(offset)),
        None => reader.from(Start::Earliest),
    };
    // A copy that goes on for ever leaves `until` out.
    let mut reader = reader.until(Until::End).build().await?;
    let mut copied = 0;
    while let Some(messages) = reader.next_batch(AT_ONCE).await {
        let messages = messages?;
        write(&mut file, &messages)?;
        copied += messages.len();
    }
    println!("{copied} records copied");
    Ok(())
}

/// Cuts off what is not whole, and says where to go on. None in an empty file.
fn go_on_after(file: &mut File) -> anyhow::Result<Option<Offset>> {
    let mut next = None;
    let mut whole = 0;
    let mut reader = BufReader::new(&*file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        let text = String::from_utf8_lossy(&line);
        let (offset, _) = text
            .split_once('\t')
            .context("not a file of this program")?;
        next = Some(offset.parse::<Offset>()?.plus(1));
        whole += line.len() as u64;
        line.clear();
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    Ok(next)
}

fn write(file: &mut File, messages: &[Message]) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for message in messages {
        let value = message.value.as_deref().unwrap_or_default();
        write!(lines, "{}\t", message.offset)?;
        // A line feed would end the line.
        lines.extend(value.escape_ascii());
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    Ok(file.sync_data()?)
}
