//! The mark file: how far the log was durable at least. It lets recovery tell a torn tail, which
//! nobody was promised, from damage of what was acknowledged.
//!
//! Two slots of 32 bytes are written in turn, so that a torn write leaves the other one:
//! `[magic "BTNMARK1"][u64 counter][u64 durable end][u32 zero][u32 CRC-32 of the 28 bytes before]`.
//! It is written after every flush, and made durable now and then: after a kill it is exact, after a
//! power cut it may lag behind, which makes recovery less strict, never wrong about what it cuts
//! above it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use baton_protocol::ids::Offset;

use crate::error::{IoContext, StorageError};

const MAGIC: [u8; 8] = *b"BTNMARK1";
const SLOT: usize = 32;

/// The mark file of a log.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    file: File,
    counter: u64,
    /// None if no sound slot was found.
    end: Option<Offset>,
}

impl Mark {
    /// Opens the mark in `dir`, or makes an empty one.
    pub fn open(dir: &Path) -> Result<Mark, StorageError> {
        let path = dir.join("durable");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(&path, "open")?;
        let newest = Mark::newest(&file, &path)?;
        Ok(Mark {
            path,
            file,
            counter: newest.map_or(0, |(counter, _)| counter),
            end: newest.map(|(_, end)| end),
        })
    }

    /// The mark in `dir`, if there is a sound one; for looking only.
    pub fn peek(dir: &Path) -> Result<Option<Offset>, StorageError> {
        let path = dir.join("durable");
        match File::open(&path) {
            Ok(file) => Ok(Mark::newest(&file, &path)?.map(|(_, end)| end)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(&path, "open", error)),
        }
    }

    fn newest(file: &File, path: &Path) -> Result<Option<(u64, Offset)>, StorageError> {
        let size = file.metadata().context(path, "stat")?.len() as usize;
        let mut bytes = vec![0; size.min(2 * SLOT)];
        file.read_exact_at(&mut bytes, 0).context(path, "read")?;
        Ok(bytes.chunks_exact(SLOT).filter_map(decode).max())
    }

    /// How far the log was durable at least; none if that is not known. A log has a mark before it
    /// has segments: where there are any, one was lost.
    pub fn end(&self) -> Option<Offset> {
        self.end
    }

    /// Writes a new mark.
    pub fn set(&mut self, end: Offset) -> Result<(), StorageError> {
        self.counter += 1;
        self.end = Some(end);
        let at = (self.counter % 2) * SLOT as u64;
        self.file
            .write_all_at(&encode(self.counter, end), at)
            .context(&self.path, "write")
    }

    /// Makes the mark durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().context(&self.path, "flush")
    }
}

fn encode(counter: u64, end: Offset) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&counter.to_be_bytes());
    slot[16..24].copy_from_slice(&end.0.to_be_bytes());
    let crc = crc32fast::hash(&slot[..28]);
    slot[28..].copy_from_slice(&crc.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Offset)> {
    let sound = slot[..8] == MAGIC && crc32fast::hash(&slot[..28]).to_be_bytes() == slot[28..];
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&slot[at..at + 8]);
        u64::from_be_bytes(number)
    };
    sound.then(|| (number(8), Offset(number(16))))
}
