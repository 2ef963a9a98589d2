//! Looks after the logs of this broker on a thread of its own: makes their marks durable, writes the hints
//! that spare the next start its reading, checks, slowly, what this start has believed without looking, and
//! compacts, slowly too.
//!
//! One thread for the data directory, since all logs share its disk. Nobody waits for it. It repairs
//! nothing: damage ends the broker, and the next start repairs it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use baton_protocol::ids::TopicPartition;
use baton_storage::{Compaction, HintJob, Scrub, StorageError};

use crate::failure::Failure;

/// About how much is read at a time.
const STEP_BYTES: usize = 256 << 10;

/// When the scrub begins: not while the broker is starting, and others wait for it.
const BEGIN_AFTER: Duration = Duration::from_secs(3);

/// How far the work may make up for time in which it could not be done.
const ARREARS_MAX: Duration = Duration::from_millis(100);

/// Gives the thread its work. Cheap to clone; the thread ends with the last one.
#[derive(Clone, Debug)]
pub struct Caretaker {
    chores: Sender<Chore>,
}

#[derive(Debug)]
enum Chore {
    Hints(HintJob),
    Scrub(TopicPartition, Scrub),
    Compact(TopicPartition, Box<Compaction>),
}

impl Caretaker {
    /// Starts the thread, which checks so many bytes in a second, none if that is 0, and compacts at most so
    /// many.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        scrub_bytes_per_second: usize,
        compaction_bytes_per_second: usize,
        failure: Failure,
    ) -> std::io::Result<Caretaker> {
        let (chores, todo) = channel();
        let work = Work {
            todo,
            failure,
            scrubs: VecDeque::new(),
            scrub_pace: Pace::of(scrub_bytes_per_second),
            compactions: VecDeque::new(),
            compaction_pace: Pace::of(compaction_bytes_per_second),
        };
        let thread = std::thread::Builder::new().name("caretaker".to_owned());
        thread.spawn(move || work.run())?;
        Ok(Caretaker { chores })
    }

    /// Has hints written soon.
    pub fn write(&self, job: HintJob) {
        // The thread is there as long as this is.
        drop(self.chores.send(Chore::Hints(job)));
    }

    /// Has a log compacted, after those that are waiting.
    pub fn compact(&self, partition: TopicPartition, pass: Compaction) {
        drop(self.chores.send(Chore::Compact(partition, Box::new(pass))));
    }

    /// Has a log checked, after those that are waiting.
    pub fn check(&self, partition: TopicPartition, scrub: Scrub) {
        drop(self.chores.send(Chore::Scrub(partition, scrub)));
    }
}

/// How fast something is done.
struct Pace {
    bytes_per_second: usize,
    /// When it may go on.
    due: Instant,
}

impl Pace {
    fn of(bytes_per_second: usize) -> Pace {
        Pace {
            bytes_per_second,
            due: Instant::now() + BEGIN_AFTER,
        }
    }

    fn has_done(&mut self, bytes: usize) {
        let cost = bytes as f64 / self.bytes_per_second.max(1) as f64;
        let earliest = Instant::now().checked_sub(ARREARS_MAX);
        let begin = earliest.map_or(self.due, |earliest| self.due.max(earliest));
        self.due = begin + Duration::from_secs_f64(cost);
    }
}

struct Work {
    todo: Receiver<Chore>,
    failure: Failure,
    scrubs: VecDeque<(TopicPartition, Scrub)>,
    scrub_pace: Pace,
    compactions: VecDeque<(TopicPartition, Box<Compaction>)>,
    compaction_pace: Pace,
}

impl Work {
    fn run(mut self) {
        loop {
            // Without a log to look after there is nothing but to wait.
            let next = match self.due() {
                None => self.todo.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => {
                    let wait = due.saturating_duration_since(Instant::now());
                    self.todo.recv_timeout(wait)
                }
            };
            match next {
                Ok(Chore::Hints(job)) => job.run(),
                Ok(Chore::Scrub(partition, scrub)) => self.take(partition, scrub),
                Ok(Chore::Compact(partition, pass)) => {
                    self.compactions.push_back((partition, pass));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    if !self.scrubs.is_empty() && self.scrub_pace.due <= now {
                        self.scrub();
                    }
                    if !self.compactions.is_empty() && self.compaction_pace.due <= now {
                        self.compact();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// When something is to be gone on with.
    fn due(&self) -> Option<Instant> {
        let scrub = (!self.scrubs.is_empty()).then_some(self.scrub_pace.due);
        let compaction = (!self.compactions.is_empty()).then_some(self.compaction_pace.due);
        scrub.into_iter().chain(compaction).min()
    }

    fn compact(&mut self) {
        let Some((partition, pass)) = self.compactions.front_mut() else {
            return;
        };
        match pass.step(STEP_BYTES) {
            Ok(Some(bytes)) => return self.compaction_pace.has_done(bytes),
            Ok(None) => tracing::debug!(%partition, "the log is compacted"),
            Err(error @ StorageError::Corrupt { .. }) => {
                self.failure.log_damaged(*partition, &error.to_string());
            }
            Err(error) => {
                tracing::warn!(%partition, %error, "the log cannot be compacted; it is tried again in a while");
            }
        }
        self.compactions.pop_front();
    }

    fn take(&mut self, partition: TopicPartition, scrub: Scrub) {
        let bytes = scrub.bytes_left();
        if bytes == 0 || self.scrub_pace.bytes_per_second == 0 {
            return;
        }
        tracing::debug!(%partition, bytes, "what the start has not read is checked now");
        self.scrubs.push_back((partition, scrub));
    }

    fn scrub(&mut self) {
        let Some((partition, scrub)) = self.scrubs.front_mut() else {
            return;
        };
        match scrub.step(STEP_BYTES) {
            Ok(Some(bytes)) => {
                self.scrub_pace.has_done(bytes);
            }
            Ok(None) => {
                tracing::debug!(%partition, "what the start has not read is sound");
                self.scrubs.pop_front();
            }
            Err(error) => self.failure.log_damaged(*partition, &error.to_string()),
        }
    }
}
