//! Making a log of what is found in a directory.
//!
//! Every entry is checked that no index file speaks of, or that lies above the durable mark. The first
//! bad one ends the log: above the mark it is a torn tail, which nobody was promised, and is cut;
//! below it is damage, which is reported and left to `repair.rs`. A truncation that was interrupted is
//! finished.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::Damage;
use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::header::LogIdentity;
use crate::index_file;
use crate::log::LogConfig;
use crate::mark::Extent;
use crate::segment::Segment;
use crate::survey::{Survey, Surveyed, Verdict, survey};

/// How much an opening checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// What was written last: what no index file speaks of. Damage further down is found when it is
    /// read, or by a [`Scrub`](crate::Scrub).
    #[default]
    Tail,
    /// Every entry.
    All,
}

/// What an opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Bytes that were checked.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Segment files that were removed: of an interrupted truncation, below the log's start, or strays
    /// without entries.
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
    dir: &Arc<Path>,
    identity: LogIdentity,
    config: &LogConfig,
    mark: Option<Extent>,
    check: Check,
) -> Result<(Recovery, Found), StorageError> {
    let index_bytes = config.index_interval_bytes;
    let survey = survey(dir, Some(identity), index_bytes, mark, check)?;
    let checked = survey
        .segments
        .iter()
        .map(|s| s.scan.checked_bytes() as u64);
    let mut recovery = Recovery {
        scanned_bytes: checked.sum(),
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
            .map(|segment| open(dir, segment, config))
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
    for path in unclaimed(dir)? {
        std::fs::remove_file(&path).context(&path, "remove")?;
    }
    for segment in survey.segments.iter().filter(|s| s.scan.indexed == 0) {
        // Wrong, or not known to be right.
        index_file::remove(&segment.path)?;
    }
    let void = &survey.files[survey.segments.len()..];
    // Those below the start first, the oldest of them first, as if this had not been cut off.
    for path in &survey.expired {
        index_file::remove(path)?;
        std::fs::remove_file(path).context(path, "remove")?;
    }
    recovery.leftovers = survey.expired.len() + remove(dir, void)? + remove(dir, &survey.strays)?;
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

fn open(
    dir: &Arc<Path>,
    segment: Surveyed,
    config: &LogConfig,
) -> Result<Arc<Segment>, StorageError> {
    let Surveyed { header, scan, .. } = segment;
    let capacity = config.segment_bytes_max;
    let segment = Segment::open(
        dir,
        header,
        capacity,
        scan.len,
        scan.end,
        scan.newest,
        scan.index,
    )?;
    segment.unchecked.store(scan.unchecked, Ordering::Release);
    segment.indexed.store(scan.indexed, Ordering::Release);
    Ok(Arc::new(segment))
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

/// Files whose making was cut off before they had a name, segments, what is left of some, indexes, and indexes of
/// segments that are gone.
fn unclaimed(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).context(dir, "list")? {
        let path = entry.context(dir, "list")?.path();
        let name = path.to_string_lossy();
        let unnamed = [".log.tmp", ".index.tmp", ".compacted.tmp"]
            .iter()
            .any(|ending| name.ends_with(ending));
        if unnamed || name.ends_with(".index") && !path.with_extension("log").exists() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Removes files, the last one first, so that an interruption leaves no hole.
fn remove(dir: &Path, files: &[PathBuf]) -> Result<usize, StorageError> {
    for path in files.iter().rev() {
        index_file::remove(path)?;
        std::fs::remove_file(path).context(path, "remove")?;
        sync_dir(dir)?;
    }
    Ok(files.len())
}
