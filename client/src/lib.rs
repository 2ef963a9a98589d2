//! The client of Baton, a replicated message log.
//!
//! ```no_run
//! use baton_client::{
//!     Client, ClientConfig, ProducerConfig, ReaderConfig, Record, TopicSettings,
//! };
//!
//! # async fn example() -> baton_client::Result<()> {
//! let config = ClientConfig::new(vec!["127.0.0.1:7401".to_owned()]);
//! let client = Client::connect(config).await?;
//! client.create_topic("events", TopicSettings::default()).await?;
//!
//! // The first await is room in the buffer, the second the acknowledgement: the leader and enough
//! // followers hold the record.
//! let producer = client.producer("events", ProducerConfig::default()).await?;
//! let ack = producer.send(Record::value("hello").key("greeting")).await?;
//! let at = ack.wait().await?;
//! println!("stored in partition {} at offset {:?}", at.partition, at.offset);
//!
//! // Records are pushed, not polled.
//! let mut reader = client.reader("events", ReaderConfig::default()).await?;
//! while let Some(chunk) = reader.next().await {
//!     for record in chunk?.records {
//!         println!("{}: {:?}", record.offset, record.value);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Producers are idempotent and follow the leaders; readers do too. Neither loses, repeats or
//! reorders records of a partition, whatever fails on the way, as long as the cluster itself keeps
//! its promise. What cannot be told (a time-out after something was sent) is an error that says so.

mod admin;
mod attempts;
mod client;
mod connection;
mod error;
mod intake;
mod lane;
mod metadata;
mod producer;
mod reader;
mod record;

pub use admin::TopicSettings;
pub use baton_protocol::client::Acks;
pub use baton_protocol::metadata::Flush;
pub use client::{Client, ClientConfig};
pub use error::{Error, ErrorKind, Result};
pub use intake::Ack;
pub use producer::{Producer, ProducerConfig};
pub use reader::{Chunk, Reader, ReaderConfig, Start};
pub use record::{ConsumedRecord, Record, RecordMetadata, partition_of_key};
