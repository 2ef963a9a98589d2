//! What a partition's directory holds, and whether it is a sound log. Changes nothing: what to do
//! about it is the business of `recovery.rs` and `repair.rs`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::Damage;
use crate::epochs;
use crate::error::{IoContext, StorageError};
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES, SegmentHeader, file_name};
use crate::index_file::IndexFile;
use crate::mark::Extent;
use crate::recovery::Check;
use crate::scan::{Place, Scan, scan};

/// A partition's directory, surveyed.
pub(crate) struct Survey {
    /// All segment files but those below the start and the strays, in the order of the log.
    pub files: Vec<PathBuf>,
    /// Files of segments that lie below the log's start as a whole, oldest first.
    pub expired: Vec<PathBuf>,
    /// Files without entries that the log has gone past: of segments that could not be made.
    pub strays: Vec<PathBuf>,
    /// The first of them, as far as the log goes.
    pub segments: Vec<Surveyed>,
    /// Whose log it is, by what was asked for or by the first header that can be read.
    pub identity: Option<LogIdentity>,
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
    /// Soundly, and files are left over from a truncation or creation that was interrupted, or are
    /// strays.
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

    /// What the mark of this log says when it is durable up to there.
    pub fn extent_to(&self, durable_end: Offset) -> Extent {
        Extent {
            durable_end,
            start: self.start,
            epoch_before: epochs::before(self.start, &self.epochs),
        }
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

/// Surveys the log in `dir`. `mark` says where it starts, and how far it was durable at least;
/// none if no mark can be read. `check` says how much of what lies below it is looked at.
///
/// # Errors
/// If a file cannot be read, is of a newer format, or belongs to another partition.
pub(crate) fn survey(
    dir: &Path,
    identity: Option<LogIdentity>,
    index_bytes: usize,
    mark: Option<Extent>,
    check: Check,
) -> Result<Survey, StorageError> {
    let mut files: Vec<_> = segment_files(dir)?
        .into_iter()
        .map(FoundFile::read)
        .collect::<Result<_, _>>()?;
    // A log starts at 0 unless its mark says otherwise. A log that lost its mark counts as damaged;
    // if its first segment is not there either, nothing of it is known to be sound.
    let start = mark.map_or(Offset::ZERO, |mark| mark.start);
    let first = files.iter().rposition(|file| file.may_hold(start));
    let expired = files.drain(..first.unwrap_or(0));
    let mut survey = Survey {
        expired: expired.map(|file| file.path).collect(),
        files: Vec::new(),
        strays: Vec::new(),
        segments: Vec::new(),
        identity,
        epochs: mark.map_or(Vec::new(), |mark| {
            epochs::empty_at(start, mark.epoch_before)
        }),
        start,
        end: start,
        verdict: Verdict::Whole,
    };
    survey.files = files.iter().map(|file| file.path.clone()).collect();
    survey.walk(dir, &files, index_bytes, mark, check)?;
    survey.begin_at_start(mark);
    let Survey { files, strays, .. } = &mut survey;
    files.retain(|file| !strays.contains(file));
    if !strays.is_empty() && matches!(survey.verdict, Verdict::Whole) {
        survey.verdict = Verdict::Leftovers;
    }
    Ok(survey)
}

impl Survey {
    /// Follows the log from file to file, as far as it goes.
    fn walk(
        &mut self,
        dir: &Path,
        files: &[FoundFile],
        index_bytes: usize,
        mark: Option<Extent>,
        check: Check,
    ) -> Result<(), StorageError> {
        for (i, file) in files.iter().enumerate() {
            let path = &file.path;
            if let Ok(header) = &file.header {
                let expected = *self.identity.get_or_insert(header.identity);
                if header.identity != expected {
                    return Err(StorageError::WrongPartition {
                        path: path.clone(),
                        found: header.identity.to_string(),
                        expected: expected.to_string(),
                    });
                }
            }
            if file.is_stray(self.end) {
                self.strays.push(path.clone());
                continue;
            }
            let header = match &file.header {
                Ok(header) => *header,
                Err(detail) => {
                    // A file whose creation was cut off has no header and no entries yet.
                    self.verdict = if self.reaches(mark) && file.blank {
                        Verdict::Leftovers
                    } else {
                        self.damaged(path, 0, detail, mark, false)
                    };
                    return Ok(());
                }
            };
            let first = self.segments.is_empty() && header.prev_end < self.start;
            if first {
                // The log starts within this one, and what lies below is still there.
                self.end = header.prev_end;
                self.epochs.clear();
            }
            if header.prev_end != self.end {
                // A truncation that was interrupted leaves segments that continue something
                // longer, and it lowers the mark first. All else means that entries are missing.
                self.verdict = if header.prev_end > self.end && self.reaches(mark) {
                    Verdict::Leftovers
                } else {
                    let detail = format!(
                        "it continues offset {}, the log ends at {} before it",
                        header.prev_end, self.end
                    );
                    self.damaged(path, 0, &detail, mark, false)
                };
                return Ok(());
            }
            let place = Place {
                epoch: self.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0),
                first,
                next: taken_over_at(&header, &files[i + 1..]),
            };
            // An index may speak of what was written and never durable: above the mark nothing is
            // believed.
            let index = match (check, mark) {
                (Check::Tail, Some(mark)) => {
                    IndexFile::read(path, &header).filter(|index| index.end <= mark.durable_end)
                }
                _ => None,
            };
            let scan = scan(path, &header, place, index_bytes, index)?;
            let (bad, len, unreadable) = (scan.bad.clone(), scan.len, scan.unreadable);
            self.epochs.extend_from_slice(&scan.epochs);
            self.end = scan.end;
            self.segments.push(Surveyed {
                path: path.clone(),
                header,
                scan,
            });
            if let Some(detail) = bad {
                // A sealed segment was durable as a whole when it was sealed.
                let may_tear = header.sealed_len.is_none() && !unreadable;
                self.verdict = if self.reaches(mark) && may_tear {
                    Verdict::Torn
                } else {
                    self.damaged(path, len, &detail, mark, true)
                };
                return Ok(());
            }
        }
        if let Some(last) = self.segments.last()
            && !self.reaches(mark)
        {
            let detail = match mark {
                Some(_) => "entries are missing behind it",
                None => "the mark (file `durable`) that says how far it reached is lost",
            };
            let (path, len) = (last.path.clone(), last.scan.len);
            self.verdict = self.damaged(&path, len, detail, mark, false);
        } else if self.segments.is_empty()
            && self.files.is_empty()
            && mark.is_some()
            && !self.reaches(mark)
        {
            self.verdict = self.damaged(dir, 0, "all segment files are missing", mark, false);
        }
        Ok(())
    }

    /// Leaves out what lies below the log's start, which may be all that has been found.
    fn begin_at_start(&mut self, mark: Option<Extent>) {
        let before = mark.map_or(LeaderEpoch::NONE, |mark| mark.epoch_before);
        if self.end < self.start {
            self.epochs = epochs::empty_at(self.start, before);
            self.end = self.start;
        } else if epochs::before(self.start, &self.epochs) == LeaderEpoch::NONE {
            // No epoch begins below the start in what is there.
            let later = std::mem::replace(&mut self.epochs, epochs::empty_at(self.start, before));
            self.epochs.extend(later);
        } else {
            self.epochs = epochs::from(self.start, &self.epochs);
        }
        // A damaged one is left to the repair.
        let damaged = matches!(self.verdict, Verdict::Damaged { .. });
        if let Some(first) = self.segments.first()
            && first.header.base < self.start
            && first.scan.end <= self.start
            && !damaged
        {
            self.expired.push(first.path.clone());
            let path = self.segments.remove(0).path;
            self.files.retain(|file| *file != path);
            if matches!(self.verdict, Verdict::Torn) {
                self.verdict = Verdict::Whole;
            }
        }
    }

    /// Whether all that was durable has been found; never without a mark.
    fn reaches(&self, mark: Option<Extent>) -> bool {
        mark.is_some_and(|mark| self.end.max(self.start) >= mark.durable_end)
    }

    fn damaged(
        &self,
        path: &Path,
        position: usize,
        detail: &str,
        mark: Option<Extent>,
        partial: bool,
    ) -> Verdict {
        let sound_end = self.end.max(self.start);
        Verdict::Damaged {
            damage: Damage {
                path: path.to_owned(),
                position,
                detail: detail.to_owned(),
                sound_end,
                durable_end: mark.map_or(sound_end, |mark| mark.durable_end.max(sound_end)),
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

/// A segment file, before its entries are looked at.
struct FoundFile {
    path: PathBuf,
    /// Its header, or what is wrong with it.
    header: Result<SegmentHeader, String>,
    /// There is nothing in it, not even a header.
    blank: bool,
    /// There is nothing in it but a header.
    empty: bool,
}

impl FoundFile {
    fn read(path: PathBuf) -> Result<FoundFile, StorageError> {
        let header = read_header(&path)?;
        let fresh = matches!(&header, Ok(header) if header.sealed_len.is_none());
        Ok(FoundFile {
            blank: header.is_err() && is_zero_from(&path, 0)?,
            empty: fresh && is_zero_from(&path, SEGMENT_HEADER_BYTES as u64)?,
            path,
            header,
        })
    }

    /// Whether it was made for a log that then went past the offset it is named after without it.
    fn is_stray(&self, log_end: Offset) -> bool {
        match &self.header {
            Ok(header) => self.empty && header.prev_end < log_end,
            Err(_) => self.blank && self.named_after().is_some_and(|base| base < log_end),
        }
    }

    /// Whether it may hold what a log has from `start` on, if no later file does.
    fn may_hold(&self, start: Offset) -> bool {
        !self.blank && !self.empty && self.named_after().is_some_and(|base| base <= start)
    }

    fn named_after(&self) -> Option<Offset> {
        let name = self.path.file_stem()?.to_str()?;
        name.parse().ok().map(Offset)
    }
}

/// Where the log leaves a segment, by what the next one says. One without entries says it only if
/// this one has been sealed; it may be a stray.
fn taken_over_at(header: &SegmentHeader, later: &[FoundFile]) -> Option<Offset> {
    let counts = |file: &&FoundFile| !file.blank && (!file.empty || header.seal_lost);
    let next = later.iter().find(counts)?.header.as_ref().ok()?;
    Some(next.prev_end)
}

/// Whether a file holds nothing but zeros from a position on. One that the disk will not read does
/// hold something.
fn is_zero_from(path: &Path, from: u64) -> Result<bool, StorageError> {
    let mut file = File::open(path).context(path, "open")?;
    file.seek(SeekFrom::Start(from)).context(path, "read")?;
    let mut block = [0; 4096];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(true),
            Ok(n) if block[..n].iter().all(|byte| *byte == 0) => {}
            _ => return Ok(false),
        }
    }
}
