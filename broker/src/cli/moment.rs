//! Moments as a person writes them: a date, a number of milliseconds, or how long ago.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In milliseconds since 1970.
    At(i64),
    /// So many milliseconds before it is asked for.
    Ago(i64),
}

impl Moment {
    /// In milliseconds since 1970.
    pub fn ms(self) -> i64 {
        match self {
            Moment::At(ms) => ms,
            Moment::Ago(ms) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
                now.saturating_sub(ms)
            }
        }
    }
}

/// Reads `2026-11-21T08:30:00Z`, with a fraction or an offset such as `+01:00` too (RFC 3339);
/// milliseconds since 1970; or how long ago: `-10m`, in ms, s, m, h or d.
pub fn parse(text: &str) -> Result<Moment, String> {
    let moment = match text.strip_prefix('-') {
        Some(ago) => ms_of(ago).map(Moment::Ago),
        None => text.parse().ok().or_else(|| rfc3339(text)).map(Moment::At),
    };
    moment.ok_or_else(|| {
        format!(
            "`{text}` is no time; 2026-11-21T08:30:00Z, 1795249800000 (milliseconds since 1970) and -10m (so long ago) are"
        )
    })
}

fn ms_of(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

/// A number of exactly so many digits within a range, and what follows it.
fn number(text: &str, digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<(i64, &str)> {
    let (head, rest) = text.split_at_checked(digits)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = head.parse().ok().filter(|value| range.contains(value))?;
    Some((value, rest))
}

fn rfc3339(text: &str) -> Option<i64> {
    let (year, rest) = number(text, 4, 0..=9999)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2, 1..=12)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 2, 1..=days_in(year, month))?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (hour, rest) = number(rest, 2, 0..=23)?;
    let (minute, rest) = number(rest.strip_prefix(':')?, 2, 0..=59)?;
    // A leap second counts as the one after it.
    let (second, rest) = number(rest.strip_prefix(':')?, 2, 0..=60)?;
    let (ms, rest) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, rest) = fraction.split_at(digits);
            let shown = format!("{fraction:0<3}");
            (number(&shown, 3, 0..=999).filter(|_| digits > 0)?.0, rest)
        }
        None => (0, rest),
    };
    let days = days_before(year, month) + day - 1;
    let local = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some((local - offset_s(rest)?) * 1_000 + ms)
}

/// Seconds by which local time is ahead.
fn offset_s(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, rest) = number(&text[1..], 2, 0..=23)?;
    let (minutes, rest) = number(rest.strip_prefix(':')?, 2, 0..=59)?;
    rest.is_empty()
        .then_some(sign * (hours * 60 + minutes) * 60)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    // Leap years before this one, counted from the year 1.
    let leaps = |year: i64| {
        (year - 1).div_euclid(4) - (year - 1).div_euclid(100) + (year - 1).div_euclid(400)
    };
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    years + (1..month).map(|month| days_in(year, month)).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_all_their_forms() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-21T08:30:00Z", 1_795_249_800_000),
            ("2026-11-21T09:30:00.25+01:00", 1_795_249_800_250),
            ("2026-11-20 22:00:00.0009-10:30", 1_795_249_800_000),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("1969-12-31T23:59:59Z", -1_000),
            ("1795249800000", 1_795_249_800_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Moment::At(ms)), "{text}");
        }
        assert_eq!(parse("-10m"), Ok(Moment::Ago(600_000)));
        assert_eq!(parse("-2d"), Ok(Moment::Ago(172_800_000)));
        let ago = Moment::Ago(60_000).ms() - Moment::Ago(0).ms();
        assert!((-61_000..=-59_000).contains(&ago), "{ago}");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for bad in [
            "",
            "now",
            "-",
            "-10",
            "-10w",
            "10m",
            "2026-11-21",
            "2026-11-21T08:30:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T08:30:00.Z",
            "2026-11-21T08:30:00+1:00",
            "2026-11-21T08:30:00Zz",
            "-9999999999999999d",
            "2026-11-2éT08:30:00Z",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
