//! The rules of consumer groups, held against the core: golden scripts of scenarios, properties of
//! assignments, a random explorer of histories, and a mutation test that shows each rule to be
//! needed.
//!
//! All of them drive a coordinator whose partition is a list in memory.

mod assignment;
mod client;
mod explorer;
mod history;
mod host;
mod rng;
mod script;
mod scripts;
mod size;
mod trace;
