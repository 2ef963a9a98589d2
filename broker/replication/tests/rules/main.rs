//! The rules of replication, held against the core: golden scripts of scenarios, a mutation test
//! that shows each rule to be needed, and a random explorer of schedules.
//!
//! All of them drive the same little cluster in memory: real replicas, logs that are lists, a
//! network under manual control, a controller that follows the rules of election.

mod bad_append;
mod checker;
mod cluster;
mod compaction;
mod controller;
mod explorer;
mod history;
mod log_start;
mod mutations;
mod network;
mod node;
mod script;
mod scripts;
mod trace;
