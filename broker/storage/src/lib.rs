//! Baton's log on disk: mapped segments, recovery, truncation, quarantine.
//!
//! One writer ([`Log`]), many readers ([`LogReader`]); flushes run apart ([`FlushJob`]). Synchronous:
//! no actor, no socket, no decision about replication. The format is described in
//! `docs/storage.md`. This is the only crate with `unsafe` code, all of it in `segment.rs`.

mod error;
mod flush;
mod index;
mod log;
mod mark;
mod producers;
pub mod quarantine;
mod reader;
mod recovery;
mod segment;
pub mod verify;

pub use error::{ReadError, StorageError};
pub use flush::{FlushDone, FlushJob};
pub use log::{Log, LogConfig, entry_bytes};
pub use reader::{Chunk, LogReader};
pub use recovery::{Damage, Recovery};
pub use segment::{
    LogIdentity, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION, Segment, SegmentHeader,
};

use std::fs::File;
use std::path::Path;

use error::IoContext;

/// Makes a directory's entries durable.
fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    let file = File::open(dir).context(dir, "open")?;
    file.sync_all().context(dir, "flush")
}
