//! The mark file: where the log starts, and how far it was durable at least. It lets recovery tell a
//! torn tail, which nobody was promised, from damage of what was acknowledged, and a log whose first
//! segment is gone from one that starts there.
//!
//! Two slots of 64 bytes are written in turn, so that a torn write leaves the other one:
//! `[magic "BTNMARK2"][u64 counter][u64 durable end][u64 start][u32 leader epoch of the entry before the
//! start, 0 for none][24 bytes of zero][u32 CRC-32 of the 60 bytes before]`. It is written after every flush, and made durable now and then: after a kill it
//! is exact, after a power cut it may lag behind, which makes recovery less strict, never wrong about
//! what it cuts above it. Its file need not be open all the time: see [`crate::mark_file`].
//!
//! The first version had slots of 32 bytes, `[magic "BTNMARK1"][u64 counter][u64 durable end][u32
//! zero][u32 CRC-32 of the 28 bytes before]`, and no start: logs started at 0. It is still read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::files::replace_file;
use crate::mark_file::{MarkFile, NAME};
use crate::witness::{Act, saw};

const MAGIC: [u8; 8] = *b"BTNMARK2";
const SLOT: usize = 64;
const MAGIC_1: [u8; 8] = *b"BTNMARK1";
const SLOT_1: usize = 32;

/// What a mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    /// How far the log was durable at least.
    pub durable_end: Offset,
    /// Where it starts.
    pub start: Offset,
    /// Leader epoch of the entry before the start; none if there was none, or that is not known.
    pub epoch_before: LeaderEpoch,
}

/// A slot that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    counter: u64,
    extent: Extent,
    /// Of the first version.
    old: bool,
}

/// The mark file of a log.
#[derive(Debug)]
pub(crate) struct Mark {
    file: MarkFile,
    /// The file is one of the first version, which is not written to but replaced.
    old: bool,
    counter: u64,
    /// None if no sound slot was found.
    extent: Option<Extent>,
}

impl Mark {
    /// Opens the mark in `dir`, or makes an empty one.
    pub fn open(dir: &Arc<Path>) -> Result<Mark, StorageError> {
        let path = dir.join(NAME);
        let file = MarkFile::open(dir).context(&path, "open")?;
        let opened = file.get()?;
        let newest = newest(&opened, &path)?;
        Ok(Mark {
            file,
            old: newest.is_some_and(|slot| slot.old),
            counter: newest.map_or(0, |slot| slot.counter),
            extent: newest.map(|slot| slot.extent),
        })
    }

    /// The mark in `dir`, if there is a sound one; for looking only.
    pub fn peek(dir: &Path) -> Result<Option<Extent>, StorageError> {
        let path = dir.join(NAME);
        match File::open(&path) {
            Ok(file) => Ok(newest(&file, &path)?.map(|slot| slot.extent)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(&path, "open", error)),
        }
    }

    /// What it says; none if that is not known. A log has a mark before it has segments: where there
    /// are any, one was lost.
    pub fn extent(&self) -> Option<Extent> {
        self.extent
    }

    /// Writes a new mark.
    pub fn set(&mut self, extent: Extent) -> Result<(), StorageError> {
        self.counter += 1;
        self.extent = Some(extent);
        let slot = encode(self.counter, extent);
        let at = (self.counter % 2) * SLOT as u64;
        if !self.old {
            let file = self.file.get()?;
            let written = file.write_all_at(&slot, at);
            return written.map_err(|error| self.file.error("write", error));
        }
        // The slots are larger now: written over the old ones they could leave none that is sound.
        let mut both = [0; 2 * SLOT];
        both[at as usize..][..SLOT].copy_from_slice(&slot);
        replace_file(&self.file.path(), &[&both])?;
        self.file.forget();
        self.old = false;
        Ok(())
    }

    /// Makes the mark durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.to_sync().run()
    }

    /// Makes the mark durable as it is then, wherever it is run.
    pub fn to_sync(&self) -> MarkSync {
        MarkSync(self.file.clone())
    }
}

/// A mark to be made durable, on any thread.
#[derive(Debug)]
pub(crate) struct MarkSync(MarkFile);

impl MarkSync {
    pub fn run(&self) -> Result<(), StorageError> {
        let flushed = self.0.get()?.sync_data();
        flushed.map_err(|error| self.0.error("flush", error))?;
        saw(Act::Mark, || self.0.path());
        Ok(())
    }
}

fn newest(file: &File, path: &Path) -> Result<Option<Slot>, StorageError> {
    let size = file.metadata().context(path, "stat")?.len() as usize;
    let mut bytes = vec![0; size.min(2 * SLOT)];
    file.read_exact_at(&mut bytes, 0).context(path, "read")?;
    let new = bytes.chunks_exact(SLOT).filter_map(decode);
    let old = bytes.chunks_exact(SLOT_1).filter_map(decode_1);
    Ok(new.chain(old).max())
}

fn encode(counter: u64, extent: Extent) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&counter.to_be_bytes());
    slot[16..24].copy_from_slice(&extent.durable_end.0.to_be_bytes());
    slot[24..32].copy_from_slice(&extent.start.0.to_be_bytes());
    slot[32..36].copy_from_slice(&extent.epoch_before.0.to_be_bytes());
    let crc = crc32fast::hash(&slot[..SLOT - 4]);
    slot[SLOT - 4..].copy_from_slice(&crc.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<Slot> {
    is_sound(slot, &MAGIC).then(|| Slot {
        counter: number(slot, 8),
        extent: Extent {
            durable_end: Offset(number(slot, 16)),
            start: Offset(number(slot, 24)),
            // The upper half of eight bytes: the lower one is zero.
            epoch_before: LeaderEpoch((number(slot, 32) >> 32) as u32),
        },
        old: false,
    })
}

fn decode_1(slot: &[u8]) -> Option<Slot> {
    is_sound(slot, &MAGIC_1).then(|| Slot {
        counter: number(slot, 8),
        extent: Extent {
            durable_end: Offset(number(slot, 16)),
            start: Offset::ZERO,
            epoch_before: LeaderEpoch::NONE,
        },
        old: true,
    })
}

fn is_sound(slot: &[u8], magic: &[u8]) -> bool {
    let (content, crc) = slot.split_at(slot.len() - 4);
    content.starts_with(magic) && crc32fast::hash(content).to_be_bytes() == crc
}

fn number(slot: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&slot[at..at + 8]);
    u64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(durable_end: u64, start: u64) -> Extent {
        Extent {
            durable_end: Offset(durable_end),
            start: Offset(start),
            epoch_before: LeaderEpoch(start as u32 / 2),
        }
    }

    #[test]
    fn the_newest_sound_slot_counts_and_a_torn_one_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("dir");
        let mut mark = Mark::open(&dir.path().into()).expect("opens");
        assert_eq!(mark.extent(), None);
        let steps = [extent(5, 2), extent(9, 2), extent(3, 2)];
        for step in steps {
            mark.set(step).expect("set");
            assert_eq!(Mark::peek(dir.path()).expect("readable"), Some(step));
        }
        // The newest one was the third: it is in the second slot.
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).expect("read");
        for at in SLOT..2 * SLOT {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, torn).expect("torn");
            let found = Mark::peek(dir.path()).expect("readable");
            assert_eq!(found, Some(steps[1]), "byte {at}");
        }
    }

    #[test]
    fn a_mark_of_the_first_version_is_read_and_replaced_when_it_is_written() {
        let dir = tempfile::tempdir().expect("dir");
        let mut bytes = [0; 2 * SLOT_1];
        for (counter, durable_end) in [(6u64, 40u64), (7, 30)] {
            let slot = &mut bytes[(counter % 2) as usize * SLOT_1..][..SLOT_1];
            slot[..8].copy_from_slice(&MAGIC_1);
            slot[8..16].copy_from_slice(&counter.to_be_bytes());
            slot[16..24].copy_from_slice(&durable_end.to_be_bytes());
            let crc = crc32fast::hash(&slot[..28]);
            slot[28..].copy_from_slice(&crc.to_be_bytes());
        }
        let path = dir.path().join(NAME);
        std::fs::write(&path, bytes).expect("written");
        let mut mark = Mark::open(&dir.path().into()).expect("opens");
        assert_eq!(mark.extent(), Some(extent(30, 0)));
        assert_eq!(std::fs::read(&path).expect("read"), bytes);
        for durable_end in [31, 32] {
            let step = extent(durable_end, 4);
            mark.set(step).expect("set");
            mark.sync().expect("durable");
            assert_eq!(Mark::peek(dir.path()).expect("readable"), Some(step));
        }
        let again = Mark::open(&dir.path().into()).expect("opens");
        assert_eq!((again.counter, again.extent()), (9, Some(extent(32, 4))));
    }
}
