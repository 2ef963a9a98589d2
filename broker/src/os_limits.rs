//! What the system allows this process, held against what the broker may need: open files and
//! memory maps. Found out at the start, with the command that raises it, and not in the middle of
//! the night.
//!
//! A log takes an open file and a map for each of its segments. Its mark takes a file more, but only so
//! many marks of a process are open at a time.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use baton_storage::MARKS_OPEN_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files of the process itself: sockets between brokers, Raft's log, what is open for a moment.
const OWN_FILES: u64 = 256;

/// Maps of the process itself: libraries, and two for the stack of each thread, of which there can be
/// hundreds while clients read what is not in memory.
const OWN_MAPS: u64 = 2_048;

/// Where Linux keeps the number of maps that a process may have.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// What is needed, and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reckoning {
    /// Logs found in the data directory.
    partitions: u64,
    /// Segment files found there; each takes an open file and a map.
    segments: u64,
    /// Client connections that are allowed.
    connections_max: u64,
    /// Files that may be open, as far as the process can raise it itself.
    files: u64,
    /// Maps that there may be; none where the system does not say.
    maps: Option<u64>,
}

impl Reckoning {
    /// The reason why the broker cannot start, if so.
    fn refusal(&self) -> Option<String> {
        let Reckoning {
            partitions,
            segments,
            files,
            maps,
            ..
        } = *self;
        let needed = self.files_stored();
        if files < needed {
            return Some(format!(
                "the {partitions} partitions of the data directory, with {segments} segment files, need {needed} open files, and this process may have {files}; raise it with `ulimit -n {}` (systemd: LimitNOFILE=)",
                needed * 2
            ));
        }
        let needed = segments + OWN_MAPS;
        match maps {
            Some(maps) if maps < needed => Some(format!(
                "the {segments} segment files of the data directory need {needed} memory maps, and a process may have {maps}; raise it with `sysctl -w vm.max_map_count={}`",
                needed * 2
            )),
            _ => None,
        }
    }

    /// Open files that what is stored takes, with those of the process itself.
    fn files_stored(&self) -> u64 {
        self.segments + self.partitions.min(MARKS_OPEN_MAX as u64) + OWN_FILES
    }

    /// What will be missing once as many clients come as are allowed, if anything.
    fn warning(&self) -> Option<String> {
        let needed = self.files_stored() + self.connections_max;
        (self.files < needed).then(|| {
            format!(
                "limits.connections_max is {}, but with {} partitions and {} segment files this process may have {} open files: raise it with `ulimit -n {needed}` (systemd: LimitNOFILE=), or lower limits.connections_max",
                self.connections_max, self.partitions, self.segments, self.files
            )
        })
    }
}

/// Raises the number of open files as far as the process may, and refuses to start where what is
/// stored could not all be opened.
pub fn check(data_dir: &Path, connections_max: usize) -> anyhow::Result<()> {
    let Stored {
        partitions,
        segments,
    } = count_stored(&data_dir.join("topics"))
        .with_context(|| format!("cannot list {}", data_dir.display()))?;
    let reckoning = Reckoning {
        partitions,
        segments,
        connections_max: connections_max as u64,
        files: raise_files()?,
        maps: std::fs::read_to_string(MAX_MAP_COUNT)
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    };
    if let Some(refusal) = reckoning.refusal() {
        bail!(refusal);
    }
    if let Some(warning) = reckoning.warning() {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// How many files may be open, after raising it to the hard limit.
fn raise_files() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum;
    if limit.current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, raised).context("the limit of open files cannot be raised")?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// What is in a data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stored {
    /// Directories with a log in them, which is empty perhaps.
    partitions: u64,
    segments: u64,
}

/// Counts in the directory of all topics: a directory in it holds those of its partitions.
fn count_stored(topics: &Path) -> std::io::Result<Stored> {
    let mut stored = Stored::default();
    for topic in directories(topics)? {
        for partition in directories(&topic)? {
            stored.partitions += 1;
            for entry in std::fs::read_dir(partition)? {
                let is_segment = entry?.path().extension() == Some("log".as_ref());
                stored.segments += u64::from(is_segment);
            }
        }
    }
    Ok(stored)
}

/// The directories in a directory, which need not be there.
fn directories(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Reckoning = Reckoning {
        partitions: 400,
        segments: 1_000,
        connections_max: 10_000,
        files: 1 << 20,
        maps: Some(65_530),
    };

    #[test]
    fn enough_is_passed_over_in_silence() {
        assert_eq!((ROOMY.refusal(), ROOMY.warning()), (None, None));
    }

    #[test]
    fn too_few_files_or_maps_for_what_is_stored_are_refused_with_the_command() {
        let files = Reckoning {
            files: 1_024,
            ..ROOMY
        };
        let text = files.refusal().expect("refused");
        assert!(text.contains("ulimit -n 3312"), "{text}");
        let maps = Reckoning {
            maps: Some(1_000),
            ..ROOMY
        };
        let text = maps.refusal().expect("refused");
        assert!(text.contains("vm.max_map_count=6096"), "{text}");
    }

    #[test]
    fn of_many_partitions_only_some_marks_are_open() {
        let many = Reckoning {
            partitions: 10_000,
            segments: 10_000,
            connections_max: 1_000,
            files: 12_000,
            ..ROOMY
        };
        assert_eq!((many.refusal(), many.warning()), (None, None));
        let fewer = Reckoning {
            files: 10_000 + MARKS_OPEN_MAX as u64 + OWN_FILES - 1,
            ..many
        };
        assert!(fewer.refusal().is_some());
    }

    #[test]
    fn too_few_files_for_all_clients_are_warned_of() {
        let few = Reckoning {
            files: 4_096,
            ..ROOMY
        };
        assert_eq!(few.refusal(), None);
        let text = few.warning().expect("warned");
        assert!(text.contains("ulimit -n 11656"), "{text}");
    }

    #[test]
    fn partitions_are_counted_with_their_segments() {
        let dir = tempfile::tempdir().expect("dir");
        for (partition, segments) in [("7/0", 2), ("7/1", 0), ("8/0", 1)] {
            let partition = dir.path().join(partition);
            std::fs::create_dir_all(partition.join("quarantine")).expect("made");
            for name in ["durable", "producers"] {
                std::fs::write(partition.join(name), b"").expect("written");
            }
            for base in 0..segments {
                let name = format!("{base:020}.log");
                std::fs::write(partition.join(name), b"").expect("written");
            }
        }
        let stored = Stored {
            partitions: 3,
            segments: 3,
        };
        assert_eq!(count_stored(dir.path()).expect("listed"), stored);
        let none = count_stored(&dir.path().join("none"));
        assert_eq!(none.expect("listed"), Stored::default());
    }
}
