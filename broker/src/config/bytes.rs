//! Sizes in bytes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Units, the largest first.
const UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes. Written as a number (`4096`) or with a unit (`"4KiB"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteSize(pub(super) u64);

/// Not a size.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no size; a size is a number of bytes, or one with KiB, MiB or GiB, as 64MiB")]
pub(super) struct NoSize(String);

impl FromStr for ByteSize {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<ByteSize, NoSize> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, bytes)| Some((text.trim().strip_suffix(name)?, *bytes)))
            .unwrap_or((text.trim(), 1));
        let number: Option<u64> = number.trim_end().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit));
        bytes.map(ByteSize).ok_or_else(|| NoSize(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(name, bytes)| {
            *name != "B" && self.0 >= *bytes && self.0.is_multiple_of(*bytes)
        });
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Writes a number of bytes as people do.
pub(super) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&ByteSize(*bytes as u64))
}

/// Reads a number of bytes, with or without a unit.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    // A number reads as text from every source of settings.
    let text = String::deserialize(deserializer)?;
    let size: ByteSize = text.parse().map_err(de::Error::custom)?;
    usize::try_from(size.0).map_err(de::Error::custom)
}
