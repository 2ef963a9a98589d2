//! What leaves a replica: messages, answers, and work for other threads.

use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset};
use baton_protocol::peer::ReplicaMessage;
use baton_replication::event::{
    Acknowledged, Breach, FenceAnswer, HandoverProposal, Refusal, RequestId, SetProposal,
};
use baton_storage::StorageError;
use bytes::Bytes;

use super::log::{Beginning, FlushWork, ReadWork};
use super::push::Push;

/// Something that leaves the replica.
pub enum Output {
    /// A message to another replica, with the entries of an append.
    Send {
        /// To whom.
        to: BrokerId,
        /// What.
        message: ReplicaMessage,
        /// Its entries.
        payload: Bytes,
    },
    /// A producer's answer.
    Reply {
        /// Which request.
        request: RequestId,
        /// With what.
        result: Result<Acknowledged, ProduceError>,
    },
    /// A flush to be run elsewhere; its result comes back by [`Driver::flushed`].
    Flush(FlushWork),
    /// Entries to be read elsewhere; what comes of it comes back by [`Driver::read`].
    Read(Push, ReadWork),
    /// The watermark moved.
    HighWatermark(Offset),
    /// The controller's fence is answered.
    FenceAnswer(FenceAnswer),
    /// The controller is asked for another in-sync set.
    ProposeInSync(SetProposal),
    /// The controller is asked for room for offsets.
    AskOffsets {
        /// The leader's epoch.
        epoch: LeaderEpoch,
        /// The limit that is wanted.
        limit: Offset,
    },
    /// The controller is asked to name a successor.
    ProposeHandover(HandoverProposal),
    /// The lead was taken up or laid down.
    RoleChanged {
        /// The epoch it leads in now, if it does.
        leading: Option<LeaderEpoch>,
    },
    /// Entries were discarded; they are in quarantine.
    Truncated {
        /// The cut.
        to: Offset,
        /// The leader epoch that demanded it.
        epoch: LeaderEpoch,
    },
    /// The log was discarded, and begins anew.
    BeganAnew(Beginning),
    /// A peer sent what no replica sends.
    BadPeer {
        /// What is wrong with it.
        why: String,
    },
    /// The replica takes no part any more.
    Broken(BrokenReason),
}

/// Why a batch is not acknowledged.
#[derive(Debug)]
pub enum ProduceError {
    /// The core refused it.
    Refused(Refusal),
    /// There is no room, or the disk failed. Not stored.
    Storage(StorageError),
}

impl ProduceError {
    /// Whether the batch may be in the log all the same, or come to be in it: the next leader decides.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            ProduceError::Refused(refusal) => match refusal {
                Refusal::CommitTimeout | Refusal::LeaderChanged | Refusal::StorageFailed => true,
                Refusal::NotLeader
                | Refusal::NotEnoughReplicas { .. }
                | Refusal::OutOfOrder { .. }
                | Refusal::ProducerFenced { .. }
                | Refusal::NoLease
                | Refusal::OutOfOffsets => false,
            },
            ProduceError::Storage(_) => false,
        }
    }
}

/// Why a replica takes no part any more.
#[derive(Debug)]
pub enum BrokenReason {
    /// A promise was broken.
    Breach(Breach),
    /// Its storage failed.
    Storage(StorageError),
}
