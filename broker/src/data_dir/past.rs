//! What earlier processes left in a data directory about themselves: the last life that the broker
//! was given on this disk, and whether the machine went down under one of them.
//!
//! Each file is one line, `<value> <CRC-32 of the value, 8 hexadecimal digits>`, and is replaced as
//! a whole. `broker-epoch` tells a disk that was wiped, swapped or rolled back from the one that the
//! broker ran on last. `boot-id` (of the machine, as the last process saw it) and `clean-marker`
//! (only between an orderly end and the next start) tell whether writes that were not flushed can
//! have been lost.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use baton_protocol::ids::BrokerEpoch;

/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const EPOCH_FILE: &str = "broker-epoch";
const BOOT_FILE: &str = "boot-id";
const CLEAN_FILE: &str = "clean-marker";
const CLEAN: &str = "clean";

/// How the process before this one ended, as far as the machine is concerned.
#[derive(Debug)]
pub(super) struct Past {
    boot: Option<String>,
    restarted_uncleanly: bool,
    /// What the files say may be brought up to date: nothing would be forgotten by it.
    settled: AtomicBool,
}

impl Past {
    /// Looks at what is there and, if nothing has to be made known first, notes that a process runs
    /// in this boot. `had_process` says whether one has ever run here.
    pub fn begin(dir: &Path, had_process: bool) -> anyhow::Result<Past> {
        let boot = std::fs::read_to_string(BOOT_ID).ok();
        let boot = boot.map(|text| text.trim().to_owned());
        Past::begin_in(dir, boot.filter(|text| !text.is_empty()), had_process)
    }

    fn begin_in(dir: &Path, boot: Option<String>, had_process: bool) -> anyhow::Result<Past> {
        let stored = match read(dir, BOOT_FILE)? {
            Content::Value(boot) => Some(boot),
            Content::Absent | Content::Garbage => None,
        };
        let clean = read(dir, CLEAN_FILE)? == Content::Value(CLEAN.to_owned());
        let had_process = had_process || dir.join(BOOT_FILE).exists();
        let same_boot = boot.is_some() && boot == stored;
        let past = Past {
            boot,
            restarted_uncleanly: had_process && !clean && !same_boot,
            settled: AtomicBool::new(false),
        };
        if !past.restarted_uncleanly {
            past.settle(dir)?;
        }
        // Only now: with the marker gone, the boot must tell.
        remove(dir, CLEAN_FILE)?;
        Ok(past)
    }

    pub fn restarted_uncleanly(&self) -> bool {
        self.restarted_uncleanly
    }

    /// Notes that a process runs in this boot. A restart that nobody knows of is forgotten by it.
    pub fn settle(&self, dir: &Path) -> anyhow::Result<()> {
        if let Some(boot) = &self.boot {
            write(dir, BOOT_FILE, boot)?;
        }
        self.settled.store(true, Ordering::Release);
        Ok(())
    }

    pub fn note_clean_end(&self, dir: &Path) -> anyhow::Result<()> {
        if !self.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        write(dir, CLEAN_FILE, CLEAN)
    }
}

pub(super) fn last_life(dir: &Path) -> anyhow::Result<Option<BrokerEpoch>> {
    let value = match read(dir, EPOCH_FILE)? {
        Content::Absent => return Ok(None),
        Content::Value(value) => value.parse().ok(),
        Content::Garbage => None,
    };
    let Some(epoch) = value else {
        bail!(
            "{} is damaged; remove it, and the broker starts as one whose disk was replaced: its logs are checked against the other brokers' before they count",
            dir.join(EPOCH_FILE).display()
        );
    };
    Ok(Some(BrokerEpoch(epoch)))
}

pub(super) fn remember_life(dir: &Path, epoch: BrokerEpoch) -> anyhow::Result<()> {
    write(dir, EPOCH_FILE, &epoch.0.to_string())
}

#[derive(PartialEq, Eq)]
enum Content {
    Absent,
    Garbage,
    Value(String),
}

fn line(value: &str) -> String {
    format!("{value} {:08x}\n", crc32fast::hash(value.as_bytes()))
}

fn read(dir: &Path, name: &str) -> anyhow::Result<Content> {
    let path = dir.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::Absent),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let value = text.split_once(' ').map(|(value, _)| value);
    Ok(match value {
        Some(value) if line(value) == text => Content::Value(value.to_owned()),
        _ => Content::Garbage,
    })
}

fn write(dir: &Path, name: &str, value: &str) -> anyhow::Result<()> {
    let path = dir.join(name);
    let replace = || -> std::io::Result<()> {
        let temporary = dir.join(format!("{name}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(line(value).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

fn remove(dir: &Path, name: &str) -> anyhow::Result<()> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display()))?,
    }
    let flushed = File::open(dir).and_then(|dir| dir.sync_all());
    flushed.with_context(|| format!("cannot flush {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that starts in this boot; whether it finds that the machine went down.
    fn start(dir: &Path, boot: &str) -> (Past, bool) {
        let boot = Some(boot.to_owned()).filter(|boot| !boot.is_empty());
        let past = Past::begin_in(dir, boot, false).expect("begun");
        let restarted = past.restarted_uncleanly();
        (past, restarted)
    }

    #[test]
    fn only_another_boot_without_a_clean_end_is_unclean() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(!start(dir.path(), "a").1, "the first process ever");
        let (past, restarted) = start(dir.path(), "a");
        assert!(!restarted, "killed, the machine stayed up");
        past.note_clean_end(dir.path()).expect("noted");
        let (_, restarted) = start(dir.path(), "b");
        assert!(!restarted, "ended in good order");
        let (_, restarted) = start(dir.path(), "b");
        assert!(!restarted, "killed in the boot after a clean end");
        assert!(start(dir.path(), "c").1, "the marker counts once");
    }

    #[test]
    fn an_unclean_restart_is_told_until_it_is_known() {
        let dir = tempfile::tempdir().expect("dir");
        start(dir.path(), "a");
        let (past, restarted) = start(dir.path(), "b");
        assert!(restarted);
        past.note_clean_end(dir.path()).expect("passed over");
        let (past, restarted) = start(dir.path(), "b");
        assert!(restarted, "a clean end does not hide it");
        past.settle(dir.path()).expect("noted");
        assert!(past.restarted_uncleanly(), "in this process it stays true");
        past.note_clean_end(dir.path()).expect("noted");
        assert!(!start(dir.path(), "c").1);
    }

    #[test]
    fn a_boot_that_cannot_be_told_is_another_one() {
        let dir = tempfile::tempdir().expect("dir");
        start(dir.path(), "a");
        assert!(start(dir.path(), "").1, "this boot is not known");
        for garbage in ["", "a\n", "a 00000000\n", "\u{0}\u{0}"] {
            std::fs::write(dir.path().join(BOOT_FILE), garbage).expect("written");
            assert!(start(dir.path(), "a").1, "{garbage:?}");
        }
        std::fs::remove_file(dir.path().join(BOOT_FILE)).expect("removed");
        let past = Past::begin_in(dir.path(), Some("a".to_owned()), true).expect("begun");
        assert!(past.restarted_uncleanly(), "a process has run here");
    }

    #[test]
    fn a_damaged_clean_marker_does_not_count() {
        let dir = tempfile::tempdir().expect("dir");
        start(dir.path(), "a");
        std::fs::write(dir.path().join(CLEAN_FILE), "clean").expect("written");
        assert!(start(dir.path(), "b").1);
        assert!(!dir.path().join(CLEAN_FILE).exists());
    }

    #[test]
    fn the_last_life_is_kept_and_a_damaged_file_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(last_life(dir.path()).expect("readable"), None);
        for epoch in [0, 7, u64::MAX] {
            remember_life(dir.path(), BrokerEpoch(epoch)).expect("kept");
            let found = last_life(dir.path()).expect("readable");
            assert_eq!(found, Some(BrokerEpoch(epoch)));
        }
        let path = dir.path().join(EPOCH_FILE);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("flipped");
            let error = last_life(dir.path()).expect_err("refused").to_string();
            assert!(error.contains(EPOCH_FILE) && error.contains("remove it"));
        }
        std::fs::write(&path, line("seven")).expect("written");
        assert!(last_life(dir.path()).is_err());
    }
}
