//! What is found in a directory when a log is opened.
//!
//! Every entry is checked. The first bad one ends the log: above the durable mark it is a torn tail,
//! which nobody was promised, and is cut; below it is damage, which is reported and left as it is.
//! A truncation that was interrupted is finished.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::batch::{parse_entry, verify_entry};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::index::SparseIndex;
use crate::log::LogConfig;
use crate::segment::{LogIdentity, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use crate::sync_dir;

/// What an opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Bytes that were checked.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Segment files of an interrupted truncation that were removed.
    pub leftovers: usize,
    /// Damage below the durable end. The log takes no appends.
    pub damage: Option<Damage>,
}

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
    /// How far it was durable.
    pub durable_end: Offset,
}

pub(crate) struct Found {
    pub segments: Vec<Arc<Segment>>,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub start: Offset,
    pub end: Offset,
}

/// One segment file, checked.
pub(crate) struct Scan {
    pub len: usize,
    pub end: Offset,
    pub index: SparseIndex,
    /// Each epoch that begins here, with the log's end before it.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Why the scan ended before the place where it should have.
    pub bad: Option<String>,
    /// Bytes behind the sound ones that are not zero.
    pub tail_bytes: usize,
}

pub(crate) fn segment_files(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).context(dir, "list")? {
        let path = entry.context(dir, "list")?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Checks the entries of a segment file. A gap in the offsets is sound: a leader that begins at its
/// offset limit leaves one.
pub(crate) fn scan(
    path: &Path,
    header: &SegmentHeader,
    mut epoch: LeaderEpoch,
    index_bytes: usize,
) -> Result<Scan, StorageError> {
    let bytes = std::fs::read(path).context(path, "read")?;
    let limit = header.sealed_len.map_or(bytes.len(), |len| len as usize);
    let mut scan = Scan {
        len: SEGMENT_HEADER_BYTES,
        end: header.base,
        index: SparseIndex::default(),
        epochs: Vec::new(),
        bad: None,
        tail_bytes: 0,
    };
    if limit > bytes.len() {
        scan.bad = Some(format!(
            "the file has {} bytes, it was sealed at {limit}",
            bytes.len()
        ));
        return Ok(scan);
    }
    let bytes = &bytes[..limit];
    while scan.len < bytes.len() {
        let rest = &bytes[scan.len..];
        let entry = match parse_entry(rest) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                scan.bad = Some("an entry is cut short".into());
                break;
            }
            Err(error) => {
                scan.bad = Some(error.to_string());
                break;
            }
        };
        let fits = entry.header.base_offset() >= scan.end && entry.header.leader_epoch() >= epoch;
        if let Err(error) = verify_entry(&entry) {
            scan.bad = Some(error.to_string());
            break;
        }
        if !fits {
            scan.bad = Some("an entry does not follow its predecessor".into());
            break;
        }
        if entry.header.leader_epoch() > epoch {
            epoch = entry.header.leader_epoch();
            scan.epochs.push((epoch, scan.end));
        }
        if scan.index.wants(scan.len, index_bytes) {
            scan.index.push(entry.header.base_offset(), scan.len);
        }
        scan.end = entry.header.next_offset();
        scan.len += entry.bytes.len();
    }
    // Preallocated room that was never written is zero: the usual end of an open segment.
    let tail = &bytes[scan.len..];
    let written = tail
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    scan.tail_bytes = written;
    if written == 0 && header.sealed_len.is_none() {
        scan.bad = None;
    }
    Ok(scan)
}

pub(crate) fn recover(
    dir: &Path,
    identity: LogIdentity,
    config: &LogConfig,
    durable_end: Offset,
) -> Result<(Recovery, Found), StorageError> {
    let mut recovery = Recovery::default();
    let mut found = Found {
        segments: Vec::new(),
        epochs: Vec::new(),
        start: Offset::ZERO,
        end: Offset::ZERO,
    };
    let files = segment_files(dir)?;
    for (i, path) in files.iter().enumerate() {
        let header = match SegmentHeader::read(path) {
            Ok(header) => header,
            // A file whose creation was cut off has no header and no entries yet.
            Err(error) if i + 1 == files.len() && found.end >= durable_end && is_blank(path)? => {
                tracing::info!(%error, "a segment that was never begun is removed");
                recovery.leftovers += remove(dir, &files[i..])?;
                break;
            }
            Err(error) => return Err(error),
        };
        if header.identity != identity {
            return Err(StorageError::WrongPartition {
                path: path.clone(),
                found: header.identity.to_string(),
                expected: identity.to_string(),
            });
        }
        if i == 0 {
            (found.start, found.end) = (header.base, header.base);
        } else if header.prev_end != found.end && found.end < durable_end {
            // No truncation leaves this: it lowers the mark first. Entries are missing.
            break;
        } else if header.prev_end != found.end {
            recovery.leftovers += remove(dir, &files[i..])?;
            break;
        }
        let epoch = found.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0);
        let scan = scan(path, &header, epoch, config.index_interval_bytes)?;
        recovery.scanned_bytes += scan.len as u64;
        found.epochs.extend_from_slice(&scan.epochs);
        found.end = scan.end;
        if let Some(detail) = scan.bad {
            if scan.end < durable_end || header.sealed_len.is_some() {
                recovery.damage = Some(Damage {
                    path: path.clone(),
                    position: scan.len,
                    detail,
                    sound_end: scan.end,
                    durable_end,
                });
                break;
            }
            recovery.torn_bytes += scan.tail_bytes as u64;
            recovery.leftovers += remove(dir, &files[i + 1..])?;
            clear_tail(path, scan.len)?;
            found
                .segments
                .push(open(path, header, config, scan.len, scan.end, scan.index)?);
            break;
        }
        if scan.tail_bytes == 0 && header.sealed_len.is_none() && i + 1 == files.len() {
            clear_tail(path, scan.len)?;
        }
        found
            .segments
            .push(open(path, header, config, scan.len, scan.end, scan.index)?);
    }
    if recovery.damage.is_none() && found.end < durable_end {
        recovery.damage = Some(Damage {
            path: files.last().cloned().unwrap_or_else(|| dir.to_owned()),
            position: 0,
            detail: "entries are missing".into(),
            sound_end: found.end,
            durable_end,
        });
    }
    Ok((recovery, found))
}

fn open(
    path: &Path,
    header: SegmentHeader,
    config: &LogConfig,
    len: usize,
    end: Offset,
    index: SparseIndex,
) -> Result<Arc<Segment>, StorageError> {
    let capacity = config.segment_bytes_max;
    Segment::open(path.to_owned(), header, capacity, len, end, index).map(Arc::new)
}

/// Gives the room behind the last entry back. Nothing of it may be read as an entry later, when new
/// entries have been written over its beginning. No mapping of the file exists yet.
fn clear_tail(path: &Path, len: usize) -> Result<(), StorageError> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(path, "open")?;
    file.set_len(len as u64).context(path, "cut the tail of")?;
    file.sync_all().context(path, "flush")
}

/// Whether a file holds nothing but zeros.
fn is_blank(path: &Path) -> Result<bool, StorageError> {
    let bytes = std::fs::read(path).context(path, "read")?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// Removes files, the last one first, so that an interruption leaves no hole.
fn remove(dir: &Path, files: &[PathBuf]) -> Result<usize, StorageError> {
    for path in files.iter().rev() {
        std::fs::remove_file(path).context(path, "remove")?;
        sync_dir(dir)?;
    }
    Ok(files.len())
}
