//! What the consumer's tasks leave for it: it is looked at when records are asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Context;

use baton_protocol::groups::CommitRefused;
use baton_protocol::ids::{Offset, TopicPartition};
use futures_util::task::AtomicWaker;

use super::member::Assignment;
use crate::error::{Error, Result};

/// What happened.
pub(super) enum Notice {
    /// Where a partition is to be consumed from, which was taken up under this number.
    Opened {
        at: TopicPartition,
        opening: u64,
        start: Result<Opened>,
    },
    /// A commit was answered.
    Committed(Committed),
    /// The coordinator does not take the member.
    Refused(Error),
}

/// Where a partition is to be consumed from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub start: Offset,
    /// That is where the log begins, and moves with it until something has come.
    pub is_earliest: bool,
    /// The committed offset, if there is one.
    pub committed: Option<Offset>,
}

/// What came of a commit.
pub(super) struct Committed {
    /// Its number.
    pub number: u64,
    /// What was answered.
    pub offsets: Vec<(TopicPartition, Offset)>,
    /// What of that was refused; the rest is committed.
    pub refused: Vec<CommitRefused>,
    /// Why the others were not answered, if there are any.
    pub failure: Option<Error>,
}

#[derive(Default)]
pub(super) struct Mailbox {
    letters: Mutex<Letters>,
    /// Whether it is worth to lock.
    has_mail: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Default)]
pub(super) struct Letters {
    /// The newest one.
    pub assignment: Option<Assignment>,
    pub notices: VecDeque<Notice>,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        let letters = self.letters.lock();
        letters.unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an assignment, in the place of an earlier one that was not taken.
    pub fn assign(&self, assignment: Assignment) {
        self.letters().assignment = Some(assignment);
        self.ring();
    }

    /// Leaves a notice. Of refusals only the last one is kept.
    pub fn note(&self, notice: Notice) {
        let mut letters = self.letters();
        if matches!(notice, Notice::Refused(_)) {
            let kept = |other: &Notice| !matches!(other, Notice::Refused(_));
            letters.notices.retain(kept);
        }
        letters.notices.push_back(notice);
        drop(letters);
        self.ring();
    }

    fn ring(&self) {
        self.has_mail.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether something has come. Cheap.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// Takes what has come.
    pub fn take(&self) -> Letters {
        self.has_mail.store(false, Ordering::Release);
        std::mem::take(&mut *self.letters())
    }

    /// Wakes this task when something comes. What has come before is to be looked for afterwards.
    pub fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }
}
