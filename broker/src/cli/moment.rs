//! Moments as a person writes them: a date, a number of milliseconds, or how long ago.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::quantity::{self, TIME_UNITS};

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
    quantity::in_units(text, &TIME_UNITS)?.try_into().ok()
}

fn rfc3339(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp_millis())
}

/// A moment, in milliseconds since 1970, as a person reads it; [`parse`] does, too.
pub fn shown(ms: u64) -> String {
    let time = i64::try_from(ms).ok();
    let time = time.and_then(chrono::DateTime::from_timestamp_millis);
    time.map_or_else(
        || ms.to_string(),
        |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
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
    fn what_is_shown_can_be_read() {
        assert_eq!(shown(1_795_249_800_250), "2026-11-21T08:30:00.250Z");
        assert_eq!(
            parse(&shown(1_795_249_800_250)),
            Ok(Moment::At(1_795_249_800_250))
        );
        assert_eq!(shown(u64::MAX), u64::MAX.to_string());
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
            "99999-11-21T08:30:00Z",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
