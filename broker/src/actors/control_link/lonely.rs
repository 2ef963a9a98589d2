//! Says that this broker has no controller, while that lasts: it is what somebody has to know who
//! wonders why nothing is served.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long it may last before it is said, and how often it is said again.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The time without a controller.
pub(super) struct Lonely {
    since: Instant,
    said_at: Instant,
    /// Who was tried, and what came of it.
    tried: BTreeMap<String, String>,
}

impl Lonely {
    pub fn since(now: Instant) -> Self {
        Lonely {
            since: now,
            said_at: now,
            tried: BTreeMap::new(),
        }
    }

    /// There was a session until now.
    pub fn had_company(&mut self, now: Instant) {
        *self = Lonely::since(now);
    }

    /// No session with the controller came about there.
    pub fn tried(&mut self, address: &str, error: &impl ToString) {
        self.tried.insert(address.to_owned(), error.to_string());
    }

    /// What is to be said now, if it is time. `formed` is whether this broker belongs to a cluster.
    pub fn complaint(&mut self, now: Instant, formed: bool) -> Option<String> {
        if now.duration_since(self.said_at) < SAY_EVERY {
            return None;
        }
        self.said_at = now;
        let seconds = now.duration_since(self.since).as_secs();
        let tried: Vec<String> = std::mem::take(&mut self.tried)
            .into_iter()
            .map(|(address, error)| format!("{address}: {error}"))
            .collect();
        let tried = tried.join("; ");
        Some(match formed {
            true => format!("no controller for {seconds} s; tried {tried}"),
            false => format!(
                "this broker belongs to no cluster yet: form one with `baton cluster init --voters ...`, or let cluster.controllers name the voters of one; tried {tried}"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_now_and_then_and_with_whom_was_tried() {
        let start = Instant::now();
        let mut lonely = Lonely::since(start);
        lonely.tried("a:1", &"refused");
        assert_eq!(lonely.complaint(start, true), None);
        let said = lonely.complaint(start + SAY_EVERY, true).expect("said");
        assert_eq!(said, "no controller for 5 s; tried a:1: refused");
        assert_eq!(lonely.complaint(start + SAY_EVERY, true), None);
        let later = start + 2 * SAY_EVERY;
        let said = lonely.complaint(later, false).expect("said again");
        assert!(said.contains("baton cluster init"), "{said}");
        lonely.had_company(later);
        assert_eq!(lonely.complaint(later, true), None);
    }
}
