//! The Baton broker: what its process is made of.
//!
//! A produce request passes, in this order: `net` -> `actors::session` -> `actors::partition` ->
//! `driver` -> the replication crate decides -> the storage crate appends -> `actors::peer_link`
//! fans out -> the replication crate moves the watermark and releases -> `actors::answer`.

pub mod actors;
pub mod caretaker;
pub mod cli;
pub mod clock;
pub mod cold_reads;
pub mod config;
pub mod data_dir;
pub mod disk_probe;
pub mod driver;
pub mod embedded;
pub mod failure;
mod freed_memory;
pub mod groups;
pub mod hosting;
pub mod http;
pub mod inspect;
pub mod logging;
pub mod net;
pub mod node;
pub mod os_limits;
pub mod producer_ids;
pub mod shared;
