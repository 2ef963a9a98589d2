//! Keeps true what this member shows of itself: who leads, and whether it can go on.

use std::path::PathBuf;

use baton_protocol::ids::BrokerId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state_machine::StateMachine;
use crate::types::Types;

/// The leader of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftLeader {
    /// Its broker.
    pub broker: BrokerId,
    /// Its term.
    pub term: u64,
    /// It is this node, and it has applied everything that was committed before its term.
    pub is_me: bool,
}

/// A moment at which a node led for sure: it sent then what a majority of the voters has acknowledged since, so
/// none of them had followed another by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurelyLed {
    /// Its term.
    pub term: u64,
    /// When.
    pub at: Instant,
}

/// A member has ended: it could not write its log or its snapshot, or broke down. It answers nobody
/// any more; only a new process can take its place.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "Raft cannot go on in {dir}: {reason}; see to the disk (is it full?) and start the broker again"
)]
pub struct RaftFailure {
    /// The member's directory.
    pub dir: PathBuf,
    /// Why.
    pub reason: String,
}

/// What is shown.
pub(crate) struct Shown {
    pub leader: watch::Sender<Option<RaftLeader>>,
    pub failure: watch::Sender<Option<RaftFailure>>,
}

/// Follows the library until it ends.
pub(crate) async fn keep_true(raft: Raft<Types, StateMachine>, dir: PathBuf, shown: Shown) {
    let mut metrics = raft.metrics();
    let ended = loop {
        let (leader, running) = {
            let metrics = metrics.borrow_watched();
            (leader(&metrics), metrics.running_state.clone())
        };
        if let Err(ended) = running {
            break ended;
        }
        show_leader(&shown, leader);
        if metrics.changed().await.is_err() {
            // It says why it ends before it ends, unless it panics.
            let said = metrics.borrow_watched().running_state.clone();
            break said.err().unwrap_or(Fatal::Panicked);
        }
    };
    show_leader(&shown, None);
    let reason = match ended {
        // Somebody asked for it.
        Fatal::Stopped => return,
        Fatal::Panicked => "it panicked".to_owned(),
        Fatal::StorageError(error) => error.to_string(),
    };
    shown
        .failure
        .send_replace(Some(RaftFailure { dir, reason }));
}

fn show_leader(shown: &Shown, now: Option<RaftLeader>) {
    shown.leader.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}

/// Who leads. This node counts as leader only once an entry of its own term is applied: by then it
/// has applied everything that any leader before it had committed.
pub(crate) fn leader(metrics: &RaftMetrics<Types>) -> Option<RaftLeader> {
    let leader = metrics.current_leader?;
    let broker = BrokerId(metrics.membership_config.get_node(&leader)?.broker);
    let applied_term = metrics.last_applied.map(|id| id.committed_leader_id().term);
    let leads = leader == metrics.id && metrics.state == ServerState::Leader;
    let is_me = leads && applied_term == Some(metrics.current_term);
    (is_me || !leads).then_some(RaftLeader {
        broker,
        term: metrics.current_term,
        is_me,
    })
}
