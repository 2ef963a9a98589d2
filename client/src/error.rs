//! What can go wrong for a client.

use std::fmt;
use std::sync::Arc;

use baton_protocol::batch::BatchError;
use baton_protocol::error::{ErrorCode, OffsetRange, WireError};
use baton_protocol::ids::{Offset, PartitionIndex};

use crate::partition::Partition;
use crate::place::Place;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No broker could be reached.
    Unreachable,
    /// What answers at an address is no broker that this client can talk to.
    NotABroker,
    /// The brokers belong to another cluster than before.
    WrongCluster,
    /// There is no such topic (any more).
    UnknownTopic,
    /// The topic has no such partition.
    UnknownPartition,
    /// The offset asked for lies outside the log. Offsets can be asked for from `start` up to `end`,
    /// which is where the next record will be.
    OffsetOutOfRange {
        /// The first offset there is.
        start: Offset,
        /// The offset after the last one that is committed.
        end: Offset,
    },
    /// A record was not acknowledged in time; whether it is stored is not known.
    DeliveryUnknown,
    /// A record was not sent in time, and is not stored.
    NotDelivered,
    /// A change was asked for and not answered: it may have been made, or may yet be.
    OutcomeUnknown,
    /// The producer's buffer has no room at the moment; nothing was taken.
    BufferFull,
    /// The record is larger than the brokers take. It counts as it is, before it is compressed.
    TooLarge,
    /// A setting has a value that it cannot have.
    InvalidConfig,
    /// A broker refused the request.
    Refused,
    /// Offsets were not committed: those of [`Error::refused`], or all of them where that names none.
    CommitRefused,
    /// The producer, reader or client was closed.
    Closed,
    /// What came from a broker makes no sense.
    Corrupt,
}

/// An error of the client. Cheap to clone: all records of a batch share theirs.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    code: Option<ErrorCode>,
    topic: Option<Arc<str>>,
    partition: Option<PartitionIndex>,
    refused: Vec<CommitRefusal>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// A partition whose offset was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitRefusal {
    /// The partition.
    pub partition: Partition,
    /// The offset that was to be committed.
    pub offset: Offset,
    /// The committed offset, as it stands; none if there is none.
    pub committed: Option<Offset>,
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people.
    pub reason: String,
}

/// A result of the client.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Inner {
            kind,
            message: message.into(),
            code: None,
            topic: None,
            partition: None,
            refused: Vec::new(),
            source: None,
        };
        Error {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn delivery(place: &Place, sent: bool, last: Option<&Error>) -> Self {
        let (kind, what) = if sent {
            let what = "no acknowledgement in time, whether the records are stored is not known";
            (ErrorKind::DeliveryUnknown, what)
        } else {
            let what = "not sent in time, the records are not stored";
            (ErrorKind::NotDelivered, what)
        };
        let error = match last {
            Some(last) => Error::new(
                kind,
                format!("{what}; the last error: {}", last.inner.message),
            )
            .caused_by(last.clone()),
            None => Error::new(kind, what),
        };
        error.at(place)
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// The same with another text.
    pub(crate) fn reworded(self, text: impl FnOnce(&str) -> String) -> Self {
        self.change(|inner| inner.message = text(&inner.message))
    }

    pub(crate) fn of_kind(self, kind: ErrorKind) -> Self {
        self.change(|inner| inner.kind = kind)
    }

    /// The same, about this partition.
    pub(crate) fn at(self, place: &Place) -> Self {
        self.about(place.topic.clone(), place.id.partition)
    }

    /// The same, about this topic.
    pub(crate) fn in_topic(self, topic: impl Into<Arc<str>>) -> Self {
        self.change(|inner| inner.topic = Some(topic.into()))
    }

    /// The same, about this partition, which there may not be.
    pub(crate) fn about(self, topic: impl Into<Arc<str>>, partition: PartitionIndex) -> Self {
        self.change(|inner| {
            inner.topic = Some(topic.into());
            inner.partition = Some(partition);
        })
    }

    pub(crate) fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.change(|inner| inner.source = Some(Arc::new(source)))
    }

    /// These offsets were not committed.
    pub(crate) fn commit_refused(refused: Vec<CommitRefusal>) -> Self {
        let each = refused.iter().map(|one| {
            let committed = one.committed.map_or("none".to_owned(), |at| at.to_string());
            format!(
                "{} at {} (committed: {committed}): {}",
                one.partition, one.offset, one.reason
            )
        });
        let text = each.collect::<Vec<_>>().join("; ");
        let error = Error::new(ErrorKind::CommitRefused, format!("not committed: {text}"));
        error.change(|inner| {
            inner.code = refused.first().map(|one| one.code);
            inner.refused = refused;
        })
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What the broker said, if it is a broker that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        self.inner.code
    }

    /// What the broker said, as it said it.
    pub(crate) fn wire(&self) -> Option<WireError> {
        let code = self.inner.code?;
        Some(WireError::new(code, self.inner.message.clone()))
    }

    /// The topic that it is about, if it is about one; also one that does not exist.
    pub fn topic(&self) -> Option<&str> {
        self.inner.topic.as_deref()
    }

    /// The partition that it is about, if it is about one; also one that the topic does not have.
    pub fn partition(&self) -> Option<PartitionIndex> {
        self.inner.partition
    }

    /// The partitions whose offsets were not committed, with the reasons; those of the same commit that
    /// are not named are committed. Empty where the commit was refused as a whole, and for errors of
    /// other kinds.
    pub fn refused(&self) -> &[CommitRefusal] {
        &self.inner.refused
    }

    /// Whether the same request can succeed later, unchanged, and does no harm if the first one
    /// succeeded after all.
    pub fn is_retriable(&self) -> bool {
        match (self.inner.kind, self.inner.code) {
            (ErrorKind::OutcomeUnknown | ErrorKind::DeliveryUnknown, _) => false,
            (ErrorKind::NotDelivered | ErrorKind::BufferFull, _) => true,
            (_, Some(code)) => code.is_retriable(),
            (kind, None) => matches!(kind, ErrorKind::Unreachable | ErrorKind::NotABroker),
        }
    }

    /// Whether what was asked for may have been done all the same: a record may be stored, a change
    /// may have been made.
    pub fn is_outcome_unknown(&self) -> bool {
        let kind = self.inner.kind;
        matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::DeliveryUnknown)
    }

    /// Whether to begin with these addresses is of no use: it takes a person to change that.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.kind() == ErrorKind::NotABroker || !self.is_retriable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.inner;
        let topic = inner
            .topic
            .as_ref()
            .map(|topic| topic.escape_debug().to_string());
        match (topic, inner.partition) {
            (Some(topic), _) if names_topic(&inner.message, &topic) => {}
            (Some(topic), Some(partition)) => write!(f, "{topic}/{partition}: ")?,
            (Some(topic), None) => write!(f, "topic {topic}: ")?,
            (None, _) => {}
        }
        f.write_str(&inner.message)
    }
}

/// Whether a text names the topic by itself, as brokers' texts do: `topic`, topic NAME, NAME/0. One that has
/// no name is best left unnamed.
fn names_topic(text: &str, topic: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    topic.is_empty()
        || text.match_indices(topic).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + topic.len()..]);
            let index = after.strip_prefix('/').unwrap_or_default();
            let is_quoted = before.ends_with('`') && after.starts_with('`');
            let is_topic = before.ends_with("topic ") && !after.starts_with(is_name);
            let is_partition =
                !before.ends_with(is_name) && index.starts_with(|c: char| c.is_ascii_digit());
            is_quoted || is_topic || is_partition
        })
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.inner.source.as_deref()?;
        Some(source)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let kind = match error.code {
            ErrorCode::UnknownTopic => ErrorKind::UnknownTopic,
            ErrorCode::UnknownPartition => ErrorKind::UnknownPartition,
            ErrorCode::WrongCluster => ErrorKind::WrongCluster,
            ErrorCode::MessageTooLarge => ErrorKind::TooLarge,
            ErrorCode::OffsetOutOfRange => match error.offsets {
                Some(OffsetRange { start, end }) => ErrorKind::OffsetOutOfRange { start, end },
                None => ErrorKind::Refused,
            },
            _ => ErrorKind::Refused,
        };
        let code = error.code;
        Error::new(kind, error.message).change(|inner| inner.code = Some(code))
    }
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        Error::new(ErrorKind::Corrupt, error.to_string()).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_delivery_in_vain_says_where_why_and_whether_it_may_be_stored() {
        let place = Place::example("orders", 3);
        let refused = Error::new(ErrorKind::Unreachable, "refused");
        let unknown = Error::delivery(&place, true, Some(&refused));
        assert_eq!(unknown.kind(), ErrorKind::DeliveryUnknown);
        assert!(unknown.is_outcome_unknown() && !unknown.is_retriable());
        assert_eq!(unknown.topic(), Some("orders"));
        assert_eq!(unknown.partition(), Some(PartitionIndex(3)));
        assert_eq!(unknown.source().expect("a cause").to_string(), "refused");
        assert!(unknown.to_string().starts_with("orders/3: "), "{unknown}");

        let unsent = Error::delivery(&place, false, None);
        assert_eq!(unsent.kind(), ErrorKind::NotDelivered);
        assert!(!unsent.is_outcome_unknown() && unsent.is_retriable());
    }

    #[test]
    fn what_an_error_is_about_is_said_once() {
        let said = |text: &str, partition: Option<u32>| {
            let error = Error::new(ErrorKind::Refused, text);
            let error = match partition {
                Some(index) => error.about("a", PartitionIndex(index)),
                None => error.in_topic("a"),
            };
            error.to_string()
        };
        for text in [
            "there is no topic named `a`",
            "partition a/3: record 0 has no key",
            "topic a has no partition 3",
        ] {
            assert_eq!(said(text, Some(3)), text);
        }
        assert_eq!(said("there is no `a`", None), "there is no `a`");
        let odd = Error::new(ErrorKind::Refused, "no").in_topic("a\n`b");
        assert_eq!(odd.to_string(), "topic a\\n`b: no");
        for text in ["a topic ab is full", "ba/3 or a/b", "not now"] {
            assert_eq!(said(text, Some(3)), format!("a/3: {text}"));
            assert_eq!(said(text, None), format!("topic a: {text}"));
        }
    }
}
