//! What simulations came to.

use std::collections::BTreeMap;

/// Counts of what was exercised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(BTreeMap<&'static str, u64>);

impl Stats {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Stats) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    /// A table of everything, per thousand seeds.
    pub fn table(&self, seeds: u64) -> String {
        let rows = self.0.iter().map(|(what, times)| {
            let per_thousand = times * 1_000 / seeds.max(1);
            format!("{what:32} {times:>12} {per_thousand:>14}\n")
        });
        let rows: String = rows.collect();
        format!(
            "{:32} {:>12} {:>14}\n{rows}",
            "what", "in all", "per 1,000 seeds"
        )
    }
}

/// A history in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Trace(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// FNV-1a over whole words.
    pub fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}
