//! Checking one segment file, entry by entry, or from where its index file speaks up to. Changes
//! nothing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use baton_protocol::batch::{EntryRef, parse_entry, verify_entry};
use baton_protocol::ids::{LeaderEpoch, Offset};

use crate::error::{IoContext, StorageError};
use crate::header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::index::{Indexed, NO_TIME, SparseIndex};
use crate::index_file::IndexFile;

/// One segment file, checked.
pub(crate) struct Scan {
    /// Bytes that are sound, header included.
    pub len: usize,
    /// Offset after the last sound entry.
    pub end: Offset,
    pub index: SparseIndex,
    /// The greatest timestamp of its entries.
    pub newest: i64,
    /// Each epoch that begins here, with the log's end before it.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Why the scan ended before the place where it should have.
    pub bad: Option<String>,
    /// Bytes behind the sound ones, up to the last that is not zero.
    pub tail_bytes: usize,
    /// The disk would not give all of it: nothing is known of what lies behind the sound bytes.
    pub unreadable: bool,
    /// Bytes that the segment's index file speaks of, if it was believed; else 0.
    pub indexed: usize,
    /// Entries below this position were not checked, but believed.
    pub unchecked: usize,
}

impl Scan {
    /// Bytes that were checked.
    pub fn checked_bytes(&self) -> usize {
        self.len - self.unchecked
    }
}

/// Where in the log a segment stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Epoch of the entry before it.
    pub epoch: LeaderEpoch,
    /// That is not known: the log starts within this segment, and has nothing before it.
    pub first: bool,
    /// Where the next segment says that this one ends, if there is one that says it.
    pub next: Option<Offset>,
}

/// Checks the entries of a segment file. A gap in the offsets is sound: a leader that begins at its
/// offset limit leaves one.
///
/// What `index` speaks of is believed, if its last stretch is found where it says: only what follows
/// is checked then.
pub(crate) fn scan(
    path: &Path,
    header: &SegmentHeader,
    place: Place,
    index_bytes: usize,
    index: Option<IndexFile>,
) -> Result<Scan, StorageError> {
    if let Some(index) = index.filter(|index| fits(index, header, place)) {
        let file = Content::read(path, header, index.last_position())?;
        if let Some(scan) = believe(&index, &file, header, place) {
            return Ok(go_on(scan, &file, header, place, index_bytes));
        }
    }
    let file = Content::read(path, header, SEGMENT_HEADER_BYTES)?;
    let scan = Scan {
        len: SEGMENT_HEADER_BYTES,
        end: header.base,
        index: SparseIndex::default(),
        newest: NO_TIME,
        epochs: Vec::new(),
        bad: None,
        tail_bytes: 0,
        unreadable: false,
        indexed: 0,
        unchecked: 0,
    };
    Ok(go_on(scan, &file, header, place, index_bytes))
}

/// A segment file from some position on, up to its seal if it has one.
struct Content {
    from: usize,
    bytes: Vec<u8>,
    /// Why the rest could not be read.
    error: Option<std::io::Error>,
}

impl Content {
    fn read(path: &Path, header: &SegmentHeader, from: usize) -> Result<Content, StorageError> {
        let limit = header.sealed_len.unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let mut file = File::open(path).context(path, "open")?;
        let read = file.seek(SeekFrom::Start(from as u64)).and_then(|from| {
            file.take(limit.saturating_sub(from))
                .read_to_end(&mut bytes)
        });
        Ok(Content {
            from,
            bytes,
            error: read.err(),
        })
    }

    /// Bytes of the file, as far as it can be read.
    fn end(&self) -> usize {
        self.from + self.bytes.len()
    }

    /// What lies from one position up to another, or to the end.
    fn between(&self, from: usize, to: usize) -> &[u8] {
        let (from, to) = (from - self.from, to.min(self.end()) - self.from);
        self.bytes.get(from..to).unwrap_or_default()
    }
}

/// Whether a segment with this header, in this place, can be the one that the index speaks of. One
/// that speaks of more than the log has of the segment is of what was there before a cut.
fn fits(index: &IndexFile, header: &SegmentHeader, place: Place) -> bool {
    let sealed = header.sealed_len.map(|len| len as usize);
    let first_epoch = index.epochs.first();
    !header.seal_lost
        && sealed.is_none_or(|sealed| index.len <= sealed)
        && place.next.is_none_or(|next| index.end <= next)
        && first_epoch.is_none_or(|run| run.0 > place.epoch)
}

/// What the index says, if the entries from the last indexed one on are there and agree with it.
/// `file` begins with that one.
fn believe(
    index: &IndexFile,
    file: &Content,
    header: &SegmentHeader,
    place: Place,
) -> Option<Scan> {
    let last = index.entries.last()?;
    let (mut end, mut at) = (last.base, last.position);
    let mut newest = last.newest_before;
    if file.end() < index.len {
        return None;
    }
    let stretch = file.between(at, index.len);
    if crc32fast::hash(stretch) != index.check {
        return None;
    }
    let mut epoch = LeaderEpoch::NONE;
    while at < index.len {
        let entry = next_entry(file.between(at, index.len), end, epoch).ok()?;
        end = entry.header.next_offset();
        epoch = entry.header.leader_epoch();
        newest = newest.max(entry.header.max_timestamp());
        at += entry.bytes.len();
    }
    let mut epochs = index.epochs.clone();
    if epochs.is_empty() && place.first {
        // None begins here, so all entries are of one.
        epochs.push((epoch, header.base));
    }
    let last_epoch = epochs.last().map_or(place.epoch, |run| run.0);
    (end == index.end && epoch == last_epoch).then(|| Scan {
        len: index.len,
        end,
        index: SparseIndex::of(&index.entries),
        newest,
        epochs,
        bad: None,
        tail_bytes: 0,
        unreadable: false,
        indexed: index.len,
        unchecked: index.last_position(),
    })
}

/// Checks what follows the entries that `scan` has.
fn go_on(
    mut scan: Scan,
    file: &Content,
    header: &SegmentHeader,
    place: Place,
    index_bytes: usize,
) -> Scan {
    let sealed = header.sealed_len.map(|len| len as usize);
    let limit = sealed.map_or(file.end(), |len| len.min(file.end()));
    let mut epoch = scan.epochs.last().map_or(place.epoch, |run| run.0);
    // What lies behind the point where the next segment takes over is not part of the log, even
    // if it is sound: it was cut there, and the seal that said so is lost.
    let ended = |end: Offset| sealed.is_none() && place.next == Some(end);
    while scan.len < limit && !ended(scan.end) {
        let entry = match next_entry(file.between(scan.len, limit), scan.end, epoch) {
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
            scan.index.push(Indexed {
                base: entry.header.base_offset(),
                position: scan.len,
                newest_before: scan.newest,
            });
        }
        scan.newest = scan.newest.max(entry.header.max_timestamp());
        scan.end = entry.header.next_offset();
        scan.len += entry.bytes.len();
    }
    let tail = file.between(scan.len, limit);
    let last = tail.iter().rposition(|byte| *byte != 0);
    scan.tail_bytes = last.map_or(0, |last| last + 1);
    // Preallocated room that was never written is zero: the usual end of an open segment.
    if scan.tail_bytes == 0 && sealed.is_none() {
        scan.bad = None;
    }
    if let Some(sealed) = sealed.filter(|sealed| *sealed > file.end()) {
        let short = format!(
            "the file has {} bytes, it was sealed at {sealed}",
            file.end()
        );
        scan.bad.get_or_insert(short);
    }
    if let Some(error) = &file.error {
        scan.unreadable = true;
        scan.bad = Some(format!("it cannot be read: {error}"));
    }
    scan
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
