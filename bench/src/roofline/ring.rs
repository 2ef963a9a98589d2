//! A mapped, preallocated file that is written round and round: one writes, others read what it has
//! announced.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

/// Bytes of the file: more than may ever be under way, so that nobody reads what is being overwritten.
pub const RING_BYTES: u64 = 512 << 20;

/// The file and its mapping.
pub struct Ring {
    file: File,
    map: MmapRaw,
}

impl Ring {
    /// Makes the file and everything in it.
    ///
    /// # Errors
    /// If there is no room for it, or it cannot be mapped.
    pub fn create(path: &Path) -> anyhow::Result<Ring> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RING_BYTES)
            .with_context(|| format!("no room for {}", path.display()))?;
        let map = MmapOptions::new().len(RING_BYTES as usize).map_raw(&file)?;
        Ok(Ring { file, map })
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// As `fdatasync` has.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    fn place(from: u64, bytes: u64) -> (usize, usize) {
        let at = from % RING_BYTES;
        (at as usize, bytes.min(RING_BYTES - at) as usize)
    }

    /// What was written at `from`: at most `bytes`, and no further than the end of the file.
    ///
    /// # Safety
    /// The bytes must have been written, and must not be written again while the slice is in use.
    pub unsafe fn written(&self, from: u64, bytes: u64) -> &[u8] {
        let (at, len) = Ring::place(from, bytes);
        // SAFETY: within the mapping, which lives as long as `self`; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), len) }
    }

    /// Room to write at `from`: at most `bytes`, and no further than the end of the file.
    ///
    /// # Safety
    /// Nobody else may read or write these bytes while the slice is in use.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller vouches for exclusive use of the range"
    )]
    pub unsafe fn room(&self, from: u64, bytes: u64) -> &mut [u8] {
        let (at, len) = Ring::place(from, bytes);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(at), len) }
    }
}
