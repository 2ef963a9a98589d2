//! Making a damaged log fit to be copied anew from a peer.
//!
//! What is below the damage stays; the damaged file and all after it are set aside as they are; the
//! log then ends where it is sound. The work is a list of [`Step`]s, each of which may be cut off
//! and done again. The note that the log was damaged comes first and outlives the repair; the mark
//! is lowered last, so that the directory shows its damage until everything else is done: whatever
//! comes in between, the next start surveys it and makes the remaining steps anew.

use std::path::{Path, PathBuf};

use crate::damage::{Damage, DamageNote};
use crate::error::StorageError;
use crate::header::{LogIdentity, SEGMENT_HEADER_BYTES};
use crate::log::{Log, LogConfig};
use crate::mark::{Extent, Mark};
use crate::quarantine::json_string;
use crate::recovery::{Check, Recovery};
use crate::step::Step;
use crate::survey::{Survey, Verdict, survey};
use crate::trust::{self, Trust};

impl Log {
    /// Opens the log in `dir` as [`Log::open`] does; a damaged one is first cut durably just before
    /// the damage, and what was there from the damage on is set aside in `quarantine/`. The log that
    /// is returned is sound and takes appends.
    ///
    /// The note says that the log lacks what it had made durable: it must not count as a holder of
    /// that, nor vote with it. It is given again at every opening until [`Log::damage_is_known`].
    ///
    /// # Errors
    /// As [`Log::open`], and if the disk refuses a step of the repair; the next opening goes on from
    /// there.
    pub fn open_repaired(
        dir: &Path,
        identity: LogIdentity,
        config: LogConfig,
    ) -> Result<(Log, Recovery, Option<DamageNote>), StorageError> {
        Log::open_trusting(dir, identity, config, Trust::PageCache)
    }

    /// Opens the log in `dir` as [`Log::open_repaired`] does, but with only so much of it as `trust`
    /// allows. What is not trusted is cut, durably; its entries are copied into `quarantine/` first,
    /// where [`Recovery::not_trusted`] says.
    ///
    /// # Errors
    /// As [`Log::open_repaired`]; the next opening has to be as distrustful.
    pub fn open_trusting(
        dir: &Path,
        identity: LogIdentity,
        config: LogConfig,
        trust: Trust,
    ) -> Result<(Log, Recovery, Option<DamageNote>), StorageError> {
        let not_trusted = match trust {
            Trust::PageCache => None,
            Trust::OnlyTheMark => trust::cut_to_mark(dir, identity)?,
        };
        let (log, mut recovery) = Log::open(dir, identity, config)?;
        recovery.not_trusted = not_trusted.clone();
        let Some(damage) = recovery.damage else {
            return Ok((log, recovery, DamageNote::read(dir)?));
        };
        tracing::error!(partition = %identity, %damage, "the log is damaged; it is cut before the damage and needs a copy from a peer");
        drop(log);
        for step in plan(dir, identity)? {
            step.carry_out(dir)?;
        }
        let (log, mut recovery) = Log::open(dir, identity, config)?;
        recovery.not_trusted = not_trusted;
        match recovery.damage {
            None => Ok((log, recovery, DamageNote::read(dir)?)),
            Some(damage) => Err(StorageError::corrupt(dir, damage.to_string())),
        }
    }

    /// Everybody who must know that the log was damaged knows it: the note is removed, durably.
    ///
    /// # Errors
    /// If the note cannot be removed; the damage is then reported again at the next opening.
    pub fn damage_is_known(&self) -> Result<(), StorageError> {
        DamageNote::remove(self.dir())
    }
}

/// The steps that are left to repair the log in `dir`; none for a sound one.
fn plan(dir: &Path, identity: LogIdentity) -> Result<Vec<Step>, StorageError> {
    let mark = Mark::peek(dir)?;
    let survey = survey(dir, Some(identity), usize::MAX, mark, Check::All)?;
    let Verdict::Damaged { damage, .. } = &survey.verdict else {
        return Ok(Vec::new());
    };
    let cut = Cut {
        damage,
        affected: &survey.files[survey.files_sound()..],
        beginning: beginning(&survey),
        left: survey.extent_to(survey.end),
    };
    cut.steps(dir, identity)
}

/// How a damaged log is cut.
pub(crate) struct Cut<'a> {
    pub damage: &'a Damage,
    /// The files to be set aside: the damaged one and all after it.
    pub affected: &'a [PathBuf],
    /// That of them that stays with its beginning, and how much of it.
    pub beginning: Option<(PathBuf, usize)>,
    /// What is left of the log.
    pub left: Extent,
}

impl Cut<'_> {
    pub fn steps(&self, dir: &Path, identity: LogIdentity) -> Result<Vec<Step>, StorageError> {
        let damage = self.damage;
        let note = note(dir, damage)?;
        let into = note.set_aside.clone();
        let text = format!(
            "{{\"format\":1,\"partition\":\"{identity}\",\"from\":{},\"to\":{},\"file\":{},\"byte\":{},\"reason\":{}}}\n",
            note.sound_end,
            note.durable_end,
            json_string(&damage.path.to_string_lossy()),
            damage.position,
            json_string(&note.detail),
        );
        let mut steps = vec![Step::Note(note)];
        steps.extend(self.affected.iter().map(|file| Step::SetAside {
            file: file.clone(),
            into: into.clone(),
        }));
        steps.push(Step::Describe { into, text });
        for file in self.affected.iter().rev() {
            steps.push(match &self.beginning {
                Some((partial, len)) if partial == file => Step::KeepBeginning {
                    file: file.clone(),
                    len: *len,
                },
                _ => Step::Remove(file.clone()),
            });
        }
        steps.push(Step::ForgetProducers(self.left.durable_end));
        steps.push(Step::LowerMark(self.left));
        Ok(steps)
    }
}

/// The file that stays with its beginning, and how much of it.
fn beginning(survey: &Survey) -> Option<(PathBuf, usize)> {
    let partial = survey.segments.get(survey.files_sound())?;
    let stays = partial.scan.len > SEGMENT_HEADER_BYTES && partial.scan.end > survey.start;
    stays.then(|| (partial.path.clone(), partial.scan.len))
}

/// The note of this damage, joined with one that nobody has taken note of yet.
fn note(dir: &Path, damage: &Damage) -> Result<DamageNote, StorageError> {
    let file = damage.path.file_name().unwrap_or_default();
    let fresh = DamageNote {
        sound_end: damage.sound_end,
        durable_end: damage.durable_end,
        detail: format!(
            "{} at byte {}: {}",
            file.to_string_lossy(),
            damage.position,
            damage.detail
        ),
        set_aside: PathBuf::new(),
    };
    let joined = match DamageNote::read(dir)? {
        None => fresh,
        // A repair that was cut off: what is found now is what it left.
        Some(earlier)
            if earlier.sound_end == fresh.sound_end && earlier.durable_end >= fresh.durable_end =>
        {
            earlier
        }
        Some(earlier) => DamageNote {
            sound_end: earlier.sound_end.min(fresh.sound_end),
            durable_end: earlier.durable_end.max(fresh.durable_end),
            detail: format!("{}; then {}", earlier.detail, fresh.detail),
            set_aside: earlier.set_aside,
        },
    };
    if joined
        .set_aside
        .extension()
        .is_some_and(|end| end == "damaged")
    {
        return Ok(joined);
    }
    let name = |n: u32| {
        let (from, to) = (joined.sound_end.0, joined.durable_end.0);
        let name = format!("{from:020}-{to:020}-{n}.damaged");
        dir.join("quarantine").join(name)
    };
    let set_aside = (1..).map(name).find(|path| !path.exists());
    Ok(DamageNote {
        set_aside: set_aside.unwrap_or_else(|| name(0)),
        ..joined
    })
}

#[cfg(test)]
mod tests {
    use baton_protocol::batch::{BatchBuilder, LeaderStamp};
    use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};

    use super::*;

    const IDENTITY: LogIdentity = LogIdentity {
        topic: TopicId(uuid::Uuid::from_u128(5)),
        partition: PartitionIndex(1),
    };

    const CONFIG: LogConfig = LogConfig {
        segment_bytes_max: 600,
        index_interval_bytes: 200,
        hint_interval_bytes: 16 << 20,
        // What is flipped here lies anywhere.
        check: Check::All,
    };

    fn append(log: &mut Log, base: Offset) {
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(b"content"), &[]);
        let batch = builder.build(None);
        log.reserve(batch.len() + 4).expect("room");
        log.append_batch(&batch, &LeaderStamp::new(base, LeaderEpoch(1)))
            .expect("stored");
    }

    /// A log with a dozen entries, a gap among them, in several segments, of which the one with
    /// this number is broken by `harm`.
    fn damaged(dir: &Path, segment: usize, harm: impl Fn(&Path)) -> Vec<PathBuf> {
        let (mut log, _) = Log::open(dir, IDENTITY, CONFIG).expect("opens");
        for i in 0..12 {
            let gap = if i == 4 { 50 } else { 0 };
            let base = log.end().plus(gap);
            append(&mut log, base);
        }
        log.save_producers(b"account").expect("kept");
        log.close().expect("closed");
        let files = crate::survey::segment_files(dir).expect("listed");
        assert!(files.len() >= 3);
        harm(&files[segment]);
        files
    }

    fn flip(at: usize) -> impl Fn(&Path) {
        move |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes[at] ^= 2;
            std::fs::write(path, bytes).expect("written");
        }
    }

    fn remove(path: &Path) {
        std::fs::remove_file(path).expect("removed");
    }

    type State = (Vec<(PathBuf, Vec<u8>)>, Option<Extent>, Vec<Vec<u8>>);

    /// The segments and the bytes of the log in them, the mark, and what is set aside.
    fn state(dir: &Path) -> State {
        let mark = Mark::peek(dir).expect("mark");
        let survey = survey(dir, None, 100, mark, Check::All).expect("surveyed");
        assert!(matches!(survey.verdict, Verdict::Whole));
        let segments = survey.segments.iter().map(|segment| {
            let mut bytes = std::fs::read(&segment.path).expect("read");
            bytes.truncate(segment.scan.len);
            let name = segment.path.strip_prefix(dir).expect("within");
            (name.to_owned(), bytes)
        });
        let note = DamageNote::read(dir).expect("readable").expect("noted");
        let mut kept: Vec<_> = std::fs::read_dir(&note.set_aside)
            .expect("listed")
            .map(|file| file.expect("file").path())
            .filter(|path| path.file_name() != Some("note".as_ref()))
            .collect();
        kept.sort();
        let kept = kept
            .iter()
            .map(|path| std::fs::read(path).expect("read"))
            .collect();
        (segments.collect(), Mark::peek(dir).expect("mark"), kept)
    }

    type Harm = Box<dyn Fn(&Path)>;

    #[test]
    fn a_repair_that_is_cut_off_anywhere_ends_the_same_at_the_next_start() {
        let harms: [(usize, fn() -> Harm); 5] = [
            (1, || Box::new(flip(200))),
            (1, || Box::new(flip(3))),
            (0, || Box::new(flip(150))),
            (1, || Box::new(remove)),
            (2, || Box::new(remove)),
        ];
        for (segment, harm) in harms {
            let uncut = tempfile::tempdir().expect("dir");
            damaged(uncut.path(), segment, harm());
            let steps = plan(uncut.path(), IDENTITY).expect("planned").len();
            let (log, _, note) =
                Log::open_repaired(uncut.path(), IDENTITY, CONFIG).expect("repaired");
            let (end, note) = (log.end(), note.expect("noted"));
            assert_eq!(note.sound_end, end);
            drop(log);
            let expected = state(uncut.path());
            for done in 0..=steps {
                let dir = tempfile::tempdir().expect("dir");
                damaged(dir.path(), segment, harm());
                let plan = plan(dir.path(), IDENTITY).expect("planned");
                for step in plan.iter().take(done) {
                    step.carry_out(dir.path()).expect("carried out");
                }
                // One step may have been begun: a file that was to replace another is lying about.
                std::fs::write(dir.path().join("damaged.tmp"), b"torn").expect("written");
                let (_, before) = Log::open(dir.path(), IDENTITY, CONFIG).expect("opens");
                assert!(
                    before.damage.is_some() || done == steps,
                    "after {done} steps the damage shows"
                );
                let (log, _, again) =
                    Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
                let again = again.expect("noted");
                assert_eq!(
                    (again.sound_end, again.durable_end),
                    (end, note.durable_end)
                );
                assert_eq!((log.end(), log.load_producers()), (end, None));
                drop(log);
                assert_eq!(state(dir.path()), expected, "after {done} steps");
            }
        }
    }

    #[test]
    fn each_step_may_be_carried_out_twice() {
        let dir = tempfile::tempdir().expect("dir");
        damaged(dir.path(), 1, flip(200));
        for step in plan(dir.path(), IDENTITY).expect("planned") {
            step.carry_out(dir.path()).expect("carried out");
            if !matches!(step, Step::Remove(_)) {
                step.carry_out(dir.path()).expect("carried out again");
            }
        }
        let (log, recovery, _) =
            Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
        assert_eq!(recovery.damage, None);
        drop(log);
        assert!(plan(dir.path(), IDENTITY).expect("planned").is_empty());
    }

    #[test]
    fn damage_that_comes_before_the_first_is_known_of_is_joined_to_it() {
        let dir = tempfile::tempdir().expect("dir");
        let files = damaged(dir.path(), 2, flip(200));
        let (log, _, first) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
        let first = first.expect("noted");
        drop(log);
        flip(200)(&files[1]);
        let (log, _, both) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
        let both = both.expect("noted");
        assert_eq!(both.sound_end, log.end());
        assert!(both.sound_end < first.sound_end);
        assert_eq!(both.durable_end, first.durable_end);
        assert_eq!(both.set_aside, first.set_aside);
        assert!(both.detail.starts_with(&first.detail), "{both}");
        // What was set aside first is still there, though the file has been set aside again.
        assert!(state(dir.path()).2.len() > files.len() - 2);
        log.damage_is_known().expect("removed");
        drop(log);
        flip(200)(&files[0]);
        let (_, _, later) = Log::open_repaired(dir.path(), IDENTITY, CONFIG).expect("repaired");
        assert_ne!(later.expect("noted").set_aside, first.set_aside);
    }
}
