//! What a partition's directory holds, and whether it is a sound log. Changes nothing: what to do
//! about it is the business of `recovery.rs` and `repair.rs`.

use std::path::{Path, PathBuf};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::Damage;
use crate::error::{IoContext, StorageError};
use crate::header::{LogIdentity, SegmentHeader, file_name};
use crate::scan::{Place, Scan, scan};

/// A partition's directory, surveyed.
pub(crate) struct Survey {
    /// All segment files, in the order of the log.
    pub files: Vec<PathBuf>,
    /// The first of them, as far as the log goes.
    pub segments: Vec<Surveyed>,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub start: Offset,
    pub end: Offset,
    pub verdict: Verdict,
}

/// A segment that is part of the log; the last one perhaps with its beginning only.
pub(crate) struct Surveyed {
    pub path: PathBuf,
    pub header: SegmentHeader,
    pub scan: Scan,
}

/// How the log ends.
pub(crate) enum Verdict {
    /// With the last file, soundly.
    Whole,
    /// With a torn tail in the last surveyed segment. Files after that are void.
    Torn,
    /// Soundly, and files are left over from a truncation or creation that was interrupted.
    Leftovers,
    /// Before it should.
    Damaged {
        damage: Damage,
        /// The last surveyed segment is sound in its beginning only.
        partial: bool,
    },
}

impl Survey {
    /// How many of the files, from the first on, are sound.
    pub fn files_sound(&self) -> usize {
        let partial = matches!(self.verdict, Verdict::Damaged { partial: true, .. });
        self.segments.len() - usize::from(partial)
    }
}

/// A directory's segment files, in the order of their names.
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

/// Surveys the log in `dir`. `mark` says how far it was durable at least; none if no mark can be
/// read.
pub(crate) fn survey(
    dir: &Path,
    identity: Option<LogIdentity>,
    index_bytes: usize,
    mark: Option<Offset>,
) -> Result<Survey, StorageError> {
    let files = segment_files(dir)?;
    let headers: Vec<_> = files
        .iter()
        .map(|path| read_header(path))
        .collect::<Result<_, _>>()?;
    let mut survey = Survey {
        files,
        segments: Vec::new(),
        epochs: Vec::new(),
        start: Offset::ZERO,
        end: Offset::ZERO,
        verdict: Verdict::Whole,
    };
    let mut owner = identity;
    for (i, header) in headers.iter().enumerate() {
        let path = survey.files[i].clone();
        let header = match header {
            Ok(header) => *header,
            Err(detail) => {
                // A file whose creation was cut off has no header and no entries yet.
                survey.verdict = if survey.reaches(mark) && is_blank(&path)? {
                    Verdict::Leftovers
                } else {
                    survey.damaged(&path, 0, detail, mark, false)
                };
                return Ok(survey);
            }
        };
        let expected = *owner.get_or_insert(header.identity);
        if header.identity != expected {
            return Err(StorageError::WrongPartition {
                path,
                found: header.identity.to_string(),
                expected: expected.to_string(),
            });
        }
        if i == 0 {
            (survey.start, survey.end) = (header.base, header.base);
        } else if header.prev_end != survey.end {
            // A truncation that was interrupted leaves segments that continue something longer, and
            // it lowers the mark first. All else means that entries are missing.
            survey.verdict = if header.prev_end > survey.end && survey.reaches(mark) {
                Verdict::Leftovers
            } else {
                let detail = format!(
                    "it continues offset {}, the log ends at {} before it",
                    header.prev_end, survey.end
                );
                survey.damaged(&path, 0, &detail, mark, false)
            };
            return Ok(survey);
        }
        let place = Place {
            epoch: survey.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0),
            next: match headers.get(i + 1) {
                Some(Ok(next)) => Some(next.prev_end),
                _ => None,
            },
        };
        let scan = scan(&path, &header, place, index_bytes)?;
        let (bad, len, unreadable) = (scan.bad.clone(), scan.len, scan.unreadable);
        survey.epochs.extend_from_slice(&scan.epochs);
        survey.end = scan.end;
        survey.segments.push(Surveyed {
            path: path.clone(),
            header,
            scan,
        });
        if let Some(detail) = bad {
            // A sealed segment was durable as a whole when it was sealed.
            let may_tear = header.sealed_len.is_none() && !unreadable;
            survey.verdict = if survey.reaches(mark) && may_tear {
                Verdict::Torn
            } else {
                survey.damaged(&path, len, &detail, mark, true)
            };
            return Ok(survey);
        }
    }
    if !survey.files.is_empty() && !survey.reaches(mark) {
        let detail = match mark {
            Some(_) => "entries are missing behind it",
            None => "the mark (file `durable`) that says how far it reached is lost",
        };
        let path = survey.files[survey.files.len() - 1].clone();
        let len = survey.segments.last().map_or(0, |last| last.scan.len);
        survey.verdict = survey.damaged(&path, len, detail, mark, false);
    } else if mark.is_some_and(|mark| mark > Offset::ZERO) && survey.files.is_empty() {
        survey.verdict = survey.damaged(dir, 0, "all segment files are missing", mark, false);
    }
    Ok(survey)
}

impl Survey {
    /// Whether all that was durable has been found; never without a mark.
    fn reaches(&self, mark: Option<Offset>) -> bool {
        mark.is_some_and(|mark| self.end >= mark)
    }

    fn damaged(
        &self,
        path: &Path,
        position: usize,
        detail: &str,
        mark: Option<Offset>,
        partial: bool,
    ) -> Verdict {
        Verdict::Damaged {
            damage: Damage {
                path: path.to_owned(),
                position,
                detail: detail.to_owned(),
                sound_end: self.end,
                durable_end: mark.unwrap_or(self.end).max(self.end),
            },
            partial,
        }
    }
}

/// A segment's header; what is wrong with it where it, and no more than it, cannot be used.
fn read_header(path: &Path) -> Result<Result<SegmentHeader, String>, StorageError> {
    match SegmentHeader::read(path) {
        Ok(header) if path.file_name() == Some(file_name(header.base).as_ref()) => Ok(Ok(header)),
        Ok(header) => Ok(Err(format!(
            "the header says that it begins at offset {}, the name says otherwise",
            header.base
        ))),
        Err(StorageError::Corrupt { detail, .. }) => Ok(Err(detail)),
        Err(error) => Err(error),
    }
}

/// Whether a file holds nothing but zeros.
fn is_blank(path: &Path) -> Result<bool, StorageError> {
    let bytes = std::fs::read(path).context(path, "read")?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}
