//! Damage of what had been made durable, and the note that keeps it from being forgotten.
//!
//! The note is the file `damaged` in a partition's directory: `[magic "BTNDMGD1"][u32 CRC-32 of the
//! rest][u64 sound end][u64 durable end][u32 length][directory in quarantine/][what is wrong]`. It is
//! durable before a repair changes anything, and stays until the owner of the log has told whoever
//! must know: a repaired log looks like a healthy one that is merely shorter, and might vote.

use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;

use crate::error::{IoContext, StorageError};
use crate::files::{replace_file, sync_dir};

const MAGIC: [u8; 8] = *b"BTNDMGD1";
const NAME: &str = "damaged";

/// Damage of what had been made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: {detail} at byte {position}; the log was durable up to offset {durable_end}, sound are only the entries below {sound_end}"
)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub position: usize,
    /// What is wrong.
    pub detail: String,
    /// How far the log is sound.
    pub sound_end: Offset,
    /// How far it was durable at least.
    pub durable_end: Offset,
}

/// What is on record about a log that was damaged and repaired by cutting it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{detail}; the log was durable up to offset {durable_end} and was cut to {sound_end}, the rest is in {}",
    set_aside.display()
)]
pub struct DamageNote {
    /// The log was cut here: what is below was sound.
    pub sound_end: Offset,
    /// The log had been durable up to here at least.
    pub durable_end: Offset,
    /// What was wrong, for a person.
    pub detail: String,
    /// Directory with the damaged files as they were.
    pub set_aside: PathBuf,
}

impl DamageNote {
    /// The note in a partition's directory, if the log there was damaged and nobody has taken note
    /// of it yet. A note that is itself damaged says that nothing is known to have been sound.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn read(dir: &Path) -> Result<Option<DamageNote>, StorageError> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(&path, "read", error)),
        };
        let unreadable = || DamageNote {
            sound_end: Offset::ZERO,
            durable_end: Offset::ZERO,
            detail: "the log was damaged, and so is the note that says where".to_owned(),
            set_aside: dir.join("quarantine"),
        };
        Ok(Some(decode(dir, &bytes).unwrap_or_else(unreadable)))
    }

    /// Removes the note, durably: to be called once everybody knows who must not take the log for a
    /// healthy one.
    ///
    /// # Errors
    /// If the file cannot be removed; the damage is then reported again.
    pub fn remove(dir: &Path) -> Result<(), StorageError> {
        let path = dir.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.context(&path, "remove").and_then(|()| sync_dir(dir)),
        }
    }

    /// Puts it on record, durably, in a partition's directory that exists. For a log that is lost as
    /// a whole this is the owner's to do, before a new one is made in its place.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), StorageError> {
        let event = self.set_aside.file_name().unwrap_or_default();
        let event = event.as_encoded_bytes();
        let mut rest = Vec::new();
        rest.extend_from_slice(&self.sound_end.0.to_be_bytes());
        rest.extend_from_slice(&self.durable_end.0.to_be_bytes());
        rest.extend_from_slice(&(event.len() as u32).to_be_bytes());
        rest.extend_from_slice(event);
        rest.extend_from_slice(self.detail.as_bytes());
        let crc = crc32fast::hash(&rest).to_be_bytes();
        replace_file(&dir.join(NAME), &[&MAGIC, &crc, &rest])
    }
}

fn decode(dir: &Path, bytes: &[u8]) -> Option<DamageNote> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if *magic != MAGIC || u32::from_be_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let (sound_end, rest) = rest.split_first_chunk::<8>()?;
    let (durable_end, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (event, detail) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some(DamageNote {
        sound_end: Offset(u64::from_be_bytes(*sound_end)),
        durable_end: Offset(u64::from_be_bytes(*durable_end)),
        detail: String::from_utf8_lossy(detail).into_owned(),
        set_aside: dir
            .join("quarantine")
            .join(std::str::from_utf8(event).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_broken_one_is_still_a_note() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(DamageNote::read(dir.path()).expect("readable"), None);
        let note = DamageNote {
            sound_end: Offset(5),
            durable_end: Offset(9),
            detail: "a page of zeros".to_owned(),
            set_aside: dir.path().join("quarantine/event.damaged"),
        };
        note.write(dir.path()).expect("written");
        let found = DamageNote::read(dir.path()).expect("readable");
        assert_eq!(found.as_ref(), Some(&note));
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("flipped");
            let found = DamageNote::read(dir.path()).expect("readable");
            assert_eq!(found.expect("a note").sound_end, Offset::ZERO, "byte {at}");
            std::fs::write(&path, &whole[..at]).expect("cut short");
            assert!(DamageNote::read(dir.path()).expect("readable").is_some());
        }
        DamageNote::remove(dir.path()).expect("removed");
        DamageNote::remove(dir.path()).expect("once more");
        assert_eq!(DamageNote::read(dir.path()).expect("readable"), None);
    }
}
