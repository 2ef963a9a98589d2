//! The actors: mailboxes, timers and sockets around code that decides elsewhere.
//!
//! A handler does three things: convert, call, dispatch what comes out. None of them holds an `if`
//! about the replication protocol; that stands in the replication crate, which the driver runs.

pub mod answer;
pub mod control_link;
pub mod controller;
pub mod coordinator;
pub mod flusher;
pub mod inbound;
pub mod messages;
pub mod partition;
pub mod peer_link;
pub mod router;
pub mod routes;
pub mod session;
pub mod subscription;
pub mod timer;
pub mod watermark;
pub mod workers;
