//! What the controller decides, one rule a test.

mod health;
mod losses;
mod rules;
mod stage;
