//! Checking one segment file, entry by entry. Changes nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use baton_protocol::batch::{EntryRef, parse_entry, verify_entry};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::index::SparseIndex;

/// One segment file, checked.
pub(crate) struct Scan {
    /// Bytes that are sound, header included.
    pub len: usize,
    /// Offset after the last sound entry.
    pub end: Offset,
    pub index: SparseIndex,
    /// Each epoch that begins here, with the log's end before it.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Why the scan ended before the place where it should have.
    pub bad: Option<String>,
    /// Bytes behind the sound ones, up to the last that is not zero.
    pub tail_bytes: usize,
    /// The disk would not give all of it: nothing is known of what lies behind the sound bytes.
    pub unreadable: bool,
}

/// Where in the log a segment stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Epoch of the entry before it.
    pub epoch: LeaderEpoch,
    /// Where the next segment says that this one ends, if there is one that says it.
    pub next: Option<Offset>,
}

/// Checks the entries of a segment file. A gap in the offsets is sound: a leader that begins at its
/// offset limit leaves one.
pub(crate) fn scan(
    path: &Path,
    header: &SegmentHeader,
    place: Place,
    index_bytes: usize,
) -> Result<Scan, StorageError> {
    let mut file = Vec::new();
    let read = File::open(path)
        .context(path, "open")?
        .read_to_end(&mut file);
    let sealed = header.sealed_len.map(|len| len as usize);
    let bytes = &file[..sealed.map_or(file.len(), |len| len.min(file.len()))];
    let mut scan = Scan {
        len: SEGMENT_HEADER_BYTES,
        end: header.base,
        index: SparseIndex::default(),
        epochs: Vec::new(),
        bad: None,
        tail_bytes: 0,
        unreadable: read.is_err(),
    };
    let mut epoch = place.epoch;
    // What lies behind the point where the next segment takes over is not part of the log, even
    // if it is sound: it was cut there, and the seal that said so is lost.
    let ended = |end: Offset| sealed.is_none() && place.next == Some(end);
    while scan.len < bytes.len() && !ended(scan.end) {
        let entry = match next_entry(&bytes[scan.len..], scan.end, epoch) {
            Ok(entry) => entry,
            Err(why) => {
                scan.bad = Some(why);
                break;
            }
        };
        if entry.header.leader_epoch() > epoch {
            epoch = entry.header.leader_epoch();
            scan.epochs.push((epoch, scan.end));
        }
        if scan.index.wants(scan.len, index_bytes) {
            scan.index.push(entry.header.base_offset(), scan.len);
        }
        scan.end = entry.header.next_offset();
        scan.len += entry.bytes.len();
    }
    let tail = bytes.get(scan.len..).unwrap_or_default();
    let last = tail.iter().rposition(|byte| *byte != 0);
    scan.tail_bytes = last.map_or(0, |last| last + 1);
    // Preallocated room that was never written is zero: the usual end of an open segment.
    if scan.tail_bytes == 0 && sealed.is_none() {
        scan.bad = None;
    }
    if let Some(sealed) = sealed.filter(|sealed| *sealed > file.len()) {
        let short = format!(
            "the file has {} bytes, it was sealed at {sealed}",
            file.len()
        );
        scan.bad.get_or_insert(short);
    }
    if let Err(error) = read {
        scan.bad = Some(format!("it cannot be read: {error}"));
    }
    Ok(scan)
}

/// The entry at the front of `bytes`, if it is sound and follows an entry of `epoch` that ends at
/// `end`.
fn next_entry(bytes: &[u8], end: Offset, epoch: LeaderEpoch) -> Result<EntryRef<'_>, String> {
    let entry = match parse_entry(bytes) {
        Ok(Some(entry)) => entry,
        Ok(None) => return Err("an entry is cut short".into()),
        Err(error) => return Err(error.to_string()),
    };
    verify_entry(&entry).map_err(|error| error.to_string())?;
    if entry.header.base_offset() < end || entry.header.leader_epoch() < epoch {
        return Err("an entry does not follow its predecessor".into());
    }
    Ok(entry)
}
