//! The file `recheck` in a partition's directory: something in the log was seen to be damaged, so the
//! next opening checks all of it, however much it is told to check. That it is there is what counts;
//! its text is for a person.

use std::path::Path;

use crate::error::{IoContext, StorageError};
use crate::files::{replace_file, sync_dir};

const NAME: &str = "recheck";

/// Has the next opening of the log in `dir` check every entry: durably. To be called where damage is
/// noticed in a log that is open; that opening then repairs it. `why` says what was seen.
///
/// # Errors
/// If the note cannot be written.
pub fn ask_recheck(dir: &Path, why: &str) -> Result<(), StorageError> {
    replace_file(&dir.join(NAME), &[why.as_bytes(), b"\n"])
}

/// Whether it has been asked for. A note that cannot be looked at may say so.
pub(crate) fn is_asked(dir: &Path) -> bool {
    !matches!(dir.join(NAME).try_exists(), Ok(false))
}

/// Everything has been checked, and is sound.
pub(crate) fn forget(dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(&path, "remove").and_then(|()| sync_dir(dir)),
    }
}
