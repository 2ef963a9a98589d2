//! The process's clock: a monotonic one for decisions, and the time of day for stamps.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use baton_protocol::ids::Tick;

/// The clock of one process. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            start: Instant::now(),
        }
    }
}

impl Clock {
    /// Now, for decisions.
    pub fn now(&self) -> Tick {
        self.at(Instant::now())
    }

    /// A moment, as [`Clock::now`] told it.
    pub fn at(&self, moment: Instant) -> Tick {
        let since = moment.saturating_duration_since(self.start);
        Tick(since.as_millis() as u64)
    }

    /// Milliseconds since 1970, for stamps.
    pub fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    }
}
