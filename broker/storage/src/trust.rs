//! What a start may believe of what it reads.
//!
//! When a flush fails, the system may keep the bytes in memory and forget that they are not on disk:
//! they can be read, a second flush of them succeeds, and a power cut takes them. So after a flush
//! that failed, only what an earlier flush has made durable is believed, which is what the mark says.
//!
//! The mark is written after the flush that it speaks of has succeeded, and never after one has
//! failed. So the newest one that can be read is true of the entries, whether or not the mark itself
//! has reached the disk; an older one on disk only makes recovery less strict. A mark that was
//! lowered for a cut comes before the cut. What the mark rests on is that every start after a failed
//! flush is as distrustful as this: one that trusts what it reads raises the mark to it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use baton_protocol::batch::EntryIter;
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::damage::Damage;
use crate::error::{IoContext, StorageError};
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES};
use crate::mark::Mark;
use crate::quarantine::Aside;
use crate::recovery::Check;
use crate::repair::Cut;
use crate::step::Step;
use crate::survey::{Survey, Surveyed, Verdict, survey};

/// What an opening believes of what it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// All that is sound. What the process before has not flushed is in the system's memory, and is
    /// flushed now. Right unless a flush has failed since the machine was started; after a restart
    /// of the machine what is read comes from the disk.
    #[default]
    PageCache,
    /// Only what lies below the mark. For the start after a flush that failed: one of this log, or
    /// of an opening of it. The owner must remember that it failed until such an opening has
    /// succeeded.
    OnlyTheMark,
}

/// Cuts the log at the mark, durably, so that nothing rests on bytes that may be in memory only. What
/// lies above is kept in the quarantine first; its file is returned.
pub(crate) fn cut_to_mark(
    dir: &Path,
    identity: LogIdentity,
) -> Result<Option<PathBuf>, StorageError> {
    if !dir.exists() {
        return Ok(None);
    }
    let mut kept = None;
    for step in plan(dir, identity)? {
        step.carry_out(dir)?;
        if let Step::KeepEntries { aside, .. } = step {
            let path = aside.path(dir);
            tracing::error!(partition = %identity, from = %aside.from, to = %aside.to, file = %path.display(), "entries above the mark are not trusted after a flush that failed; they are cut and kept in quarantine");
            kept = Some(path);
        }
    }
    Ok(kept)
}

fn plan(dir: &Path, identity: LogIdentity) -> Result<Vec<Step>, StorageError> {
    let mark = Mark::peek(dir)?;
    let survey = survey(dir, Some(identity), usize::MAX, mark, Check::All)?;
    let Some(mark) = mark else {
        return without_mark(dir, identity, &survey);
    };
    let cut = cut_at(&survey, mark.durable_end)?;
    let left = survey.extent_to(cut.end);
    if let Verdict::Damaged { damage, .. } = &survey.verdict {
        if survey.end <= mark.durable_end {
            // For the repair that follows, which leaves less than the mark says.
            return Ok(Vec::new());
        }
        let damage = Damage {
            sound_end: cut.end,
            ..damage.clone()
        };
        let partial = cut.last.as_ref().zip(cut.above.first());
        let partial = partial.is_some_and(|(last, above)| last.0 == above.0);
        let affected = &survey.files[cut.files_kept - usize::from(partial)..];
        let cut = Cut {
            damage: &damage,
            affected,
            beginning: cut.last.filter(|_| partial),
            left,
        };
        return cut.steps(dir, identity);
    }
    let mut steps = Vec::new();
    if !cut.above.is_empty() {
        let aside = Aside {
            identity,
            from: cut.end,
            to: survey.end,
            epoch: survey.epochs.last().map_or(LeaderEpoch::NONE, |run| run.0),
            reason: "a flush failed, and these entries were not known to be durable".to_owned(),
        };
        steps.push(Step::KeepEntries {
            aside,
            from: cut.above,
        });
    }
    let strays = survey.strays.iter().cloned();
    steps.extend(strays.map(Step::Remove));
    let later = survey.files[cut.files_kept..].iter().rev().cloned();
    steps.extend(later.map(Step::Remove));
    if let Some((file, len)) = cut.last {
        // A new file: in the old one, the page that holds the last entry below the mark has been
        // written to since, and so has its seal, if it has one.
        steps.push(Step::KeepBeginning { file, len });
    }
    steps.push(Step::ForgetProducers(cut.end));
    steps.push(Step::LowerMark(left));
    Ok(steps)
}

/// Nothing is known to be durable: all of it counts as damaged, so that it is not forgotten.
fn without_mark(
    dir: &Path,
    identity: LogIdentity,
    survey: &Survey,
) -> Result<Vec<Step>, StorageError> {
    if survey.files.is_empty() {
        return Ok(Vec::new());
    }
    let damage = Damage {
        path: survey.files[0].clone(),
        position: 0,
        detail: "a flush failed, and the mark that says what was durable before is lost".to_owned(),
        sound_end: survey.start,
        durable_end: survey.end,
    };
    let cut = Cut {
        damage: &damage,
        affected: &survey.files,
        beginning: None,
        left: survey.extent_to(survey.start),
    };
    cut.steps(dir, identity)
}

/// Where a log is cut.
struct CutAt {
    /// The end of its last entry that stays.
    end: Offset,
    /// Its segment, and how much of that stays.
    last: Option<(PathBuf, usize)>,
    files_kept: usize,
    /// Where the entries above lie.
    above: Vec<(PathBuf, Range<usize>)>,
}

fn cut_at(survey: &Survey, to: Offset) -> Result<CutAt, StorageError> {
    let mut cut = CutAt {
        end: survey.start,
        last: None,
        files_kept: 0,
        above: Vec::new(),
    };
    for segment in &survey.segments {
        let (len, end) = if segment.scan.len == SEGMENT_HEADER_BYTES {
            (segment.scan.len, None)
        } else if segment.scan.end <= to {
            (segment.scan.len, Some(segment.scan.end))
        } else {
            beginning(segment, to)?
        };
        if let Some(end) = end {
            cut.end = end.max(survey.start);
            cut.last = Some((segment.path.clone(), len));
            cut.files_kept += 1;
        }
        if len < segment.scan.len {
            cut.above
                .push((segment.path.clone(), len..segment.scan.len));
        }
    }
    Ok(cut)
}

/// How many bytes of a segment hold entries that end at or below `to`, and where the last one ends,
/// if there is one.
fn beginning(segment: &Surveyed, to: Offset) -> Result<(usize, Option<Offset>), StorageError> {
    let path = &segment.path;
    let bytes = std::fs::read(path).context(path, "read")?;
    let entries = bytes.get(SEGMENT_HEADER_BYTES..segment.scan.len);
    let (mut len, mut end) = (SEGMENT_HEADER_BYTES, None);
    for entry in EntryIter::new(entries.unwrap_or_default()) {
        let entry = entry.map_err(|error| StorageError::corrupt(path, error.to_string()))?;
        if entry.header.next_offset() > to {
            break;
        }
        len += entry.bytes.len();
        end = Some(entry.header.next_offset());
    }
    Ok((len, end))
}

#[cfg(test)]
mod tests {
    use baton_protocol::batch::{BatchBuilder, LeaderStamp};
    use baton_protocol::ids::{PartitionIndex, TopicId};

    use super::*;
    use crate::log::{Log, LogConfig};

    const IDENTITY: LogIdentity = LogIdentity {
        topic: TopicId(uuid::Uuid::from_u128(5)),
        partition: PartitionIndex(1),
    };

    const CONFIG: LogConfig = LogConfig {
        segment_bytes_max: 600,
        index_interval_bytes: 200,
        hint_interval_bytes: 16 << 20,
        check: Check::Tail,
    };

    /// Twenty entries in several segments, of which the first five are durable.
    fn log(dir: &Path) {
        let (mut log, _) = Log::open(dir, IDENTITY, CONFIG).expect("opens");
        for i in 0..20 {
            if i == 5 {
                log.save_producers(b"account").expect("kept");
            }
            let mut builder = BatchBuilder::default();
            builder.push(1, None, Some(b"content"), &[]);
            let batch = builder.build(None);
            log.reserve(batch.len() + 4).expect("room");
            log.append_batch(&batch, &LeaderStamp::new(Offset(i), LeaderEpoch(1)))
                .expect("stored");
        }
    }

    #[test]
    fn a_cut_at_the_mark_that_is_cut_off_anywhere_is_finished_by_the_next_start() {
        let uncut = tempfile::tempdir().expect("dir");
        log(uncut.path());
        let steps = plan(uncut.path(), IDENTITY).expect("planned").len();
        assert!(steps >= 5);
        for done in 0..=steps {
            let dir = tempfile::tempdir().expect("dir");
            log(dir.path());
            let first = plan(dir.path(), IDENTITY).expect("planned");
            for step in first.iter().take(done) {
                step.carry_out(dir.path()).expect("carried out");
            }
            cut_to_mark(dir.path(), IDENTITY).expect("cut");
            let (log, recovery) = Log::open(dir.path(), IDENTITY, CONFIG).expect("opens");
            assert_eq!((recovery.damage, log.end()), (None, Offset(5)));
            let account = log.load_producers().expect("of what stays");
            assert_eq!(account.0, Offset(5));
            // All that was above is in one file, whatever a second attempt has added.
            let kept = crate::quarantine::list(dir.path()).expect("listed");
            let all = "00000000000000000005-00000000000000000020-1.entries";
            let is_all = |path: &PathBuf| path.file_name() == Some(all.as_ref());
            assert!(kept.iter().any(is_all), "after {done} steps: {kept:?}");
        }
    }
}
