//! A broker's data directory: its lock, and the identities that are kept in it.
//!
//! `lock` (held by the running process), `directory-id` (born with the directory), `broker-id` and
//! `cluster-id` (so that a directory is never used for another broker or cluster), `failed` (left
//! by a process that could not trust its disk any more). What earlier processes left about their
//! lives is in `past.rs`.

mod past;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use baton_protocol::ids::{BrokerEpoch, BrokerId, ClusterId, DirectoryId};
use uuid::Uuid;

use self::past::Past;

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    directory: DirectoryId,
    past: Past,
    _lock: File,
}

impl DataDir {
    /// Takes the directory for this process, and makes it where it does not exist.
    pub fn open(path: &Path, broker: BrokerId) -> anyhow::Result<DataDir> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot create the data directory {}", path.display()))?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "the data directory {} is in use by another process; give each broker a directory of its own (broker.data_dir or --data-dir)",
                path.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        let owner = keep(path, "broker-id", || broker.to_string())?;
        if owner.parse::<BrokerId>().is_err() {
            bail!(
                "{} holds no broker id, but {owner:?}: the directory was damaged; if it is broker {broker}'s, write {broker} into that file",
                path.join("broker-id").display()
            );
        }
        if owner != broker.to_string() {
            bail!(
                "the data directory {} belongs to broker {owner}, not to broker {broker}; give each broker a directory of its own (broker.data_dir or --data-dir)",
                path.display()
            );
        }
        // A directory gets its identity only after the boot is noted: one that has an identity but
        // no boot has been run in.
        let past = Past::begin(path, path.join("directory-id").exists())?;
        let directory = keep(path, "directory-id", || Uuid::new_v4().to_string())?;
        let directory = directory
            .parse()
            .with_context(|| format!("{} holds no directory id: the directory was damaged; use an empty one, and the other replicas will fill it", path.join("directory-id").display()))?;
        Ok(DataDir {
            path: path.to_owned(),
            directory,
            past,
            _lock: lock,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity.
    pub fn directory(&self) -> DirectoryId {
        self.directory
    }

    /// The last life that the broker was given on this disk; none if it never was given one here.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged; the text says what to do.
    pub fn last_life(&self) -> anyhow::Result<Option<BrokerEpoch>> {
        past::last_life(&self.path)
    }

    /// Keeps the life that the broker was given, durably.
    ///
    /// # Errors
    /// If the file cannot be written; the one before it is still there.
    pub fn remember_life(&self, epoch: BrokerEpoch) -> anyhow::Result<()> {
        past::remember_life(&self.path, epoch)
    }

    /// Whether the machine has gone down since an earlier process ran here, or may have, and that
    /// process did not end in good order: what it had not flushed may be lost. Found again at every
    /// start until [`DataDir::restart_is_known`].
    pub fn machine_restarted_uncleanly(&self) -> bool {
        self.past.restarted_uncleanly()
    }

    /// The metadata knows that the machine restarted uncleanly.
    ///
    /// # Errors
    /// If the boot cannot be noted; the restart is then found again at the next start.
    pub fn restart_is_known(&self) -> anyhow::Result<()> {
        self.past.settle(&self.path)
    }

    /// Notes, durably, that this process ends in good order: to be called once all logs have been
    /// closed with success, and nothing is written any more. Does nothing while an unclean restart
    /// is not known, which it would hide.
    ///
    /// # Errors
    /// If the marker cannot be written; the end then counts as unclean.
    pub fn note_clean_end(&self) -> anyhow::Result<()> {
        self.past.note_clean_end(&self.path)
    }

    /// Whether an earlier process left it because it could not trust the disk.
    pub fn has_failed(&self) -> bool {
        self.path.join("failed").exists()
    }

    /// The metadata knows now that this directory may have lost entries.
    pub fn failure_is_known(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.path.join("failed")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Notes that what is in the directory cannot be trusted: durably, if the disk lets it. In the
/// system's memory the note lasts as long as what must not be trusted.
pub fn note_failure(path: &Path) {
    let note = || -> std::io::Result<()> {
        File::create(path.join("failed"))?.sync_all()?;
        File::open(path)?.sync_all()
    };
    if let Err(error) = note() {
        tracing::error!(%error, "the failure could not be noted durably in the data directory");
    }
}

/// The cluster that the directory belongs to, if it belongs to one already.
pub fn cluster_of(path: &Path) -> anyhow::Result<Option<ClusterId>> {
    let path = path.join("cluster-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim().parse();
            let id = id.with_context(|| format!("{} holds no cluster id: the directory was damaged; write the id that `baton cluster status` shows into that file", path.display()))?;
            Ok(Some(id))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Binds the directory to a cluster, or refuses one that it does not belong to.
pub fn bind_to_cluster(path: &Path, cluster: ClusterId) -> anyhow::Result<()> {
    let owner = keep(path, "cluster-id", || cluster.to_string())?;
    if owner != cluster.to_string() {
        bail!(
            "the data directory {} belongs to cluster {owner}, not to cluster {cluster}; use an empty directory to join another cluster",
            path.display()
        );
    }
    Ok(())
}

/// The content of a small file; made durably, where it is not there yet.
fn keep(dir: &Path, name: &str, fresh: impl FnOnce() -> String) -> anyhow::Result<String> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let content = fresh();
    let write = || -> std::io::Result<()> {
        let temporary = dir.join(format!("{name}.tmp"));
        std::fs::write(&temporary, format!("{content}\n"))?;
        File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> DataDir {
        DataDir::open(path, BrokerId(1)).expect("opened")
    }

    #[test]
    fn a_directory_remembers_the_life_and_the_end_of_the_process_before() {
        let dir = tempfile::tempdir().expect("dir");
        let first = open(dir.path());
        assert!(!first.machine_restarted_uncleanly());
        assert_eq!(first.last_life().expect("readable"), None);
        first.remember_life(BrokerEpoch(9)).expect("kept");
        first.note_clean_end().expect("noted");
        assert!(dir.path().join("clean-marker").exists());
        drop(first);
        let second = open(dir.path());
        assert!(!dir.path().join("clean-marker").exists());
        assert_eq!(second.last_life().expect("readable"), Some(BrokerEpoch(9)));
    }

    #[test]
    fn a_directory_without_a_boot_is_one_whose_machine_may_have_gone_down() {
        let dir = tempfile::tempdir().expect("dir");
        drop(open(dir.path()));
        match std::fs::remove_file(dir.path().join("boot-id")) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        let found = open(dir.path());
        assert!(found.machine_restarted_uncleanly());
        found.restart_is_known().expect("noted");
    }
}
