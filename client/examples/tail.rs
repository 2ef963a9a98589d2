//! Prints what comes to a topic, as `tail -f` does, until it is interrupted; with a number, that many
//! records from the topic's start.
//!
//! `cargo run -p baton-client --example tail -- <topic> [broker,...] [number]`

use anyhow::Context;
use baton_client::{Client, Start};
use futures::{StreamExt, TryStreamExt};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let topic = args.next().context("tail <topic> [broker,...] [number]")?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let number: Option<usize> = args.next().map(|number| number.parse()).transpose()?;

    let client = Client::builder(brokers.split(',')).connect().await?;
    let start = match number {
        Some(_) => Start::Earliest,
        None => Start::Latest,
    };
    let reader = client.reader(topic).from(start).build().await?;
    let mut messages = reader.take(number.unwrap_or(usize::MAX));
    while let Some(message) = messages.try_next().await? {
        let value = message.value.unwrap_or_default();
        let value = String::from_utf8_lossy(&value);
        println!("{}/{}\t{value}", message.partition, message.offset);
    }
    Ok(())
}
