//! What was made durable, in which order: for tests of what a power cut would leave.

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
pub(crate) fn saw(_: Act, _: &Path) {}

#[cfg(test)]
pub(crate) use kept::{saw, take};

#[cfg(test)]
mod kept {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::{Act, Path};

    thread_local! {
        static SEEN: RefCell<Vec<(Act, PathBuf)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn saw(act: Act, path: &Path) {
        SEEN.with_borrow_mut(|seen| seen.push((act, path.to_owned())));
    }

    /// What this thread has done since it was last asked.
    pub(crate) fn take() -> Vec<(Act, PathBuf)> {
        SEEN.take()
    }
}
