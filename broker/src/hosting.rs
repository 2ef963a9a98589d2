//! The replicas in a data directory: opening their logs, and putting away those that are gone.
//!
//! Also the real [`PartitionLog`]: the storage crate's log with its quarantine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::batch::{EntryIter, LeaderStamp};
use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, TopicId, TopicPartition};
use baton_protocol::policy::{DELETE_RETENTION_MS, TopicPolicy};
use baton_replication::epochs::EpochHistory;
use baton_replication::event::PartitionView;
use baton_replication::producers::{ProducerTable, RememberedBatch};
use baton_replication::rules::Rules;
use baton_replication::{LogShape, Replica};
use baton_storage::{
    Chunk, CompactionRules, DamageNote, DropBehind, Glance, Log, LogIdentity, LogReader, Retention,
    Shortage, StorageError, Trust, ask_recheck, make_dirs, start_wanted,
};

use crate::caretaker::Caretaker;
use crate::config::Config;
use crate::driver::{Beginning, Driver, FlushWork, Found, PartitionLog, shape_of};

/// How much is read at a time where a log is walked at its start.
const WALK_BYTES: usize = 1 << 20;

/// Where entries are kept for a time, a segment takes what comes in this part of it.
const PIECES_BY_TIME: u64 = 4;

/// But not less than what comes in this time, in milliseconds.
const PIECE_MS_MIN: u64 = 1_000;

/// Where the producers' state took so much reading, it is kept at once.
const REBUILD_BYTES_MAX: usize = 16 << 20;

/// A replica's log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostingError {
    /// Storage said no.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry that storage gave out cannot be read.
    #[error("the log in {dir} holds an unreadable entry: {detail}")]
    Unreadable {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The opening thread panicked.
    #[error("opening the log panicked: {0}")]
    Panicked(String),
    /// A directory could not be moved or removed.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl HostingError {
    /// Whether what is stored is damaged.
    fn is_damage(&self) -> bool {
        match self {
            HostingError::Storage(error) => matches!(error, StorageError::Corrupt { .. }),
            HostingError::Unreadable { .. } => true,
            HostingError::Panicked(_) | HostingError::Io { .. } => false,
        }
    }

    /// What there is too little of, if nothing else is wrong.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            HostingError::Storage(StorageError::Io { source, .. })
            | HostingError::Io { source, .. } => Shortage::of(source),
            HostingError::Storage(error) => error.shortage(),
            HostingError::Unreadable { .. } | HostingError::Panicked(_) => None,
        }
    }
}

/// A replica whose log is open.
pub struct OpenedReplica {
    /// Reads it.
    pub reader: LogReader,
    /// The damage that was found in it.
    pub damage: Option<DamageNote>,
    log: StoredLog,
    shape: LogShape,
}

impl OpenedReplica {
    /// Has what the log writes leave memory when this window has moved past it.
    pub fn dropping_behind(mut self, window: Option<Arc<DropBehind>>) -> OpenedReplica {
        self.log.log.set_drop_behind(window);
        self
    }

    /// The replica's driver.
    pub fn into_driver(
        self,
        me: BrokerLife,
        config: impl Into<Arc<baton_replication::Config>>,
        view: impl Into<Arc<PartitionView>>,
        links: Vec<BrokerId>,
    ) -> Driver {
        let replica = Replica::new(me, config, Rules::default(), self.shape, view, links);
        Driver::new(replica, Box::new(self.log))
    }
}

/// Where a partition's files are.
pub fn directory(data_dir: &Path, partition: TopicPartition) -> PathBuf {
    data_dir
        .join("topics")
        .join(partition.topic.to_string())
        .join(partition.partition.to_string())
}

/// Opens a partition's log, makes what is found durable, and rebuilds the state that follows from
/// it. A damaged log is cut before the damage, and is lossy, as is one that is not there although
/// it is `expected`: an earlier life of this broker had this replica. After a process whose disk
/// failed, what lies above the mark is not to be trusted: the system may hold in memory what never
/// reached the disk.
pub fn open(
    data_dir: &Path,
    partition: TopicPartition,
    expected: bool,
    trust: Trust,
    config: &Config,
    caretaker: &Caretaker,
) -> Result<OpenedReplica, HostingError> {
    let dir = directory(data_dir, partition);
    match open_in(&dir, partition, expected, trust, config, caretaker) {
        Err(error) if error.is_damage() => {
            // Found in what the opening had believed.
            tracing::error!(%partition, %error, "this log is damaged; all of it is checked now");
            ask_recheck(&dir, &error.to_string())?;
            open_in(&dir, partition, expected, trust, config, caretaker)
        }
        opened => opened,
    }
}

fn open_in(
    dir: &Path,
    partition: TopicPartition,
    expected: bool,
    trust: Trust,
    config: &Config,
    caretaker: &Caretaker,
) -> Result<OpenedReplica, HostingError> {
    let identity = LogIdentity {
        topic: partition.topic,
        partition: partition.partition,
    };
    if expected {
        note_if_missing(dir)?;
    }
    let (mut log, recovery, damage) =
        Log::open_trusting(dir, identity, config.log.storage(), trust)?;
    if let Some(kept) = &recovery.not_trusted {
        tracing::warn!(%partition, kept = %kept.display(), "what was written after the last flush that succeeded is put aside; what is missing is copied from another replica");
    }
    if let Some(damage) = &damage {
        tracing::error!(%partition, sound_end = %damage.sound_end, durable_end = %damage.durable_end, detail = damage.detail, "this log was damaged; what is missing is copied from another replica");
    }
    if recovery.torn_bytes > 0 {
        tracing::info!(%partition, bytes = recovery.torn_bytes, "a torn tail was cut");
    }
    let (producers, bytes) = rebuild_producers(dir, &log)?;
    if bytes >= REBUILD_BYTES_MAX
        && let Ok(account) = rmp_serde::to_vec_named(&producers)
    {
        // Not to be read once more.
        log.give_account(account);
    }
    let shape = LogShape {
        start: log.start(),
        end: log.end(),
        durable_end: log.durable_end(),
        high_watermark: log.start(),
        epochs: EpochHistory::new(log.epochs().to_vec()),
        producers,
        lossy: damage.is_some(),
    };
    let reader = log.reader();
    // An index that was missing or wrong is written at once, and not at the next start only.
    if let Some(job) = log.hint_job() {
        caretaker.write(job);
    }
    caretaker.check(partition, log.scrub());
    let log = StoredLog {
        log,
        caretaker: caretaker.clone(),
        account_bytes: 0,
        segment_bytes_max: config.log.segment_bytes_max,
        flush_bytes: config.log.flush_bytes,
        retention: Retention::default(),
        delete_retention_ms: None,
        compaction_keys_max: config.log.compaction_keys_max as usize,
    };
    Ok(OpenedReplica {
        reader,
        damage,
        log,
        shape,
    })
}

/// Puts on record that a log is not there which should be, before an empty one takes its place and
/// looks as if it had been empty all the time.
fn note_if_missing(dir: &Path) -> Result<(), HostingError> {
    let failed = |source| HostingError::Io {
        path: dir.to_owned(),
        source,
    };
    let is_missing = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if is_missing {
        make_dirs(dir)?;
        let note = DamageNote {
            sound_end: Offset::ZERO,
            durable_end: Offset::ZERO,
            detail: "an earlier life of this broker had this replica, and its log is missing"
                .into(),
            set_aside: dir.join("quarantine"),
        };
        note.write(dir)?;
    }
    Ok(())
}

/// The producers' state as of the log's end: the newest snapshot, and what the log holds after it.
/// Also, how much was read for it.
fn rebuild_producers(dir: &Path, log: &Log) -> Result<(ProducerTable, usize), HostingError> {
    let snapshot = log.load_producers().and_then(|(at, bytes)| {
        let table = rmp_serde::from_slice::<ProducerTable>(&bytes);
        table.ok().map(|table| (at, table))
    });
    let (mut at, mut table) = snapshot.unwrap_or((log.start(), ProducerTable::default()));
    let mut bytes = 0;
    while let Some(chunk) = log.read(at, WALK_BYTES)? {
        bytes += chunk.bytes.len();
        for entry in EntryIter::new(&chunk.bytes) {
            let entry = entry.map_err(|error| HostingError::Unreadable {
                dir: dir.to_owned(),
                detail: error.to_string(),
            })?;
            let shape = shape_of(&entry.header);
            if let Some(stamp) = shape.producer.filter(|_| shape.base >= at) {
                let batch = RememberedBatch {
                    stamp,
                    base: shape.base,
                    end: shape.end,
                    leader_epoch: shape.epoch,
                };
                table.rebuild(batch);
            }
        }
        at = chunk.end;
    }
    Ok((table, bytes))
}

/// Puts the files of a replica that is gone out of the way. Those of a deleted topic are removed;
/// others are set aside, since only a recorded deletion may destroy data.
pub fn retire(
    data_dir: &Path,
    partition: TopicPartition,
    deleted: bool,
) -> Result<(), HostingError> {
    let dir = directory(data_dir, partition);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HostingError::Io { path, source }
    };
    if !dir.exists() {
        return Ok(());
    }
    if deleted {
        std::fs::remove_dir_all(&dir).map_err(failed(&dir))?;
        // The topic's directory goes with its last partition here.
        if let Some(topic) = dir.parent() {
            match std::fs::remove_dir(topic) {
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(failed(topic))?,
            }
        }
        return Ok(());
    }
    let aside = data_dir.join("set-aside");
    std::fs::create_dir_all(&aside).map_err(failed(&aside))?;
    let to = aside.join(format!("{}-{}", partition.topic, partition.partition));
    std::fs::rename(&dir, &to).map_err(failed(&dir))
}

/// Moves the directories of topics that are not `known` to `set-aside/`. They may have been deleted
/// while this broker was away; that is no recorded order to this broker, so nothing is destroyed.
pub fn put_unknown_aside(
    data_dir: &Path,
    known: impl Fn(TopicId) -> bool,
) -> Result<(), HostingError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HostingError::Io { path, source }
    };
    let topics = data_dir.join("topics");
    let entries = match std::fs::read_dir(&topics) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&topics)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed(&topics))?;
        let name = entry.file_name();
        let topic = name.to_str().and_then(|name| name.parse::<TopicId>().ok());
        if topic.is_some_and(&known) {
            continue;
        }
        let aside = data_dir.join("set-aside");
        std::fs::create_dir_all(&aside).map_err(failed(&aside))?;
        let to = aside.join(&name);
        tracing::warn!(from = %entry.path().display(), to = %to.display(), "data of a topic that does not exist is set aside");
        std::fs::rename(entry.path(), &to).map_err(failed(&to))?;
    }
    Ok(())
}

/// A log on disk, as the driver wants it.
struct StoredLog {
    log: Log,
    caretaker: Caretaker,
    /// What the producers' state took when it was last encoded.
    account_bytes: usize,
    /// As the broker is configured, for topics that say nothing else.
    segment_bytes_max: usize,
    /// After so many bytes a flush is due; never because of bytes, if 0.
    flush_bytes: usize,
    retention: Retention,
    /// How long records without a value stay, if older records of keys go.
    delete_retention_ms: Option<u64>,
    compaction_keys_max: usize,
}

/// What is kept of producers, if there are any.
fn account_of(producers: &ProducerTable) -> Option<Vec<u8>> {
    if producers.is_empty() {
        return None;
    }
    let account = rmp_serde::to_vec_named(producers);
    account
        .inspect_err(|error| tracing::error!(%error, "the producers' state cannot be encoded"))
        .ok()
}

impl PartitionLog for StoredLog {
    fn reserve(&mut self, bytes: usize) -> Result<(), StorageError> {
        self.log.reserve(bytes)
    }

    fn append_batch(&mut self, batch: &[u8], stamp: &LeaderStamp) -> Result<(), StorageError> {
        self.log.append_batch(batch, stamp)
    }

    fn append_entry(&mut self, entry: &[u8]) -> Result<(), StorageError> {
        self.log.append_entry(entry)
    }

    fn truncate(&mut self, to: Offset, epoch: LeaderEpoch) -> Result<(), StorageError> {
        let reason = format!("never committed; the history of leader epoch {epoch} differs");
        baton_storage::quarantine::set_aside(&self.log, to, &reason)?;
        self.log.truncate(to)
    }

    fn advance_start(&mut self, to: Offset, below: &ProducerTable) -> Result<(), StorageError> {
        let account = account_of(below);
        // Not above what is durable, whoever asks.
        let to = to.min(self.log.durable_end());
        self.log.advance_start(to, account)?;
        if let Some(job) = self.log.start_job() {
            self.caretaker.write(job);
        }
        Ok(())
    }

    fn begin_anew(&mut self, at: &Beginning, below: &ProducerTable) -> Result<(), StorageError> {
        let from = at.keep_from.max(self.log.start()).min(self.log.end());
        if from < self.log.end() {
            let reason = format!(
                "never committed; the history of leader epoch {} differs",
                at.epoch
            );
            baton_storage::quarantine::set_aside(&self.log, from, &reason)?;
        }
        let account = account_of(below);
        self.log
            .reset(at.start, at.epoch_before, account.as_deref())
    }

    fn set_policy(&mut self, policy: &TopicPolicy) {
        let cleanup = policy.cleanup();
        self.retention = match cleanup.deletes() {
            true => Retention {
                ms: policy.retention_ms,
                bytes: policy.retention_bytes,
            },
            false => Retention::default(),
        };
        let delete_retention_ms = policy.delete_retention_ms.unwrap_or(DELETE_RETENTION_MS);
        self.delete_retention_ms = cleanup.compacts().then_some(delete_retention_ms);
        let bytes = policy
            .segment_bytes
            .and_then(|bytes| usize::try_from(bytes).ok());
        self.log
            .set_segment_bytes_max(bytes.unwrap_or(self.segment_bytes_max));
    }

    fn compact(&mut self, now_ms: i64, up_to: Offset) {
        self.log.adopt_compacted();
        let Some(delete_retention_ms) = self.delete_retention_ms else {
            return;
        };
        // What is not added to any more can be compacted, and in time it should be.
        let age_ms = delete_retention_ms.max(PIECE_MS_MIN);
        let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
        self.log
            .end_segment_from_before(now_ms.saturating_sub(age_ms));
        let rules = CompactionRules {
            now_ms,
            up_to,
            delete_retention_ms,
            keys_max: self.compaction_keys_max,
        };
        if let Some(pass) = self.log.compaction(&rules) {
            let identity = self.log.identity();
            let partition = TopicPartition {
                topic: identity.topic,
                partition: identity.partition,
            };
            self.caretaker.compact(partition, pass);
        }
    }

    fn expired(&mut self, now_ms: i64) -> Option<Offset> {
        if let Some(job) = self.log.start_job() {
            self.caretaker.write(job);
        }
        if self.retention == Retention::default() {
            return None;
        }
        if let Some(ms) = self.retention.ms {
            let age_ms = (ms / PIECES_BY_TIME).max(PIECE_MS_MIN);
            let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
            self.log
                .end_segment_from_before(now_ms.saturating_sub(age_ms));
        }
        start_wanted(&self.log.extents(), &self.retention, now_ms)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Found, StorageError> {
        Ok(match self.log.glance(from, bytes_max)? {
            Glance::Here(chunk) => Found::Here(chunk),
            Glance::OnDisk => Found::Away(Box::new(self.log.read_later(from, bytes_max))),
        })
    }

    fn check(&self, entries: &Chunk) -> Result<(), StorageError> {
        self.log.check(entries)
    }

    fn keep_in_memory(&mut self, from: Option<Offset>) {
        self.log.keep_in_memory(from);
    }

    fn is_flush_due(&self) -> bool {
        self.flush_bytes > 0 && self.log.unflushed_bytes() >= self.flush_bytes
    }

    fn publish_high_watermark(&mut self, to: Offset) {
        self.log.publish_high_watermark(to);
    }

    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError> {
        let job = self.log.prepare_flush();
        Ok(Box::new(move || job.run()))
    }

    fn flushed(&mut self, done: baton_storage::FlushDone) -> Result<Offset, StorageError> {
        self.log.flushed(done)?;
        if let Some(job) = self.log.hint_job() {
            self.caretaker.write(job);
        }
        Ok(self.log.durable_end())
    }

    fn note_producers(&mut self, end: Offset, producers: &ProducerTable) {
        // The core may be ahead of the log, by effects that are still to be carried out.
        if end != self.log.end() || !self.log.account_is_due(self.account_bytes) {
            return;
        }
        match rmp_serde::to_vec_named(producers) {
            Ok(bytes) => {
                self.account_bytes = bytes.len();
                self.log.give_account(bytes);
            }
            Err(error) => tracing::error!(%error, "the producers' state cannot be encoded"),
        }
    }

    fn save_producers(&mut self, producers: &ProducerTable) -> Result<(), StorageError> {
        match rmp_serde::to_vec_named(producers) {
            Ok(bytes) => self.log.save_producers(&bytes),
            Err(error) => {
                tracing::error!(%error, "the producers' state cannot be encoded");
                Ok(())
            }
        }
    }

    fn give_room_back(&mut self) {
        self.log.give_room_back();
    }

    fn damage_is_known(&mut self) -> Result<(), StorageError> {
        self.log.damage_is_known()
    }

    fn close(&mut self) -> Result<(), StorageError> {
        self.log.close()
    }
}

#[cfg(test)]
mod tests;
