//! Where a log starts: moving it forward, and beginning anew somewhere else.
//!
//! A start that moves is logical at first: readers are refused what lies below it at once. The files
//! of whole segments below it go when the mark that says so is durable, the oldest first, on the
//! thread that writes the hints. Until then a start of the process may find the log where it started
//! before, with all its entries.

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::epochs;
use crate::error::{IoContext, StorageError};
use crate::files::sync_dir;
use crate::log::Log;
use crate::mark::Extent;
use crate::producers::{self, Point};
use crate::survey::segment_files;

impl Log {
    /// Moves the log's start forward to `to`. Whole segments below it are no part of the log any more;
    /// their files are removed by a [`HintJob`](crate::HintJob), those who hold slices of them keep
    /// them. A start that is not above the present one changes nothing.
    ///
    /// `account` is the caller's account of the producers of what lies below `to`, if there are any:
    /// it is made durable before the mark says that the log starts there.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if the log has failed.
    ///
    /// # Panics
    /// If `to` lies above what is durable: the caller's mistake.
    pub fn advance_start(
        &mut self,
        to: Offset,
        account: Option<Vec<u8>>,
    ) -> Result<(), StorageError> {
        assert!(to <= self.durable_end, "a start above what is durable");
        self.check_trusted()?;
        if to <= self.start {
            return Ok(());
        }
        self.adopt_compacted();
        let at = Point::at(to, &self.epochs);
        self.start = to;
        self.epochs = epochs::from(to, &self.epochs);
        let below = self
            .parts
            .iter()
            .take_while(|part| part.segment.base() < to && part.extent().1 <= to);
        let below = below.count();
        let gone = self.parts.drain(..below);
        self.hints.let_go(gone, at, account);
        self.publish();
        self.mark_start();
        Ok(())
    }

    /// Puts a start that was moved into the mark, if nothing has to be durable before that any more.
    pub(crate) fn mark_start(&mut self) {
        let Some(at) = self.hints.start_to_mark() else {
            return;
        };
        self.marked_start = at;
        if let Err(error) = self.mark.set(self.extent_to(self.durable_end)) {
            tracing::error!(dir = %self.dir.display(), %error, "the mark of a log cannot be written; the log takes nothing more");
            self.trusted.fail();
        }
    }

    /// Discards all of the log, and has it begin anew at `start`, where the entry before was of the
    /// epoch `epoch_before`: durably. `account` is of the producers of what lies below. If this is cut
    /// off, what was left of the log is found, or nothing of it, or the new beginning.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if the log has failed before; any other is the end of the log.
    pub fn reset(
        &mut self,
        start: Offset,
        epoch_before: LeaderEpoch,
        account: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.check_trusted()?;
        let at = Point {
            end: start,
            epoch: epoch_before,
        };
        self.begin_at(at, account)
            .inspect_err(|_| self.trusted.fail())
    }

    fn begin_at(&mut self, at: Point, account: Option<&[u8]>) -> Result<(), StorageError> {
        self.generation += 1;
        self.end_compaction();
        self.compacting.cut(Offset::ZERO);
        self.hints.reset(&self.parts)?;
        // What goes is not damage.
        self.mark.set(self.extent_to(self.marked_start.end))?;
        self.mark.sync()?;
        producers::forget_after(&self.dir, Offset::ZERO)?;
        // The last file first, so that an interruption leaves a log without holes. Those below the start
        // that nobody has removed yet are among them.
        for file in segment_files(&self.dir)?.iter().rev() {
            std::fs::remove_file(file).context(file, "remove")?;
            sync_dir(&self.dir)?;
        }
        if let Some(account) = account {
            producers::save_at_start(&self.dir, at, account)?;
        }
        self.mark.set(Extent {
            durable_end: at.end,
            start: at.end,
            epoch_before: at.epoch,
        })?;
        self.mark.sync()?;
        self.parts.clear();
        self.epochs = epochs::empty_at(at.end, at.epoch);
        self.marked_start = at;
        (self.start, self.end, self.durable_end) = (at.end, at.end, at.end);
        self.publish();
        Ok(())
    }
}
