//! A log in memory whose unflushed tail a power cut loses.

use std::sync::{Arc, Mutex, MutexGuard};

use baton::driver::{FlushWork, PartitionLog};
use baton_protocol::batch::{BatchHeader, assign, entry_crc};
use baton_protocol::ids::{LeaderEpoch, Offset};
use baton_replication::producers::ProducerTable;
use baton_storage::{Chunk, FlushDone, StorageError};
use bytes::Bytes;

/// What is on a disk: entries with their headers, and how many are flushed.
#[derive(Default)]
pub struct Content {
    pub entries: Vec<(BatchHeader, Vec<u8>)>,
    pub flushed: usize,
    generation: u64,
}

impl Content {
    pub fn end(&self) -> Offset {
        self.entries
            .last()
            .map_or(Offset::ZERO, |entry| entry.0.next_offset())
    }

    pub fn flushed_end(&self) -> Offset {
        let last = self.flushed.checked_sub(1).map(|last| &self.entries[last]);
        last.map_or(Offset::ZERO, |entry| entry.0.next_offset())
    }

    /// The machine loses power: of what is not flushed, only the first `kept` entries remain.
    pub fn lose_power(&mut self, kept: usize) {
        self.entries.truncate(self.flushed + kept);
    }
}

/// A disk; the simulation and the log on it share it.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Content>>);

impl Disk {
    pub fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("one thread")
    }
}

impl PartitionLog for Disk {
    fn reserve(&mut self, _: usize) -> Result<(), StorageError> {
        Ok(())
    }

    fn append_batch(
        &mut self,
        batch: &[u8],
        base: Offset,
        epoch: LeaderEpoch,
    ) -> Result<(), StorageError> {
        let mut batch = batch.to_vec();
        assign(&mut batch, base, epoch);
        let mut entry = entry_crc(&batch).to_be_bytes().to_vec();
        entry.extend_from_slice(&batch);
        self.append_entry(&entry)
    }

    fn append_entry(&mut self, entry: &[u8]) -> Result<(), StorageError> {
        let header = BatchHeader::parse(&entry[4..]).expect("a batch");
        let mut content = self.lock();
        assert!(
            header.base_offset() >= content.end(),
            "entries follow one another"
        );
        content.entries.push((header, entry.to_vec()));
        Ok(())
    }

    fn truncate(&mut self, to: Offset, _: LeaderEpoch) -> Result<(), StorageError> {
        let mut content = self.lock();
        content.entries.retain(|entry| entry.0.next_offset() <= to);
        content.flushed = content.flushed.min(content.entries.len());
        content.generation += 1;
        Ok(())
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Option<Chunk>, StorageError> {
        let content = self.lock();
        let mut bytes = Vec::new();
        let (mut base, mut end) = (None, from);
        for (header, entry) in content
            .entries
            .iter()
            .filter(|entry| entry.0.next_offset() > from)
        {
            if base.is_some() && bytes.len() + entry.len() > bytes_max {
                break;
            }
            base.get_or_insert(header.base_offset());
            bytes.extend_from_slice(entry);
            end = header.next_offset();
        }
        let bytes = Bytes::from(bytes);
        Ok(base.map(|base| Chunk { base, end, bytes }))
    }

    fn publish_high_watermark(&mut self, _: Offset) {}

    fn prepare_flush(&mut self) -> Result<FlushWork, StorageError> {
        let content = self.lock();
        let (end, generation) = (content.end(), content.generation);
        Ok(Box::new(move || Ok(FlushDone { end, generation })))
    }

    fn flushed(&mut self, done: FlushDone) -> Result<Offset, StorageError> {
        let mut content = self.lock();
        if done.generation == content.generation {
            let flushed = content
                .entries
                .iter()
                .filter(|entry| entry.0.next_offset() <= done.end);
            content.flushed = content.flushed.max(flushed.count());
        }
        Ok(content.flushed_end())
    }

    fn save_producers(&mut self, _: &ProducerTable) -> Result<(), StorageError> {
        Ok(())
    }

    fn damage_is_known(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}
