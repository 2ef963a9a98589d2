//! The steps by which a log that is not open is cut. Each is durable when it has been carried out, and
//! may be carried out again, so that a start goes on from wherever the one before was cut off.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;

use crate::damage::DamageNote;
use crate::error::{IoContext, StorageError};
use crate::files::{replace_file, sync_dir};
use crate::header::clear_seal;
use crate::index_file;
use crate::mark::{Extent, Mark};
use crate::producers;
use crate::quarantine::Aside;

/// A step of cutting a log that is not open. Each is durable when it has been carried out, and may be carried out again.
#[derive(Debug)]
pub(crate) enum Step {
    /// Put on record that the log was damaged.
    Note(DamageNote),
    /// Keep a file as it is.
    SetAside { file: PathBuf, into: PathBuf },
    /// Write down what was set aside, and make all of it durable.
    Describe { into: PathBuf, text: String },
    /// Copy entries from these stretches of segment files into the quarantine.
    KeepEntries {
        aside: Aside,
        from: Vec<(PathBuf, Range<usize>)>,
    },
    /// Remove a file that was kept from the log.
    Remove(PathBuf),
    /// Replace a file by a new one that holds its beginning.
    KeepBeginning { file: PathBuf, len: usize },
    /// What follows from the entries goes with them.
    ForgetProducers(Offset),
    /// From here on the log counts as sound.
    LowerMark(Extent),
}

impl Step {
    pub fn carry_out(&self, dir: &Path) -> Result<(), StorageError> {
        match self {
            Step::Note(note) => note.write(dir),
            Step::SetAside { file, into } => set_aside(file, into),
            Step::Describe { into, text } => {
                std::fs::create_dir_all(into).context(into, "create")?;
                replace_file(&into.join("note"), &[text.as_bytes()])?;
                into.parent().map_or(Ok(()), sync_dir)?;
                sync_dir(dir)
            }
            Step::KeepEntries { aside, from } => {
                let mut kept = aside.create(dir)?;
                for (file, range) in from {
                    let bytes = std::fs::read(file).context(file, "read")?;
                    kept.write(bytes.get(range.clone()).unwrap_or_default())?;
                }
                kept.finish().map(|_| ())
            }
            Step::Remove(file) => {
                index_file::remove(file)?;
                std::fs::remove_file(file).context(file, "remove")?;
                sync_dir(dir)
            }
            Step::KeepBeginning { file, len } => {
                index_file::remove(file)?;
                let mut bytes = vec![0; *len];
                let mut old = File::open(file).context(file, "open")?;
                old.read_exact(&mut bytes).context(file, "read")?;
                // It was sealed further on, if at all.
                clear_seal(&mut bytes);
                replace_file(file, &[&bytes])
            }
            Step::ForgetProducers(end) => producers::forget_after(dir, *end),
            Step::LowerMark(extent) => {
                let mut mark = Mark::open(&dir.into())?;
                mark.set(*extent)?;
                mark.sync()
            }
        }
    }
}

/// Gives a file a second name in `into`, so that it stays as it is when the log lets go of it. Where
/// the file system knows no second names, a copy is made.
fn set_aside(file: &Path, into: &Path) -> Result<(), StorageError> {
    std::fs::create_dir_all(into).context(into, "create")?;
    File::open(file)
        .and_then(|opened| opened.sync_all())
        .context(file, "flush")?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    for n in 0u32.. {
        // Not `.log`: it is no segment of any log any more.
        let target = into.join(format!("{name}.{n}"));
        // It is there if the repair was cut off after this step; or with other damage of this file.
        if target.exists() {
            if is_same(file, &target)? {
                return sync_dir(into);
            }
            continue;
        }
        if std::fs::hard_link(file, &target).is_ok() {
            return sync_dir(into);
        }
        let bytes = std::fs::read(file).context(file, "read")?;
        return replace_file(&target, &[&bytes]);
    }
    Ok(())
}

fn is_same(a: &Path, b: &Path) -> Result<bool, StorageError> {
    let a = std::fs::metadata(a).context(a, "stat")?;
    let b = std::fs::metadata(b).context(b, "stat")?;
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}
