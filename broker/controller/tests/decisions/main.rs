//! What the controller decides, one rule a test.

mod losses;
mod rules;
mod stage;
