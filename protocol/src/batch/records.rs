//! Reading the records of a batch. The bytes may be hostile: nothing here panics.

use bytes::Bytes;

use crate::batch::varint;
use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec};
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
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter::new(self.headers, self.header_count)
    }

    /// Its headers as they are encoded, for a [`HeaderIter`] later on.
    pub fn headers_encoded(&self) -> &'a [u8] {
        self.headers
    }
}

/// Walks the headers of a record, name and value.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> HeaderIter<'a> {
    /// Walks `count` headers, encoded as a record has them.
    pub fn new(encoded: &'a [u8], count: u32) -> Self {
        HeaderIter {
            rest: encoded,
            left: count,
        }
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((
            take_bytes(&mut self.rest).flatten()?,
            take_bytes(&mut self.rest)?,
        ))
    }
}

/// The records of `batch`, back to back and not compressed: a slice of it, or, where they are
/// compressed, at most `bytes_max` bytes of their own.
///
/// # Errors
/// [`BatchError::ExpandsTooFar`] beyond `bytes_max`; what the codec says of damaged bytes.
pub fn expand_records(
    batch: &Bytes,
    header: &BatchHeader,
    bytes_max: usize,
) -> Result<Bytes, BatchError> {
    let end = header.batch_bytes();
    if batch.len() < end {
        let have = batch.len();
        return Err(BatchError::Short { have, need: end });
    }
    let stored = batch.slice(BATCH_HEADER_BYTES..end);
    match header.codec() {
        Some(Codec::None) => Ok(stored),
        Some(codec) => codec.expand(&stored, bytes_max).map(Bytes::from),
        None => Err(BatchError::Field {
            field: "codec",
            value: i64::from(header.attributes() & 7),
            expected: "which does not exist",
        }),
    }
}

/// Walks the records of a batch. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    records: &'a [u8],
    walk: RecordWalk,
}

impl<'a> RecordIter<'a> {
    /// Walks the records of `batch`, which are not compressed, and whose fixed part is `header`.
    pub fn new(batch: &'a [u8], header: &BatchHeader) -> Self {
        let records = batch.get(BATCH_HEADER_BYTES..header.batch_bytes());
        RecordIter::of(records.unwrap_or_default(), header)
    }

    /// Walks `records`, as [`expand_records`] gives them.
    pub fn of(records: &'a [u8], header: &BatchHeader) -> Self {
        RecordIter {
            records,
            walk: RecordWalk::new(header),
        }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.walk.next(self.records)
    }
}

/// A walk over the records of a batch, apart from their bytes: for whoever keeps both.
#[derive(Clone, Debug)]
pub struct RecordWalk {
    at: usize,
    base_offset: Offset,
    base_timestamp: i64,
    /// The timestamp of all records, whatever they say themselves.
    append_time: Option<i64>,
    index: u32,
    count: u32,
    last_offset_delta: u32,
}

impl RecordWalk {
    /// A walk from the first record on, of a batch with this fixed part.
    pub fn new(header: &BatchHeader) -> Self {
        RecordWalk {
            at: 0,
            base_offset: header.base_offset(),
            base_timestamp: header.base_timestamp(),
            append_time: header.is_of_append_time().then_some(header.max_timestamp()),
            index: 0,
            count: header.record_count(),
            last_offset_delta: header.last_offset_delta(),
        }
    }

    /// How many bytes of the records it has walked over.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next of `records`, which are the same at every call. Ends after the first error.
    #[inline]
    pub fn next<'a>(&mut self, records: &'a [u8]) -> Option<Result<RecordRef<'a>, BatchError>> {
        let mut rest = records.get(self.at..).unwrap_or_default();
        let index = self.index;
        if index == self.count {
            self.at = records.len();
            let what = "bytes after the last one";
            return (!rest.is_empty()).then_some(Err(BatchError::Record { index, what }));
        }
        match self.record(&mut rest) {
            Ok(record) => {
                self.at = records.len() - rest.len();
                self.index += 1;
                Some(Ok(record))
            }
            Err(what) => {
                self.at = records.len();
                self.index = self.count;
                Some(Err(BatchError::Record { index, what }))
            }
        }
    }

    #[inline]
    fn record<'a>(&self, rest: &mut &'a [u8]) -> Result<RecordRef<'a>, &'static str> {
        let length = varint::take_i32(rest).ok_or("no length")?;
        let length = usize::try_from(length).map_err(|_| "a negative length")?;
        let (mut body, after) = rest
            .split_at_checked(length)
            .ok_or("longer than its batch")?;
        *rest = after;
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
            timestamp: self
                .append_time
                .unwrap_or(self.base_timestamp.saturating_add(timestamp_delta)),
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
