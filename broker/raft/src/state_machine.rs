//! Raft's state machine: the cluster's metadata, and who follows it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_controller::command::{Command, Outcome};
use baton_controller::state::ClusterState;
use baton_protocol::ids::{ClusterId, MetadataIndex};
use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::types::{LogId, Membership, SnapshotMeta, Types};

const MAGIC: [u8; 8] = *b"BTNSNAP1";

/// A command that was applied.
#[derive(Clone, Debug)]
pub struct AppliedCommand {
    /// Its place in the metadata log.
    pub index: MetadataIndex,
    /// The command.
    pub command: Command,
}

#[derive(Serialize, Deserialize, Default)]
struct Snapshot {
    last_applied: Option<LogId>,
    membership: Membership,
    state: ClusterState,
}

struct Inner {
    current: Snapshot,
    path: PathBuf,
    followers: Vec<mpsc::UnboundedSender<AppliedCommand>>,
}

/// The metadata as applied. Clones share it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    inner: Arc<Mutex<Inner>>,
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let sound = bytes.split_first_chunk::<12>().filter(|(head, content)| {
        head[..8] == MAGIC && crc32fast::hash(content).to_be_bytes() == head[8..]
    });
    match sound {
        Some((_, content)) => Ok(Some(content.to_vec())),
        None => {
            let text = format!(
                "{}: the snapshot of the metadata is damaged",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&[&MAGIC[..], &crc32fast::hash(content).to_be_bytes(), content].concat())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl StateMachine {
    /// The metadata as of the last snapshot in `dir`.
    pub fn open(dir: &Path) -> io::Result<StateMachine> {
        let path = dir.join("snapshot");
        let current = match read(&path)? {
            Some(content) => rmp_serde::from_slice(&content).map_err(io::Error::other)?,
            None => Snapshot::default(),
        };
        let inner = Inner {
            current,
            path,
            followers: Vec::new(),
        };
        Ok(StateMachine {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the last entry that is in the state.
    pub fn applied_index(&self) -> Option<u64> {
        self.lock().current.last_applied.map(|id| id.index())
    }

    /// The cluster's identity, once it is known here.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        let cluster = self.lock().current.state.cluster_id;
        (cluster != ClusterId::default()).then_some(cluster)
    }

    /// The state now, and every command after it.
    pub fn follow(&self) -> (ClusterState, mpsc::UnboundedReceiver<AppliedCommand>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        inner.followers.push(sender);
        (inner.current.state.clone(), receiver)
    }

    fn apply_one(&self, entry: crate::types::Entry) -> Outcome {
        let mut inner = self.lock();
        let log_id = entry.log_id;
        inner.current.last_applied = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => Outcome::Done,
            EntryPayload::Membership(membership) => {
                inner.current.membership = Membership::new(Some(log_id), membership);
                Outcome::Done
            }
            EntryPayload::Normal(command) => {
                let index = MetadataIndex(log_id.index());
                let outcome = inner.current.state.apply(index, &command);
                let applied = AppliedCommand { index, command };
                inner
                    .followers
                    .retain(|follower| follower.send(applied.clone()).is_ok());
                outcome
            }
        }
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Vec<u8>>, io::Error> {
        let inner = self.lock();
        let content = rmp_serde::to_vec_named(&inner.current).map_err(io::Error::other)?;
        write(&inner.path, &content)?;
        Ok(SnapshotOf::<Types, Vec<u8>> {
            meta: SnapshotMeta {
                last_log_id: inner.current.last_applied,
                last_membership: inner.current.membership.clone(),
            },
            snapshot: content,
        })
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        let inner = self.lock();
        Ok((inner.current.last_applied, inner.current.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        content: Vec<u8>,
    ) -> Result<(), io::Error> {
        let snapshot: Snapshot = rmp_serde::from_slice(&content).map_err(io::Error::other)?;
        let mut inner = self.lock();
        write(&inner.path, &content)?;
        inner.current = snapshot;
        // Whoever follows has missed commands: they follow anew.
        inner.followers.clear();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Vec<u8>>>, io::Error> {
        let path = self.lock().path.clone();
        let Some(content) = read(&path)? else {
            return Ok(None);
        };
        let snapshot: Snapshot = rmp_serde::from_slice(&content).map_err(io::Error::other)?;
        Ok(Some(SnapshotOf::<Types, Vec<u8>> {
            meta: SnapshotMeta {
                last_log_id: snapshot.last_applied,
                last_membership: snapshot.membership,
            },
            snapshot: content,
        }))
    }
}
