//! The cluster's metadata on Raft. The only place that knows openraft: none of its types leaves
//! this crate.

mod log_store;
mod network;
mod node;
mod record_file;
mod state_machine;
mod types;

pub use network::{CallError, Identity};
pub use node::{ProposeError, RaftConfig, RaftLeader, RaftNode, StartError, form, identify};
pub use state_machine::AppliedCommand;
