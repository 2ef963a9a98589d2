//! The log that a driver works on, as it sees it: the one that is stored, or the simulator's.

use baton_protocol::batch::LeaderStamp;
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_protocol::policy::TopicPolicy;
use baton_replication::producers::ProducerTable;
use baton_storage::{Chunk, StorageError};

/// The log that a driver works on. Object-safe, so that the simulator can put its own beneath.
pub trait PartitionLog: Send {
    /// Makes sure that the next appends of `bytes` in all cannot fail.
    fn reserve(&mut self, bytes: usize) -> Result<(), StorageError>;
    /// Stores a batch with this stamp.
    fn append_batch(&mut self, batch: &[u8], stamp: &LeaderStamp) -> Result<(), StorageError>;
    /// Stores an entry as it is.
    fn append_entry(&mut self, entry: &[u8]) -> Result<(), StorageError>;
    /// Puts everything from `to` on into quarantine, then cuts there, durably.
    fn truncate(&mut self, to: Offset, epoch: LeaderEpoch) -> Result<(), StorageError>;
    /// Has the log start at `to`; what lies below may be removed. `below` is what is known of the
    /// producers of that.
    fn advance_start(&mut self, to: Offset, below: &ProducerTable) -> Result<(), StorageError>;
    /// Puts everything above `at.keep_from` into quarantine, then discards the log and begins anew,
    /// durably. `below` is what is known of the producers of entries below.
    fn begin_anew(&mut self, at: &Beginning, below: &ProducerTable) -> Result<(), StorageError>;
    /// Takes note of how long entries are to be kept.
    fn set_policy(&mut self, _policy: &TopicPolicy) {}
    /// To be called now and then, with the time of day: the offset below which nothing has to be kept any
    /// more; none if everything has.
    fn expired(&mut self, _now_ms: i64) -> Option<Offset> {
        None
    }
    /// To be called now and then, with the time of day: entries below `up_to` may go that newer ones there
    /// supersede.
    fn compact(&mut self, _now_ms: i64, _up_to: Offset) {}
    /// Whole entries from `from` on: as many as fit, at least one; none at the end. Does not wait: where
    /// it would have to, it says what is to be done by a thread that may.
    fn read(&self, from: Offset, bytes_max: usize) -> Result<Found, StorageError>;
    /// Checks entries that were read, byte by byte.
    fn check(&self, _entries: &Chunk) -> Result<(), StorageError> {
        Ok(())
    }
    /// Whether so much was stored since the last flush was prepared that the next one should not wait for its
    /// time.
    fn is_flush_due(&self) -> bool {
        false
    }
    /// Entries from here on will have to be read before long, if any.
    fn keep_in_memory(&mut self, _from: Option<Offset>) {}
    /// Readers may read up to here.
    fn publish_high_watermark(&mut self, to: Offset);
    /// What has to be done, on any thread, to make the log durable up to its present end.
    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError>;
    /// Takes note that the flush which was prepared last has been done; the new durable end.
    fn flushed(&mut self, done: baton_storage::FlushDone) -> Result<Offset, StorageError>;
    /// Keeps the producers' state, so that a start need not read the whole log for it.
    fn save_producers(&mut self, producers: &ProducerTable) -> Result<(), StorageError>;
    /// Shows the producers' state as of `end`, just before a flush is prepared: so that now and then
    /// it is kept while the log is written.
    fn note_producers(&mut self, _end: Offset, _producers: &ProducerTable) {}
    /// Gives back the room that was taken for what is over.
    fn give_room_back(&mut self) {}
    /// The metadata knows that the log was damaged: that need not be said again at the next start.
    fn damage_is_known(&mut self) -> Result<(), StorageError>;
    /// Ends the log in good order.
    fn close(&mut self) -> Result<(), StorageError>;
}

/// Where a log begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its start and end.
    pub start: Offset,
    /// Leader epoch of the entry before.
    pub epoch_before: LeaderEpoch,
    /// What lay above this was not known to be committed.
    pub keep_from: Offset,
    /// The leader epoch whose history demands it.
    pub epoch: LeaderEpoch,
}

/// A flush, ready to be run on another thread.
pub type FlushWork = Box<dyn FnOnce() -> Result<baton_storage::FlushDone, StorageError> + Send>;

/// Entries that were asked for.
pub enum Found {
    /// They are here.
    Here(Option<Chunk>),
    /// They have to be waited for.
    Away(ReadWork),
}

/// A reading, ready to be run on another thread.
pub type ReadWork = Box<dyn FnOnce() -> Result<Option<Chunk>, StorageError> + Send>;
