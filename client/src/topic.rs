//! A topic as a program names it.

use std::sync::Arc;

use baton_protocol::metadata::TopicRecord;

/// A topic that a question is about: by name, which the client looks up, or as it was shown, which is not
/// another one that was made under its name since.
#[derive(Clone, Copy, Debug)]
pub enum TopicRef<'a> {
    /// Its name.
    Name(&'a str),
    /// What is known of it.
    Record(&'a TopicRecord),
}

impl<'a> From<&'a str> for TopicRef<'a> {
    fn from(name: &'a str) -> Self {
        TopicRef::Name(name)
    }
}

impl<'a> From<&'a String> for TopicRef<'a> {
    fn from(name: &'a String) -> Self {
        TopicRef::Name(name)
    }
}

impl<'a> From<&'a Arc<str>> for TopicRef<'a> {
    fn from(name: &'a Arc<str>) -> Self {
        TopicRef::Name(name)
    }
}

impl<'a> From<&'a TopicRecord> for TopicRef<'a> {
    fn from(record: &'a TopicRecord) -> Self {
        TopicRef::Record(record)
    }
}

impl<'a> From<&'a Arc<TopicRecord>> for TopicRef<'a> {
    fn from(record: &'a Arc<TopicRecord>) -> Self {
        TopicRef::Record(record)
    }
}
