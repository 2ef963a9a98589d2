//! A file of checksummed records that knows how far it has been synced.
//!
//! The first 4096 bytes are the header: an eight-byte magic and, each in a sector of its own, two
//! slots `[u64 synced end][u32 CRC-32]`. Records follow, `[u32 length][u32 CRC-32 of the length]
//! [u32 CRC-32 of the rest][MessagePack]`, all big-endian. The length has a checksum of its own: a
//! damaged one would otherwise point anywhere.
//!
//! A power cut leaves any of the pages that were not synced yet, so what lies above the synced end
//! tells nothing: recovery keeps the records it finds whole and cuts at the first that is not.
//! Nothing up there was acknowledged. Below the synced end every record must be whole, or the file
//! is damaged and refused; nothing is cut then.
//!
//! The synced end goes into the slots by turns, after each sync, and reaches the disk with the next
//! one. After a kill it is exact; after a power cut it may lag by one append, which makes recovery
//! more lenient, never stricter than the truth. A slot that was torn while it was written is
//! ignored: the other one is on disk by then.
//!
//! What the records mean is not known here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(test)]
mod tests;

const MAGIC: [u8; 8] = *b"BTNRAFT2";
const HEADER_BYTES: usize = 4096;
const SLOTS_AT: [usize; 2] = [512, 1024];
const SLOT_BYTES: usize = 12;

/// Bytes of a record before its content.
const HEAD_BYTES: usize = 12;

/// Most bytes of a record's content.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Records on their way into a file.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds a record.
    pub fn push<T: Serialize>(&mut self, record: &T) -> io::Result<()> {
        let body = rmp_serde::to_vec_named(record).map_err(io::Error::other)?;
        if body.len() > RECORD_BYTES_MAX {
            let text = format!(
                "a record of {} bytes; at most {RECORD_BYTES_MAX} are allowed",
                body.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let length = (body.len() as u32).to_be_bytes();
        self.bytes.extend_from_slice(&length);
        self.bytes
            .extend_from_slice(&crc32fast::hash(&length).to_be_bytes());
        self.bytes
            .extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        self.bytes.extend_from_slice(&body);
        Ok(())
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    file: File,
    /// Where the next record goes.
    end: u64,
    /// The slot that is written next.
    slot: usize,
    failed: bool,
    sync_dir: fn(&Path) -> io::Result<()>,
}

fn invalid(path: &Path, detail: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {detail}", path.display()),
    )
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn slot(end: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&end.to_be_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The synced end that the slot at `at` holds; none if it is torn or was never written.
fn read_slot(header: &[u8], at: usize) -> Option<u64> {
    let bytes = header.get(at..at + SLOT_BYTES)?;
    let end = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    (slot(end) == bytes).then_some(end)
}

/// The record at `at` and its end; none if there is no whole one.
fn decode<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    at: usize,
) -> io::Result<Option<(T, usize)>> {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let (Some(length), Some(length_crc), Some(body_crc)) = (word(at), word(at + 4), word(at + 8))
    else {
        return Ok(None);
    };
    if crc32fast::hash(&length).to_be_bytes() != length_crc {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length) as usize;
    let start = at + HEAD_BYTES;
    let body = bytes.get(start..start.saturating_add(length));
    let Some(body) = body.filter(|body| crc32fast::hash(body).to_be_bytes() == body_crc) else {
        return Ok(None);
    };
    // It is as it was written: cutting it would lose what a later version of the program knows.
    let record = rmp_serde::from_slice(body)
        .map_err(|error| invalid(path, format!("the record at byte {at} is unknown: {error}")))?;
    Ok(Some((record, start + length)))
}

/// What recovery finds in a file.
struct Recovered {
    /// The end of the last record.
    end: usize,
    /// How far it was synced for certain; at most `end`.
    synced_end: usize,
    /// The slot to write next: the older one, so that a torn write never leaves none.
    slot: usize,
}

/// Goes over the `bytes` of the file at `path` and hands its records over.
fn recover<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    mut take: impl FnMut(T),
) -> io::Result<Recovered> {
    if bytes.len() < HEADER_BYTES || bytes[..MAGIC.len()] != MAGIC {
        let text = "this is no Raft log, or one of another version";
        return Err(invalid(path, text));
    }
    let synced = SLOTS_AT.map(|at| read_slot(bytes, at));
    let Some(synced_end) = synced.into_iter().flatten().max() else {
        return Err(invalid(path, "the header is damaged"));
    };
    let mut end = HEADER_BYTES;
    while let Some((record, next)) = decode(path, bytes, end)? {
        take(record);
        end = next;
    }
    if (end as u64) < synced_end {
        let text = format!(
            "damaged at byte {end}: no whole record is there, \
             but everything below byte {synced_end} was acknowledged"
        );
        return Err(invalid(path, text));
    }
    Ok(Recovered {
        end,
        synced_end: (synced_end as usize).max(HEADER_BYTES),
        slot: usize::from(synced[0] == Some(synced_end)),
    })
}

impl RecordFile {
    /// Opens the file at `path` and hands over its records, or makes an empty one.
    pub fn open<T: DeserializeOwned>(path: &Path, take: impl FnMut(T)) -> io::Result<RecordFile> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(path),
            Err(error) => return Err(error),
        };
        let Recovered {
            end,
            synced_end,
            slot,
        } = recover(path, &bytes, take)?;
        if end < bytes.len() {
            let cut = bytes.len() - end;
            tracing::info!(path = %path.display(), bytes = cut, "a torn append is cut");
        }
        let mut opened = RecordFile {
            path: path.to_owned(),
            file: File::options().read(true).write(true).open(path)?,
            end: end as u64,
            slot,
            failed: false,
            sync_dir,
        };
        opened.file.set_len(opened.end)?;
        // Where a sync failed in an earlier life these bytes may be in memory only, and count as
        // written: to be sure that they are, they are written again.
        let unsynced = &bytes[synced_end..end];
        opened.file.write_all_at(unsynced, synced_end as u64)?;
        opened.file.sync_all()?;
        opened.mark()?;
        opened.file.sync_all()?;
        Ok(opened)
    }

    fn create(path: &Path) -> io::Result<RecordFile> {
        let (file, end) = write_new(&path.with_extension("tmp"), &Frames::default())?;
        std::fs::rename(path.with_extension("tmp"), path)?;
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        Ok(RecordFile {
            path: path.to_owned(),
            file,
            end,
            slot: 1,
            failed: false,
            sync_dir,
        })
    }

    /// Its size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Whether a write failed: what the file holds is not known then, and nothing more is written.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    #[cfg(test)]
    pub fn fail(&mut self) {
        self.failed = true;
    }

    fn refuse_after_failure(&self) -> io::Result<()> {
        if self.failed {
            return Err(invalid(&self.path, "an earlier write failed"));
        }
        Ok(())
    }

    /// Writes records and makes them durable. A failure is final.
    pub fn append(&mut self, records: &Frames) -> io::Result<()> {
        self.refuse_after_failure()?;
        let end = self.end + records.bytes.len() as u64;
        let written = self.file.write_all_at(&records.bytes, self.end);
        let result = written.and_then(|()| self.file.sync_data()).and_then(|()| {
            self.end = end;
            self.mark()
        });
        self.failed = result.is_err();
        result
    }

    /// Writes down that everything up to the end has been synced. It becomes durable with the next
    /// sync.
    fn mark(&mut self) -> io::Result<()> {
        let at = SLOTS_AT[self.slot] as u64;
        self.file.write_all_at(&slot(self.end), at)?;
        self.slot = 1 - self.slot;
        Ok(())
    }

    /// Puts another file with these records in its place. When this fails the file goes on as it
    /// was, or [`Self::has_failed`].
    pub fn replace(&mut self, records: &Frames) -> io::Result<()> {
        self.refuse_after_failure()?;
        let temporary = self.path.with_extension("tmp");
        let (file, end) = match write_new(&temporary, records) {
            Ok(written) => written,
            Err(error) => {
                // It only takes up room, and the next attempt writes over it.
                drop(std::fs::remove_file(&temporary));
                return Err(error);
            }
        };
        // From here on the old file may have no name any more, or the new one may lose its name in
        // a power cut: until both are ruled out nothing may be appended to either.
        self.failed = true;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.end = end;
        self.slot = 1;
        if let Some(dir) = self.path.parent() {
            (self.sync_dir)(dir)?;
        }
        self.failed = false;
        Ok(())
    }
}

/// Writes and syncs a whole file under a name that does not count yet. Its first slot is set.
fn write_new(path: &Path, records: &Frames) -> io::Result<(File, u64)> {
    let end = (HEADER_BYTES + records.bytes.len()) as u64;
    let mut header = vec![0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[SLOTS_AT[0]..SLOTS_AT[0] + SLOT_BYTES].copy_from_slice(&slot(end));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&records.bytes, HEADER_BYTES as u64)?;
    file.sync_all()?;
    Ok((file, end))
}
