//! The file that keeps the caller's account of the producers: `[magic "BTNPROD1"][u64 log end it is
//! as of][u32 CRC-32 of end and content][content]`. Replaced as a whole; a hint, since the log
//! itself says all of it.

use std::path::Path;

use baton_protocol::ids::Offset;

use crate::error::{IoContext, StorageError};
use crate::files::{replace_file, sync_dir};

const MAGIC: [u8; 8] = *b"BTNPROD1";
const NAME: &str = "producers";

fn checksum(at: Offset, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&at.0.to_be_bytes());
    crc.update(content);
    crc.finalize()
}

pub(crate) fn save(dir: &Path, at: Offset, content: &[u8]) -> Result<(), StorageError> {
    let parts = [
        &MAGIC[..],
        &at.0.to_be_bytes(),
        &checksum(at, content).to_be_bytes(),
        content,
    ];
    replace_file(&dir.join(NAME), &parts)
}

pub(crate) fn load(dir: &Path) -> Option<(Offset, Vec<u8>)> {
    let bytes = std::fs::read(dir.join(NAME)).ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (crc, content) = rest.split_first_chunk::<4>()?;
    let at = Offset(u64::from_be_bytes(*at));
    let sound = *magic == MAGIC && u32::from_be_bytes(*crc) == checksum(at, content);
    sound.then(|| (at, content.to_vec()))
}

/// Removes the account if it is as of an end beyond `end`: what it speaks of is about to be cut.
pub(crate) fn forget_after(dir: &Path, end: Offset) -> Result<(), StorageError> {
    if load(dir).is_none_or(|(at, _)| at <= end) {
        return Ok(());
    }
    let path = dir.join(NAME);
    std::fs::remove_file(&path).context(&path, "remove")?;
    sync_dir(dir)
}
