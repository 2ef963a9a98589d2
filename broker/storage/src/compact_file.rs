//! The files of a compaction: a segment that is read from its beginning to its end, and the one that is to
//! take its place.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use baton_protocol::batch::{
    BatchHeader, ENTRY_OVERHEAD_BYTES, entry_crc, parse_entry, verify_entry,
};
use baton_protocol::ids::Offset;
use bytes::Bytes;

use crate::error::{IoContext, StorageError};
use crate::header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::index::{Indexed, NO_TIME, SparseIndex};
use crate::reader::Part;
use crate::segment::Segment;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// So much is written between two flushes, so that none of them holds up the disk for long.
const FLUSH_BYTES: usize = 4 << 20;

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// An entry that was read and is sound.
#[derive(Debug)]
pub(crate) struct Entry {
    pub bytes: Bytes,
    pub header: BatchHeader,
}

impl Entry {
    /// Its batch.
    pub fn batch(&self) -> Bytes {
        self.bytes.slice(ENTRY_OVERHEAD_BYTES..)
    }
}

/// Reads the entries of a segment from its file, not from the mapping: what the disk will not give is an
/// error there, and a signal in the mapping.
#[derive(Debug)]
pub(crate) struct Walk {
    segment: Arc<Segment>,
    /// Where in the file the buffer begins.
    at: usize,
    to: usize,
    buffer: Bytes,
}

impl Walk {
    pub fn over(part: &Part) -> Walk {
        Walk {
            segment: part.segment.clone(),
            at: SEGMENT_HEADER_BYTES,
            to: part.extent().0,
            buffer: Bytes::new(),
        }
    }

    /// The next entry.
    pub fn next(&mut self) -> Result<Option<Entry>, StorageError> {
        loop {
            let parsed = parse_entry(&self.buffer);
            if let Some(entry) = parsed.map_err(|error| self.corrupt(&error))? {
                verify_entry(&entry).map_err(|error| self.corrupt(&error))?;
                let (header, bytes) = (entry.header.clone(), entry.bytes.len());
                let bytes = self.buffer.split_to(bytes);
                self.at += bytes.len();
                return Ok(Some(Entry { bytes, header }));
            }
            if self.at == self.to {
                return Ok(None);
            }
            let size = (self.buffer.len() * 2)
                .max(READ_BYTES)
                .min(self.to - self.at);
            if size == self.buffer.len() {
                return Err(self.corrupt(&"an entry is cut short"));
            }
            let mut buffer = vec![0; size];
            self.segment
                .read_at(&mut buffer, self.at)
                .map_err(|error| StorageError::io(&self.segment.path(), "read", error))?;
            self.buffer = buffer.into();
        }
    }

    fn corrupt(&self, what: &dyn std::fmt::Display) -> StorageError {
        let detail = format!("byte {}: {what}", self.at);
        StorageError::corrupt(&self.segment.path(), detail)
    }
}

/// Where the file that is to take a segment's place is made.
pub(crate) fn replacement_path(segment: &Path) -> PathBuf {
    segment.with_extension("compacted.tmp")
}

/// A segment file in the making. It is removed if nothing comes of it.
#[derive(Debug)]
pub(crate) struct Replacement {
    old: Arc<Segment>,
    unnamed: Unnamed,
    file: File,
    pending: Vec<u8>,
    len: usize,
    flushed: usize,
    end: Offset,
    newest: i64,
    index: SparseIndex,
}

/// Removes a file that never got its name.
#[derive(Debug)]
struct Unnamed(Option<PathBuf>);

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The next start removes what cannot be removed now.
            drop(std::fs::remove_file(path));
        }
    }
}

impl Replacement {
    pub fn create(old: &Arc<Segment>) -> Result<Replacement, StorageError> {
        let unnamed = replacement_path(&old.path());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unnamed)
            .context(&unnamed, "create")?;
        Ok(Replacement {
            old: old.clone(),
            unnamed: Unnamed(Some(unnamed)),
            file,
            pending: vec![0; SEGMENT_HEADER_BYTES],
            len: SEGMENT_HEADER_BYTES,
            flushed: 0,
            end: old.base(),
            newest: NO_TIME,
            index: SparseIndex::default(),
        })
    }

    /// Adds an entry, or the batch that is left of it.
    pub fn push(
        &mut self,
        entry: &Entry,
        left: Option<&[u8]>,
        index_bytes: usize,
    ) -> Result<(), StorageError> {
        let (position, newest_before) = (self.len, self.newest);
        let header = &entry.header;
        let mut newest = header.max_timestamp();
        match left {
            Some(batch) => {
                let header = BatchHeader::parse(batch)
                    .map_err(|error| StorageError::corrupt(&self.old.path(), error.to_string()))?;
                newest = header.max_timestamp();
                self.pending
                    .extend_from_slice(&entry_crc(batch).to_be_bytes());
                self.pending.extend_from_slice(batch);
                self.len += ENTRY_OVERHEAD_BYTES + batch.len();
            }
            None => {
                self.pending.extend_from_slice(&entry.bytes);
                self.len += entry.bytes.len();
            }
        }
        if self.index.wants(position, index_bytes) {
            self.index.push(Indexed {
                base: header.base_offset(),
                position,
                newest_before,
            });
        }
        self.newest = self.newest.max(newest);
        self.end = header.next_offset();
        if self.pending.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let path = self.old.path();
        self.file
            .write_all(&self.pending)
            .context(&path, "write what is left of")?;
        self.pending.clear();
        if self.len - self.flushed >= FLUSH_BYTES {
            self.file
                .sync_data()
                .context(&path, "flush what is left of")?;
            self.flushed = self.len;
        }
        Ok(())
    }

    /// The segment, durable and mapped, under the name that it is to have; its file is still at
    /// [`replacement_path`]. It is sealed: nothing is added to it, and whatever it lacks is damage.
    pub fn finish(mut self) -> Result<(Segment, impl FnOnce() + use<>), StorageError> {
        self.write()?;
        let path = self.old.path();
        let header = SegmentHeader {
            sealed_len: Some(self.len as u64),
            seal_lost: false,
            ..*self.old.header()
        };
        use std::os::unix::fs::FileExt;
        self.file
            .write_all_at(&header.encode(), 0)
            .context(&path, "write the header of what is left of")?;
        // How long records without a value stay is counted from when they were written.
        if let Some(written) = self.old.written_ms() {
            let written = UNIX_EPOCH + Duration::from_millis(u64::try_from(written).unwrap_or(0));
            self.file
                .set_modified(written)
                .context(&path, "set the time of what is left of")?;
        }
        self.file
            .sync_all()
            .context(&path, "flush what is left of")?;
        let unnamed = replacement_path(&path);
        let segment = Segment::open_at(
            &unnamed,
            self.old.dir(),
            header,
            self.len,
            self.len,
            self.end,
            self.newest,
            std::mem::take(&mut self.index),
        )?;
        let mut unnamed = std::mem::replace(&mut self.unnamed, Unnamed(None));
        Ok((segment, move || drop(unnamed.0.take())))
    }
}
