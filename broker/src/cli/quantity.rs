//! Numbers, times and sizes as they stand on the command line, and what is said of those that are none.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Units of time, in milliseconds.
pub const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Units of size, in bytes.
pub const SIZE_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number with one of these units. None where it is not that, or too large.
pub fn in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A number without a sign.
pub fn number(text: &str) -> Result<u64, String> {
    within(text, 0..=u64::MAX)
}

/// What numbers a partition, or a broker, or counts either.
pub fn index(text: &str) -> Result<u32, String> {
    let number = within(text, 0..=u64::from(u32::MAX))?;
    u32::try_from(number).map_err(|error| error.to_string())
}

/// One at least.
pub fn positive(text: &str) -> Result<u32, String> {
    let number = within(text, 1..=u64::from(u32::MAX))?;
    u32::try_from(number).map_err(|error| error.to_string())
}

fn within(text: &str, allowed: RangeInclusive<u64>) -> Result<u64, String> {
    // A sign would be taken, and leading to nothing but confusion.
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok();
    number
        .filter(|number| plain && allowed.contains(number))
        .ok_or_else(|| {
            let (least, most) = (allowed.start(), allowed.end());
            match *most {
                u64::MAX => format!("`{text}` is no whole number from {least} on"),
                _ => format!("`{text}` is no whole number from {least} to {most}"),
            }
        })
}

/// A time from a second to a day, in seconds where it has no unit.
pub fn second_to_day(text: &str) -> Result<Duration, String> {
    let ms = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => in_units(text, &[("", 1_000)]),
        false => in_units(text, &TIME_UNITS),
    };
    let ms = ms.filter(|ms| (1_000..=86_400_000).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| {
        format!("`{text}` is no time from 1 to 86400 seconds, such as 30, 30s, 500000ms or 5m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_within_what_is_allowed() {
        assert_eq!(number("0"), Ok(0));
        assert_eq!(index("4294967295"), Ok(u32::MAX));
        assert_eq!(positive("1"), Ok(1));
        for bad in [
            "",
            "x",
            "-1",
            "+1",
            "0.5",
            "0,1",
            " 1",
            "99999999999999999999",
        ] {
            let error = number(bad).expect_err(bad);
            assert!(error.contains("no whole number from 0 on"), "{error}");
        }
        assert!(positive("0").is_err());
        assert!(index("4294967296").is_err());
    }

    #[test]
    fn a_time_without_a_unit_is_in_seconds() {
        for (text, ms) in [
            ("5", 5_000),
            ("5s", 5_000),
            ("1500ms", 1_500),
            ("1d", 86_400_000),
        ] {
            assert_eq!(second_to_day(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "0",
            "999ms",
            "86401",
            "2d",
            "5x",
            "-5",
            "18446744073709551615",
        ] {
            let error = second_to_day(bad).expect_err(bad);
            assert!(error.contains("86400"), "{error}");
        }
    }
}
