//! What those who watch are told of: everything that an invariant may depend on.

use baton_controller::command::Elected;
use baton_controller::session::FenceAnswer;
use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, TopicPartition};
use baton_protocol::metadata::PartitionRecord;

use crate::disk::News;
use crate::oracle::{RecordId, Told};
use crate::schedule::ClientIndex;

pub enum Observation {
    /// A replica was given something to do.
    Stepped(BrokerId, TopicPartition),
    /// A process has opened a replica's log.
    Opened(BrokerId, TopicPartition),
    /// A log changed.
    Disk(BrokerId, News),
    /// A disk changed by a fault.
    DiskChanged,
    /// A command was committed.
    MetadataChanged,
    /// A replica's watermark moved.
    HighWatermark(BrokerId, TopicPartition, Offset),
    /// A replica took the lead.
    Leads(BrokerId, TopicPartition, LeaderEpoch),
    /// A replica answered a fence.
    FenceAnswered(FenceAnswer),
    /// A producer's batch was acknowledged by a leader that leads in `epoch`.
    Acknowledged {
        broker: BrokerId,
        partition: TopicPartition,
        epoch: Option<LeaderEpoch>,
        told: Told,
    },
    /// A producer's batch, from this record on, was acknowledged by a leader that vouches for itself
    /// only.
    AcknowledgedByLeader {
        broker: BrokerId,
        partition: TopicPartition,
        first: RecordId,
    },
    /// An election has ended. `before` is what the metadata said of the partition until then.
    Elected {
        elected: Elected,
        before: PartitionRecord,
    },
    /// A leader's reign has ended: its broker is held for dead, or lives another life.
    Deposed {
        partition: TopicPartition,
        leader: BrokerLife,
        epoch: LeaderEpoch,
    },
    /// A leader took members out of its in-sync set. This is what the metadata says since.
    Shrunk(TopicPartition, PartitionRecord),
    /// A consumer read a record.
    Read {
        consumer: ClientIndex,
        broker: BrokerId,
        partition: TopicPartition,
        offset: Offset,
        record: RecordId,
    },
}
