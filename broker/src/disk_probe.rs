//! Shows that the disk still answers: a small write and flush a few times a second, on a thread of
//! its own. A broker whose disk hangs is not alive, however well it talks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::actors::control_link::DiskProgress;

/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// Begins to write; each write that ends is counted.
pub fn start(data_dir: &Path, progress: DiskProgress) {
    let path = data_dir.join("probe");
    let run = move || {
        let mut count = 0u64;
        loop {
            count += 1;
            let written = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .and_then(|file| {
                    file.write_all_at(&count.to_be_bytes(), 0)?;
                    file.sync_data()
                });
            match written {
                Ok(()) => progress.count(),
                // A full disk still answers: what is stored can be served.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => progress.count(),
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the disk does not take a write")
                }
            }
            std::thread::sleep(PAUSE);
        }
    };
    let thread = std::thread::Builder::new().name("disk-probe".to_owned());
    if let Err(error) = thread.spawn(run) {
        tracing::error!(%error, "the disk probe cannot start");
    }
}
