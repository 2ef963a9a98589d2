//! The file that keeps the caller's account of the producers: `[magic "BTNPROD2"][u64 log end it is
//! as of][u32 leader epoch of the last entry below][u32 CRC-32 of end, epoch and content][content]`.
//! Replaced as a whole; a hint, since the log itself says all of it. Not so `producers-at-start`, of the
//! same format: it tells of entries that the log has let go of, and of no others.
//!
//! End and epoch together say which history the account is of: a leader epoch gives an offset to one
//! entry only, so logs that agree in both agree in all that is below.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::epochs;
use crate::error::{IoContext, StorageError};
use crate::files::{replace_file, sync_dir};

const MAGIC: [u8; 8] = *b"BTNPROD2";
const NAME: &str = "producers";
const NAME_AT_START: &str = "producers-at-start";
const HEAD_BYTES: usize = 24;

/// A point in the history of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub end: Offset,
    /// That of the last entry below the end.
    pub epoch: LeaderEpoch,
}

impl Point {
    /// The point at `end` in a log with these epochs, each given with the log's end before it.
    pub fn at(end: Offset, epochs: &[(LeaderEpoch, Offset)]) -> Point {
        Point {
            end,
            epoch: epochs::before(end, epochs),
        }
    }

    /// Whether a log with these epochs that ends at `end` has been here.
    pub fn is_in(&self, end: Offset, epochs: &[(LeaderEpoch, Offset)]) -> bool {
        self.end <= end && *self == Point::at(self.end, epochs)
    }

    fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.end.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Point, &[u8])> {
        let (end, rest) = bytes.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let point = Point {
            end: Offset(u64::from_be_bytes(*end)),
            epoch: LeaderEpoch(u32::from_be_bytes(*epoch)),
        };
        Some((point, rest))
    }
}

fn checksum(at: &Point, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&at.encode());
    crc.update(content);
    crc.finalize()
}

pub(crate) fn save(dir: &Path, at: Point, content: &[u8]) -> Result<(), StorageError> {
    write(&dir.join(NAME), at, content)
}

pub(crate) fn load(dir: &Path) -> Option<(Point, Vec<u8>)> {
    read(&dir.join(NAME))
}

/// Keeps the account of what lies below the log's start, durably. Nothing but this tells of it.
pub(crate) fn save_at_start(dir: &Path, at: Point, content: &[u8]) -> Result<(), StorageError> {
    write(&dir.join(NAME_AT_START), at, content)
}

pub(crate) fn load_at_start(dir: &Path) -> Option<(Point, Vec<u8>)> {
    read(&dir.join(NAME_AT_START))
}

/// Whether an account of what lies below the start is there, sound or not.
pub(crate) fn has_one_at_start(dir: &Path) -> bool {
    !matches!(dir.join(NAME_AT_START).try_exists(), Ok(false))
}

fn write(path: &Path, at: Point, content: &[u8]) -> Result<(), StorageError> {
    let crc = checksum(&at, content).to_be_bytes();
    replace_file(path, &[&MAGIC, &at.encode(), &crc, content])
}

fn read(path: &Path) -> Option<(Point, Vec<u8>)> {
    let bytes = std::fs::read(path).ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (at, rest) = Point::decode(rest)?;
    let (crc, content) = rest.split_first_chunk::<4>()?;
    let sound = *magic == MAGIC && u32::from_be_bytes(*crc) == checksum(&at, content);
    sound.then(|| (at, content.to_vec()))
}

/// Removes the account if it is as of an end beyond `end`: what it speaks of is about to be cut.
pub(crate) fn forget_after(dir: &Path, end: Offset) -> Result<(), StorageError> {
    forget_unless(dir, |at| at.end <= end)
}

/// Removes the account, durably, unless it is as of a point that will do. It is read no further than
/// that point; if that cannot be read, the account is of no use to anybody.
pub(crate) fn forget_unless(
    dir: &Path,
    will_do: impl FnOnce(&Point) -> bool,
) -> Result<(), StorageError> {
    let path = dir.join(NAME);
    let mut head = [0; HEAD_BYTES];
    let read = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io(&path, "open", error)),
        Ok(mut file) => file.read_exact(&mut head),
    };
    let at = head.strip_prefix(&MAGIC).and_then(Point::decode);
    if read.is_ok() && at.is_some_and(|(at, _)| will_do(&at)) {
        return Ok(());
    }
    std::fs::remove_file(&path).context(&path, "remove")?;
    sync_dir(dir)
}
