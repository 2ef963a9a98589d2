//! What a broker demands of a batch before it stores it, so that no consumer ever meets nonsense.

use crate::batch::header::{
    APPEND_TIME, CHECKED_FROM, CONTROL, CRC_32C, KNOWN_ATTRIBUTES, TRANSACTIONAL,
};
use crate::batch::{BatchError, BatchHeader, Codec, RecordIter};

/// Most headers of one record.
pub const HEADERS_PER_RECORD_MAX: u32 = 1_000;

/// Checks what a producer sent: exactly one sound batch of at most `message_bytes_max` bytes.
///
/// The records of an uncompressed batch are walked; those of a compressed one are stored as they
/// are, and it is the consumer that meets what is wrong inside.
pub fn validate_produced(
    bytes: &[u8],
    message_bytes_max: usize,
) -> Result<BatchHeader, BatchError> {
    if bytes.len() > message_bytes_max {
        return Err(BatchError::TooLarge {
            len: bytes.len(),
            max: message_bytes_max,
        });
    }
    let header = BatchHeader::parse(bytes)?;
    let (len, batch) = (bytes.len(), header.batch_bytes());
    if len < batch {
        return Err(BatchError::Short {
            have: len,
            need: batch,
        });
    }
    if len > batch {
        return Err(BatchError::Trailing { len, batch });
    }
    let computed = checksum(bytes);
    if header.crc() != computed {
        return Err(BatchError::Checksum {
            which: "batch's CRC-32C",
            stored: header.crc(),
            computed,
        });
    }
    check_fields(&header)?;
    if header.codec() == Some(Codec::None) {
        check_records(bytes, &header)?;
    }
    Ok(header)
}

/// The CRC-32C over what it covers.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc_fast::checksum(CRC_32C, &batch[CHECKED_FROM..]) as u32
}

fn check_fields(header: &BatchHeader) -> Result<(), BatchError> {
    let demand = |holds: bool, field, value, expected| {
        if holds {
            Ok(())
        } else {
            Err(BatchError::Field {
                field,
                value,
                expected,
            })
        }
    };
    let attributes = header.attributes();
    let shown = i64::from(attributes);
    demand(
        attributes & !KNOWN_ATTRIBUTES == 0,
        "attributes",
        shown,
        "with bits that mean nothing",
    )?;
    demand(
        attributes & CONTROL == 0,
        "attributes",
        shown,
        "and producers send no control batches",
    )?;
    demand(
        attributes & TRANSACTIONAL == 0,
        "attributes",
        shown,
        "and transactions are not known",
    )?;
    demand(
        attributes & APPEND_TIME == 0,
        "attributes",
        shown,
        "and it is the broker that says the time of an append",
    )?;
    demand(
        header.codec().is_some(),
        "codec",
        shown & 7,
        "which does not exist",
    )?;
    let count = header.record_count();
    demand(
        count > 0,
        "record count",
        0,
        "a batch has at least one record",
    )?;
    let last = header.last_offset_delta();
    demand(
        last == count - 1,
        "last offset delta",
        i64::from(last),
        "it is the record count less one",
    )?;
    let (base, max) = (header.base_timestamp(), header.max_timestamp());
    demand(
        base >= -1,
        "base timestamp",
        base,
        "it cannot be negative, -1 (none) aside",
    )?;
    demand(
        max >= base,
        "greatest timestamp",
        max,
        "it cannot lie before the base",
    )?;
    let (id, epoch, sequence) = header.producer_fields();
    let all = id >= 0 && epoch >= 0 && sequence >= 0;
    let none = id == -1 && epoch == -1 && sequence == -1;
    demand(
        all || none,
        "producer id",
        id,
        "id, epoch and sequence are given all or not at all",
    )
}

fn check_records(bytes: &[u8], header: &BatchHeader) -> Result<(), BatchError> {
    for (i, record) in RecordIter::new(bytes, header).enumerate() {
        let record = record?;
        let index = i as u32;
        if record.offset.since(header.base_offset()) != u64::from(index) {
            let what = "its offset does not follow its predecessor's";
            return Err(BatchError::Record { index, what });
        }
        if record.header_count > HEADERS_PER_RECORD_MAX {
            let what = "more than 1000 headers";
            return Err(BatchError::Record { index, what });
        }
    }
    Ok(())
}
