//! The client of Baton, a replicated message log.
//!
//! ```no_run
//! use baton_client::{Client, Record, Start, TopicSettings};
//!
//! # async fn example() -> baton_client::Result<()> {
//! let client = Client::builder(["127.0.0.1:7401"]).connect().await?;
//! client.admin().create_topic("orders", TopicSettings::default()).await?;
//!
//! // The first await is room in the buffer, the second the acknowledgement: the leader and enough
//! // followers hold the record.
//! let producer = client.producer().build().await?;
//! let ack = producer.send(Record::to("orders").key("7").value("a book")).await?;
//! let at = ack.await?;
//! println!("stored in partition {} at offset {:?}", at.partition, at.offset);
//!
//! // Records are pushed, not polled.
//! let mut reader = client.reader("orders").from(Start::Earliest).build().await?;
//! while let Some(message) = reader.next().await {
//!     let message = message?;
//!     println!("{}: {:?}", message.offset, message.value);
//! }
//!
//! // The members of a group share a topic's partitions. A record is done when the next one is asked for.
//! let mut consumer = client.consumer("billing").subscribe(["orders"]).build().await?;
//! while let Some(message) = consumer.next_record().await {
//!     println!("{:?}", message?.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Producers are idempotent and follow the leaders; readers do too. Neither loses, repeats or
//! reorders records of a partition, whatever fails on the way, as long as the cluster itself keeps
//! its promise. Consumers of a group are given each record at least once. What cannot be told (a
//! time-out after something was sent) is an error that says so.

mod admin;
mod ask;
mod attempts;
mod backoff;
mod builder;
mod client;
mod connection;
mod consumer;
mod coordinator;
mod error;
mod groups;
mod inspect;
mod metadata;
mod partition;
mod place;
mod producer;
mod reader;
mod record;
mod streaming;
mod topic;

pub use admin::{Admin, TopicSettings};
pub use baton_protocol::admin::{ClusterStatus, ElectionMember, ElectionStatus, PartitionTrouble};
pub use baton_protocol::batch::Codec as Compression;
pub use baton_protocol::client::{Acks, PartitionStatus};
pub use baton_protocol::error::ErrorCode;
pub use baton_protocol::groups::{
    AssignedTopic, GroupDescription, GroupPhase, GroupSummary, MemberDescription, ResetTo,
};
pub use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, LeaderEpoch, MetadataIndex, Offset,
    PartitionIndex, TopicId, TopicPartition,
};
pub use baton_protocol::inspect::{
    ClusterEvent, DiscardedEntries, Happening, Quarantined, Setting, SettingSource,
};
pub use baton_protocol::metadata::{
    BrokerRecord, ClusterView, Flush, PartitionRecord, TopicConfig, TopicRecord,
};
pub use baton_protocol::policy::{Cleanup, Limit, PolicyChanges, Timestamps, TopicPolicy};
pub use builder::ClientBuilder;
pub use client::Client;
pub use consumer::{AutoCommit, Consumer, ConsumerBuilder, Event, OutOfRange};
pub use error::{CommitRefusal, Error, ErrorKind, Result};
pub use groups::{Committed, GroupOffsets, ResetPlan, ResetRow, ResetScope};
pub use inspect::ClusterEvents;
pub use partition::Partition;
pub use producer::{
    Ack, KeyHash, Partitioner, Producer, ProducerBuilder, TrySendError, partition_of_key,
};
pub use reader::{Progress, Reader, ReaderBuilder, Start, Until};
pub use record::{Headers, Message, Record, RecordMetadata};
pub use streaming::decode_entries;
pub use topic::TopicRef;
