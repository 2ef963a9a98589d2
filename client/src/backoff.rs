//! Pauses between attempts: each longer than the one before, none equal for two clients that began
//! at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A growing pause.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `min`, and doubles up to `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        let next = min;
        Backoff { min, max, next }
    }

    /// The next pause: between a half and all of what it has grown to.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        jittered(full)
    }

    /// It went well: the next pause is a short one.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Between a half and all of `full`.
pub(crate) fn jittered(full: Duration) -> Duration {
    let share = (random() >> 32) as f64 / f64::from(u32::MAX);
    full / 2 + (full / 2).mul_f64(share.clamp(0.0, 1.0))
}

/// A number that nobody foresees; not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_never_nothing() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut backoff = Backoff::new(min, max);
        for full in [10, 20, 40, 80, 100, 100] {
            let pause = backoff.pause();
            let full = Duration::from_millis(full);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= min);
    }
}
