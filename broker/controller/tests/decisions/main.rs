//! What the controller decides, one rule a test.

mod events;
mod health;
mod heartbeats;
mod losses;
mod many;
mod rules;
mod stage;
