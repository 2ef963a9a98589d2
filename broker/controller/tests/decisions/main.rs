//! What the controller decides, one rule a test.

mod health;
mod losses;
mod many;
mod rules;
mod stage;
