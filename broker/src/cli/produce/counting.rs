//! What became of the records: acknowledgements, in order, the file they are noted down in, and the
//! tally at the end.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use baton_client::{Ack, RecordMetadata};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::{mpsc, watch};

/// What became of a line when it was to be sent.
pub enum Fate {
    /// It was taken. The answer to it, and its bytes.
    Taken(Ack, u64),
    /// It cannot be sent.
    Refused(anyhow::Error),
}

/// What became of the records.
#[derive(Default)]
pub struct Tally {
    /// Stored, as firmly as was asked for.
    pub acknowledged: u64,
    /// Not acknowledged.
    pub failed: u64,
    /// Sent; whether they are stored is not known.
    pub open: u64,
    /// Of those that did not fail.
    pub bytes: u64,
    /// The number of the first line that failed, and why it did.
    pub first_error: Option<(u64, anyhow::Error)>,
}

/// Why no more is sent before the input's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A record was not acknowledged.
    Failed,
    /// A signal.
    Interrupted,
}

/// Where acknowledgements are noted down.
pub struct AckLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl AckLog {
    /// Opens it, to add to it.
    pub fn open(path: &PathBuf) -> anyhow::Result<AckLog> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        Ok(AckLog {
            path: path.clone(),
            file: BufWriter::new(file),
        })
    }

    /// Notes it; at once on the disk's side of this process, where nothing follows at once.
    fn note(&mut self, line: u64, at: &RecordMetadata, is_last: bool) -> anyhow::Result<()> {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let offset = number(at.offset.map(|offset| offset.0));
        let epoch = number(at.epoch.map(|epoch| u64::from(epoch.0)));
        let file = &mut self.file;
        let written = writeln!(file, "{line}\t{}\t{offset}\t{epoch}", at.partition);
        let written = written.and_then(|()| if is_last { file.flush() } else { Ok(()) });
        written.with_context(|| format!("{} cannot be written to", self.path.display()))
    }

    fn end(mut self) -> anyhow::Result<()> {
        let flushed = self.file.flush();
        flushed.with_context(|| format!("{} cannot be written to", self.path.display()))
    }
}

/// Waits for the acknowledgements, in order.
pub struct Counter {
    /// How many lines have been answered well so far.
    pub done: Arc<AtomicU64>,
    /// To be told when no more shall be sent.
    pub stop: watch::Sender<Option<Stop>>,
    /// A record that fails is no reason to stop.
    pub keep_going: bool,
    /// Brokers are asked for no answer, so nobody knows what became of a record that was sent.
    pub unanswered: bool,
    /// Where acknowledgements are noted down.
    pub ack_log: Option<AckLog>,
}

impl Counter {
    /// What became of the records, and of the log of their acknowledgements.
    pub async fn count(mut self, mut fates: mpsc::Receiver<Fate>) -> (Tally, anyhow::Result<()>) {
        let mut line = 0;
        let mut logged = Ok(());
        let progress = progress_bar();
        let mut tally = Tally::default();
        let mut stopped = self.stop.subscribe();
        while let Some(fate) = fates.recv().await {
            line += 1;
            let (ack, bytes) = match fate {
                Fate::Taken(ack, bytes) => (ack, bytes),
                Fate::Refused(error) => {
                    self.failed(&mut tally, line, error);
                    continue;
                }
            };
            let result = tokio::select! {
                biased;
                result = ack => result,
                _ = stopped.wait_for(|stop| *stop == Some(Stop::Interrupted)) => {
                    tally.open += 1;
                    continue;
                }
            };
            match result {
                Ok(_) if self.unanswered => {
                    tally.open += 1;
                    tally.bytes += bytes;
                }
                Ok(at) => {
                    if let (Some(log), Ok(())) = (&mut self.ack_log, &logged) {
                        logged = log.note(line, &at, fates.is_empty());
                        if logged.is_err() {
                            self.stop_for(Stop::Failed);
                        }
                    }
                    tally.acknowledged += 1;
                    tally.bytes += bytes;
                }
                Err(error) => self.failed(&mut tally, line, error.into()),
            }
            let done = tally.acknowledged + tally.open;
            self.done.store(done, Ordering::Relaxed);
            if done.is_multiple_of(1024) {
                progress.set_position(done);
            }
        }
        progress.finish_and_clear();
        if let (Some(log), Ok(())) = (self.ack_log.take(), &logged) {
            logged = log.end();
        }
        (tally, logged)
    }

    fn failed(&self, tally: &mut Tally, line: u64, error: anyhow::Error) {
        tally.failed += 1;
        tally.first_error.get_or_insert((line, error));
        if !self.keep_going {
            self.stop_for(Stop::Failed);
        }
    }

    fn stop_for(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(why);
            first
        });
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} acknowledged, {per_sec}, {elapsed}");
    let bar = ProgressBar::new_spinner();
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
