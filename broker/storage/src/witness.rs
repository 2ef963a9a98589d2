//! What was made durable, in which order: for tests of what a power cut would leave.

#[cfg(not(test))]
use std::path::Path;

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// A directory's entries were flushed.
    Dir,
    /// A segment was flushed.
    Data,
    /// A segment's seal was written.
    Seal,
    /// The mark was flushed.
    Mark,
}

#[cfg(not(test))]
pub(crate) fn saw<P: AsRef<Path>>(_: Act, _: impl FnOnce() -> P) {}

#[cfg(test)]
pub(crate) use kept::{saw, take};

#[cfg(test)]
mod kept {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    use super::Act;

    thread_local! {
        static SEEN: RefCell<Vec<(Act, PathBuf)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn saw<P: AsRef<Path>>(act: Act, path: impl FnOnce() -> P) {
        let path = path().as_ref().to_owned();
        SEEN.with_borrow_mut(|seen| seen.push((act, path)));
    }

    /// What this thread has done since it was last asked.
    pub(crate) fn take() -> Vec<(Act, PathBuf)> {
        SEEN.take()
    }
}
