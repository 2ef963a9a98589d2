//! Records, as they are sent and as they are read.

use std::fmt;
use std::sync::Arc;

use baton_protocol::batch::HeaderIter;
use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex};
use baton_protocol::policy::Timestamps;
use bytes::Bytes;

/// A record to be sent. Its `Debug` shows the beginning of what is long.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The topic that it goes to.
    pub topic: Arc<str>,
    /// Records of equal key go to the same partition; none: any.
    pub key: Option<Bytes>,
    /// The content; none marks a key as deleted where a topic is compacted.
    pub value: Option<Bytes>,
    /// Names and values that go with it, at most 1,000.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// The partition; none: as the producer's partitioner says.
    pub partition: Option<PartitionIndex>,
    /// When it came about, in milliseconds since 1970; none: when it is sent. A topic may put the time of the
    /// append in its place.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// An empty record to this topic. A name that is used often is best kept as an `Arc<str>`.
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        Record {
            topic: topic.into(),
            key: None,
            value: None,
            headers: Vec::new(),
            partition: None,
            timestamp_ms: None,
        }
    }

    /// The same with this content.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The same with a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// The same for this partition.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(PartitionIndex(partition));
        self
    }

    /// The same with the time when it came about, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset; none with `Acks::Leader` or `Acks::None` (but in an asynchronous topic): what is
    /// not committed yet may still be discarded, and its offset given to another record.
    pub offset: Option<Offset>,
    /// The leader epoch it was appended in; none with `Acks::None`.
    pub epoch: Option<LeaderEpoch>,
}

/// A record that was read. Key, value and headers are slices of what came from the broker (or of
/// its batch, expanded): they are not copied, and keep it in memory. Its `Debug` shows the beginning of
/// what is long.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset.
    pub offset: Offset,
    /// The leader epoch it was appended in.
    pub epoch: LeaderEpoch,
    /// When it came about, as its producer says, or was stored, as its leader does: in milliseconds since
    /// 1970.
    pub timestamp_ms: i64,
    /// Which of the two the timestamp is.
    pub timestamp_type: Timestamps,
    /// The key.
    pub key: Option<Bytes>,
    /// The content.
    pub value: Option<Bytes>,
    /// Names and values that go with it.
    pub headers: Headers,
}

/// The headers of a record that was read. They are decoded as they are looked at.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    encoded: Bytes,
    count: u32,
}

impl Headers {
    pub(crate) fn new(encoded: Bytes, count: u32) -> Self {
        Headers { encoded, count }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values, in order, without copies.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + '_ {
        let slice = |part: &[u8]| self.encoded.slice_ref(part);
        HeaderIter::new(&self.encoded, self.count)
            .map(move |(name, value)| (slice(name), value.map(slice)))
    }

    /// The value of the last header of this name; none if there is none, or it has no value.
    pub fn get(&self, name: &str) -> Option<Bytes> {
        let named = HeaderIter::new(&self.encoded, self.count);
        let (_, value) = named.filter(|(n, _)| *n == name.as_bytes()).last()?;
        value.map(|value| self.encoded.slice_ref(value))
    }
}

/// Bytes of a key, value or header that a record's `Debug` shows: records may have megabytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Headers that it shows.
const SHOWN_HEADERS_MAX: usize = 16;

/// Bytes for `Debug`, shortened.
struct Shown<'a>(&'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        write!(f, "b\"{}\"", shown.escape_ascii())?;
        match self.0.len() > shown.len() {
            true => write!(f, "... ({} bytes)", self.0.len()),
            false => Ok(()),
        }
    }
}

fn shown(bytes: &Option<Bytes>) -> Option<Shown<'_>> {
    bytes.as_deref().map(Shown)
}

/// Headers for `Debug`, of `count` the first ones.
fn show_headers(
    f: &mut fmt::Formatter<'_>,
    headers: impl Iterator<Item = (Bytes, Option<Bytes>)>,
    count: usize,
) -> fmt::Result {
    let mut list = f.debug_list();
    for (name, value) in headers.take(SHOWN_HEADERS_MAX) {
        list.entry(&(Shown(&name), shown(&value)));
    }
    match count > SHOWN_HEADERS_MAX {
        true => list.finish_non_exhaustive(),
        false => list.finish(),
    }
}

/// The headers of a record that is to be sent.
struct Unsent<'a>(&'a [(Bytes, Option<Bytes>)]);

impl fmt::Debug for Unsent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_headers(f, self.0.iter().cloned(), self.0.len())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_headers(f, self.iter(), self.len())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic)
            .field("key", &shown(&self.key))
            .field("value", &shown(&self.value))
            .field("headers", &Unsent(&self.headers))
            .field("partition", &self.partition)
            .field("timestamp_ms", &self.timestamp_ms)
            .finish()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("epoch", &self.epoch)
            .field("timestamp_ms", &self.timestamp_ms)
            .field("timestamp_type", &self.timestamp_type)
            .field("key", &shown(&self.key))
            .field("value", &shown(&self.value))
            .field("headers", &self.headers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_shown_shortened() {
        let record = Record::to("t").key("k\n").value(vec![b'x'; 3 << 20]);
        let text = format!("{:?}", record.header("by", vec![0; 1 << 20]));
        assert!(text.len() < 1_000, "{} bytes", text.len());
        for part in [
            r#"key: Some(b"k\n")"#,
            "... (3145728 bytes)",
            r#"(b"by", Some(b"\x00"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
        let empty = format!("{:?}", Record::to("t").value(""));
        assert!(empty.contains("key: None") && empty.contains(r#"value: Some(b"")"#));
    }
}
