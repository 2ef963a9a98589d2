//! What those are told who wait for what becomes of a batch.

use baton_protocol::client::ResponseBody;
use baton_protocol::error::{ErrorCode, WireError};
use baton_replication::event::{Acknowledged, Refusal};
use tokio::sync::oneshot;

use super::Partition;
use crate::actors::answer::Answer;
use crate::driver::ProduceError;
use crate::groups::host::Fate;

/// Who waits for what becomes of a batch.
pub(super) enum Waiting {
    /// A client.
    Client(Answer),
    /// The coordinator of this partition's groups.
    Coordinator(oneshot::Sender<Fate>),
}

impl Partition {
    pub(super) fn answer(&self, waiting: Waiting, result: Result<Acknowledged, ProduceError>) {
        match waiting {
            Waiting::Client(answer) => {
                answer.send(result.map(produced).map_err(|error| self.wire_error(error)));
            }
            Waiting::Coordinator(done) => {
                let fate = match result {
                    Ok(_) => Fate::Committed,
                    Err(error) if error.is_outcome_unknown() => Fate::Unknown,
                    Err(error) => Fate::NotStored(self.wire_error(error).code),
                };
                // Whoever asked may be gone.
                done.send(fate).ok();
            }
        }
    }

    pub(super) fn refusal_error(&self, refusal: &Refusal) -> WireError {
        if matches!(refusal, Refusal::NotLeader)
            && let Some(of) = self.driver.waits_for_room()
        {
            return WireError::new(
                ErrorCode::StorageFull,
                format!(
                    "the broker that shall lead has no {} to begin; {}",
                    of.what(),
                    of.remedy()
                ),
            );
        }
        refusal_error(refusal)
    }

    fn wire_error(&self, error: ProduceError) -> WireError {
        match error {
            ProduceError::Refused(refusal) => self.refusal_error(&refusal),
            ProduceError::Storage(error) => match error.shortage() {
                Some(of) => WireError::new(
                    ErrorCode::StorageFull,
                    format!("the leader has no {}: {error}; {}", of.what(), of.remedy()),
                ),
                None => WireError::new(ErrorCode::StorageFailed, error.to_string()),
            },
        }
    }
}

fn produced(acknowledged: Acknowledged) -> ResponseBody {
    ResponseBody::Produced {
        base_offset: acknowledged.base,
        epoch: acknowledged.epoch,
    }
}

/// Whoever asked knows of which partition.
fn refusal_error(refusal: &Refusal) -> WireError {
    let (code, text) = match refusal {
        Refusal::NotLeader => (
            ErrorCode::NotLeader,
            "this broker does not lead the partition".into(),
        ),
        Refusal::NotEnoughReplicas { reachable, needed } => (
            ErrorCode::NotEnoughReplicas,
            format!(
                "{needed} in-sync replicas are needed, {reachable} can be reached (`baton cluster status` may say why); not stored"
            ),
        ),
        Refusal::NoLease => (
            ErrorCode::NotLeader,
            "no controller confirms that this broker still leads it".into(),
        ),
        Refusal::CommitTimeout => (
            ErrorCode::CommitTimeout,
            "stored by the leader, but not by enough followers in time; outcome unknown".into(),
        ),
        Refusal::LeaderChanged => (
            ErrorCode::LeaderChanged,
            "the leader changed before the commit; outcome unknown".into(),
        ),
        Refusal::OutOfOrder { expected } => (
            ErrorCode::OutOfOrderSequence,
            format!("the producer's next sequence is {expected}; not stored"),
        ),
        Refusal::ProducerFenced { current } => (
            ErrorCode::ProducerFenced,
            format!("the producer's epoch is {current} by now; not stored"),
        ),
        Refusal::OutOfOffsets => (
            ErrorCode::Unavailable,
            "the leader waits for the controller to grant it more offsets; not stored".into(),
        ),
        Refusal::StorageFailed => (
            ErrorCode::StorageFailed,
            "the leader's disk failed; outcome unknown".into(),
        ),
    };
    WireError::new(code, text)
}
