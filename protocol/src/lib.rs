//! What Baton's processes say to each other and what they store: identifiers, record batches,
//! frames, and the messages of clients, brokers and operators.
//!
//! This crate has no IO and imports no other crate of the workspace. Every other crate of the
//! workspace reuses these types; none of them keeps a second copy.

pub mod admin;
pub mod batch;
pub mod client;
pub mod error;
pub mod frame;
pub mod groups;
pub mod ids;
pub mod inspect;
pub mod metadata;
pub mod peer;
pub mod policy;
