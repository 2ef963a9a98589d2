//! Units, and numbers as a person reads them: three digits that count, one scale for what stands together.

/// What a figure counts. Its value is in the base that is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events a second.
    PerSecond,
    /// 10^6 bytes a second.
    MegabytesPerSecond,
    /// Seconds, shown as microseconds, milliseconds or seconds.
    Seconds,
    /// Seconds of a processor.
    CpuSeconds,
    /// Bytes, shown as KiB, MiB or GiB.
    Bytes,
    /// How often one thing goes into another.
    Ratio,
    /// Of a hundred.
    Percent,
}

impl Unit {
    /// What it is called in JSON, where no value is scaled.
    pub fn base(self) -> &'static str {
        match self {
            Unit::PerSecond => "1/s",
            Unit::MegabytesPerSecond => "MB/s",
            Unit::Seconds => "s",
            Unit::CpuSeconds => "CPU s",
            Unit::Bytes => "bytes",
            Unit::Ratio => "ratio",
            Unit::Percent => "%",
        }
    }

    /// What a row is labelled with whose values lie between these, and what they are divided by.
    pub fn scale(self, least: f64, greatest: f64) -> (&'static str, f64) {
        let steps: &[(f64, &'static str)] = match self {
            Unit::PerSecond => &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")],
            Unit::MegabytesPerSecond => &[(1.0, "MB/s")],
            Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us")],
            Unit::CpuSeconds => &[(1.0, "s")],
            Unit::Bytes => &[
                (1_073_741_824.0, "GiB"),
                (1_048_576.0, "MiB"),
                (1024.0, "KiB"),
                (1.0, "B"),
            ],
            Unit::Ratio => &[(1.0, "")],
            Unit::Percent => &[(1.0, "%")],
        };
        let fits = |step: &[(f64, &'static str)]| {
            // Or the next smaller one would make numbers too long.
            least >= step[0].0 || greatest >= step[1].0 * UNREADABLE
        };
        let fitting = steps.windows(2).find(|step| fits(step));
        let fitting = fitting.map(|step| step[0]).or(steps.last().copied());
        let (factor, label) = fitting.expect("every unit has a step");
        (label, factor)
    }
}

/// From here on a number has too many digits before its point.
const UNREADABLE: f64 = 10_000.0;

/// A number with three digits that count, as far as they stand behind the point.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 || size == 0.0 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.0995 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Bytes as they are written on a command line: "1KiB", "100".
pub fn bytes(bytes: u64) -> String {
    let steps = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, name) in steps {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {name}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let cases = [
            (0.0, "0"),
            (0.0123, "0.012"),
            (0.999, "1.00"),
            (9.994, "9.99"),
            (9.996, "10.0"),
            (99.96, "100"),
            (1234.5, "1234"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn a_scale_fits_the_least_value_unless_the_greatest_gets_too_long() {
        assert_eq!(Unit::Seconds.scale(0.0021, 0.9), ("ms", 1e-3));
        assert_eq!(Unit::Seconds.scale(0.0006, 0.009), ("us", 1e-6));
        assert_eq!(Unit::Seconds.scale(0.0006, 0.03), ("ms", 1e-3));
        assert_eq!(Unit::PerSecond.scale(3.1e6, 4e6), ("M/s", 1e6));
        assert_eq!(Unit::Bytes.scale(5e6, 5e6), ("MiB", 1_048_576.0));
    }

    #[test]
    fn bytes_are_told_in_the_largest_unit_that_divides_them() {
        assert_eq!(bytes(100), "100 B");
        assert_eq!(bytes(131_072), "128 KiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes(1025), "1025 B");
    }
}
