//! Making batches. This is a producer's hot path: records are encoded once, straight into the
//! batch, without an allocation each.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::header::CONTROL;
use crate::batch::validate::checksum;
use crate::batch::{BATCH_HEADER_BYTES, BatchError, Codec, LeaderStamp, assign, varint};
use crate::ids::{LeaderEpoch, Offset, ProducerId};

/// A record's header, as the builder takes it.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The producer's mark that a batch gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The producer, 0 to `i64::MAX`.
    pub id: ProducerId,
    /// Its epoch, 0 to `i16::MAX`.
    pub epoch: u16,
    /// Sequence of the batch's first record, 0 to `i32::MAX`, after which comes 0. The format's
    /// numbers are signed: a broker refuses a batch with a larger one of any of the three.
    pub sequence: u32,
}

/// Builds one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    records: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder::with_capacity(4 << 10)
    }
}

impl BatchBuilder {
    /// A builder with room for a batch of `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(bytes.max(BATCH_HEADER_BYTES));
        buffer.put_bytes(0, BATCH_HEADER_BYTES);
        BatchBuilder {
            buffer,
            records: 0,
            base_timestamp: 0,
            max_timestamp: 0,
        }
    }

    /// Number of records so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Size of the batch so far, before it is compressed.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The most that a record of these parts adds to a batch.
    pub fn record_bytes_max(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> usize {
        let part = |part: Option<&[u8]>| 5 + part.map_or(0, <[u8]>::len);
        let headers: usize = headers
            .iter()
            .map(|h| part(Some(h.name)) + part(h.value))
            .sum();
        5 + 1 + 10 + 5 + part(key) + part(value) + 5 + headers
    }

    /// Adds a record; `timestamp` is in ms since 1970.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        if self.records == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        // Only a user's nonsense is that far apart; it costs its own precision, not the process.
        let timestamp_delta = timestamp.saturating_sub(self.base_timestamp);
        let offset_delta = i64::from(self.records);
        let part = |part: Option<&[u8]>| match part {
            Some(bytes) => varint::size(bytes.len() as i64) + bytes.len(),
            None => 1,
        };
        let header_bytes: usize = headers
            .iter()
            .map(|h| part(Some(h.name)) + part(h.value))
            .sum();
        let length = 1
            + varint::size(timestamp_delta)
            + varint::size(offset_delta)
            + part(key)
            + part(value)
            + varint::size(headers.len() as i64)
            + header_bytes;
        let out = &mut self.buffer;
        varint::put(out, length as i64);
        out.put_u8(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put_bytes(out, key);
        put_bytes(out, value);
        varint::put(out, headers.len() as i64);
        for header in headers {
            put_bytes(out, Some(header.name));
            put_bytes(out, header.value);
        }
        self.records += 1;
    }

    /// The batch, with offset 0 and epoch 0; a broker assigns both.
    ///
    /// # Panics
    /// If no record was added.
    pub fn build(self, producer: Option<ProducerState>) -> Bytes {
        assert!(self.records > 0, "a batch has at least one record");
        finish(self, 0, producer)
    }

    /// The same with its records compressed; as they are, where that makes them no smaller.
    ///
    /// # Errors
    /// [`BatchError::Compressed`] with a codec that this build does not have.
    ///
    /// # Panics
    /// If no record was added.
    pub fn build_with(
        mut self,
        producer: Option<ProducerState>,
        codec: Codec,
    ) -> Result<Bytes, BatchError> {
        assert!(self.records > 0, "a batch has at least one record");
        let plain = &self.buffer[BATCH_HEADER_BYTES..];
        let compressed = codec.compress(plain)?;
        let smaller = compressed.filter(|compressed| compressed.len() < plain.len());
        let attributes = match smaller {
            Some(compressed) => {
                // A buffer of its own, so that what waits to be sent takes no more than its size.
                let mut buffer = BytesMut::with_capacity(BATCH_HEADER_BYTES + compressed.len());
                buffer.put_bytes(0, BATCH_HEADER_BYTES);
                buffer.extend_from_slice(&compressed);
                self.buffer = buffer;
                codec.bits()
            }
            None => 0,
        };
        Ok(finish(self, attributes, producer))
    }
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => varint::put(out, -1),
    }
}

fn finish(mut builder: BatchBuilder, attributes: i16, producer: Option<ProducerState>) -> Bytes {
    let length = (builder.buffer.len() - 12) as i32;
    let (id, epoch, sequence) = producer.map_or((-1, -1, -1), |producer| {
        (
            producer.id.0 as i64,
            producer.epoch as i16,
            producer.sequence as i32,
        )
    });
    let mut head = &mut builder.buffer[..BATCH_HEADER_BYTES];
    head.put_i64(0);
    head.put_i32(length);
    head.put_i32(0);
    head.put_i8(2);
    head.put_u32(0);
    head.put_i16(attributes);
    head.put_i32(builder.records as i32 - 1);
    head.put_i64(builder.base_timestamp);
    head.put_i64(builder.max_timestamp);
    head.put_i64(id);
    head.put_i16(epoch);
    head.put_i32(sequence);
    head.put_i32(builder.records as i32);
    let crc = checksum(&builder.buffer);
    builder.buffer[17..21].copy_from_slice(&crc.to_be_bytes());
    builder.buffer.freeze()
}

/// The control batch that a leader appends first in its epoch: one control record of Kafka's type 2
/// (leader change), whose value holds a version (0) and the epoch.
pub fn control_batch_epoch_start(base: Offset, epoch: LeaderEpoch, timestamp_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::with_capacity(128);
    let key = [0, 0, 0, 2];
    let mut value = vec![0, 0];
    value.extend_from_slice(&epoch.0.to_be_bytes());
    builder.push(timestamp_ms, Some(&key), Some(&value), &[]);
    let mut batch = finish(builder, CONTROL, None).to_vec();
    assign(&mut batch, &LeaderStamp::new(base, epoch));
    batch
}
