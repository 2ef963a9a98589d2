//! What the core is told of batches and entries: their shapes. It never sees their bytes.

use baton_protocol::batch::{self, BatchHeader};
use baton_replication::event::EntryShape;
use baton_replication::producers::ProducerStamp;
use bytes::Bytes;

/// A batch that has been checked and may be stored as it is.
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
    pub(super) producer: Option<ProducerStamp>,
}

impl CheckedBatch {
    /// Checks what a producer sent. Done on the connection's thread, not the partition's.
    pub fn check(bytes: Bytes, message_bytes_max: usize) -> Result<Self, batch::BatchError> {
        let header = batch::validate_produced(&bytes, message_bytes_max)?;
        Ok(CheckedBatch {
            records: header.record_count(),
            producer: producer_of(&header),
            bytes,
        })
    }

    /// Checks that all of its records have keys. It is expanded for that, up to this many bytes.
    pub fn check_keys(&self, expanded_bytes_max: usize) -> Result<(), batch::BatchError> {
        let header = BatchHeader::parse(&self.bytes)?;
        batch::check_keys(&self.bytes, &header, expanded_bytes_max)
    }

    /// Its size.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is empty, which no batch is.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn producer_of(header: &BatchHeader) -> Option<ProducerStamp> {
    header.producer().map(|stamp| ProducerStamp {
        id: stamp.id,
        epoch: stamp.epoch,
        sequence: stamp.sequence,
        records: stamp.records,
    })
}

/// An entry as the core sees it.
pub fn shape_of(header: &BatchHeader) -> EntryShape {
    EntryShape {
        epoch: header.leader_epoch(),
        base: header.base_offset(),
        end: header.next_offset(),
        producer: producer_of(header),
    }
}
