//! What can go wrong with files.

use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;
use rustix::io::Errno;

/// What a log may be short of. Nothing is wrong with what is stored, and what was asked for can be
/// done once there is more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Room on the disk.
    Disk,
    /// Open files: the process, or the machine, has as many as it may.
    OpenFiles,
    /// Memory maps: the process has as many as it may.
    Maps,
}

impl Shortage {
    /// Of opening or making a file, if that is what the system's refusal means.
    pub fn of(error: &std::io::Error) -> Option<Shortage> {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Some(Shortage::Disk);
        }
        Shortage::of_files(error)
    }

    /// These two say nothing about the disk, whatever was tried.
    fn of_files(error: &std::io::Error) -> Option<Shortage> {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => Some(Shortage::OpenFiles),
            _ => None,
        }
    }

    /// What there is too little of, for a sentence such as "the broker has no ...".
    pub fn what(self) -> &'static str {
        match self {
            Shortage::Disk => "room on its disk",
            Shortage::OpenFiles => "open files left",
            Shortage::Maps => "memory maps left",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Shortage::Disk => "free space there",
            Shortage::OpenFiles => {
                "let the broker open more: `ulimit -n` (systemd: LimitNOFILE=; for the whole machine: fs.file-max)"
            }
            Shortage::Maps => "let it map more: `sysctl -w vm.max_map_count=`",
        }
    }
}

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
    /// The system has no more open files or memory maps for this process. Says nothing about the
    /// disk; what was asked for was not done.
    #[error("{path}: cannot {action}: {source}")]
    Short {
        /// Which file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Of what.
        of: Shortage,
        /// What the system said.
        source: std::io::Error,
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
    /// What there is too little of, if nothing else is wrong.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            StorageError::Full { .. } => Some(Shortage::Disk),
            StorageError::Short { of, .. } => Some(*of),
            StorageError::Io { .. }
            | StorageError::Corrupt { .. }
            | StorageError::NewerVersion { .. }
            | StorageError::WrongPartition { .. }
            | StorageError::Failed { .. } => None,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match Shortage::of_files(&source) {
            Some(of) => StorageError::Short {
                path,
                action,
                of,
                source,
            },
            None => StorageError::Io {
                path,
                action,
                source,
            },
        }
    }

    /// A file cannot be mapped. The system says that there is no memory where there are too many
    /// maps.
    pub(crate) fn map(path: &Path, source: std::io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOMEM) => StorageError::Short {
                path: path.to_owned(),
                action: "map",
                of: Shortage::Maps,
                source,
            },
            _ => StorageError::io(path, "map", source),
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
