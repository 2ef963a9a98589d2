//! What can go wrong with files.

use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;

/// A failure of the log's storage. Every text names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no room on the disk. Nothing was written.
    #[error("{path}: no space left on the disk ({bytes} bytes were needed)")]
    Full {
        /// The file that should have grown.
        path: PathBuf,
        /// By how much.
        bytes: u64,
    },
    /// The system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: damaged: {detail}")]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Where and how.
        detail: String,
    },
    /// A file of a newer version of Baton.
    #[error(
        "{path}: written in format version {found}; this baton knows up to {known}; use a newer one"
    )]
    NewerVersion {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest known.
        known: u16,
    },
    /// The directory belongs to another partition.
    #[error("{path}: belongs to partition {found}, not {expected}; was a directory moved?")]
    WrongPartition {
        /// Which file says so.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// An earlier flush or write failed: nothing is believed of this log any more.
    #[error("{path}: an earlier write or flush failed; the log takes nothing more")]
    Failed {
        /// The log's directory.
        path: PathBuf,
    },
}

impl StorageError {
    /// Whether the disk is full, and nothing else wrong.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        StorageError::Io {
            path: path.to_owned(),
            action,
            source,
        }
    }

    pub(crate) fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        StorageError::Corrupt {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }
}

/// A read that gives nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {offset} is outside the log, which has {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// First offset of the log.
        start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// What is stored cannot be read.
    #[error("segment {segment} is damaged at byte {position}")]
    Damaged {
        /// Base offset of the segment.
        segment: Offset,
        /// Where in it.
        position: usize,
    },
}

pub(crate) trait IoContext<T> {
    fn context(self, path: &Path, action: &'static str) -> Result<T, StorageError>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, path: &Path, action: &'static str) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::io(path, action, source))
    }
}

impl<T> IoContext<T> for Result<T, rustix::io::Errno> {
    fn context(self, path: &Path, action: &'static str) -> Result<T, StorageError> {
        self.map_err(|errno| StorageError::io(path, action, errno.into()))
    }
}
