//! A member's directory: its node id, its log, its last snapshot.

use std::io;
use std::path::Path;

use crate::log_store::LogStore;
use crate::state_machine::StateMachine;

/// Makes the directory where it is not there, durably: with it a power cut would take every vote.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    match dir.parent() {
        // The parent of a relative path of one part is the empty path.
        Some(parent) if !parent.as_os_str().is_empty() => std::fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// What the directory holds, or a new member's beginning. A node id stands for the votes and entries
/// that went with it: with those gone it must not be used again, or what a majority acknowledged
/// could be lost, and two leaders be elected in a term.
pub(crate) fn open(dir: &Path) -> io::Result<(u64, LogStore, StateMachine)> {
    let path = dir.join("node-id");
    let known = read_node_id(&path)?;
    let refuse = |what: &str| {
        let text = format!(
            "{what}; if it cannot be restored, remove {} as a whole: \
             the broker is a new Raft node then",
            dir.display()
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if known.is_some() && !LogStore::exists(dir)? {
        return refuse("the log is gone, but the node id is still there");
    }
    let log = LogStore::open(dir)?;
    let machine = StateMachine::open(dir)?;
    if known.is_none() && !(log.is_empty() && machine.applied_index().is_none()) {
        return refuse("the node id is gone, but the log or the snapshot is still there");
    }
    if log.purged_index() > machine.applied_index() {
        return refuse(
            "the snapshot is gone or too old: entries are missing between it and the log",
        );
    }
    let node_id = match known {
        Some(id) => id,
        // The log is there by now: an id without one is never left by a crash.
        None => new_node_id(&path)?,
    };
    Ok((node_id, log, machine))
}

fn read_node_id(path: &Path) -> io::Result<Option<u64>> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let text = format!("{}: `{text}` is no node id", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn new_node_id(path: &Path) -> io::Result<u64> {
    let id = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
    write_text(path, &id.to_string())?;
    Ok(id)
}

/// The content of a small file; none if it is not there.
pub(crate) fn read_text(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a small file, durably.
pub(crate) fn write_text(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, format!("{text}\n"))?;
    std::fs::File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
