//! Checking, while the log runs, what its opening believed without looking.
//!
//! Reads the files and not the mappings: what the disk will not give is then an error, and no
//! signal. What is checked is never written again; what has been cut meanwhile is left out. Decides
//! nothing about damage: the owner asks for a recheck ([`ask_recheck`](crate::ask_recheck)) and ends
//! the log.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use baton_protocol::batch::{EntryRef, parse_entry, verify_entry};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::epochs;
use crate::error::StorageError;
use crate::header::SEGMENT_HEADER_BYTES;
use crate::log::Log;
use crate::reader::Published;
use crate::segment::Segment;

/// A pass over what nobody has checked since the log was opened, step by step on any thread.
#[derive(Debug)]
pub struct Scrub {
    /// Gone with the log.
    published: Weak<Published>,
    stretches: VecDeque<Stretch>,
    believed: Believed,
    buffer: Vec<u8>,
}

/// What the log believed when it was opened.
#[derive(Debug)]
struct Believed {
    /// Where epochs begin.
    epochs: Vec<(LeaderEpoch, Offset)>,
    /// Where the log started.
    start: Offset,
}

/// The unchecked beginning of a segment.
#[derive(Debug)]
struct Stretch {
    segment: Weak<Segment>,
    /// Checked up to here,
    at: usize,
    /// where the log ended at this offset;
    end: Offset,
    /// to be checked up to here.
    to: usize,
}

/// The bytes of one step that could not all be used: an entry is cut short by their end.
struct CutShort;

impl Log {
    /// A pass over what was not checked when the log was opened.
    pub fn scrub(&self) -> Scrub {
        let parts = self.parts.iter();
        let stretches = parts.map(|part| Stretch {
            segment: Arc::downgrade(&part.segment),
            at: SEGMENT_HEADER_BYTES,
            end: part.segment.base(),
            to: part.segment.unchecked.load(Ordering::Acquire),
        });
        Scrub {
            published: Arc::downgrade(&self.published),
            stretches: stretches.filter(|one| one.at < one.to).collect(),
            believed: Believed {
                epochs: self.epochs.clone(),
                start: self.start,
            },
            buffer: Vec::new(),
        }
    }
}

impl Scrub {
    /// Bytes that are left to be checked.
    pub fn bytes_left(&self) -> u64 {
        let stretches = self.stretches.iter();
        stretches.map(|one| (one.to - one.at) as u64).sum()
    }

    /// Reads and checks about this many bytes. Tells how many it read; none when all has been checked.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] or [`StorageError::Io`] for what is damaged or cannot be read, and
    /// is still a part of the log.
    pub fn step(&mut self, bytes: usize) -> Result<Option<usize>, StorageError> {
        while let Some(stretch) = self.stretches.front_mut() {
            // Without the log there is nothing to be said of it.
            let log = self.published.upgrade();
            let Some((log, segment)) = log.zip(stretch.segment.upgrade()) else {
                self.stretches.pop_front();
                continue;
            };
            let checked = stretch.step(&segment, bytes, &self.believed, &mut self.buffer);
            let is_in_log =
                log.parts.load().iter().any(|part| {
                    Arc::ptr_eq(&part.segment, &segment) && part.extent().0 > stretch.at
                });
            match checked {
                Ok(read) => {
                    if stretch.at == stretch.to {
                        segment.unchecked.store(0, Ordering::Release);
                        self.stretches.pop_front();
                    }
                    return Ok(Some(read));
                }
                Err(error) if is_in_log => return Err(error),
                Err(_) => drop(self.stretches.pop_front()),
            }
        }
        Ok(None)
    }
}

impl Stretch {
    /// Reads on and checks what it reads, with as many bytes as the next entry needs at least.
    fn step(
        &mut self,
        segment: &Segment,
        bytes: usize,
        believed: &Believed,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, StorageError> {
        let left = self.to - self.at;
        let mut size = bytes.clamp(1, left);
        loop {
            buffer.resize(size, 0);
            segment
                .read_at(buffer, self.at)
                .map_err(|source| StorageError::io(&segment.path(), "read", source))?;
            match self.check(buffer, segment, believed)? {
                // Not even one entry.
                Some(CutShort) if size < left => size = (size * 2).min(left),
                Some(CutShort) => return Err(self.corrupt(segment, "an entry is cut short")),
                None => return Ok(size),
            }
        }
    }

    /// Checks the whole entries in `buffer`; says if there is none.
    fn check(
        &mut self,
        mut buffer: &[u8],
        segment: &Segment,
        believed: &Believed,
    ) -> Result<Option<CutShort>, StorageError> {
        let before = self.at;
        while !buffer.is_empty() {
            let parsed = parse_entry(buffer);
            let Some(entry) = parsed.map_err(|error| self.corrupt(segment, &error.to_string()))?
            else {
                break;
            };
            let sound = verify_entry(&entry);
            sound.map_err(|error| self.corrupt(segment, &error.to_string()))?;
            if !self.is_next(&entry, believed) {
                return Err(self.corrupt(segment, "an entry does not follow its predecessor"));
            }
            self.at += entry.bytes.len();
            self.end = entry.header.next_offset();
            buffer = &buffer[entry.bytes.len()..];
        }
        Ok((self.at == before).then_some(CutShort))
    }

    /// Whether the entry may stand here, and is of the epoch that the log believes it to be of.
    fn is_next(&self, entry: &EntryRef<'_>, believed: &Believed) -> bool {
        let epoch = epochs::before(self.end.plus(1), &believed.epochs);
        // Of what lies below the start nobody remembers the epochs.
        let expired = entry.header.next_offset() <= believed.start;
        entry.header.base_offset() >= self.end && (expired || entry.header.leader_epoch() == epoch)
    }

    fn corrupt(&self, segment: &Segment, what: &str) -> StorageError {
        StorageError::corrupt(&segment.path(), format!("byte {}: {what}", self.at))
    }
}
