//! The threads that replicas and connections live on. A worker has a link of its own to each other
//! broker, and takes what comes over the corresponding link of that broker: between a replica and the
//! sockets that feed it no thread waits for another.

use std::sync::{Arc, Mutex, PoisonError};

use actix::{Arbiter, ArbiterHandle};
use baton_protocol::ids::TopicPartition;

use crate::actors::peer_link::PeerLinks;

/// A thread for actors, which ends when it is told to.
pub struct OwnArbiter {
    handle: ArbiterHandle,
    thread: Mutex<Option<Arbiter>>,
}

impl OwnArbiter {
    /// Starts the thread.
    pub fn start() -> OwnArbiter {
        let arbiter = Arbiter::new();
        OwnArbiter {
            handle: arbiter.handle(),
            thread: Mutex::new(Some(arbiter)),
        }
    }

    /// To send it work.
    pub fn handle(&self) -> ArbiterHandle {
        self.handle.clone()
    }

    /// Ends the thread, with all that lives on it.
    pub fn end(&self) {
        self.handle.stop();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arbiter) = thread.take()
            && arbiter.join().is_err()
        {
            tracing::error!("a thread of actors panicked");
        }
    }
}

/// One thread.
#[derive(Clone)]
pub struct Worker {
    /// Its number, from 0.
    pub lane: u32,
    /// Its arbiter.
    pub arbiter: ArbiterHandle,
    /// Its links to the other brokers.
    pub links: PeerLinks,
}

/// All of a broker's workers. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    all: Arc<[Worker]>,
    threads: Arc<[OwnArbiter]>,
}

impl Workers {
    /// Starts as many; for 0, one for each processor.
    pub fn start(threads: usize) -> Workers {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            threads => threads,
        };
        let threads: Arc<[OwnArbiter]> = (0..threads).map(|_| OwnArbiter::start()).collect();
        let worker = |(lane, thread): (usize, &OwnArbiter)| Worker {
            lane: lane as u32,
            arbiter: thread.handle(),
            links: PeerLinks::default(),
        };
        Workers {
            all: threads.iter().enumerate().map(worker).collect(),
            threads,
        }
    }

    /// Ends all of them, with what lives on them.
    pub fn end(&self) {
        for thread in self.threads.iter() {
            thread.end();
        }
    }

    /// All of them, in the order of their lanes.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.all.iter()
    }

    /// The worker for a lane of another broker, which may have more of them or fewer.
    pub fn of_lane(&self, lane: u32) -> &Worker {
        &self.all[lane as usize % self.all.len()]
    }

    /// The worker of a partition's replica. Stable, and the same on every broker with as many
    /// workers: so what comes for a partition comes to its own thread.
    pub fn of_partition(&self, partition: &TopicPartition) -> &Worker {
        &self.all[place(partition, self.all.len())]
    }
}

fn place(partition: &TopicPartition, workers: usize) -> usize {
    let topic = partition.topic.0.as_u64_pair();
    ((topic.0 ^ topic.1).wrapping_add(u64::from(partition.partition.0)) % workers as u64) as usize
}

#[cfg(test)]
mod tests {
    use baton_protocol::ids::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn the_partitions_of_a_topic_are_spread_evenly() {
        for workers in 1..6 {
            let mut used = vec![0; workers];
            for index in 0..60 {
                let partition = TopicPartition {
                    topic: TopicId(uuid::Uuid::from_u128(0x1234_5678_9abc_def0 << 17)),
                    partition: PartitionIndex(index),
                };
                used[place(&partition, workers)] += 1;
            }
            assert!(used.iter().all(|n| *n == 60 / workers), "{used:?}");
        }
    }
}
