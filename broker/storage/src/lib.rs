//! Baton's log on disk: mapped segments, recovery, repair, truncation, quarantine.
//!
//! One writer ([`Log`]), many readers ([`LogReader`]); flushes run apart ([`FlushJob`]). Synchronous:
//! no actor, no socket, no decision about replication. The format is described in
//! `docs/storage.md`. This is the only crate with `unsafe` code, all of it in `segment.rs`.

mod by_time;
mod compact;
mod compact_file;
mod damage;
mod drop_behind;
mod epochs;
mod error;
mod files;
mod flush;
mod header;
mod hints;
mod index;
mod index_file;
mod keys;
mod log;
mod mark;
mod mark_file;
mod producers;
pub mod quarantine;
mod reader;
mod recheck;
mod recovery;
mod repair;
mod retention;
mod scan;
mod scrub;
mod segment;
mod start;
mod step;
mod survey;
mod trust;
pub mod verify;
mod witness;

pub use compact::{Compaction, CompactionRules};
pub use damage::{Damage, DamageNote};
pub use drop_behind::DropBehind;
pub use error::{ReadError, Shortage, StorageError};
pub use files::make_dirs;
pub use flush::{FlushDone, FlushJob};
pub use header::{
    LogIdentity, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION, SegmentHeader,
};
pub use hints::HintJob;
pub use log::{Log, LogConfig, entry_bytes};
pub use mark_file::MARKS_OPEN_MAX;
pub use reader::{Chunk, Glance, LogReader};
pub use recheck::ask_recheck;
pub use recovery::{Check, Recovery};
pub use retention::{Retention, SegmentExtent, start_wanted};
pub use scrub::Scrub;
pub use segment::Segment;
pub use trust::Trust;
