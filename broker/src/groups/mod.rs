//! Consumer groups on this broker: what stands between the pure core (the groups crate) and the
//! partitions of the internal topic.
//!
//! `host` carries the core: it knows whether this broker leads, replays what the log says, has changes
//! appended, and tells for certain what became of them. `log` is the way between records and
//! the log's entries; `topic` has the internal topic made. None of it is an actor; the actor around the
//! host is `actors::coordinator`.

pub mod host;
pub mod log;
pub mod topic;
