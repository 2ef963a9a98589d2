//! Mark files, of which only so many are open at a time: a broker has one for each of thousands of
//! partitions, and most of them are not written for long.
//!
//! Those that stay open are also a reserve. A mark is written when a flush has succeeded, and then
//! there must be a file to be had, whoever has taken all others in the meantime: so one that another
//! mark does not use at the moment is closed for it. The limit that this is about is the process's,
//! and so is the list of those that are open.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use rustix::io::Errno;

use crate::error::StorageError;

/// The mark's name in its log's directory.
pub const NAME: &str = "durable";

/// Most mark files that a process has open.
pub const MARKS_OPEN_MAX: usize = 512;

/// Those that are open, the one that was opened first in front; some are of logs that are closed.
static OPEN: Mutex<VecDeque<Weak<Slot>>> = Mutex::new(VecDeque::new());

/// A mark's file while it is open.
type Slot = Mutex<Option<Arc<File>>>;

/// The file of one mark, open or not. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MarkFile {
    dir: Arc<Path>,
    slot: Arc<Slot>,
}

impl MarkFile {
    /// Opens it, or makes an empty one. This takes a file from nobody.
    pub fn open(dir: &Arc<Path>) -> io::Result<MarkFile> {
        let file = options().create(true).open(dir.join(NAME))?;
        let opened = MarkFile {
            dir: dir.clone(),
            slot: Arc::new(Mutex::new(Some(Arc::new(file)))),
        };
        opened.note();
        Ok(opened)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// What the system said when this was to be done with it.
    pub fn error(&self, action: &'static str, source: io::Error) -> StorageError {
        StorageError::io(&self.path(), action, source)
    }

    /// Its file; opened anew if it has been closed, in place of another one if need be.
    pub fn get(&self) -> Result<Arc<File>, StorageError> {
        let mut slot = lock(&self.slot);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = loop {
            match options().open(self.path()) {
                Err(error) if is_shortage(&error) && close_one() => {}
                other => break Arc::new(other.map_err(|error| self.error("open", error))?),
            }
        };
        *slot = Some(file.clone());
        drop(slot);
        self.note();
        Ok(file)
    }

    /// Lets go of the file that is open: another one has taken its name.
    pub fn forget(&self) {
        lock(&self.slot).take();
    }

    /// It is open now, and others may be too many.
    fn note(&self) {
        let mut open = lock(&OPEN);
        open.push_back(Arc::downgrade(&self.slot));
        let many = open.len() > MARKS_OPEN_MAX;
        drop(open);
        if many {
            close_one();
        }
    }
}

/// Closes the mark file that has been open longest, of those that nobody is about to use. Whether
/// there was one.
fn close_one() -> bool {
    let mut open = lock(&OPEN);
    for _ in 0..open.len() {
        let Some(slot) = open.pop_front().as_ref().and_then(Weak::upgrade) else {
            // The log is closed, and its file with it.
            continue;
        };
        let closed = match slot.try_lock() {
            Ok(mut slot) => slot.take(),
            Err(TryLockError::Poisoned(slot)) => slot.into_inner().take(),
            Err(TryLockError::WouldBlock) => {
                open.push_back(Arc::downgrade(&slot));
                continue;
            }
        };
        if closed.is_some() {
            return true;
        }
    }
    false
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).truncate(false);
    options
}

fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn is_open(file: &MarkFile) -> bool {
        lock(&file.slot).is_some()
    }

    #[test]
    fn only_so_many_are_open_and_all_can_be_written() {
        let dir = tempfile::tempdir().expect("dir");
        let count = MARKS_OPEN_MAX + 50;
        let file = |i: usize| {
            let own = dir.path().join(i.to_string());
            std::fs::create_dir(&own).expect("made");
            MarkFile::open(&own.into()).expect("opened")
        };
        let files: Vec<MarkFile> = (0..count).map(file).collect();
        let open = files.iter().filter(|file| is_open(file)).count();
        assert!(open <= MARKS_OPEN_MAX, "{open} are open");
        for (i, file) in files.iter().enumerate() {
            let text = format!("{i:08}");
            let opened = file.get().expect("to be had");
            opened.write_all_at(text.as_bytes(), 0).expect("written");
            assert_eq!(std::fs::read_to_string(file.path()).expect("read"), text);
        }
        let open = files.iter().filter(|file| is_open(file)).count();
        assert!(open <= MARKS_OPEN_MAX, "{open} are open");
    }

    #[test]
    fn one_that_is_gone_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(NAME);
        let file = MarkFile::open(&dir.path().into()).expect("opened");
        std::fs::remove_file(&path).expect("removed");
        file.forget();
        let error = file.get().expect_err("nothing to open");
        let StorageError::Io { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        assert!(!path.exists());
    }
}
