//! What can go wrong for a client.

use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::PartitionIndex;

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
    /// There is no such topic or partition.
    UnknownTopic,
    /// It was not delivered in time; whether it is stored is not known.
    DeliveryUnknown,
    /// It was not delivered in time, and is not stored.
    NotDelivered,
    /// A change was asked for and not answered: it may have been made, or may yet be.
    OutcomeUnknown,
    /// A broker refused the request.
    Refused,
    /// The producer, reader or client was closed.
    Closed,
    /// What came from a broker makes no sense.
    Corrupt,
}

/// An error of the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    code: Option<ErrorCode>,
}

/// A result of the client.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            code: None,
        }
    }

    pub(crate) fn delivery(partition: PartitionIndex, sent: bool, last: Option<&Error>) -> Self {
        let last = last
            .map(|error| format!("; the last error: {error}"))
            .unwrap_or_default();
        if sent {
            let text = format!(
                "partition {partition}: no acknowledgement in time, whether the records are stored is not known{last}"
            );
            Error::new(ErrorKind::DeliveryUnknown, text)
        } else {
            let text = format!(
                "partition {partition}: not sent in time, the records are not stored{last}"
            );
            Error::new(ErrorKind::NotDelivered, text)
        }
    }

    /// The same with another text.
    pub(crate) fn reworded(mut self, text: impl FnOnce(&str) -> String) -> Self {
        self.message = text(&self.message);
        self
    }

    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the broker said, if it is a broker that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// Whether the same request can succeed later.
    pub fn is_retriable(&self) -> bool {
        match self.code {
            Some(code) => self.kind != ErrorKind::OutcomeUnknown && code.is_retriable(),
            None => matches!(self.kind, ErrorKind::Unreachable | ErrorKind::NotABroker),
        }
    }

    /// Whether to begin with these addresses is of no use: it takes a person to change that.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.kind == ErrorKind::NotABroker || !self.is_retriable()
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let kind = match error.code {
            ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => ErrorKind::UnknownTopic,
            ErrorCode::WrongCluster => ErrorKind::WrongCluster,
            _ => ErrorKind::Refused,
        };
        Error {
            kind,
            message: error.message,
            code: Some(error.code),
        }
    }
}
