//! A group of workers: each takes a part of a topic's partitions, and what one of them leaves, others
//! go on with. Start it several times, stop some, and see the partitions move.
//!
//! A record is done when the worker asks for the next one, and only what is done is committed: each is
//! worked on at least once, whatever happens to the workers.
//!
//! `cargo run -p baton-client --example worker_group -- <topic> <group> [broker,...] [workers] [records]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use baton_client::{Client, Consumer, Event, Message};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let usage = "worker_group <topic> <group> [broker,...] [workers] [records]";
    let (topic, group) = args.next().zip(args.next()).context(usage)?;
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let workers: u32 = args.next().map_or(Ok(3), |workers| workers.parse())?;
    let records: u64 = args
        .next()
        .map_or(Ok(u64::MAX), |records| records.parse())?;

    let client = Client::builder(brokers.split(',')).connect().await?;
    let done = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    for number in 0..workers {
        let consumer = client.consumer(&group).subscribe([&topic]).build().await?;
        running.spawn(work(number, consumer, done.clone(), stopped.clone()));
    }
    let enough = async {
        while done.load(Ordering::Relaxed) < records {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = enough => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.send(true)?;
    while let Some(worker) = running.join_next().await {
        worker??;
    }
    println!("{} records done", done.load(Ordering::Relaxed));
    Ok(())
}

async fn work(
    number: u32,
    mut consumer: Consumer,
    done: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let item = tokio::select! {
            item = consumer.next() => item.context("it is open until it is closed")?,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match item {
            Ok(Event::Record(message)) => {
                handle(&message);
                done.fetch_add(1, Ordering::Relaxed);
            }
            // What was worked on before is being committed already.
            Ok(change) => println!("worker {number}: {change:?}"),
            Err(error) if error.is_retriable() => eprintln!("worker {number}: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    // Commits, and lets the others go on at once.
    Ok(consumer.close().await?)
}

/// The work.
fn handle(message: &Message) {
    std::hint::black_box(message);
}
