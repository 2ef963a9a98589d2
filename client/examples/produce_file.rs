//! Sends a file to a topic, a record a line, and says where the last one is.
//!
//! `cargo run -p baton-client --example produce_file -- <file> <topic> [broker,...]`

use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::Context;
use baton_client::{Client, Compression, Record};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "produce_file <file> <topic> [broker,...]";
    let (path, topic) = args.next().zip(args.next()).context(usage)?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());

    let client = Client::builder(brokers.split(',')).connect().await?;
    let producer = client.producer().compression(Compression::Lz4);
    let producer = producer.build().await?;
    let file = File::open(&path).with_context(|| path.clone())?;
    let (mut sent, mut last) = (0u64, None);
    for line in BufReader::new(file).lines() {
        // Waits only where more is on its way than `max_in_flight_bytes`. The acknowledgement may be
        // dropped: `close` tells if any record was not delivered.
        let record = Record::to(&*topic)
            .value(line?)
            .header("file", path.clone());
        last = Some(producer.send(record).await?);
        sent += 1;
    }
    producer.close().await?;
    match last {
        Some(ack) => {
            let at = ack.await?;
            let offset = at.offset.context("a committed record has an offset")?;
            println!(
                "{sent} records, the last in partition {} at offset {offset}",
                at.partition
            );
        }
        None => println!("0 records"),
    }
    Ok(())
}
