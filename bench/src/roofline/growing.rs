//! A mapped file that grows as a log does: every byte goes to room that was never written, since a log
//! keeps what it has. One writes, others read what it has announced.

#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

/// The file gets room in steps of this many bytes.
const STEP_BYTES: u64 = 16 << 20;

/// What lies so many bytes behind the end leaves memory, as it does with a broker's default settings.
const KEPT_BYTES: u64 = 256 << 20;

/// So many bytes leave at a time.
const DROPPED_BYTES: u64 = 4 << 20;

/// Bytes that fit: addresses only, not memory.
const MAPPED_BYTES: usize = 1 << 40;

/// The file and its mapping.
pub struct Growing {
    file: File,
    map: MmapRaw,
    /// Bytes that have left memory.
    dropped: AtomicU64,
}

impl Growing {
    /// Makes the file.
    ///
    /// # Errors
    /// If it cannot be made or mapped.
    pub fn create(path: &Path) -> anyhow::Result<Growing> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let map = MmapOptions::new()
            .len(MAPPED_BYTES)
            .map_raw_read_only(&file)?;
        Ok(Growing {
            file,
            map,
            dropped: AtomicU64::new(0),
        })
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// As `fdatasync` has.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// Has the system drop from memory what lies far behind `end`, up to which all is on the disk.
    pub fn drop_behind(&self, end: u64) {
        let from = self.dropped.load(Ordering::Relaxed);
        let to = end.saturating_sub(KEPT_BYTES) / DROPPED_BYTES * DROPPED_BYTES;
        if to <= from {
            return;
        }
        self.dropped.store(to, Ordering::Relaxed);
        // A page stays as long as it is mapped. It is a hint, and so is what follows.
        // SAFETY: within the mapping, which is of a file, shared and only read: a page that is touched
        // again has the bytes of the file, as before.
        unsafe {
            let address = self.map.as_mut_ptr().add(from as usize);
            let bytes = (to - from) as usize;
            rustix::mm::madvise(address.cast(), bytes, rustix::mm::Advice::LinuxDontNeed).ok();
        }
        let bytes = NonZeroU64::new(to - from);
        rustix::fs::fadvise(&self.file, from, bytes, rustix::fs::Advice::DontNeed).ok();
    }

    /// Writes `bytes` at `from`, where all before it was written; makes room for them first.
    ///
    /// # Errors
    /// As `fallocate` and `pwrite` have.
    pub fn write(&self, from: u64, bytes: &[u8]) -> std::io::Result<()> {
        let (have, need) = (
            from.next_multiple_of(STEP_BYTES),
            (from + bytes.len() as u64).next_multiple_of(STEP_BYTES),
        );
        if need > have {
            let flags = FallocateFlags::empty();
            rustix::fs::fallocate(&self.file, flags, have, need - have)?;
        }
        self.file.write_all_at(bytes, from)
    }

    /// What was written at `from`.
    ///
    /// # Safety
    /// The bytes must have been written.
    pub unsafe fn written(&self, from: u64, bytes: u64) -> &[u8] {
        assert!(from + bytes <= MAPPED_BYTES as u64, "within the mapping");
        // SAFETY: within the mapping, which lives as long as `self`, and within the file: the caller
        // vouches for that. What was written is not written again.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from as usize), bytes as usize) }
    }
}
