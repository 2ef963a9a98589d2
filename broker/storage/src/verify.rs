//! Looking at a log offline: nothing is changed, no lock is taken.

use std::path::{Path, PathBuf};

use baton_protocol::batch::{EntryIter, EntryRef};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::mark::Mark;
use crate::recovery::{scan, segment_files};
use crate::segment::{LogIdentity, SEGMENT_HEADER_BYTES, SegmentHeader};

/// What a check of a log found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whose log it is; none for a directory without segments.
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
pub fn verify(dir: &Path) -> Result<Report, StorageError> {
    let mut report = Report {
        identity: None,
        start: Offset::ZERO,
        end: Offset::ZERO,
        durable_end: Mark::peek(dir)?,
        epochs: Vec::new(),
        segments: Vec::new(),
        problems: Vec::new(),
    };
    for path in segment_files(dir)? {
        let header = SegmentHeader::read(&path)?;
        let shown = path.display();
        match report.identity {
            None => {
                report.identity = Some(header.identity);
                (report.start, report.end) = (header.base, header.base);
            }
            Some(identity) if identity != header.identity => {
                report
                    .problems
                    .push(format!("{shown}: belongs to partition {}", header.identity));
                break;
            }
            Some(_) if header.prev_end != report.end => {
                report.problems.push(format!(
                    "{shown}: continues offset {}, the log ends at {}; a leftover of an interrupted truncation",
                    header.prev_end, report.end
                ));
                break;
            }
            Some(_) => {}
        }
        let epoch = report.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0);
        let scan = scan(&path, &header, epoch, usize::MAX)?;
        report.epochs.extend_from_slice(&scan.epochs);
        report.end = scan.end;
        report.segments.push((path.clone(), scan.len));
        if let Some(bad) = scan.bad {
            report
                .problems
                .push(format!("{shown}: byte {}: {bad}", scan.len));
            break;
        }
    }
    if report
        .durable_end
        .is_some_and(|durable| durable > report.end)
    {
        report
            .problems
            .push("entries that had been made durable are missing".into());
    }
    Ok(report)
}

/// Calls `each` for every sound entry of the log in a partition's directory.
pub fn walk(dir: &Path, mut each: impl FnMut(&EntryRef<'_>)) -> Result<Report, StorageError> {
    let report = verify(dir)?;
    for (path, len) in &report.segments {
        let bytes = std::fs::read(path).context(path, "read")?;
        let entries = bytes.get(SEGMENT_HEADER_BYTES..*len).unwrap_or_default();
        for entry in EntryIter::new(entries) {
            let entry = entry.map_err(|error| StorageError::corrupt(path, error.to_string()))?;
            each(&entry);
        }
    }
    Ok(report)
}
