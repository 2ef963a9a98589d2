//! Making a log of what is found in a directory.
//!
//! Every entry is checked. The first bad one ends the log: above the durable mark it is a torn tail,
//! which nobody was promised, and is cut; below it is damage, which is reported and left to
//! `repair.rs`. A truncation that was interrupted is finished.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::Damage;
use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::header::LogIdentity;
use crate::log::LogConfig;
use crate::mark::Extent;
use crate::segment::Segment;
use crate::survey::{Survey, Surveyed, Verdict, survey};

/// What an opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Bytes that were checked.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Segment files that were removed: of an interrupted truncation, or strays without entries.
    pub leftovers: usize,
    /// Entries that were cut because they were not trusted are kept in this file; see
    /// [`Trust`](crate::Trust).
    pub not_trusted: Option<PathBuf>,
    /// Damage below the durable end. The log takes no appends.
    pub damage: Option<Damage>,
}

pub(crate) struct Found {
    pub segments: Vec<Arc<Segment>>,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub start: Offset,
    pub end: Offset,
}

/// Opens what is sound, and cleans up behind it. A damaged log is not touched.
pub(crate) fn recover(
    dir: &Path,
    identity: LogIdentity,
    config: &LogConfig,
    mark: Option<Extent>,
) -> Result<(Recovery, Found), StorageError> {
    let survey = survey(dir, Some(identity), config.index_interval_bytes, mark)?;
    let mut recovery = Recovery {
        scanned_bytes: survey.segments.iter().map(|s| s.scan.len as u64).sum(),
        ..Recovery::default()
    };
    let sound = survey.files_sound();
    match &survey.verdict {
        Verdict::Damaged { damage, .. } => recovery.damage = Some(damage.clone()),
        Verdict::Whole => clean_up(dir, &survey, &mut recovery)?,
        Verdict::Leftovers => {
            clean_up(dir, &survey, &mut recovery)?;
            tracing::info!(dir = %dir.display(), files = recovery.leftovers, "what an interrupted change of the log left behind is removed");
        }
        Verdict::Torn => {
            let torn = survey
                .segments
                .last()
                .map_or(0, |last| last.scan.tail_bytes);
            recovery.torn_bytes = torn as u64;
            clean_up(dir, &survey, &mut recovery)?;
        }
    }
    let segments = survey.segments.into_iter().take(sound);
    let found = Found {
        segments: segments
            .map(|segment| open(segment, config))
            .collect::<Result<_, _>>()?,
        epochs: survey.epochs,
        start: survey.start,
        end: survey.end,
    };
    Ok((recovery, found))
}

/// Removes the files behind the log, and what lies behind the entries within those that stay:
/// nothing of it may be read as an entry later, when other entries have been written over its
/// beginning or the segment after it is gone.
fn clean_up(dir: &Path, survey: &Survey, recovery: &mut Recovery) -> Result<(), StorageError> {
    remove(dir, &unnamed_segments(dir)?)?;
    let void = &survey.files[survey.segments.len()..];
    recovery.leftovers = remove(dir, void)? + remove(dir, &survey.strays)?;
    for (i, segment) in survey.segments.iter().enumerate() {
        // The last one also gives back the room that was allocated ahead.
        let last = i + 1 == survey.segments.len();
        let unsealed = segment.header.sealed_len.is_none();
        if unsealed && (last || segment.scan.tail_bytes > 0) {
            clear_tail(&segment.path, segment.scan.len)?;
        }
    }
    Ok(())
}

fn open(segment: Surveyed, config: &LogConfig) -> Result<Arc<Segment>, StorageError> {
    let Surveyed { path, header, scan } = segment;
    let capacity = config.segment_bytes_max;
    Segment::open(path, header, capacity, scan.len, scan.end, scan.index).map(Arc::new)
}

/// Cuts a file at `len`. No mapping of it exists yet.
fn clear_tail(path: &Path, len: usize) -> Result<(), StorageError> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(path, "open")?;
    file.set_len(len as u64).context(path, "cut the tail of")?;
    file.sync_all().context(path, "flush")
}

/// Segment files whose making was cut off before they had a name.
fn unnamed_segments(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).context(dir, "list")? {
        let path = entry.context(dir, "list")?.path();
        if path.to_string_lossy().ends_with(".log.tmp") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Removes files, the last one first, so that an interruption leaves no hole.
fn remove(dir: &Path, files: &[PathBuf]) -> Result<usize, StorageError> {
    for path in files.iter().rev() {
        std::fs::remove_file(path).context(path, "remove")?;
        sync_dir(dir)?;
    }
    Ok(files.len())
}
