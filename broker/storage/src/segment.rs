//! One segment file: a header, then entries, mapped into memory.
//!
//! The mapping is made once, at the segment's greatest size, and is for reading only; the file behind
//! it grows by `fallocate` ahead of the entries. Bytes are written with `pwrite`, and seen through the
//! mapping at once, since both are the same page cache. Bytes once written are not overwritten while
//! the mapping lives: that is what makes the slices that readers hold sound. The one exception is the
//! header's sealing slot, which no slice ever covers.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use baton_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, ENTRY_OVERHEAD_BYTES};
use baton_protocol::ids::Offset;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

use crate::error::{IoContext, StorageError};
use crate::files::{open_dir, temporary};
use crate::header::{
    LogIdentity, SEAL_AT, SEGMENT_HEADER_BYTES, SegmentHeader, encode_seal, file_name,
};
use crate::index::{Indexed, NO_TIME, SparseIndex};
use crate::witness::{Act, saw};

/// The file grows by this much at first, then doubles up to [`GROWTH_MAX`].
const GROWTH_MIN: usize = 64 << 10;

/// The most that the file grows by at a time.
const GROWTH_MAX: usize = 16 << 20;

/// Most bytes that are asked of the disk at once: a reader of what is not in memory leaves room
/// between for flushes, which somebody waits for.
const LOAD_BYTES: usize = 256 << 10;

/// A segment, mapped. Shared by the writer and every slice that readers hold.
#[derive(Debug)]
pub struct Segment {
    /// The directory of its log, which all of the log share.
    dir: Arc<Path>,
    file: File,
    map: MmapRaw,
    header: SegmentHeader,
    /// Bytes of the file that exist on disk: mapped bytes beyond must not be touched.
    allocated: AtomicUsize,
    /// Bytes that hold the header and whole entries.
    len: AtomicUsize,
    /// Offset after the last entry.
    end: AtomicU64,
    /// The greatest timestamp of its entries.
    newest: AtomicI64,
    /// That of the first one; [`NO_TIME`] while nobody has looked.
    oldest: AtomicI64,
    /// Its directory, while its entry there may not be durable yet. Opened with the segment: a flush
    /// that finds no more files to open would be one that failed.
    fresh_in: Mutex<Option<Arc<File>>>,
    /// Bytes that its index file speaks of; 0 if there is none.
    pub(crate) indexed: AtomicUsize,
    /// Nobody has checked the entries below this position since the process began: they are checked
    /// when they are read.
    pub(crate) unchecked: AtomicUsize,
    /// Bytes that [`DropBehind`](crate::DropBehind) knows of, or was never told of because they were there
    /// before.
    pub(crate) noted: AtomicUsize,
    index: ArcSwap<SparseIndex>,
}

impl Segment {
    /// Makes a new segment file in `dir`, with `room` bytes for entries at hand, that can grow up to
    /// `capacity` bytes in all. It gets its name, and takes the place of an older file of that name,
    /// when nothing can fail any more: a file that is only half a segment would stand in the way of
    /// the log, which may go on without it.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no room on the disk, [`StorageError::Short`] if there are no
    /// open files or maps left, [`StorageError::Io`] if the system refuses; the directory is then as
    /// it was.
    pub fn create(
        dir: &Arc<Path>,
        identity: LogIdentity,
        base: Offset,
        capacity: usize,
        room: usize,
    ) -> Result<Segment, StorageError> {
        let path = dir.join(file_name(base));
        let directory = open_dir(dir)?;
        let unnamed = temporary(&path);
        let header = SegmentHeader {
            identity,
            base,
            prev_end: base,
            sealed_len: None,
            seal_lost: false,
        };
        // What a process that was killed left there. No mapping of it lives: it never had a name.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unnamed)
            .context(&unnamed, "create")?;
        let made = Segment::map(dir.clone(), file, header, capacity, SEGMENT_HEADER_BYTES)
            .and_then(|segment| segment.fill(&unnamed, room).map(|()| segment));
        if made.is_err() {
            // The next start removes what cannot be removed now.
            drop(std::fs::remove_file(&unnamed));
        }
        if let Ok(segment) = &made {
            *segment.fresh_in() = Some(Arc::new(directory));
        }
        made
    }

    /// Makes room in a new file, writes its header and gives it its name.
    fn fill(&self, unnamed: &Path, room: usize) -> Result<(), StorageError> {
        self.reserve(room)?;
        self.file
            .write_all_at(&self.header.encode(), 0)
            .context(unnamed, "write the header")?;
        let path = self.path();
        std::fs::rename(unnamed, &path).context(&path, "name")
    }

    /// Opens the file in `dir` of a segment whose content is known to be sound up to `len`.
    pub fn open(
        dir: &Arc<Path>,
        header: SegmentHeader,
        capacity: usize,
        len: usize,
        end: Offset,
        newest: i64,
        index: SparseIndex,
    ) -> Result<Segment, StorageError> {
        let file = dir.join(file_name(header.base));
        Segment::open_at(&file, dir, header, capacity, len, end, newest, index)
    }

    /// The same of a file that is still at another place than where it is to be.
    #[allow(clippy::too_many_arguments, reason = "what a segment consists of")]
    pub(crate) fn open_at(
        file: &Path,
        dir: &Arc<Path>,
        header: SegmentHeader,
        capacity: usize,
        len: usize,
        end: Offset,
        newest: i64,
        index: SparseIndex,
    ) -> Result<Segment, StorageError> {
        let path = file;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .context(path, "open")?;
        let size = file.metadata().context(path, "stat")?.len() as usize;
        let capacity = capacity.max(size);
        let segment = Segment::map(dir.clone(), file, header, capacity, len)?;
        segment.allocated.store(size, Ordering::Release);
        segment.end.store(end.0, Ordering::Release);
        segment.newest.store(newest, Ordering::Release);
        segment.index.store(Arc::new(index));
        Ok(segment)
    }

    fn map(
        dir: Arc<Path>,
        file: File,
        header: SegmentHeader,
        capacity: usize,
        len: usize,
    ) -> Result<Segment, StorageError> {
        let map = MmapOptions::new()
            .len(capacity.max(SEGMENT_HEADER_BYTES))
            .map_raw_read_only(&file)
            .map_err(|error| StorageError::map(&dir.join(file_name(header.base)), error))?;
        // What is not in memory is read before it is touched, and no more than is wanted: the system
        // would read megabytes ahead, and everybody else's flushes would wait behind them. It may be
        // unable to take the hint.
        map.advise(Advice::Random).ok();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).ok();
        Ok(Segment {
            dir,
            file,
            map,
            header,
            allocated: AtomicUsize::new(0),
            len: AtomicUsize::new(len),
            end: AtomicU64::new(header.base.0),
            newest: AtomicI64::new(NO_TIME),
            oldest: AtomicI64::new(NO_TIME),
            fresh_in: Mutex::new(None),
            indexed: AtomicUsize::new(0),
            unchecked: AtomicUsize::new(0),
            noted: AtomicUsize::new(len),
            index: ArcSwap::from_pointee(SparseIndex::default()),
        })
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(file_name(self.header.base))
    }

    /// The directory of its log.
    pub(crate) fn dir(&self) -> &Arc<Path> {
        &self.dir
    }

    /// Its header as it was when the segment was opened or made.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The offset its file is named after.
    pub fn base(&self) -> Offset {
        self.header.base
    }

    /// Offset after its last entry.
    pub fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    /// The greatest timestamp of its entries, what was cut off it included; [`i64::MIN`] if it has none.
    pub fn newest(&self) -> i64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The greatest timestamp of its first entry, if it has one. It is read from the file once, where the
    /// segment was there when the process began.
    pub(crate) fn oldest(&self) -> Option<i64> {
        let mut oldest = self.oldest.load(Ordering::Acquire);
        if oldest == NO_TIME && !self.is_empty() {
            let mut head = [0; ENTRY_OVERHEAD_BYTES + BATCH_HEADER_BYTES];
            self.read_at(&mut head, SEGMENT_HEADER_BYTES).ok()?;
            let header = BatchHeader::parse(&head[ENTRY_OVERHEAD_BYTES..]).ok()?;
            oldest = header.max_timestamp();
            self.oldest.store(oldest, Ordering::Release);
        }
        Some(oldest).filter(|oldest| *oldest >= 0)
    }

    /// When its file was written last, in milliseconds since 1970, as far as the system tells.
    pub(crate) fn written_ms(&self) -> Option<i64> {
        let written = self.file.metadata().and_then(|meta| meta.modified()).ok()?;
        let since = written.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok()
    }

    /// Bytes that hold the header and whole entries.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == SEGMENT_HEADER_BYTES
    }

    /// Bytes that it can hold at most.
    pub fn capacity(&self) -> usize {
        self.map.len()
    }

    /// Its sparse index, as it is now.
    pub fn index(&self) -> Arc<SparseIndex> {
        self.index.load_full()
    }

    /// Makes sure that `bytes` more can be written.
    pub fn reserve(&self, bytes: usize) -> Result<(), StorageError> {
        let need = self.len() + bytes;
        let have = self.allocated.load(Ordering::Acquire);
        if need <= have {
            return Ok(());
        }
        let step = have.clamp(GROWTH_MIN, GROWTH_MAX);
        let wanted = (need.max(have + step)).min(self.capacity()).max(need);
        match self.allocate(wanted) {
            // A disk that is almost full may still have room for what is needed now.
            Err(StorageError::Full { .. }) if wanted > need => self.allocate(need),
            other => other,
        }
    }

    fn allocate(&self, size: usize) -> Result<(), StorageError> {
        assert!(
            size <= self.map.len(),
            "a segment never outgrows its mapping"
        );
        let have = self.allocated.load(Ordering::Acquire);
        let more = (size - have) as u64;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), have as u64, more) {
            Ok(()) => {
                self.allocated.store(size, Ordering::Release);
                Ok(())
            }
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Err(StorageError::Full {
                path: self.path(),
                bytes: more,
            }),
            Err(errno) => Err(StorageError::io(&self.path(), "preallocate", errno.into())),
        }
    }

    /// Appends an entry given in parts and publishes it to readers. The room must have been
    /// reserved, and there must be one writer.
    ///
    /// # Errors
    /// If the system refuses; the segment is then as long as it was, and what may have been written
    /// behind that is no part of it.
    pub(crate) fn append(
        &self,
        parts: [&[u8]; 3],
        base: Offset,
        end: Offset,
        timestamp: i64,
        index_bytes: usize,
    ) -> Result<(), StorageError> {
        let start = self.len();
        let size: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            start + size <= self.allocated.load(Ordering::Acquire),
            "room is reserved before bytes are written"
        );
        // Through the file, not the mapping: a mapped page is zeroed before it is written, and
        // write-protected again on every processor by each flush.
        self.write_all(parts, start)?;
        let index = self.index.load();
        if index.wants(start, index_bytes) {
            self.index.store(Arc::new(index.with(Indexed {
                base,
                position: start,
                newest_before: self.newest(),
            })));
        }
        self.newest.fetch_max(timestamp, Ordering::AcqRel);
        if start == SEGMENT_HEADER_BYTES {
            self.oldest.store(timestamp, Ordering::Release);
        }
        self.end.store(end.0, Ordering::Release);
        self.len.store(start + size, Ordering::Release);
        Ok(())
    }

    fn write_all(&self, parts: [&[u8]; 3], at: usize) -> Result<(), StorageError> {
        let mut slices = parts.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        let mut at = at as u64;
        while !left.is_empty() {
            match rustix::io::pwritev(&self.file, left, at) {
                Ok(0) => return Err(self.append_error(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.append_error(errno.into())),
            }
        }
        Ok(())
    }

    fn append_error(&self, error: std::io::Error) -> StorageError {
        StorageError::io(&self.path(), "append to", error)
    }

    /// The bytes from `from` to `to`, which must be written ones.
    pub fn bytes(&self, from: usize, to: usize) -> &[u8] {
        assert!(
            from <= to && to <= self.len(),
            "only written bytes are read"
        );
        // SAFETY: the range lies below `len`, so it is within the mapping and the file, its bytes
        // were written before `len` was published with release ordering, and they are never written
        // again.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from), to - from) }
    }

    /// Reads the file, not the mapping: what the disk will not give is an error, and no signal.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: usize) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, at as u64)
    }

    /// Whether the bytes from `from` to `to` are in memory: whoever touches them then waits for no
    /// disk. What the system does not tell counts as in memory.
    pub(crate) fn is_in_memory(&self, from: usize, to: usize) -> bool {
        assert!(to <= self.map.len(), "a place in the mapping");
        let page = rustix::param::page_size();
        let start = from / page * page;
        if start >= to {
            return true;
        }
        let mut pages = vec![0u8; (to - start).div_ceil(page)];
        // SAFETY: the range lies within the mapping and starts at a page of it; the system writes one
        // byte for each page of the range, and there are as many.
        let told = unsafe {
            let address = self.map.as_mut_ptr().add(start);
            libc::mincore(address.cast(), to - start, pages.as_mut_ptr())
        };
        told != 0 || pages.iter().all(|page| page & 1 == 1)
    }

    /// Sees to it that the bytes from `from` to `to` are in memory. They are read from the file: what
    /// the disk will not give is an error there, and a signal in the mapping.
    pub(crate) fn load(&self, from: usize, to: usize) -> std::io::Result<()> {
        // A small rest goes along with the last piece.
        let most = LOAD_BYTES * 3 / 2;
        let mut room = vec![0; most.min(to - from)];
        let mut at = from;
        while at < to {
            let left = to - at;
            let piece = if left <= most { left } else { LOAD_BYTES };
            self.read_at(&mut room[..piece], at)?;
            at += piece;
        }
        Ok(())
    }

    /// Has the system forget what it keeps in memory of the bytes from `from` to `to`, which begin at a
    /// page and are durable. They are still there for those who hold slices of them. It is a hint.
    pub(crate) fn drop_pages(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.map.len(), "a place in the mapping");
        // A page stays as long as it is mapped.
        // SAFETY: the range lies within the mapping, which is of a file, shared and only read: whoever
        // touches a page of it again finds the bytes of the file, as before.
        unsafe {
            let address = self.map.as_mut_ptr().add(from);
            let unmap = rustix::mm::Advice::LinuxDontNeed;
            rustix::mm::madvise(address.cast(), to - from, unmap).ok();
        }
        // Without a number of bytes it would be all from there on.
        if let Some(bytes) = std::num::NonZeroU64::new((to - from) as u64) {
            let drop = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&self.file, from as u64, Some(bytes), drop).ok();
        }
    }

    /// Makes the file's bytes durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        let flushed = self.file.sync_data();
        flushed.map_err(|error| StorageError::io(&self.path(), "flush", error))?;
        saw(Act::Data, || self.path());
        Ok(())
    }

    /// Its directory, if that has to be flushed for its entry there to be durable. To be taken out
    /// when it is.
    pub(crate) fn fresh_in(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.fresh_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the segment as ending at `len` for good, durably. What lies beyond is not part of the
    /// log any more, though readers that hold slices of it still see it. What lies below must be
    /// durable.
    pub(crate) fn seal(&self, len: usize) -> Result<(), StorageError> {
        let path = self.path();
        self.file
            .write_all_at(&encode_seal(len as u64), SEAL_AT as u64)
            .context(&path, "seal")?;
        saw(Act::Seal, || &path);
        self.file.sync_data().context(&path, "flush the seal")?;
        saw(Act::Data, || &path);
        Ok(())
    }
}

/// A stretch of a segment; keeps the mapping alive.
#[derive(Clone, Debug)]
pub(crate) struct SegmentSlice {
    pub segment: Arc<Segment>,
    pub from: usize,
    pub to: usize,
}

impl AsRef<[u8]> for SegmentSlice {
    fn as_ref(&self) -> &[u8] {
        self.segment.bytes(self.from, self.to)
    }
}
