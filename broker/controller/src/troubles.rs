//! What brokers say of their own replicas: a full disk, a log that cannot be used.
//!
//! Shown to people, and no more: it is not replicated and decides nothing. It is known as long as
//! the session lasts in which it was said; the broker says it again in the next.

use std::collections::BTreeMap;

use baton_protocol::ids::{BrokerId, TopicPartition};

use crate::core::SessionId;
use crate::state::ClusterState;

/// Longest text that is kept, in characters.
const TEXT_CHARS_MAX: usize = 500;

/// What brokers say of their own replicas, by session.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaTroubles {
    told: BTreeMap<SessionId, BTreeMap<TopicPartition, String>>,
}

impl ReplicaTroubles {
    /// Takes what a broker says. Of replicas that it does not have nothing is kept.
    pub fn told(
        &mut self,
        session: SessionId,
        broker: BrokerId,
        told: Vec<(TopicPartition, Option<String>)>,
        state: &ClusterState,
    ) {
        let known = self.told.entry(session).or_default();
        for (id, trouble) in told {
            let here = state.partition(&id);
            let here = here.is_some_and(|partition| partition.replicas.contains(&broker));
            match trouble.filter(|_| here) {
                Some(text) => {
                    known.insert(id, text.chars().take(TEXT_CHARS_MAX).collect());
                }
                None => drop(known.remove(&id)),
            }
        }
    }

    /// The session is over.
    pub fn forget(&mut self, session: SessionId) {
        self.told.remove(&session);
    }

    /// What was said in this session about this partition's replica.
    pub fn of(&self, session: SessionId, id: TopicPartition) -> Option<&str> {
        self.told.get(&session)?.get(&id).map(String::as_str)
    }
}
