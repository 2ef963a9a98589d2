//! SIGINT and SIGTERM, for commands that end in good order: the first asks for it, another one, a while
//! later, ends the process at once.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::output::note;

/// How long further signals count as the same: some senders signal a process and then its group.
const SAME_FOR: Duration = Duration::from_secs(1);

/// Whether the command shall end. Clones tell the same.
#[derive(Clone)]
pub struct Interruption {
    asked: watch::Receiver<bool>,
}

impl Interruption {
    /// Minds the signals from now on.
    pub fn watch() -> std::io::Result<Interruption> {
        let (ask, asked) = watch::channel(false);
        let mut first = Signals::new()?;
        tokio::spawn(async move {
            first.either().await;
            ask.send_replace(true);
            tokio::time::sleep(SAME_FOR).await;
            // Listens anew: what came in the meantime does not count.
            if let Ok(mut second) = Signals::new() {
                second.either().await;
                note!("ended before all was done");
                std::process::exit(1);
            }
        });
        Ok(Interruption { asked })
    }

    /// Waits for a signal. Cancel-safe.
    pub async fn happened(&mut self) {
        if self.asked.wait_for(|asked| *asked).await.is_err() {
            // Whoever minds the signals is gone, so none comes any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether there was a signal.
    pub fn has_happened(&self) -> bool {
        *self.asked.borrow()
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn either(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
