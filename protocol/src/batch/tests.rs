use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerId};

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
    assign(&mut batch, Offset(500), LeaderEpoch(9));
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
    assign(&mut batch, Offset(77), LeaderEpoch(5));
    let header = validate_produced(&batch, 1 << 20).expect("still valid");
    assert_eq!(header.base_offset(), Offset(77));
    assert_eq!(header.next_offset(), Offset(80));
    assert_eq!(header.leader_epoch(), LeaderEpoch(5));
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
    }
}
