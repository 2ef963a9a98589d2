//! Reading the records of an uncompressed batch. The bytes may be hostile: nothing here panics.

use crate::batch::varint;
use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use crate::ids::Offset;

/// A record within its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, ms since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Number of its headers.
    pub header_count: u32,
    headers: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Its headers, name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.headers;
        (0..self.header_count)
            .map_while(move |_| Some((take_bytes(&mut rest)??, take_bytes(&mut rest)?)))
    }
}

/// Walks the records of an uncompressed batch. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    base_offset: Offset,
    base_timestamp: i64,
    index: u32,
    count: u32,
    last_offset_delta: u32,
}

impl<'a> RecordIter<'a> {
    /// Walks the records of `batch`, whose fixed part is `header`.
    pub fn new(batch: &'a [u8], header: &BatchHeader) -> Self {
        RecordIter {
            rest: batch
                .get(BATCH_HEADER_BYTES..header.batch_bytes())
                .unwrap_or_default(),
            base_offset: header.base_offset(),
            base_timestamp: header.base_timestamp(),
            index: 0,
            count: header.record_count(),
            last_offset_delta: header.last_offset_delta(),
        }
    }

    fn record(&mut self) -> Result<RecordRef<'a>, &'static str> {
        let length = varint::take_i32(&mut self.rest).ok_or("no length")?;
        let length = usize::try_from(length).map_err(|_| "a negative length")?;
        let (mut body, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or("longer than its batch")?;
        self.rest = rest;
        let (_attributes, after) = body.split_first().ok_or("no attributes")?;
        body = after;
        let timestamp_delta = varint::take(&mut body).ok_or("no timestamp")?;
        let offset_delta = varint::take_i32(&mut body).ok_or("no offset")?;
        let offset_delta = u32::try_from(offset_delta)
            .ok()
            .filter(|delta| *delta <= self.last_offset_delta)
            .ok_or("an offset outside its batch")?;
        let key = take_bytes(&mut body).ok_or("a bad key")?;
        let value = take_bytes(&mut body).ok_or("a bad value")?;
        let header_count = varint::take_i32(&mut body).ok_or("no header count")?;
        let header_count = u32::try_from(header_count).map_err(|_| "a bad header count")?;
        let headers = body;
        for _ in 0..header_count {
            take_bytes(&mut body).flatten().ok_or("a bad header name")?;
            take_bytes(&mut body).ok_or("a bad header value")?;
        }
        if !body.is_empty() {
            return Err("bytes after its end");
        }
        Ok(RecordRef {
            offset: self.base_offset.plus(u64::from(offset_delta)),
            timestamp: self.base_timestamp.saturating_add(timestamp_delta),
            key,
            value,
            header_count,
            headers,
        })
    }
}

/// Bytes with their length before them; the outer none means malformed, the inner one null.
#[inline]
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take_i32(rest)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(Some(bytes))
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            if self.rest.is_empty() {
                return None;
            }
            self.rest = &[];
            return Some(Err(BatchError::Record {
                index: self.index,
                what: "bytes after the last one",
            }));
        }
        let index = self.index;
        let record = self.record();
        if record.is_err() {
            self.index = self.count;
            self.rest = &[];
        } else {
            self.index += 1;
        }
        Some(record.map_err(|what| BatchError::Record { index, what }))
    }
}
