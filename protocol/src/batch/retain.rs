//! Batches with fewer records: what compaction leaves of one.

use bytes::Bytes;

use crate::batch::codec::CODEC_BITS;
use crate::batch::validate::checksum;
use crate::batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, RecordRef, RecordWalk, expand_records,
};

/// The timestamp of a batch without records.
const NO_TIMESTAMP: i64 = -1;

/// The batch with those of its records that `keep` says; none if that is all of them.
///
/// Offsets stay what they were: the batch begins and ends where it did, and what is gone leaves gaps. So do
/// epoch and producer, by which it is known again. Without any record it is its fixed part alone. What is
/// kept is compressed as it was, unless that makes it larger.
///
/// # Errors
/// As [`expand_records`] with `bytes_max`, and [`BatchError::Record`] for records that are malformed.
pub fn retain_records(
    batch: &Bytes,
    header: &BatchHeader,
    bytes_max: usize,
    mut keep: impl FnMut(&RecordRef<'_>) -> bool,
) -> Result<Option<Vec<u8>>, BatchError> {
    let records = expand_records(batch, header, bytes_max)?;
    let mut walk = RecordWalk::new(header);
    let mut kept = Vec::new();
    let mut count = 0;
    let mut newest = NO_TIMESTAMP;
    let mut from = 0;
    while let Some(record) = walk.next(&records) {
        let record = record?;
        let to = walk.position();
        if keep(&record) {
            // A record speaks of its offset and time relative to the batch's, which stay.
            kept.extend_from_slice(&records[from..to]);
            count += 1;
            newest = newest.max(record.timestamp);
        }
        from = to;
    }
    if count == header.record_count() {
        return Ok(None);
    }
    let mut attributes = header.attributes() & !CODEC_BITS;
    if let Some(codec) = header.codec()
        && let Some(smaller) = codec
            .compress(&kept)?
            .filter(|small| small.len() < kept.len())
    {
        attributes |= codec.bits();
        kept = smaller;
    }
    let newest = match header.is_of_append_time() {
        true => header.max_timestamp(),
        false => newest,
    };
    let base_timestamp = match count {
        0 => newest,
        _ => header.base_timestamp(),
    };
    let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + kept.len());
    bytes.extend_from_slice(&batch[..BATCH_HEADER_BYTES]);
    bytes.extend_from_slice(&kept);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    bytes[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&newest.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = checksum(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(Some(bytes))
}

/// Whether all records of a batch have keys, as a topic that is compacted demands it.
///
/// # Errors
/// [`BatchError::NoKey`] for the first that has none; else as [`expand_records`].
pub fn check_keys(batch: &Bytes, header: &BatchHeader, bytes_max: usize) -> Result<(), BatchError> {
    let records = expand_records(batch, header, bytes_max)?;
    let mut walk = RecordWalk::new(header);
    let mut index = 0;
    while let Some(record) = walk.next(&records) {
        let record = record?;
        if record.key.is_none() {
            return Err(BatchError::NoKey { index });
        }
        if record.offset.since(header.base_offset()) != u64::from(index) {
            let what = "its offset does not follow its predecessor's";
            return Err(BatchError::Record { index, what });
        }
        index += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Codec, LeaderStamp, ProducerState, RecordIter, assign};
    use crate::ids::{LeaderEpoch, Offset, ProducerId};

    fn batch(keys: &[Option<&str>], codec: Codec) -> (Bytes, BatchHeader) {
        let mut builder = BatchBuilder::default();
        for (i, key) in keys.iter().enumerate() {
            let value = format!("value {i} {}", "again ".repeat(30));
            let key = key.map(str::as_bytes);
            builder.push(1_000 + 10 * i as i64, key, Some(value.as_bytes()), &[]);
        }
        let producer = ProducerState {
            id: ProducerId(9),
            epoch: 2,
            sequence: 40,
        };
        let bytes = builder.build_with(Some(producer), codec).expect("built");
        let mut bytes = bytes.to_vec();
        let stamp = LeaderStamp::new(Offset(100), LeaderEpoch(3));
        assign(&mut bytes, &stamp);
        let header = BatchHeader::parse(&bytes).expect("sound");
        (bytes.into(), header)
    }

    const ALL: [Option<&str>; 5] = [Some("a"), Some("b"), Some("a"), Some("c"), Some("b")];

    #[test]
    fn what_is_kept_is_as_it_was_and_the_batch_begins_and_ends_where_it_did() {
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            let (bytes, header) = batch(&ALL, codec);
            let kept = retain_records(&bytes, &header, 1 << 20, |record| {
                [102, 103].contains(&record.offset.0)
            });
            let kept = Bytes::from(kept.expect("readable").expect("fewer"));
            let left = BatchHeader::parse(&kept).expect("sound");
            assert_eq!(left.batch_bytes(), kept.len());
            assert_eq!(left.crc(), checksum(&kept), "{codec}");
            assert_eq!(left.base_offset(), header.base_offset());
            assert_eq!(left.next_offset(), header.next_offset());
            assert_eq!(left.leader_epoch(), header.leader_epoch());
            assert_eq!(left.producer(), header.producer());
            assert_eq!((left.record_count(), left.codec()), (2, Some(codec)));
            assert_eq!(left.max_timestamp(), 1_030);
            let records = expand_records(&kept, &left, 1 << 20).expect("expands");
            let records: Vec<_> = RecordIter::of(&records, &left)
                .map(|record| record.expect("sound"))
                .map(|record| (record.offset.0, record.timestamp, record.key))
                .collect();
            let expected = [(102, 1_020, Some(&b"a"[..])), (103, 1_030, Some(&b"c"[..]))];
            assert_eq!(records, expected, "{codec}");
        }
    }

    #[test]
    fn nothing_is_made_of_a_batch_that_keeps_all_and_a_header_of_one_that_keeps_none() {
        for codec in [Codec::None, Codec::Lz4] {
            let (bytes, header) = batch(&ALL, codec);
            let all = retain_records(&bytes, &header, 1 << 20, |_| true);
            assert_eq!(all, Ok(None));
            let none = retain_records(&bytes, &header, 1 << 20, |_| false);
            let none = Bytes::from(none.expect("readable").expect("fewer"));
            assert_eq!(none.len(), BATCH_HEADER_BYTES);
            let left = BatchHeader::parse(&none).expect("sound");
            assert_eq!(left.crc(), checksum(&none));
            assert_eq!(left.producer(), header.producer());
            assert_eq!(left.next_offset(), header.next_offset());
            assert_eq!(RecordIter::new(&none, &left).count(), 0);
            let again = retain_records(&none, &left, 1 << 20, |_| false);
            assert_eq!(again, Ok(None), "there is nothing left to go");
        }
    }

    #[test]
    fn a_batch_that_expands_too_far_is_an_error() {
        let (bytes, header) = batch(&ALL, Codec::Gzip);
        let kept = retain_records(&bytes, &header, 100, |_| false);
        assert!(matches!(kept, Err(BatchError::ExpandsTooFar { .. })));
        let keys = check_keys(&bytes, &header, 100);
        assert!(matches!(keys, Err(BatchError::ExpandsTooFar { .. })));
    }

    #[test]
    fn keys_are_demanded_of_all_records() {
        for codec in [Codec::None, Codec::Zstd] {
            let (bytes, header) = batch(&ALL, codec);
            assert_eq!(check_keys(&bytes, &header, 1 << 20), Ok(()));
            let (bytes, header) = batch(&[Some("a"), None, Some("b")], codec);
            let refused = check_keys(&bytes, &header, 1 << 20);
            assert!(matches!(refused, Err(BatchError::NoKey { index: 1 })));
        }
    }
}
