//! Directories and files that are there for good: made, replaced and flushed so that a power cut
//! does not undo it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{IoContext, StorageError};
use crate::witness::{Act, saw};

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    sync_open_dir(&open_dir(dir)?, dir)
}

/// A directory, to make its entries durable later.
pub(crate) fn open_dir(dir: &Path) -> Result<File, StorageError> {
    // A relative path of one component has an empty parent.
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir).context(dir, "open")
}

/// Makes the entries of a directory that is open durable.
pub(crate) fn sync_open_dir(file: &File, dir: &Path) -> Result<(), StorageError> {
    file.sync_all().context(dir, "flush")?;
    saw(Act::Dir, || dir);
    Ok(())
}

/// Makes a directory with all that lead to it, durably. A level is made when the entry of the one
/// above it is durable, so that whatever is found was made durable, but for the lowest: that may
/// come from a process that ended in between.
///
/// # Errors
/// If a directory cannot be made or flushed; what was made stays, and may be made again.
pub fn make_dirs(dir: &Path) -> Result<(), StorageError> {
    let missing = dir
        .ancestors()
        .take_while(|level| !level.as_os_str().is_empty() && !level.exists());
    let missing: Vec<_> = missing.collect();
    let found = missing.last().unwrap_or(&dir).parent();
    if let Some(found) = found.filter(|_| !missing.is_empty()) {
        match sync_parent(found) {
            // Not to be listed by this user, so not made by this process either.
            Err(StorageError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    for level in missing.iter().rev() {
        match std::fs::create_dir(level) {
            // Another partition of the same topic is opened at the same time.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.context(level, "create")?,
        }
        sync_parent(level)?;
    }
    if missing.is_empty() {
        sync_parent(dir)?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), StorageError> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Replaces a file by one with these contents, durably: a crash leaves the old one or the new one.
pub(crate) fn replace_file(path: &Path, parts: &[&[u8]]) -> Result<(), StorageError> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary).context(&temporary, "create")?;
    for part in parts {
        file.write_all(part).context(&temporary, "write")?;
    }
    file.sync_all().context(&temporary, "flush")?;
    std::fs::rename(&temporary, path).context(path, "replace")?;
    sync_parent(path)
}

/// The name of a file while it is being made.
pub(crate) fn temporary(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness;

    #[test]
    fn every_directory_that_is_made_is_made_durable_from_the_top() {
        let root = tempfile::tempdir().expect("dir");
        let topics = root.path().join("topics");
        let topic = topics.join("7");
        let partition = topic.join("0");
        let above = root.path().parent().expect("a parent").to_owned();
        witness::take();
        make_dirs(&partition).expect("made");
        let synced = |path: &Path| (Act::Dir, path.to_owned());
        assert_eq!(
            witness::take(),
            [&above, root.path(), &topics, &topic].map(synced)
        );
        // Its maker may have ended before it was durable.
        make_dirs(&partition).expect("there");
        assert_eq!(witness::take(), [synced(&topic)]);
        make_dirs(&topic.join("1")).expect("made");
        assert_eq!(witness::take(), [&topics, &topic].map(|p| synced(p)));
    }
}
