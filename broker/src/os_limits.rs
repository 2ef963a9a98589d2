//! What the system allows this process, held against what the broker may need: open files and
//! memory maps. Found out at the start, with the command that raises it, and not in the middle of
//! the night.

use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files and maps of the process itself: libraries, sockets between brokers, Raft's log.
const OWN: u64 = 256;

/// Where Linux keeps the number of maps that a process may have.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// What is needed, and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reckoning {
    /// Segment files found in the data directory; each takes an open file and a map.
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
            segments,
            files,
            maps,
            ..
        } = *self;
        let needed = segments + OWN;
        if files < needed {
            return Some(format!(
                "the {segments} segment files of the data directory need {needed} open files, and this process may have {files}; raise it with `ulimit -n {}` (systemd: LimitNOFILE=)",
                needed * 2
            ));
        }
        match maps {
            Some(maps) if maps < needed => Some(format!(
                "the {segments} segment files of the data directory need {needed} memory maps, and a process may have {maps}; raise it with `sysctl -w vm.max_map_count={}`",
                needed * 2
            )),
            _ => None,
        }
    }

    /// What will be missing once as many clients come as are allowed, if anything.
    fn warning(&self) -> Option<String> {
        let needed = self.segments + OWN + self.connections_max;
        (self.files < needed).then(|| {
            format!(
                "limits.connections_max is {}, but with {} segment files this process may have {} open files: raise it with `ulimit -n {needed}` (systemd: LimitNOFILE=), or lower limits.connections_max",
                self.connections_max, self.segments, self.files
            )
        })
    }
}

/// Raises the number of open files as far as the process may, and refuses to start where what is
/// stored could not all be opened.
pub fn check(data_dir: &Path, connections_max: usize) -> anyhow::Result<()> {
    let segments = count_segments(&data_dir.join("topics"))
        .with_context(|| format!("cannot list {}", data_dir.display()))?;
    let reckoning = Reckoning {
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

fn count_segments(dir: &Path) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += count_segments(&entry.path())?;
        } else if entry.path().extension().is_some_and(|end| end == "log") {
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Reckoning = Reckoning {
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
        assert!(text.contains("ulimit -n 2512"), "{text}");
        let maps = Reckoning {
            maps: Some(1_000),
            ..ROOMY
        };
        let text = maps.refusal().expect("refused");
        assert!(text.contains("vm.max_map_count=2512"), "{text}");
    }

    #[test]
    fn too_few_files_for_all_clients_are_warned_of() {
        let few = Reckoning {
            files: 4_096,
            ..ROOMY
        };
        assert_eq!(few.refusal(), None);
        let text = few.warning().expect("warned");
        assert!(text.contains("ulimit -n 11256"), "{text}");
    }

    #[test]
    fn segments_are_counted_wherever_they_lie() {
        let dir = tempfile::tempdir().expect("dir");
        let partition = dir.path().join("7/0");
        std::fs::create_dir_all(&partition).expect("made");
        for name in ["00000000000000000000.log", "durable", "epochs"] {
            std::fs::write(partition.join(name), b"").expect("written");
        }
        assert_eq!(count_segments(dir.path()).expect("listed"), 1);
        assert_eq!(count_segments(&dir.path().join("none")).expect("listed"), 0);
    }
}
