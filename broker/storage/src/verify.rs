//! Looking at a log offline: nothing is changed, no lock is taken.

use std::path::{Path, PathBuf};

use baton_protocol::batch::{EntryIter, EntryRef};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::DamageNote;
use crate::error::{IoContext, StorageError};
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES};
use crate::mark::Mark;
use crate::recovery::Check;
use crate::survey::{Verdict, survey};

/// What a check of a log found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whose log it is; none for a directory without readable segments.
    pub identity: Option<LogIdentity>,
    /// First offset.
    pub start: Offset,
    /// Offset after the last sound entry.
    pub end: Offset,
    /// How far it was durable at least, by the mark.
    pub durable_end: Option<Offset>,
    /// Which epoch wrote what: each with the log's end when its first entry came.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Each segment file with the number of its sound bytes.
    pub segments: Vec<(PathBuf, usize)>,
    /// What is wrong, in words; empty for a sound log.
    pub problems: Vec<String>,
}

/// Checks the log in a partition's directory.
///
/// # Errors
/// If a file cannot be read, is of a newer format, or belongs to another partition than the first.
pub fn verify(dir: &Path) -> Result<Report, StorageError> {
    let mark = Mark::peek(dir)?;
    let survey = survey(dir, None, usize::MAX, mark, Check::All)?;
    let mut problems = Vec::new();
    let void = survey.files.get(survey.segments.len());
    let void = void.or(survey.strays.first());
    match &survey.verdict {
        Verdict::Whole => {}
        Verdict::Damaged { damage, .. } => problems.push(damage.to_string()),
        Verdict::Torn => {
            if let Some(last) = survey.segments.last() {
                problems.push(format!(
                    "{}: byte {}: {}; above what was durable, so the next start cuts it",
                    last.path.display(),
                    last.scan.len,
                    last.scan.bad.as_deref().unwrap_or("a torn tail"),
                ));
            }
        }
        Verdict::Leftovers => problems.push(format!(
            "{}: no part of the log, which ends at {}; a leftover of a change that was interrupted or failed, which the next start removes",
            void.map_or_else(|| dir.display(), |path| path.display()),
            survey.end,
        )),
    }
    if let Some(note) = DamageNote::read(dir)? {
        problems.push(format!("it was damaged before: {note}"));
    }
    Ok(Report {
        identity: survey.identity,
        start: survey.start,
        end: survey.end,
        durable_end: mark.map(|mark| mark.durable_end),
        epochs: survey.epochs,
        segments: survey
            .segments
            .into_iter()
            .map(|segment| (segment.path, segment.scan.len))
            .collect(),
        problems,
    })
}

/// Calls `each` for every sound entry of the log in a partition's directory; not for what lies below
/// its start and is still in the first segment.
///
/// # Errors
/// As [`verify`].
pub fn walk(dir: &Path, mut each: impl FnMut(&EntryRef<'_>)) -> Result<Report, StorageError> {
    let report = verify(dir)?;
    for (path, len) in &report.segments {
        let bytes = std::fs::read(path).context(path, "read")?;
        let entries = bytes.get(SEGMENT_HEADER_BYTES..*len).unwrap_or_default();
        for entry in EntryIter::new(entries) {
            let entry = entry.map_err(|error| StorageError::corrupt(path, error.to_string()))?;
            if entry.header.next_offset() > report.start {
                each(&entry);
            }
        }
    }
    Ok(report)
}
