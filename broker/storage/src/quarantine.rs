//! Entries that were discarded are kept aside, so that an operator can look at what was lost.
//!
//! A file per event in `quarantine/`: `<from>-<to>-<epoch>.entries`, the discarded entries as they
//! were stored, back to back, after a header of one line of JSON that says what happened. A repair
//! puts damaged files beside them, in a directory per event: see `repair.rs`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::files::{make_dirs, sync_dir, temporary};
use crate::header::LogIdentity;
use crate::log::Log;

/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Copies everything from `from` to the log's end into a new file, durably, and returns its path.
/// `reason` says why, for a person.
///
/// # Errors
/// If the log cannot be read, or the file cannot be written; [`StorageError::Io`] too if the disk is
/// full. No file of that name is there then, or an earlier one.
pub fn set_aside(log: &Log, from: Offset, reason: &str) -> Result<PathBuf, StorageError> {
    let aside = Aside {
        identity: log.identity(),
        from,
        to: log.end(),
        epoch: log.epochs().last().map_or(LeaderEpoch::NONE, |run| run.0),
        reason: reason.to_owned(),
    };
    let mut kept = aside.create(log.dir())?;
    let mut at = from;
    while let Some(chunk) = log.read(at, COPY_BYTES)? {
        kept.write(&chunk.bytes)?;
        at = chunk.end;
    }
    kept.finish()
}

/// What is said of entries that are kept aside.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    pub identity: LogIdentity,
    pub from: Offset,
    pub to: Offset,
    /// Of the last of them.
    pub epoch: LeaderEpoch,
    pub reason: String,
}

impl Aside {
    /// The file that will hold them.
    pub fn path(&self, partition_dir: &Path) -> PathBuf {
        let Aside {
            from, to, epoch, ..
        } = self;
        let name = format!("{:020}-{:020}-{}.entries", from.0, to.0, epoch.0);
        partition_dir.join("quarantine").join(name)
    }

    /// Begins the file; it has its name when it is finished.
    pub fn create(&self, partition_dir: &Path) -> Result<Keeping, StorageError> {
        let path = self.path(partition_dir);
        make_dirs(&partition_dir.join("quarantine"))?;
        let temporary = temporary(&path);
        let file = File::create(&temporary).context(&temporary, "create")?;
        let mut keeping = Keeping {
            path,
            temporary,
            file,
        };
        let head = format!(
            "{{\"format\":1,\"partition\":\"{}\",\"from\":{},\"to\":{},\"last_epoch\":{},\"reason\":{}}}\n",
            self.identity,
            self.from,
            self.to,
            self.epoch.0,
            json_string(&self.reason),
        );
        keeping.write(head.as_bytes())?;
        Ok(keeping)
    }
}

/// A file in the quarantine that is being written.
#[derive(Debug)]
pub(crate) struct Keeping {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Keeping {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(bytes).context(&self.temporary, "write")
    }

    /// Makes the file durable under its name.
    pub fn finish(self) -> Result<PathBuf, StorageError> {
        self.file.sync_all().context(&self.temporary, "flush")?;
        std::fs::rename(&self.temporary, &self.path).context(&self.path, "name")?;
        self.path.parent().map_or(Ok(()), sync_dir)?;
        Ok(self.path)
    }
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

/// What is in a partition's quarantine, oldest offsets first: files of entries that were cut
/// (`.entries`), and directories of files that were damaged (`.damaged`). Nothing that is still being
/// made.
///
/// # Errors
/// If the directory is there and cannot be listed.
pub fn list(partition_dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let dir = partition_dir.join("quarantine");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io(&dir, "list", error)),
    };
    let mut events = Vec::new();
    for entry in entries {
        let path = entry.context(&dir, "list")?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if matches!(kind, Some("entries" | "damaged")) {
            events.push(path);
        }
    }
    events.sort();
    Ok(events)
}
