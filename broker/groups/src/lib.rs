//! The pure core of Baton's consumer groups: who consumes what, and up to where. It decides; it does
//! no IO, reads no clock, draws no random number, and iterates over nothing whose order is not
//! defined.
//!
//! A [`Coordinator`] has the groups of one partition of the internal topic. Its one door is
//! [`Coordinator::step`]: an [`Input`] goes in, [`Effect`]s come out. The host's duties stand in
//! [`event`], those of a member in [`baton_protocol::groups`].
//!
//! # The protocol
//!
//! All that a coordinator knows and cannot do without is in the records of its partition
//! ([`record`]); only clocks are its own (`sessions.rs`). A request changes records, these are
//! appended, and it is answered once they are committed (`journal.rs`). So a new leader of the
//! partition is a coordinator that knows everything anybody was ever told.
//!
//! Members are assigned partitions ([`assign`]), balanced, and with as few moves as can be. A
//! partition that has to move is *revoked* first: its holder is told an assignment without it, in a new
//! *epoch*. When that member shows the epoch in a heartbeat it has given the partition up, and the
//! next owner is told (`reconcile.rs`). All others go on consuming. A member that is silent for its
//! session time-out, or takes longer than its rebalance time-out to give something up, is put out
//! (`members.rs`).
//!
//! Offsets are committed by whoever holds the partition, and move forward only (`offsets.rs`).
//!
//! # Invariants
//!
//! 1. In a group, a partition is in the hands of one member at most, from when it is told until it
//!    has given the partition up or its time is over. That holds of what is in the log after any
//!    record of any append, not only between appends.
//! 2. What was answered is in the log, and in the state of every later coordinator.
//! 3. A committed offset moves back only by a reset, or by a commit that names the offset it goes back
//!    from.
//! 4. Nobody commits an offset for a partition that is in another's hands.
//! 5. When members stay, show themselves and give up what they are told to, every partition that is
//!    subscribed to comes to be consumed by one of them, in balance.
//!
//! Each rule that these rest on is named in [`rules`], with a test that fails without it.

pub mod assign;
mod coordinator;
pub mod event;
mod journal;
mod members;
mod offsets;
mod reconcile;
pub mod record;
pub mod refusal;
pub mod rules;
mod sessions;
pub mod state;
mod topics;
mod verify;
mod view;

pub use coordinator::Coordinator;
pub use event::{Config, Effect, Input};
pub use refusal::Refusal;
pub use topics::{Topic, Topics};
