//! Baton's log on disk: mapped segments, recovery, repair, truncation, quarantine.
//!
//! One writer ([`Log`]), many readers ([`LogReader`]); flushes run apart ([`FlushJob`]). Synchronous:
//! no actor, no socket, no decision about replication. The format is described in
//! `docs/storage.md`. This is the only crate with `unsafe` code, all of it in `segment.rs`.

mod damage;
mod error;
mod flush;
mod index;
mod log;
mod mark;
mod producers;
pub mod quarantine;
mod reader;
mod recovery;
mod repair;
mod scan;
mod segment;
mod survey;
pub mod verify;

pub use damage::{Damage, DamageNote};
pub use error::{ReadError, StorageError};
pub use flush::{FlushDone, FlushJob};
pub use log::{Log, LogConfig, entry_bytes};
pub use reader::{Chunk, LogReader};
pub use recovery::Recovery;
pub use segment::{
    LogIdentity, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION, Segment, SegmentHeader,
};

use std::fs::File;
use std::io::Write;
use std::path::Path;

use error::IoContext;

/// Makes a directory's entries durable.
fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    let file = File::open(dir).context(dir, "open")?;
    file.sync_all().context(dir, "flush")
}

/// Replaces a file by one with these contents, durably: a crash leaves the old one or the new one.
fn replace_file(path: &Path, parts: &[&[u8]]) -> Result<(), StorageError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let mut file = File::create(temporary).context(temporary, "create")?;
    for part in parts {
        file.write_all(part).context(temporary, "write")?;
    }
    file.sync_all().context(temporary, "flush")?;
    std::fs::rename(temporary, path).context(path, "replace")?;
    path.parent().map_or(Ok(()), sync_dir)
}
