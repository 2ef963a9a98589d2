//! Where the replicas of this broker are: the table that sessions and peer connections look up.
//!
//! Read on every request, changed when a replica comes or goes; readers never wait. A change copies a
//! part of the table, which is divided for that: of ten thousand replicas each comes by itself.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::Addr;
use arc_swap::ArcSwap;
use baton_protocol::error::WireError;
use baton_protocol::ids::TopicPartition;
use baton_storage::LogReader;

use crate::actors::coordinator::Coordinator;
use crate::actors::partition::Partition;
use crate::actors::watermark::Watermark;

/// Parts of the table.
const PARTS: usize = 256;

/// A replica that this broker hosts.
pub struct Hosted {
    /// Its actor.
    pub actor: Addr<Partition>,
    /// Its log, to read from without asking the actor.
    pub reader: LogReader,
    /// The worker that it lives on.
    pub lane: u32,
    /// What it tells of itself.
    pub told: Arc<Told>,
    /// The coordinator of its groups, if it belongs to their topic.
    pub coordinator: Option<Addr<Coordinator>>,
}

/// What others know of a replica without asking it.
#[derive(Default)]
pub struct Told {
    /// How far readers may read.
    pub watermark: Watermark,
    /// Whether time alone may change something about it; see [`Replica::is_at_rest`].
    ///
    /// [`Replica::is_at_rest`]: baton_replication::Replica::is_at_rest
    pub awake: AtomicBool,
    /// Whether every record has to have a key.
    pub keyed: AtomicBool,
}

type Part = HashMap<TopicPartition, Arc<Hosted>>;

/// All replicas that this broker hosts. Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    parts: Arc<[ArcSwap<Part>]>,
    /// Why replicas that should be here are not: looked at only for an error's text.
    failed: Arc<Mutex<HashMap<TopicPartition, WireError>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Routes {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            failed: Arc::default(),
        }
    }
}

impl Routes {
    fn part(&self, partition: &TopicPartition) -> &ArcSwap<Part> {
        let topic = partition.topic.0.as_u64_pair();
        let place = (topic.0 ^ topic.1).wrapping_add(u64::from(partition.partition.0));
        &self.parts[place as usize % PARTS]
    }

    /// The replica of this partition, if it is here.
    pub fn get(&self, partition: &TopicPartition) -> Option<Arc<Hosted>> {
        self.part(partition).load().get(partition).cloned()
    }

    /// Looks at this partition's replica, if it is here.
    pub fn with<T>(
        &self,
        partition: &TopicPartition,
        then: impl FnOnce(&Hosted) -> T,
    ) -> Option<T> {
        let table = self.part(partition).load();
        table.get(partition).map(|hosted| then(hosted))
    }

    /// Adds a replica. Whether it was noted before why it is not here.
    pub fn insert(&self, partition: TopicPartition, hosted: &Arc<Hosted>) -> bool {
        self.part(&partition).rcu(|table| {
            let mut table = HashMap::clone(table);
            table.insert(partition, hosted.clone());
            table
        });
        self.failures().remove(&partition).is_some()
    }

    /// Takes a replica out.
    pub fn remove(&self, partition: &TopicPartition) -> Option<Arc<Hosted>> {
        self.failures().remove(partition);
        let before = self.part(partition).rcu(|table| {
            let mut table = HashMap::clone(table);
            table.remove(partition);
            table
        });
        before.get(partition).cloned()
    }

    /// Notes why a replica that should be here is not.
    pub fn fail(&self, partition: TopicPartition, why: WireError) {
        self.failures().insert(partition, why);
    }

    /// Why this replica, which should be here, is not.
    pub fn failure(&self, partition: &TopicPartition) -> Option<WireError> {
        self.failures().get(partition).cloned()
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<TopicPartition, WireError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all replicas, as they are now.
    pub fn for_each(&self, mut look: impl FnMut(&TopicPartition, &Hosted)) {
        for part in &*self.parts {
            for (partition, hosted) in part.load().iter() {
                look(partition, hosted);
            }
        }
    }
}
