//! How a broker ends when one of its replicas cannot go on: at once, whether or not there is a
//! controller to tell. Others can take over only from a broker that is gone.

use std::path::{Path, PathBuf};

use baton_protocol::ids::TopicPartition;
use baton_storage::Shortage;

use crate::{data_dir, hosting};

/// Ends the broker.
#[derive(Clone, Debug)]
pub struct Failure {
    data_dir: PathBuf,
}

impl Failure {
    /// For the broker with this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Failure {
            data_dir: data_dir.to_owned(),
        }
    }

    /// A flush or another operation of the disk failed: what was written last may not be there,
    /// whatever the page cache says. That is noted, so that the next process does not vouch for it.
    pub fn disk_failed(&self, partition: TopicPartition) -> ! {
        data_dir::note_failure(&self.data_dir);
        tracing::error!(%partition, "this broker ends: its disk failed, and what it holds has to be checked against the other replicas");
        std::process::exit(1);
    }

    /// What had been made durable is damaged: bytes that were sound once are not, or cannot be read.
    /// That says nothing of the rest of the disk. The next process checks this one log entry by
    /// entry, cuts it before the damage and has what is missing copied from another replica, as it
    /// does with damage that a start finds.
    pub fn log_damaged(&self, partition: TopicPartition, what: &str) -> ! {
        let dir = hosting::directory(&self.data_dir, partition);
        if let Err(error) = baton_storage::ask_recheck(&dir, what) {
            tracing::error!(%partition, %error, "that this log has to be checked could not be noted; start the broker with log.check_at_start = \"all\"");
        }
        tracing::error!(%partition, dir = %dir.display(), what, "this broker ends: a log is damaged; the next start checks all of that log, and repairs it");
        std::process::exit(1);
    }

    /// There is too little of something to go on. What is on the disk is sound.
    pub fn no_room(&self, partition: TopicPartition, of: Shortage) -> ! {
        let (what, remedy) = (of.what(), of.remedy());
        tracing::error!(%partition, data_dir = %self.data_dir.display(), "this broker ends: it has no {what} ({remedy}); start it again then");
        std::process::exit(1);
    }
}
