//! Flushing, apart from the log: so that it can run on a thread that may wait for the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use baton_protocol::ids::Offset;

use crate::error::StorageError;
use crate::files::sync_dir;
use crate::segment::Segment;

/// A flush, to be run on any thread.
#[derive(Debug)]
pub struct FlushJob {
    pub(crate) dir: PathBuf,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) done: FlushDone,
}

/// What a flush has achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushDone {
    /// The log is durable up to here,
    pub end: Offset,
    /// unless it was cut since: how often it had been cut when the flush was prepared.
    pub generation: u64,
}

impl FlushJob {
    /// Flushes. The files first, then the directory where a file in it is new: an entry that is
    /// claimed durable must be found again.
    pub fn run(self) -> Result<FlushDone, StorageError> {
        let mut new_file = false;
        for segment in &self.segments {
            segment.sync()?;
            new_file |= segment.fresh.load(Ordering::Acquire);
        }
        if new_file {
            sync_dir(&self.dir)?;
            for segment in &self.segments {
                segment.fresh.store(false, Ordering::Release);
            }
        }
        Ok(self.done)
    }
}
