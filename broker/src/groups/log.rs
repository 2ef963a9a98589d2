//! The way between the records of groups and the entries of a log.

use std::collections::VecDeque;

use baton_groups::record::{Record, RecordError};
use baton_protocol::batch::{
    BatchBuilder, BatchError, BatchHeader, EXPANDED_BYTES_MAX, EntryIter, RecordIter,
    expand_records,
};
use baton_protocol::ids::Offset;
use baton_storage::{LogReader, ReadError};
use bytes::Bytes;

/// About as much is read, and appended, at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A part of the log.
#[derive(Debug, Default)]
pub struct Piece {
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Where the next one begins; none if this was the last.
    pub next: Option<Offset>,
}

/// The log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log begins further up by now.
    #[error("the log begins at {0} by now")]
    StartMoved(Offset),
    /// Less is published than is committed. It passes.
    #[error("what is committed cannot be read yet")]
    NotYet,
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(ReadError),
    /// An entry is no batch.
    #[error("the entry at offset {at} is not understood: {error}")]
    Batch {
        /// Where.
        at: Offset,
        /// Why.
        error: BatchError,
    },
    /// A record is not one of groups, or of a newer version.
    #[error("offset {at}: {error}")]
    Record {
        /// Where.
        at: Offset,
        /// Why.
        error: RecordError,
    },
}

/// Reads the records from `from` on (or from the log's start) that lie below `up_to`: some of them.
/// May wait for the disk.
pub fn read(reader: &LogReader, from: Option<Offset>, up_to: Offset) -> Result<Piece, ReplayError> {
    let from = from.unwrap_or_else(|| reader.start());
    if from >= up_to {
        return Ok(Piece::default());
    }
    let is_there = reader.end() >= up_to;
    match reader.read(from, PIECE_BYTES, up_to) {
        Ok(Some(chunk)) => Ok(Piece {
            records: decode(&chunk.bytes)?,
            next: (chunk.end < up_to).then_some(chunk.end),
        }),
        // What is missing up there was cut or compacted.
        Ok(None) if is_there => Ok(Piece::default()),
        Ok(None) => Err(ReplayError::NotYet),
        Err(ReadError::OutOfRange { offset, start, .. }) if offset < start => {
            Err(ReplayError::StartMoved(start))
        }
        Err(error) => Err(ReplayError::Unreadable(error)),
    }
}

/// The records of whole entries, back to back.
pub fn decode(entries: &Bytes) -> Result<Vec<Record>, ReplayError> {
    let mut records = Vec::new();
    for entry in EntryIter::new(entries) {
        let entry = entry.map_err(|error| ReplayError::Batch {
            at: Offset::ZERO,
            error,
        })?;
        decode_into(&entries.slice_ref(entry.batch), &entry.header, &mut records)?;
    }
    Ok(records)
}

/// The records of one batch.
pub fn decode_batch(batch: &Bytes) -> Result<Vec<Record>, ReplayError> {
    let mut records = Vec::new();
    let at = Offset::ZERO;
    let header = BatchHeader::parse(batch).map_err(|error| ReplayError::Batch { at, error })?;
    decode_into(batch, &header, &mut records)?;
    Ok(records)
}

fn decode_into(
    batch: &Bytes,
    header: &BatchHeader,
    records: &mut Vec<Record>,
) -> Result<(), ReplayError> {
    // Where a leader began.
    if header.is_control() {
        return Ok(());
    }
    let at = header.base_offset();
    let in_batch = |error| ReplayError::Batch { at, error };
    let plain = expand_records(batch, header, EXPANDED_BYTES_MAX).map_err(in_batch)?;
    for record in RecordIter::of(&plain, header) {
        let record = record.map_err(in_batch)?;
        let at = record.offset;
        let read = Record::decode(record.key.unwrap_or_default(), record.value);
        records.push(read.map_err(|error| ReplayError::Record { at, error })?);
    }
    Ok(())
}

/// A record is larger than what can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes; a batch has at most {max}")]
pub struct TooLarge {
    /// How large it would make a batch.
    pub bytes: usize,
    /// The most that one may have.
    pub max: usize,
}

/// Batches of these records, in order; `timestamp_ms` is in milliseconds since 1970.
pub fn pack(
    records: &[Record],
    bytes_max: usize,
    timestamp_ms: i64,
) -> Result<VecDeque<Bytes>, TooLarge> {
    let mut batches = VecDeque::new();
    let mut batch = BatchBuilder::default();
    for record in records {
        let (key, value) = (record.key(), record.value());
        let (key, value) = (Some(key.as_slice()), value.as_deref());
        let more = BatchBuilder::record_bytes_max(key, value, &[]);
        if batch.records() > 0 && batch.bytes() + more > PIECE_BYTES.min(bytes_max) {
            batches.push_back(std::mem::take(&mut batch).build(None));
        }
        let bytes = batch.bytes() + more;
        if bytes > bytes_max {
            let max = bytes_max;
            return Err(TooLarge { bytes, max });
        }
        batch.push(timestamp_ms, key, value, &[]);
    }
    if batch.records() > 0 {
        batches.push_back(batch.build(None));
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use baton_groups::record::GroupState;
    use baton_protocol::batch::{LeaderStamp, assign, control_batch_epoch_start, entry_crc};
    use baton_protocol::ids::{GroupEpoch, LeaderEpoch};

    use super::*;

    fn record(epoch: u64) -> Record {
        let value = GroupState {
            epoch: GroupEpoch(epoch),
            idle_since_ms: None,
        };
        Record::Group {
            group: "g".repeat(100),
            value: (epoch > 0).then_some(value),
        }
    }

    /// An entry of this batch, stored at an offset.
    fn entry(batch: &[u8], base: u64) -> Vec<u8> {
        let mut batch = batch.to_vec();
        let stamp = LeaderStamp::new(Offset(base), LeaderEpoch(3));
        assign(&mut batch, &stamp);
        let mut entry = entry_crc(&batch).to_be_bytes().to_vec();
        entry.extend(batch);
        entry
    }

    #[test]
    fn what_is_packed_is_read_back_in_order() {
        let records: Vec<Record> = (0..100).map(record).collect();
        let batches = pack(&records, 1_000, 5).expect("small");
        assert!(batches.len() > 10, "none is larger than allowed");
        let mut entries = entry(&control_batch_epoch_start(Offset(0), LeaderEpoch(3), 0), 0);
        let mut base = 1;
        for batch in &batches {
            assert!(batch.len() <= 1_000);
            entries.extend(entry(batch, base));
            base += decode_batch(batch).expect("own records").len() as u64;
        }
        assert_eq!(decode(&entries.into()).expect("sound"), records);
        assert!(pack(&[], 1_000, 5).expect("nothing").is_empty());
    }

    #[test]
    fn what_is_not_of_groups_is_no_record() {
        let mut batch = BatchBuilder::default();
        batch.push(0, None, Some(b"value"), &[]);
        let read = decode(&entry(&batch.build(None), 7).into());
        let Err(ReplayError::Record { at, .. }) = read else {
            panic!("{read:?}");
        };
        assert_eq!(at, Offset(7));
        let mut torn = entry(&pack(&[record(1)], 1_000, 0).expect("small")[0], 7);
        torn[50] ^= 1;
        let read = decode(&torn.into());
        assert!(matches!(read, Err(ReplayError::Batch { .. })), "{read:?}");
    }

    #[test]
    fn a_record_that_fits_no_batch_is_refused() {
        let error = pack(&[record(1)], 150, 0).expect_err("too large");
        assert!(error.bytes > 150 && error.max == 150, "{error:?}");
    }
}
