//! The pure core of Baton's controller: the cluster's metadata ([`state`]), what changes it
//! ([`command`]) and the decisions about it ([`core`]). No IO, no clock, no randomness: the simulator runs this very code.
//!
//! Raft replicates the commands (the raft crate); the controller's actor carries the core's effects
//! out. The core lives where Raft leads, and begins anew with every change of that: nothing that it
//! must remember is kept anywhere but in the metadata.

mod admin;
pub mod command;
pub mod core;
mod detector;
mod election;
mod elections;
pub mod events;
mod heartbeats;
mod lineage;
mod placement;
pub mod rules;
pub mod session;
pub mod state;
mod troubles;
