use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerId};

mod codec;

fn sample() -> Bytes {
    let mut builder = BatchBuilder::default();
    let header = Header {
        name: b"h",
        value: Some(b"v"),
    };
    builder.push(1_000, Some(b"key"), Some(b"value"), &[header]);
    builder.push(1_007, None, Some(b""), &[]);
    builder.push(900, Some(b""), None, &[]);
    builder.build(Some(ProducerState {
        id: ProducerId(42),
        epoch: 3,
        sequence: 17,
    }))
}

fn entry(batch: &[u8]) -> Vec<u8> {
    let mut bytes = entry_crc(batch).to_be_bytes().to_vec();
    bytes.extend_from_slice(batch);
    bytes
}

#[test]
fn another_library_reads_what_is_built_here() {
    let mut batch = sample().to_vec();
    assign(&mut batch, &LeaderStamp::new(Offset(500), LeaderEpoch(9)));
    let set = RecordBatchDecoder::decode(&mut Bytes::from(batch)).expect("decodes");
    let records = set.records;
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].offset, 500);
    assert_eq!(records[0].key.as_deref(), Some(&b"key"[..]));
    assert_eq!(records[0].value.as_deref(), Some(&b"value"[..]));
    assert_eq!(records[0].headers.len(), 1);
    assert_eq!(records[0].timestamp, 1_000);
    assert_eq!(records[1].timestamp, 1_007);
    assert_eq!(records[2].timestamp, 900);
    assert_eq!(records[2].value, None);
    assert_eq!(records[2].producer_id, 42);
    assert_eq!(records[2].producer_epoch, 3);
    assert_eq!(records[2].partition_leader_epoch, 9);
    assert_eq!(records[2].offset, 502);
}

#[test]
fn what_another_library_builds_is_read_here() {
    let records: Vec<Record> = (0..4)
        .map(|i| Record {
            transactional: false,
            delete_horizon: false,
            control: false,
            partition_leader_epoch: 0,
            producer_id: 7,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: i,
            sequence: i as i32,
            timestamp: 5_000 + i,
            key: (i % 2 == 0).then(|| Bytes::from(format!("k{i}"))),
            value: Some(Bytes::from(format!("v{i}"))),
            headers: IndexMap::from([(StrBytes::from_static_str("n"), None)]),
        })
        .collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut encoded = BytesMut::new();
    RecordBatchEncoder::encode(&mut encoded, records.iter(), &options).expect("encodes");
    let header = validate_produced(&encoded, 1 << 20).expect("valid");
    assert_eq!(header.record_count(), 4);
    let stamp = header.producer().expect("stamped");
    assert_eq!(
        (stamp.id, stamp.epoch, stamp.sequence),
        (ProducerId(7), 1, 0)
    );
    for (i, record) in RecordIter::new(&encoded, &header).enumerate() {
        let record = record.expect("sound");
        assert_eq!(record.offset, Offset(i as u64));
        assert_eq!(record.timestamp, 5_000 + i as i64);
        assert_eq!(record.value, Some(format!("v{i}").as_bytes()));
        assert_eq!(record.key.is_some(), i % 2 == 0);
        assert_eq!(record.headers().collect::<Vec<_>>(), [(&b"n"[..], None)]);
    }
}

#[test]
fn offset_and_epoch_lie_outside_the_producers_checksum() {
    let mut batch = sample().to_vec();
    assign(&mut batch, &LeaderStamp::new(Offset(77), LeaderEpoch(5)));
    let header = validate_produced(&batch, 1 << 20).expect("still valid");
    assert_eq!(header.base_offset(), Offset(77));
    assert_eq!(header.next_offset(), Offset(80));
    assert_eq!(header.leader_epoch(), LeaderEpoch(5));
}

fn stamp_of_time(ms: i64) -> LeaderStamp {
    LeaderStamp {
        append_time_ms: Some(ms),
        ..LeaderStamp::new(Offset(77), LeaderEpoch(5))
    }
}

#[test]
fn the_time_of_the_append_is_that_of_every_record() {
    let mut batch = sample().to_vec();
    let sent = batch.clone();
    assign(&mut batch, &stamp_of_time(1_795_000_000_123));
    let header = BatchHeader::parse(&batch).expect("sound");
    assert!(header.is_of_append_time());
    assert_eq!(header.max_timestamp(), 1_795_000_000_123);
    assert_eq!(header.crc(), super::validate::checksum(&batch));
    assert_eq!(batch[BATCH_HEADER_BYTES..], sent[BATCH_HEADER_BYTES..]);
    for record in RecordIter::new(&batch, &header) {
        assert_eq!(record.expect("sound").timestamp, 1_795_000_000_123);
    }
    // A second stamp, which no leader puts on, is as good as the first.
    assign(&mut batch, &stamp_of_time(-1));
    let header = BatchHeader::parse(&batch).expect("sound");
    assert_eq!(header.crc(), super::validate::checksum(&batch));
    // Kafka's own code reads it so.
    assign(&mut batch, &stamp_of_time(1_795_000_000_123));
    let read = RecordBatchDecoder::decode(&mut Bytes::from(batch)).expect("decoded");
    for record in read.records {
        assert_eq!(record.timestamp_type, TimestampType::LogAppend);
    }
}

#[test]
fn a_producer_does_not_say_the_time_of_the_append() {
    let mut batch = sample().to_vec();
    assign(&mut batch, &stamp_of_time(5));
    let refused = validate_produced(&batch, 1 << 20).expect_err("refused");
    assert!(
        refused.to_string().contains("time of an append"),
        "{refused}"
    );
}

#[test]
fn every_flipped_bit_of_an_entry_is_found() {
    let good = entry(&sample());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let found = EntryIter::new(&bad).any(|entry| entry.is_err());
        assert!(found, "bit {bit} went unnoticed");
    }
}

#[test]
fn entries_back_to_back_are_walked_and_a_torn_one_is_an_error() {
    let mut bytes = entry(&sample());
    bytes.extend(entry(&control_batch_epoch_start(
        Offset(3),
        LeaderEpoch(1),
        5,
    )));
    let entries: Vec<_> = EntryIter::new(&bytes)
        .collect::<Result<_, _>>()
        .expect("sound");
    assert_eq!(entries.len(), 2);
    assert!(entries[1].header.is_control());
    assert_eq!(entries[1].header.next_offset(), Offset(4));
    bytes.pop();
    assert!(EntryIter::new(&bytes).any(|entry| entry.is_err()));
}

#[test]
fn what_no_producer_may_send_is_refused() {
    let good = sample();
    let too_large = validate_produced(&good, good.len() - 1).expect_err("too large");
    assert!(too_large.is_too_large());
    assert!(validate_produced(&good[..good.len() - 1], 1 << 20).is_err());
    let control = control_batch_epoch_start(Offset(0), LeaderEpoch(1), 5);
    assert!(validate_produced(&control, 1 << 20).is_err());
    let mut two = good.to_vec();
    two.extend_from_slice(&good);
    assert!(validate_produced(&two, 1 << 20).is_err());
}

/// Sets a field and mends the checksum, so that the field itself has to be noticed.
fn with_field(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = sample().to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = super::validate::checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[test]
fn a_bad_field_is_refused_though_the_checksum_is_right() {
    for (what, bad) in [
        ("record count", with_field(57, &2i32.to_be_bytes())),
        ("negative count", with_field(57, &(-1i32).to_be_bytes())),
        ("last offset delta", with_field(23, &9i32.to_be_bytes())),
        ("codec", with_field(21, &7i16.to_be_bytes())),
        ("transactional", with_field(21, &16i16.to_be_bytes())),
        ("unknown attribute", with_field(21, &64i16.to_be_bytes())),
        ("timestamps", with_field(35, &5i64.to_be_bytes())),
        ("half a producer", with_field(53, &(-1i32).to_be_bytes())),
    ] {
        assert!(
            validate_produced(&bad, 1 << 20).is_err(),
            "{what} went unnoticed"
        );
    }
}

#[test]
fn a_batch_without_an_epoch_yet_is_accepted() {
    // Kafka's own producers send -1; the broker that appends the batch assigns the epoch.
    let mut batch = sample().to_vec();
    batch[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    let header = validate_produced(&batch, 1 << 20).expect("valid");
    assert_eq!(header.leader_epoch(), LeaderEpoch::NONE);
    batch[12..16].copy_from_slice(&(-2i32).to_be_bytes());
    assert!(validate_produced(&batch, 1 << 20).is_err());
}

#[test]
fn more_than_one_batch_is_not_called_cut_short() {
    let good = sample();
    let mut two = good.to_vec();
    two.extend_from_slice(&good);
    let error = validate_produced(&two, 1 << 20).expect_err("refused");
    assert_eq!(
        error,
        BatchError::Trailing {
            len: two.len(),
            batch: good.len(),
        }
    );
}

#[test]
fn a_torn_entry_tells_how_much_of_it_is_missing() {
    let whole = entry(&sample());
    for have in 1..whole.len() {
        let error = EntryIter::new(&whole[..have]).next().expect("an item");
        let need = if have < ENTRY_OVERHEAD_BYTES + BATCH_HEADER_BYTES {
            ENTRY_OVERHEAD_BYTES + BATCH_HEADER_BYTES
        } else {
            whole.len()
        };
        assert_eq!(error.expect_err("torn"), BatchError::Short { have, need });
    }
}

/// A batch of one record, whose bytes after the length are `body`, with the checksum right.
fn with_record(body: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.push(0, None, None, &[]);
    let mut batch = builder.build(None)[..BATCH_HEADER_BYTES].to_vec();
    let mut record = BytesMut::new();
    super::varint::put(&mut record, body.len() as i64);
    record.extend_from_slice(body);
    batch.extend_from_slice(&record);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = super::validate::checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[test]
fn numbers_longer_than_the_format_allows_are_refused() {
    // Attributes, timestamp, offset, key of one byte, null value, no headers.
    let good = with_record(&[0, 0, 0, 2, b'k', 1, 0]);
    validate_produced(&good, 1 << 20).expect("valid");
    // The key's length in six bytes: other readers stop at five.
    let long = [0, 0, 0, 0x82, 0x80, 0x80, 0x80, 0x80, 0, b'k', 1, 0];
    assert!(validate_produced(&with_record(&long), 1 << 20).is_err());
    // Five bytes with a bit beyond the 32nd.
    let wide = [0, 0, 0, 0x82, 0x80, 0x80, 0x80, 0x10, b'k', 1, 0];
    assert!(validate_produced(&with_record(&wide), 1 << 20).is_err());
    // A timestamp of ten bytes with a bit beyond the 64th.
    let mut stamp = vec![0];
    stamp.extend_from_slice(&[0x80; 9]);
    stamp.extend_from_slice(&[2, 0, 2, b'k', 1, 0]);
    assert!(validate_produced(&with_record(&stamp), 1 << 20).is_err());
}

#[test]
fn headers_of_a_record_are_bounded() {
    let header = Header {
        name: b"",
        value: None,
    };
    for (count, fits) in [(1_000, true), (1_001, false)] {
        let mut builder = BatchBuilder::default();
        builder.push(0, None, None, &vec![header; count]);
        let batch = builder.build(None);
        assert_eq!(validate_produced(&batch, 1 << 20).is_ok(), fits, "{count}");
    }
}

#[test]
fn compressed_records_are_not_looked_into() {
    // Bits 0-2 of the attributes name the codec; the broker stores such a batch unchanged.
    for (codec, named) in [
        (1i16, Codec::Gzip),
        (2, Codec::Snappy),
        (3, Codec::Lz4),
        (4, Codec::Zstd),
    ] {
        let mut batch = with_field(21, &codec.to_be_bytes());
        let last = batch.len() - 1;
        batch[last] ^= 0xff;
        let crc = super::validate::checksum(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let header = validate_produced(&batch, 1 << 20).expect("valid");
        assert_eq!(header.codec(), Some(named));
    }
}

#[test]
fn timestamps_as_far_apart_as_can_be_are_built() {
    let mut builder = BatchBuilder::default();
    builder.push(-1, None, None, &[]);
    builder.push(i64::MAX, None, None, &[]);
    let batch = builder.build(None);
    let header = validate_produced(&batch, 1 << 20).expect("valid");
    assert_eq!(header.max_timestamp(), i64::MAX);
}

/// A record as a test makes it up: timestamp, key, value, headers.
type Made = (
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(String, Option<Vec<u8>>)>,
);

fn made() -> impl Strategy<Value = Vec<Made>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    // Another library keeps headers in a map, so names do not repeat here.
    let headers = proptest::collection::btree_map("[a-z]{0,9}", bytes(), 0..4)
        .prop_map(|headers| headers.into_iter().collect::<Vec<_>>());
    proptest::collection::vec((0i64..1 << 45, bytes(), bytes(), headers), 1..20)
}

fn built(records: &[Made]) -> Bytes {
    let mut builder = BatchBuilder::default();
    push_all(&mut builder, records);
    builder.build(None)
}

fn push_all(builder: &mut BatchBuilder, records: &[Made]) {
    for (timestamp, key, value, headers) in records {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| Header {
                name: name.as_bytes(),
                value: value.as_deref(),
            })
            .collect();
        let most = BatchBuilder::record_bytes_max(key.as_deref(), value.as_deref(), &headers);
        let before = builder.bytes();
        builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
        assert!(builder.bytes() - before <= most, "estimate too low");
    }
}

proptest! {
    #[test]
    fn any_records_are_read_alike_here_and_by_another_library(records in made()) {
        let batch = built(&records);
        let header = validate_produced(&batch, 1 << 20).expect("valid");
        let here: Vec<Made> = RecordIter::new(&batch, &header)
            .map(|record| {
                let record = record.expect("sound");
                let headers = record
                    .headers()
                    .map(|(name, value)| {
                        let name = String::from_utf8(name.to_vec()).expect("text");
                        (name, value.map(<[u8]>::to_vec))
                    })
                    .collect();
                let bytes = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
                (record.timestamp, bytes(record.key), bytes(record.value), headers)
            })
            .collect();
        prop_assert_eq!(&here, &records);
        let there: Vec<Made> = RecordBatchDecoder::decode(&mut batch.clone())
            .expect("decodes")
            .records
            .into_iter()
            .map(|record| {
                let headers = record
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name.to_string(), value.map(|v| v.to_vec())))
                    .collect();
                let bytes = |part: Option<Bytes>| part.map(|part| part.to_vec());
                (record.timestamp, bytes(record.key), bytes(record.value), headers)
            })
            .collect();
        prop_assert_eq!(&there, &records);
    }

    #[test]
    fn a_time_is_stamped_on_the_sum_as_well_and_on_nothing_else(
        records in made(), ms in any::<i64>(), bit in any::<prop::sample::Index>(),
    ) {
        let mut batch = built(&records).to_vec();
        let sent = batch.clone();
        assign(&mut batch, &stamp_of_time(ms));
        let crc = BatchHeader::parse(&batch).expect("sound").crc();
        prop_assert_eq!(crc, super::validate::checksum(&batch));
        // What was damaged before does not become sound by it.
        let mut damaged = sent;
        let bit = bit.index((damaged.len() - BATCH_HEADER_BYTES) * 8);
        damaged[BATCH_HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
        assign(&mut damaged, &stamp_of_time(ms));
        let crc = BatchHeader::parse(&damaged).expect("parses").crc();
        prop_assert_ne!(crc, super::validate::checksum(&damaged));
    }

    #[test]
    fn a_flipped_bit_of_any_entry_is_found(records in made(), bit in any::<prop::sample::Index>()) {
        let mut bytes = entry(&built(&records));
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(EntryIter::new(&bytes).any(|entry| entry.is_err()));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = validate_produced(&bytes, 1 << 20);
        let _ = EntryIter::new(&bytes).count();
        if bytes.len() > 16 {
            bytes[16] = 2;
        }
        if let Ok(header) = BatchHeader::parse(&bytes) {
            let _ = RecordIter::new(&bytes, &header).count();
        }
    }

    #[test]
    fn mangled_records_never_panic(flips in proptest::collection::vec((61usize..100, any::<u8>()), 1..6)) {
        let mut batch = sample().to_vec();
        let len = batch.len();
        for (at, value) in flips {
            batch[at.min(len - 1)] = value;
        }
        let crc = super::validate::checksum(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        if let Ok(header) = validate_produced(&batch, 1 << 20) {
            for record in RecordIter::new(&batch, &header) {
                prop_assert!(record.is_ok());
            }
        }
    }

    #[test]
    fn varints_round_trip(value in any::<i64>()) {
        let mut out = BytesMut::new();
        super::varint::put(&mut out, value);
        prop_assert_eq!(out.len(), super::varint::size(value));
        let mut bytes = out.chunk();
        prop_assert_eq!(super::varint::take(&mut bytes), Some(value));
        prop_assert!(bytes.is_empty());
        let mut bytes = out.chunk();
        prop_assert_eq!(super::varint::take_i32(&mut bytes), i32::try_from(value).ok());
    }

    #[test]
    fn short_varints_round_trip(value in any::<i32>()) {
        let mut out = BytesMut::new();
        super::varint::put(&mut out, i64::from(value));
        let mut bytes = out.chunk();
        prop_assert_eq!(super::varint::take_i32(&mut bytes), Some(value));
        prop_assert!(bytes.is_empty());
    }
}
