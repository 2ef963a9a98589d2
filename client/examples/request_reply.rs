//! Requests and replies over two topics: a server that answers in capitals, and a client that finds
//! the replies to its requests by a header.
//!
//! `cargo run -p baton-client --example request_reply -- [broker,...] [requests]`

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use baton_client::{Client, ErrorKind, Message, Producer, Reader, Record, TopicSettings};
use tokio::time::timeout;

const REQUESTS: &str = "example-requests";
const REPLIES: &str = "example-replies";

/// The header that a reply takes over from its request.
const ID: &str = "id";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(std::env::args().skip(1)).await
}

/// The example; the tests run it, too.
pub async fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let count: u32 = args.next().map_or(Ok(10), |count| count.parse())?;
    let client = Client::builder(brokers.split(',')).connect().await?;
    for topic in [REQUESTS, REPLIES] {
        make_topic(&client, topic).await?;
    }
    // Records leave at once: here it is not throughput that counts.
    let producer = client.producer().linger(Duration::ZERO).build().await?;
    // Both read what comes from now on, so they begin before anything is sent.
    let requests = client.reader(REQUESTS).build().await?;
    let replies = client.reader(REPLIES).build().await?;
    let server = tokio::spawn(serve(requests, producer.clone()));
    let asked = ask(&producer, replies, count);
    let result = timeout(Duration::from_secs(60), asked).await;
    server.abort();
    result.context("a reply is missing")?
}

async fn make_topic(client: &Client, topic: &str) -> anyhow::Result<()> {
    let admin = client.admin();
    match admin.create_topic(topic, TopicSettings::default()).await {
        Err(error) if client.topic(topic).await.is_err() => Err(error.into()),
        // It is there, whoever made it.
        _ => Ok(()),
    }
}

/// Answers each request, for as long as it is let.
async fn serve(mut requests: Reader, producer: Producer) -> baton_client::Result<()> {
    while let Some(request) = requests.next().await {
        let request = request?;
        let Some(id) = request.headers.get(ID) else {
            continue;
        };
        let value = request.value.unwrap_or_default().to_ascii_uppercase();
        let reply = Record::to(REPLIES).header(ID, id).value(value);
        // Not waited for: the next request may be answered meanwhile.
        drop(producer.send(reply).await?);
    }
    Ok(())
}

async fn ask(producer: &Producer, mut replies: Reader, count: u32) -> anyhow::Result<()> {
    // Others may ask, too, and these may be old: the process tells whose a request is.
    let me = std::process::id();
    let mut open: HashMap<String, String> = HashMap::new();
    for number in 0..count {
        let (id, question) = (format!("{me}-{number}"), format!("question {number}"));
        let request = Record::to(REQUESTS).header(ID, id.clone());
        let ack = producer.send(request.value(question.clone())).await?;
        match ack.await {
            Ok(_) => {}
            // It may have been stored all the same. Then the reply comes.
            Err(error) if error.kind() == ErrorKind::DeliveryUnknown => {}
            Err(error) => return Err(error.into()),
        }
        open.insert(id, question);
    }
    while !open.is_empty() {
        let reply = replies.next().await.context("the reader ended")??;
        let Some(question) = id_of(&reply).and_then(|id| open.remove(&id)) else {
            continue;
        };
        let answer = String::from_utf8(reply.value.unwrap_or_default().to_vec())?;
        ensure!(answer == question.to_uppercase(), "{question}: {answer}");
        println!("{question}: {answer}");
    }
    Ok(())
}

fn id_of(reply: &Message) -> Option<String> {
    let id = reply.headers.get(ID)?;
    String::from_utf8(id.to_vec()).ok()
}
