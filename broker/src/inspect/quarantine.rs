//! What this broker keeps of entries that were discarded.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use baton_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use baton_protocol::inspect::{DiscardedEntries, Quarantined};
use serde::Deserialize;

use crate::hosting::HostingError;
use crate::shared::Shared;

/// Longest first line that is read of a file.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The line that files of entries begin with.
#[derive(Deserialize)]
struct Head {
    from: Offset,
    to: Offset,
    last_epoch: LeaderEpoch,
    reason: String,
}

/// All of it, by topic and partition.
pub fn list(shared: &Shared) -> Result<Vec<Quarantined>, HostingError> {
    let data_dir = &shared.config.broker.data_dir;
    let mut all = below(data_dir)?;
    let known = shared.known.borrow().clone();
    let topics = known.state.as_ref().map(|state| &state.topics);
    for one in &mut all {
        let topic = topics.and_then(|topics| topics.get(&one.topic));
        one.name = topic.map(|topic| topic.name.clone());
    }
    all.sort_by(|a, b| {
        let key = |one: &Quarantined| (one.name.clone(), one.topic, one.partition);
        key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
    });
    Ok(all)
}

fn failed(path: &Path, source: std::io::Error) -> HostingError {
    let path = path.to_owned();
    HostingError::Io { path, source }
}

fn below(data_dir: &Path) -> Result<Vec<Quarantined>, HostingError> {
    let mut all = Vec::new();
    for (topic, topic_dir) in numbered::<TopicId>(&data_dir.join("topics"))? {
        for (partition, dir) in numbered::<u32>(&topic_dir)? {
            for path in baton_storage::quarantine::list(&dir)? {
                let shown = path.strip_prefix(data_dir).unwrap_or(&path);
                let since = path.metadata().and_then(|meta| meta.modified()).ok();
                let since = since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                all.push(Quarantined {
                    topic,
                    name: None,
                    partition: PartitionIndex(partition),
                    path: shown.display().to_string(),
                    bytes: bytes_of(&path).map_err(|error| failed(&path, error))?,
                    since_ms: since.and_then(|at| u64::try_from(at.as_millis()).ok()),
                    entries: entries_of(&path),
                });
            }
        }
    }
    Ok(all)
}

/// The directories here that are named so; none if there is no such place.
fn numbered<T: std::str::FromStr>(
    dir: &Path,
) -> Result<Vec<(T, std::path::PathBuf)>, HostingError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(dir, error))?;
        let name = entry.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
            found.push((id, entry.path()));
        }
    }
    Ok(found)
}

fn bytes_of(path: &Path) -> std::io::Result<u64> {
    let meta = path.metadata()?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        bytes += bytes_of(&entry?.path())?;
    }
    Ok(bytes)
}

/// What a file of entries says of itself. Who wrote it may have been another version: then it is listed
/// without.
fn entries_of(path: &Path) -> Option<DiscardedEntries> {
    if path.extension()? != "entries" {
        return None;
    }
    let file = std::fs::File::open(path).ok()?;
    let mut line = Vec::new();
    let mut head = BufReader::new(file.take(HEAD_BYTES_MAX));
    head.read_until(b'\n', &mut line).ok()?;
    let head: Head = serde_json::from_slice(&line).ok()?;
    let Head {
        from,
        to,
        last_epoch,
        reason,
    } = head;
    Some(DiscardedEntries {
        from,
        to,
        last_epoch,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_listed_with_what_it_says_of_itself() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(below(dir.path()).expect("nothing").is_empty());
        let topic = TopicId(uuid::Uuid::from_u128(5));
        let kept = dir.path().join(format!("topics/{topic}/3/quarantine"));
        std::fs::create_dir_all(kept.join("7.damaged")).expect("made");
        std::fs::write(kept.join("7.damaged/a"), [0; 10]).expect("written");
        let head = r#"{"format":1,"partition":"x","from":7,"to":9,"last_epoch":2,"reason":"a \"late\" leader"}"#;
        let name = "00000000000000000007-00000000000000000009-2.entries";
        std::fs::write(kept.join(name), format!("{head}\nentries")).expect("written");
        std::fs::write(kept.join("8.entries"), [0xff; 100]).expect("written");
        std::fs::write(kept.join("9.entries.tmp"), []).expect("written");
        std::fs::create_dir_all(dir.path().join("topics/what/0/quarantine")).expect("made");
        let all = below(dir.path()).expect("listed");
        let shown: Vec<_> = all
            .iter()
            .map(|one| (one.bytes, one.entries.is_some()))
            .collect();
        assert_eq!(
            shown,
            [(head.len() as u64 + 8, true), (10, false), (100, false)]
        );
        assert!(
            all.iter()
                .all(|one| one.topic == topic && one.partition.0 == 3)
        );
        assert!(all[0].path.starts_with("topics/") && all[0].since_ms.is_some());
        let entries = all[0].entries.clone().expect("said");
        assert_eq!((entries.from, entries.to), (Offset(7), Offset(9)));
        assert_eq!(entries.reason, "a \"late\" leader");
    }
}
