//! Entries that were discarded are kept aside, so that an operator can look at what was lost.
//!
//! A file per event in `quarantine/`: `<from>-<to>-<epoch>.entries`, the discarded entries as they
//! were stored, back to back, after a header of one line of JSON that says what happened.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;

use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::log::Log;

/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Copies everything from `from` to the log's end into a new file, durably, and returns its path.
/// `reason` says why, for a person.
pub fn set_aside(log: &Log, from: Offset, reason: &str) -> Result<PathBuf, StorageError> {
    let dir = log.dir().join("quarantine");
    std::fs::create_dir_all(&dir).context(&dir, "create")?;
    sync_dir(log.dir())?;
    let epoch = log.epochs().last().map_or(0, |run| run.0.0);
    let name = format!("{:020}-{:020}-{epoch}.entries", from.0, log.end().0);
    let (path, temporary) = (dir.join(&name), dir.join(format!("{name}.tmp")));
    let mut file = File::create(&temporary).context(&temporary, "create")?;
    let head = format!(
        "{{\"format\":1,\"partition\":\"{}\",\"from\":{},\"to\":{},\"last_epoch\":{epoch},\"reason\":{}}}\n",
        log.identity(),
        from,
        log.end(),
        json_string(reason),
    );
    file.write_all(head.as_bytes())
        .context(&temporary, "write")?;
    let mut at = from;
    while let Some(chunk) = log.read(at, COPY_BYTES)? {
        file.write_all(&chunk.bytes).context(&temporary, "write")?;
        at = chunk.end;
    }
    file.sync_all().context(&temporary, "flush")?;
    std::fs::rename(&temporary, &path).context(&path, "name")?;
    sync_dir(&dir)?;
    Ok(path)
}

/// A text as JSON writes it.
pub(crate) fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// The files in a partition's quarantine, oldest offsets first.
pub fn list(partition_dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let dir = partition_dir.join("quarantine");
    let mut files = Vec::new();
    match std::fs::read_dir(&dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.context(&dir, "list")?.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "entries")
                {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io(&dir, "list", error)),
    }
    files.sort();
    Ok(files)
}
