//! The cluster's metadata on Raft. The only place that knows openraft: none of its types leaves
//! this crate.

mod bereaved;
mod binding;
mod keeper;
mod log_store;
mod member_dir;
mod membership;
mod network;
mod node;
mod record_file;
mod server;
mod state_machine;
mod types;
mod watch;

pub use membership::ConfiguredVoter;
pub use network::{CallError, Identity, form, identify};
pub use node::{ProposeError, RaftConfig, RaftNode, StartError};
pub use state_machine::AppliedCommand;
pub use watch::{RaftFailure, RaftLeader, SurelyLed};
