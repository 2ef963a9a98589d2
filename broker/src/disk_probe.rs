//! Shows that the disk still answers: a small write and flush a few times a second, on a thread of
//! its own. A broker whose disk hangs is not alive, however well it talks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::actors::control_link::DiskProgress;

/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// Begins to write; each write that ends is counted. Goes on for as long as somebody looks at the
/// count.
pub fn start(data_dir: &Path, progress: &DiskProgress) {
    let mut probe = Probe::new(data_dir.join("probe"));
    let looked_at = progress.downgrade();
    let run = move || {
        while let Some(progress) = looked_at.upgrade() {
            match probe.write() {
                Ok(()) => progress.count(),
                // A full disk still answers: what is stored can be served.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => progress.count(),
                Err(error) => {
                    tracing::error!(%error, path = %probe.path.display(), "the disk does not take a write")
                }
            }
            drop(progress);
            std::thread::sleep(PAUSE);
        }
    };
    let thread = std::thread::Builder::new().name("disk-probe".to_owned());
    if let Err(error) = thread.spawn(run) {
        tracing::error!(%error, "the disk probe cannot start");
    }
}

/// The file that is written. It stays open: that no more files can be opened says nothing about the
/// disk.
struct Probe {
    path: PathBuf,
    file: Option<File>,
    count: u64,
}

impl Probe {
    /// A probe of the disk that `path` is on; opened at once, while there is room for open files.
    fn new(path: PathBuf) -> Self {
        // Tried again with the first write, which then says what is wrong.
        let file = open(&path).ok();
        Probe {
            path,
            file,
            count: 0,
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        self.count += 1;
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        // Kept whatever comes of it: a disk that failed may answer again.
        let file = self.file.insert(file);
        file.write_all_at(&self.count.to_be_bytes(), 0)?;
        file.sync_data()
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_open() {
        let dir = tempfile::tempdir().expect("dir");
        let mut probe = Probe::new(dir.path().join("probe"));
        // Nothing can be opened there any more, as little as with no file to spare.
        std::fs::remove_dir_all(dir.path()).expect("removed");
        probe.write().expect("written");
        probe.write().expect("written again");
    }
}
