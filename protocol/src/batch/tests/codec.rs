//! Every codec, here and in another library; and what comes of damage and of harm.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
};
use proptest::prelude::*;

use super::super::validate::checksum;
use super::{built, made, push_all};
use crate::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, Codec, EXPANDED_BYTES_MAX,
    RecordIter, expand_records, validate_produced,
};

const CODECS: [(Codec, Compression); 5] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
    (Codec::Lz4, Compression::Lz4),
    (Codec::Zstd, Compression::Zstd),
];

/// Records that are worth compressing.
fn builder() -> BatchBuilder {
    let mut builder = BatchBuilder::default();
    for number in 0..800 {
        let value = format!("{{\"number\": {number}, \"text\": \"the same over and over\"}}");
        builder.push(1_000 + number, Some(b"key"), Some(value.as_bytes()), &[]);
    }
    builder
}

fn values(batch: &Bytes) -> Result<Vec<Vec<u8>>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let records = expand_records(batch, &header, EXPANDED_BYTES_MAX)?;
    RecordIter::of(&records, &header)
        .map(|record| Ok(record?.value.unwrap_or_default().to_vec()))
        .collect()
}

#[test]
fn what_is_compressed_here_is_read_here_and_by_another_library() {
    let plain = builder().build(None);
    for (codec, _) in CODECS {
        let batch = builder().build_with(None, codec).expect("compressed");
        let header = validate_produced(&batch, 1 << 20).expect("valid");
        assert_eq!(header.codec(), Some(codec));
        assert_eq!(
            batch.len() < plain.len() / 3,
            codec != Codec::None,
            "{codec}"
        );
        assert_eq!(values(&batch), values(&plain), "{codec}");
        if codec == Codec::Snappy {
            // That library knows bare blocks only; the framing is checked below.
            continue;
        }
        let there = RecordBatchDecoder::decode(&mut batch.clone()).expect("decodes");
        assert_eq!(there.records.len(), 800, "{codec}");
        assert_eq!(there.records[799].timestamp, 1_799);
    }
}

#[test]
fn what_another_library_compresses_is_read_here() {
    let plain = builder().build(None);
    let records = RecordBatchDecoder::decode(&mut plain.clone()).expect("decodes");
    for (codec, compression) in CODECS {
        let options = RecordEncodeOptions {
            version: 2,
            compression,
        };
        let mut encoded = BytesMut::new();
        RecordBatchEncoder::encode(&mut encoded, records.records.iter(), &options)
            .expect("encodes");
        let header = validate_produced(&encoded, 1 << 20).expect("valid");
        assert_eq!(header.codec(), Some(codec));
        assert_eq!(values(&encoded.freeze()), values(&plain), "{codec}");
    }
}

#[test]
fn snappy_is_framed_as_kafkas_java_clients_frame_it() {
    let batch = builder().build_with(None, Codec::Snappy).expect("built");
    let stored = &batch[BATCH_HEADER_BYTES..];
    let head = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    assert_eq!(&stored[..16], head);
    let first = u32::from_be_bytes([stored[16], stored[17], stored[18], stored[19]]) as usize;
    let block = snap::raw::Decoder::new().decompress_vec(&stored[20..20 + first]);
    let plain = builder().build(None);
    let begin = &plain[BATCH_HEADER_BYTES..][..32 << 10];
    assert!(block.expect("a block") == begin, "the first 32 KiB");
}

#[test]
fn what_compression_would_make_larger_is_sent_as_it_is() {
    for (codec, _) in CODECS {
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(b"x"), &[]);
        let batch = builder.build_with(None, codec).expect("built");
        let header = validate_produced(&batch, 1 << 20).expect("valid");
        assert_eq!(header.codec(), Some(Codec::None));
    }
}

#[test]
fn a_batch_that_expands_too_far_is_an_error_and_no_memory() {
    for (codec, _) in &CODECS[1..] {
        let mut builder = BatchBuilder::default();
        builder.push(1, None, Some(&vec![0; 8 << 20]), &[]);
        let batch = builder.build_with(None, *codec).expect("built");
        assert!(batch.len() < 1 << 20, "{codec}: {}", batch.len());
        let header = BatchHeader::parse(&batch).expect("a header");
        let expanded = expand_records(&batch, &header, 9 << 20).expect("expands");
        assert!(expanded.len() > 8 << 20);
        let error = expand_records(&batch, &header, 1 << 20).expect_err("too far");
        let max = 1 << 20;
        assert_eq!(error, BatchError::ExpandsTooFar { codec: *codec, max });
    }
}

/// The batch with other stored records, and its length and checksum right.
fn with_stored(batch: &[u8], stored: &[u8]) -> Bytes {
    let mut batch = batch[..BATCH_HEADER_BYTES].to_vec();
    batch.extend_from_slice(stored);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

#[test]
fn sizes_that_are_only_claimed_take_no_memory() {
    // A Snappy block and a Zstandard frame that say they stand for gigabytes.
    let snappy = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    let zstd = [
        0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0,
    ];
    for (codec, stored) in [(Codec::Snappy, &snappy[..]), (Codec::Zstd, &zstd)] {
        let batch = builder().build_with(None, codec).expect("built");
        let batch = with_stored(&batch, stored);
        assert!(values(&batch).is_err(), "{codec}");
    }
}

#[test]
fn a_batch_cut_short_within_its_compressed_records_is_an_error() {
    for (codec, _) in &CODECS[1..] {
        let batch = builder().build_with(None, *codec).expect("built");
        let stored = &batch[BATCH_HEADER_BYTES..];
        for len in 0..stored.len() {
            let cut = with_stored(&batch, &stored[..len]);
            // Some formats notice by themselves, of others the records show it; a missing trailer,
            // behind the last record, may go unnoticed.
            if let Ok(read) = values(&cut) {
                assert_eq!(Ok(read), values(&batch), "{codec} cut to {len}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_come_back_from_any_codec(records in made(), which in 0usize..5) {
        let (codec, _) = CODECS[which];
        let plain = built(&records);
        let mut builder = BatchBuilder::default();
        push_all(&mut builder, &records);
        let batch = builder.build_with(None, codec).expect("built");
        prop_assert_eq!(values(&batch), values(&plain));
    }

    #[test]
    fn damaged_bytes_never_panic(
        which in 1usize..5,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (codec, _) = CODECS[which];
        let batch = builder().build_with(None, codec).expect("built");
        let mut stored = batch[BATCH_HEADER_BYTES..].to_vec();
        for (at, value) in flips {
            let at = at.index(stored.len());
            stored[at] = value;
        }
        let damaged = with_stored(&batch, &stored);
        let header = BatchHeader::parse(&damaged).expect("a header");
        if let Ok(records) = expand_records(&damaged, &header, 1 << 20) {
            prop_assert!(records.len() <= 1 << 20);
            let _ = RecordIter::of(&records, &header).count();
        }
    }

    #[test]
    fn garbage_in_any_codec_never_panics(
        which in 1usize..5,
        mut stored in proptest::collection::vec(any::<u8>(), 0..300),
        magic in any::<bool>(),
    ) {
        let (codec, _) = CODECS[which];
        let batch = builder().build_with(None, codec).expect("built");
        if magic {
            // Behind a true beginning, garbage gets further.
            let begin = &batch[BATCH_HEADER_BYTES..][..20];
            stored.splice(0..0, begin.iter().copied());
        }
        let _ = values(&with_stored(&batch, &stored));
    }
}
