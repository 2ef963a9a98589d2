//! The pure core of Baton's replication. It decides; it does no IO, reads no clock, draws no
//! random number, and iterates over nothing whose order is not defined.
//!
//! One [`Replica`] is one copy of one partition. Its one door is [`Replica::step`]: an [`Input`]
//! goes in, [`Effect`]s come out. The host that carries them out (its duties stand in
//! [`event`]) is the same code in production and under simulation.
//!
//! # The protocol
//!
//! A partition has one leader per *epoch*, named by the controller: a broker in one of its lives.
//! It begins its reign with an *epoch-start entry*, appends what producers send, and pushes the
//! log to its followers. A follower takes entries that continue its log, cuts what conflicts, and
//! acknowledges what is durable, as *(n, durable end)*: *n* is the epoch of its last durable entry,
//! and only with n = e is its log a prefix of the leader's.
//!
//! An entry is *committed* when k+1 members of the in-sync set hold it, the leader included: any
//! k followers, entry by entry whoever is fastest. The *high watermark* is the end of what is
//! known to be committed: producers are answered and readers served up to there, and no further.
//!
//! At an election the controller fences the members of the set (they refuse lower epochs from
//! then on), waits for enough answers that one of them must hold every committed entry, and names
//! the one with the greatest (n, durable end).
//!
//! Entries expire from the log's beginning: the leader moves its *start* forward, never above the
//! watermark, and tells its followers with what it sends, who do as much. A follower whose log does not
//! reach up to the leader's start, or differs there, is *reset*: it begins anew at that start.
//!
//! # Invariants
//!
//! 1. Equal (epoch, offset) means equal entries, and equal logs up to there.
//! 2. A committed entry is held by every leader of a later epoch.
//! 3. The watermark of a replica never moves back while its process lives.
//! 4. A replica acknowledges nothing of an epoch below one that it has promised.
//! 5. A producer's batch is in the log once.
//! 6. What lies below a replica's log start was committed.
//!
//! Each rule that these rest on is named in [`rules`], with a test that fails without it.

pub mod by_broker;
pub mod epochs;
pub mod event;
mod follower;
mod handover;
mod in_sync;
mod leader;
pub mod offsets;
mod pending;
pub mod producers;
mod progress;
mod push;
mod replica;
pub mod rules;

pub use event::{Effect, Input};
pub use replica::{Config, LogShape, Replica};
