//! What a consumer gives out.

use crate::partition::Partition;
use crate::record::Message;

/// An item of a consumer: a record, or what became of its assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A record.
    Record(Message),
    /// These partitions are assigned to this consumer, beside those that it has. Their records follow.
    Assigned(Vec<Partition>),
    /// These partitions go to other members. No more records come of them. What was given out before
    /// this item is being committed, unless [`AutoCommit::Off`](crate::AutoCommit::Off); the user can
    /// commit for them until the next item is asked for.
    Revoked(Vec<Partition>),
    /// These partitions may be consumed by others already: the group went on without this consumer,
    /// because it was cut off, or did not give something up in time. What was not committed is consumed
    /// again, and cannot be committed any more. The consumer joins anew by itself.
    Lost(Vec<Partition>),
}

impl Event {
    /// The record, if it is one.
    pub fn into_record(self) -> Option<Message> {
        match self {
            Event::Record(message) => Some(message),
            _ => None,
        }
    }
}
