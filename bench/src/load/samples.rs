//! When records were meant to be sent, and when they were acknowledged; what follows from it.

use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::Timeline;

/// A record that was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was meant to be sent.
    pub intended: Instant,
    /// When its acknowledgement came.
    pub acknowledged: Instant,
}

/// The records of a load that were timed.
#[derive(Debug)]
pub struct Samples {
    /// When the load began.
    pub begun: Instant,
    /// One record in so many was timed.
    one_in: u64,
    /// In the order of their acknowledgements.
    list: Vec<Sample>,
}

impl Samples {
    /// Of a load that timed one record in `one_in`.
    pub fn new(begun: Instant, one_in: u64, mut list: Vec<Sample>) -> Samples {
        list.sort_by_key(|sample| sample.acknowledged);
        Samples {
            begun,
            one_in,
            list,
        }
    }

    /// From the load's begin to its end.
    pub fn all(&self) -> Range<Instant> {
        let end = self.list.iter().map(|sample| sample.acknowledged).max();
        self.begun..end.unwrap_or(self.begun) + Duration::from_nanos(1)
    }

    /// The latencies in nanoseconds of the records that were meant to be sent in a time.
    pub fn latencies(&self, time: &Range<Instant>) -> Histogram<u64> {
        let mut nanos = Histogram::new(3).expect("three digits are allowed");
        for sample in &self.list {
            if time.contains(&sample.intended) {
                let latency = sample.acknowledged.duration_since(sample.intended);
                nanos
                    .record((latency.as_nanos() as u64).max(1))
                    .expect("it grows by itself");
            }
        }
        nanos
    }

    /// The longest time without an acknowledgement within a time.
    pub fn longest_gap(&self, time: &Range<Instant>) -> Duration {
        let acknowledged = self.list.iter().map(|sample| sample.acknowledged);
        let mut last = time.start;
        let mut longest = Duration::ZERO;
        for at in acknowledged.filter(|at| time.contains(at)) {
            longest = longest.max(at.duration_since(last));
            last = at;
        }
        longest.max(time.end.duration_since(last))
    }

    /// When the first record was acknowledged that was meant to be sent at `from` or later.
    pub fn first_acknowledged(&self, from: Instant) -> Option<Instant> {
        let later = self.list.iter().filter(|sample| sample.intended >= from);
        later.map(|sample| sample.acknowledged).min()
    }

    /// Records that were acknowledged within a time, each second.
    pub fn rate(&self, time: &Range<Instant>) -> f64 {
        let seconds = time.end.duration_since(time.start).as_secs_f64();
        let count = self
            .list
            .iter()
            .filter(|sample| time.contains(&sample.acknowledged));
        (count.count() as u64 * self.one_in) as f64 / seconds.max(1e-9)
    }

    /// Throughput in steps, of records of `size` bytes.
    pub fn timeline(&self, size: usize, step: Duration) -> Timeline {
        let step_seconds = step.as_secs_f64();
        let time = self.all();
        let nanos = time.end.duration_since(time.start).as_nanos();
        let steps = nanos.div_ceil(step.as_nanos().max(1));
        let mut mb_per_s = vec![0.0; steps as usize];
        let each = (self.one_in * size as u64) as f64 / 1e6 / step_seconds;
        for sample in &self.list {
            let after = sample.acknowledged.duration_since(self.begun);
            let step = after.as_nanos() / step.as_nanos().max(1);
            if let Some(sum) = mb_per_s.get_mut(step as usize) {
                *sum += each;
            }
        }
        Timeline {
            step_seconds,
            mb_per_s,
            faults: Vec::new(),
        }
    }

    /// Seconds from the load's begin to a moment.
    pub fn seconds_to(&self, moment: Instant) -> f64 {
        moment.duration_since(self.begun).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record every 10 ms for a second, acknowledged 1 ms later; but nothing is between 500 and
    /// 700 ms.
    fn with_a_stall() -> Samples {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let sample = |i: u64| Sample {
            intended: at(i * 10),
            acknowledged: match i * 10 + 1 {
                ms @ 500..700 => at(ms.max(700)),
                ms => at(ms),
            },
        };
        Samples::new(begun, 2, (0..100).map(sample).collect())
    }

    #[test]
    fn a_stall_is_counted_for_every_record_that_was_due_in_it() {
        let samples = with_a_stall();
        let nanos = samples.latencies(&samples.all());
        assert_eq!(nanos.len(), 100);
        // 20 of 100 records were due in the stall, and waited 200 to 10 ms.
        let late = nanos.count_between(5_000_000, u64::MAX);
        assert_eq!(late, 20);
        assert!(nanos.value_at_quantile(0.9) > 90_000_000);
        assert!(nanos.value_at_quantile(0.5) < 1_100_000);
    }

    #[test]
    fn a_gap_is_between_two_acknowledgements() {
        let samples = with_a_stall();
        let gap = samples.longest_gap(&samples.all());
        assert_eq!(gap, Duration::from_millis(209));
        let before = samples.begun..samples.begun + Duration::from_millis(400);
        assert_eq!(samples.longest_gap(&before), Duration::from_millis(10));
        // One that lasts to the end counts as far as it is seen.
        let within = samples.begun..samples.begun + Duration::from_millis(600);
        assert_eq!(samples.longest_gap(&within), Duration::from_millis(109));
    }

    #[test]
    fn the_first_acknowledgement_after_a_fault_is_of_a_record_sent_after_it() {
        let samples = with_a_stall();
        let fault = samples.begun + Duration::from_millis(505);
        let first = samples.first_acknowledged(fault).expect("one");
        assert_eq!(first, samples.begun + Duration::from_millis(700));
    }

    #[test]
    fn a_timeline_shows_what_came_and_when_nothing_did() {
        let samples = with_a_stall();
        let line = samples.timeline(1_000_000, Duration::from_millis(100));
        assert_eq!(line.mb_per_s.len(), 10);
        // 10 timed records in a step stand for 20, each of a megabyte, in a tenth of a second.
        assert!((line.mb_per_s[0] - 200.0).abs() < 1e-6);
        assert_eq!(line.mb_per_s[5], 0.0);
        assert!((line.mb_per_s[7] - 600.0).abs() < 1e-6);
    }

    #[test]
    fn a_rate_counts_the_records_that_were_not_timed() {
        let samples = with_a_stall();
        let time = samples.begun..samples.begun + Duration::from_millis(500);
        assert!((samples.rate(&time) - 200.0).abs() < 1e-6);
    }
}
