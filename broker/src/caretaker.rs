//! Looks after the logs of this broker on a thread of its own: makes their marks durable, writes the hints
//! that spare the next start its reading, and checks, slowly, what this start has believed without
//! looking.
//!
//! One thread for the data directory, since all logs share its disk. Nobody waits for it. It repairs
//! nothing: damage ends the broker, and the next start repairs it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use baton_protocol::ids::TopicPartition;
use baton_storage::{HintJob, Scrub};

use crate::failure::Failure;

/// About how much is read at a time.
const STEP_BYTES: usize = 256 << 10;

/// When the scrub begins: not while the broker is starting, and others wait for it.
const BEGIN_AFTER: Duration = Duration::from_secs(3);

/// How far the scrub may make up for time in which it could not run.
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
}

impl Caretaker {
    /// Starts the thread, which checks so many bytes in a second; none if that is 0.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(bytes_per_second: usize, failure: Failure) -> std::io::Result<Caretaker> {
        let (chores, todo) = channel();
        let work = Work {
            todo,
            bytes_per_second,
            failure,
            scrubs: VecDeque::new(),
            due: Instant::now() + BEGIN_AFTER,
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

    /// Has a log checked, after those that are waiting.
    pub fn check(&self, partition: TopicPartition, scrub: Scrub) {
        drop(self.chores.send(Chore::Scrub(partition, scrub)));
    }
}

struct Work {
    todo: Receiver<Chore>,
    bytes_per_second: usize,
    failure: Failure,
    scrubs: VecDeque<(TopicPartition, Scrub)>,
    /// When the scrub may go on.
    due: Instant,
}

impl Work {
    fn run(mut self) {
        loop {
            // Without a log to check there is nothing but to wait.
            let next = if self.scrubs.is_empty() {
                self.todo.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                let wait = self.due.saturating_duration_since(Instant::now());
                self.todo.recv_timeout(wait)
            };
            match next {
                Ok(Chore::Hints(job)) => job.run(),
                Ok(Chore::Scrub(partition, scrub)) => self.take(partition, scrub),
                Err(RecvTimeoutError::Timeout) => self.scrub(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, partition: TopicPartition, scrub: Scrub) {
        let bytes = scrub.bytes_left();
        if bytes == 0 || self.bytes_per_second == 0 {
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
                let cost = bytes as f64 / self.bytes_per_second as f64;
                let earliest = Instant::now().checked_sub(ARREARS_MAX);
                let begin = earliest.map_or(self.due, |earliest| self.due.max(earliest));
                self.due = begin + Duration::from_secs_f64(cost);
            }
            Ok(None) => {
                tracing::debug!(%partition, "what the start has not read is sound");
                self.scrubs.pop_front();
            }
            Err(error) => self.failure.log_damaged(*partition, &error.to_string()),
        }
    }
}
