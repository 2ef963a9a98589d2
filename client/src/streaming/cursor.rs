//! Entries as they came from a broker, and how far their records have been taken.

use baton_protocol::batch::{BatchHeader, RecordRef, RecordWalk, expand_records, parse_entry};
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_protocol::policy::Timestamps;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use crate::record::{Headers, Message};

/// Takes records out of verified entries.
pub(super) struct Cursor {
    /// The partition's number among those that are streamed from.
    pub slot: usize,
    /// The offset of the next record that is wanted.
    pub position: Offset,
    /// The leader epoch of the batch that records are, or were last, taken from.
    pub epoch: LeaderEpoch,
    /// Bytes that came, which are credit once all is taken.
    pub bytes: u64,
    place: Place,
    end: Option<Offset>,
    /// Entries that have not been begun.
    rest: Bytes,
    batch: Option<OpenBatch>,
}

/// A batch that records are taken from.
struct OpenBatch {
    records: Bytes,
    walk: RecordWalk,
    epoch: LeaderEpoch,
    timestamp_type: Timestamps,
    next_offset: Offset,
}

impl Cursor {
    pub fn new(
        slot: usize,
        place: Place,
        position: Offset,
        end: Option<Offset>,
        entries: Bytes,
    ) -> Cursor {
        Cursor {
            slot,
            position,
            epoch: LeaderEpoch::NONE,
            bytes: entries.len() as u64,
            place,
            end,
            rest: entries,
            batch: None,
        }
    }

    /// The next record. None when all have been taken, or the next lies at the end or beyond. After
    /// an error the position is that of the batch that cannot be read.
    #[inline]
    pub fn next(&mut self, expanded_bytes_max: usize) -> Option<Result<Message>> {
        loop {
            if let Some(batch) = &mut self.batch {
                match batch.walk.next(&batch.records) {
                    Some(Ok(record)) if record.offset < self.position => continue,
                    Some(Ok(record)) => {
                        if self.end.is_some_and(|end| record.offset >= end) {
                            self.stop_at_end();
                            return None;
                        }
                        self.position = record.offset.plus(1);
                        return Some(Ok(message(&self.place, batch, &record)));
                    }
                    Some(Err(error)) => return Some(Err(self.unreadable(error.into()))),
                    None => {
                        // The records may end below: compaction takes some away.
                        self.position = self.position.max(batch.next_offset);
                        self.batch = None;
                    }
                }
            }
            match self.open_next(expanded_bytes_max) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(self.unreadable(error))),
            }
        }
    }

    /// Opens the next entry. False if there is none.
    #[cold]
    fn open_next(&mut self, expanded_bytes_max: usize) -> Result<bool> {
        if self.end.is_some_and(|end| self.position >= end) {
            self.stop_at_end();
        }
        let Some(entry) = parse_entry(&self.rest)? else {
            return Ok(false);
        };
        let header = entry.header;
        let batch = self.rest.slice_ref(entry.batch);
        self.rest = self.rest.split_off(entry.bytes.len());
        if header.is_control() || header.next_offset() <= self.position {
            self.position = self.position.max(header.next_offset());
            return Ok(true);
        }
        self.batch = Some(open(&batch, &header, expanded_bytes_max)?);
        self.epoch = header.leader_epoch();
        Ok(true)
    }

    fn stop_at_end(&mut self) {
        self.position = self.position.max(self.end.unwrap_or(self.position));
        self.rest = Bytes::new();
        self.batch = None;
    }

    fn unreadable(&mut self, error: Error) -> Error {
        let at = self.position;
        self.rest = Bytes::new();
        self.batch = None;
        let error = error.reworded(|why| {
            format!("the batch with offset {at} cannot be read: {why} (seek goes past it)")
        });
        error.of_kind(ErrorKind::Corrupt).at(&self.place)
    }
}

fn open(batch: &Bytes, header: &BatchHeader, expanded_bytes_max: usize) -> Result<OpenBatch> {
    Ok(OpenBatch {
        records: expand_records(batch, header, expanded_bytes_max)?,
        walk: RecordWalk::new(header),
        epoch: header.leader_epoch(),
        timestamp_type: match header.is_of_append_time() {
            true => Timestamps::Append,
            false => Timestamps::Create,
        },
        next_offset: header.next_offset(),
    })
}

#[inline]
fn message(place: &Place, batch: &OpenBatch, record: &RecordRef<'_>) -> Message {
    let slice = |part: &[u8]| batch.records.slice_ref(part);
    let headers = match record.header_count {
        0 => Headers::default(),
        count => Headers::new(slice(record.headers_encoded()), count),
    };
    Message {
        topic: place.topic.clone(),
        partition: place.id.partition,
        offset: record.offset,
        epoch: batch.epoch,
        timestamp_ms: record.timestamp,
        timestamp_type: batch.timestamp_type,
        key: record.key.map(slice),
        value: record.value.map(slice),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::batch::{
        BatchBuilder, Codec, EXPANDED_BYTES_MAX, Header, LeaderStamp, assign,
        control_batch_epoch_start, entry_crc,
    };

    use super::*;

    fn entry(base: u64, records: u64, codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        for number in 0..records {
            let value = format!("value {} {}", base + number, "x".repeat(50));
            let header = Header {
                name: b"name",
                value: Some(b"content"),
            };
            builder.push(1_000, Some(b"key"), Some(value.as_bytes()), &[header]);
        }
        let mut batch = builder.build_with(None, codec).expect("built").to_vec();
        let stamp = LeaderStamp::new(Offset(base), LeaderEpoch(3));
        assign(&mut batch, &stamp);
        framed(&batch)
    }

    fn framed(batch: &[u8]) -> Vec<u8> {
        let mut entry = entry_crc(batch).to_be_bytes().to_vec();
        entry.extend_from_slice(batch);
        entry
    }

    fn cursor(position: u64, end: Option<u64>, entries: &[Vec<u8>]) -> Cursor {
        let place = Place::example("t", 2);
        let end = end.map(Offset);
        Cursor::new(0, place, Offset(position), end, entries.concat().into())
    }

    fn offsets(cursor: &mut Cursor) -> Vec<u64> {
        let records = std::iter::from_fn(|| cursor.next(EXPANDED_BYTES_MAX));
        records.map(|r| r.expect("readable").offset.0).collect()
    }

    #[test]
    fn records_are_taken_from_the_position_on_over_entries_of_all_kinds() {
        let control = framed(&control_batch_epoch_start(Offset(8), LeaderEpoch(4), 5));
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            let entries = [entry(0, 8, codec), control.clone(), entry(20, 2, codec)];
            let mut all = cursor(5, None, &entries);
            let first = all
                .next(EXPANDED_BYTES_MAX)
                .expect("one")
                .expect("readable");
            assert_eq!((first.offset, first.partition.0), (Offset(5), 2));
            assert_eq!(first.key.as_deref(), Some(&b"key"[..]));
            assert!(first.value.expect("a value").starts_with(b"value 5 "));
            assert_eq!(first.headers.get("name").as_deref(), Some(&b"content"[..]));
            assert_eq!(offsets(&mut all), [6, 7, 20, 21], "{codec}");
            assert_eq!(all.position, Offset(22));
        }
    }

    #[test]
    fn the_end_is_kept_within_a_batch_before_one_and_in_a_gap() {
        let entries = [entry(0, 8, Codec::None), entry(20, 2, Codec::None)];
        for (end, last) in [(3, 2), (8, 7), (15, 7), (21, 20)] {
            let mut some = cursor(0, Some(end), &entries);
            assert_eq!(offsets(&mut some).last(), Some(&last), "end {end}");
            assert!(some.position >= Offset(end), "end {end}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error_that_names_its_offset() {
        let entries = [entry(0, 2, Codec::None), entry(2, 200, Codec::Lz4)];
        let mut bounded = cursor(0, None, &entries);
        assert!(bounded.next(1_000).expect("one").is_ok());
        assert!(bounded.next(1_000).expect("one").is_ok());
        let error = bounded.next(1_000).expect("an item").expect_err("too far");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("offset 2 "), "{error}");
        assert!(bounded.next(1_000).is_none());
        assert_eq!(bounded.position, Offset(2), "seek goes on from here");
    }
}
