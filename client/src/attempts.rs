//! The attempts at one request: what to say when they come to nothing.
//!
//! A request that was sent and not answered may have been carried out. That must not be lost over
//! what fails after it: whoever reads "connection refused" believes that nothing happened.

use std::time::Duration;

use baton_protocol::error::ErrorCode;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};

/// What has failed so far.
pub(crate) struct Attempts {
    began: Instant,
    deadline: Instant,
    first: Option<Error>,
    last: Option<Error>,
    /// The first failure that leaves open whether the request was carried out.
    open: Option<Error>,
}

impl Attempts {
    /// None yet; they may take `limit` together.
    pub fn within(limit: Duration) -> Self {
        let began = Instant::now();
        Attempts {
            began,
            deadline: later(began, limit),
            first: None,
            last: None,
            open: None,
        }
    }

    /// Whether the time is up.
    pub fn are_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// What is left of the time.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Nothing was sent.
    pub fn not_sent(&mut self, error: Error) {
        self.first.get_or_insert_with(|| error.clone());
        self.last = Some(error);
    }

    /// It was sent, and came to this. Only a refusal says that nothing was done.
    pub fn sent(&mut self, error: Error) {
        let open = match error.code() {
            None
            | Some(
                ErrorCode::NoController
                | ErrorCode::CommitTimeout
                | ErrorCode::LeaderChanged
                | ErrorCode::StorageFailed,
            ) => true,
            Some(_) => false,
        };
        if open {
            self.open.get_or_insert_with(|| error.clone());
        }
        self.not_sent(error);
    }

    /// The error, for a request that changes nothing.
    pub fn given_up(self) -> Error {
        let took = self.began.elapsed().as_secs_f64();
        let Some(last) = self.last else {
            let text = format!("gave up after {took:.1} s: no broker is known to be alive");
            return Error::new(ErrorKind::Unreachable, text);
        };
        let at_first = match self.first {
            Some(first) if first.to_string() != last.to_string() => format!("; at first: {first}"),
            _ => String::new(),
        };
        last.reworded(|last| format!("gave up after {took:.1} s: {last}{at_first}"))
    }

    /// The error, for a request that changes something; `look` is what would show it.
    pub fn given_up_change(mut self, look: &str) -> Error {
        let Some(open) = self.open.take() else {
            return self.given_up();
        };
        let last = match self.last {
            Some(last) if last.to_string() != open.to_string() => {
                format!("; the last error: {last}")
            }
            _ => String::new(),
        };
        let text = format!(
            "whether it was done, or will be, is not known ({open}{last}); before you repeat it, look at {look}"
        );
        Error::new(ErrorKind::OutcomeUnknown, text)
    }

    /// A refusal, in the light of what went before: an attempt that was not answered may be the very
    /// reason for it.
    pub fn refused_change(self, refusal: Error, look: &str) -> Error {
        let Some(open) = self.open else {
            return refusal;
        };
        refusal
            .reworded(|refusal| {
                format!(
                    "{refusal}; but an earlier attempt was not answered and may have done it ({open}): look at {look}"
                )
            })
            .of_kind(ErrorKind::OutcomeUnknown)
    }
}

/// The moment `after` later; one far away, where the clock does not reach that far.
pub(crate) fn later(from: Instant, after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
    from.checked_add(after).unwrap_or_else(|| from + FAR)
}

#[cfg(test)]
mod tests {
    use baton_protocol::error::WireError;

    use super::*;

    fn attempts() -> Attempts {
        Attempts::within(Duration::ZERO)
    }

    fn unreachable(text: &str) -> Error {
        Error::new(ErrorKind::Unreachable, text)
    }

    #[test]
    fn what_was_never_sent_was_not_done() {
        let mut attempts = attempts();
        attempts.not_sent(unreachable("refused"));
        attempts.sent(WireError::new(ErrorCode::Unavailable, "busy").into());
        let error = attempts.given_up_change("list");
        assert_eq!(error.kind(), ErrorKind::Refused);
        let text = error.to_string();
        assert!(text.contains("busy") && text.contains("refused"), "{text}");
    }

    #[test]
    fn a_change_that_was_not_answered_is_unknown_whatever_fails_after_it() {
        let mut attempts = attempts();
        attempts.sent(unreachable("no answer"));
        attempts.not_sent(unreachable("refused"));
        let error = attempts.given_up_change("list");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        let text = error.to_string();
        assert!(
            text.contains("no answer") && text.contains("refused"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_after_an_attempt_without_answer_is_unknown_too() {
        let mut attempts = attempts();
        attempts.sent(unreachable("no answer"));
        let exists = WireError::new(ErrorCode::TopicExists, "it exists");
        let error = attempts.refused_change(exists.into(), "list");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(error.code(), Some(ErrorCode::TopicExists));
    }

    #[test]
    fn a_limit_beyond_the_clock_is_far_away_and_no_panic() {
        let now = Instant::now();
        assert!(later(now, Duration::from_secs(u64::MAX)) > now);
    }
}
