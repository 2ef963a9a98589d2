//! The threads that replicas and connections live on. A worker has a link of its own to each other
//! broker, and takes what comes over the corresponding link of that broker: between a replica and the
//! sockets that feed it no thread waits for another.

use std::sync::Arc;

use actix::{Arbiter, ArbiterHandle};
use baton_protocol::ids::TopicPartition;

use crate::actors::peer_link::PeerLinks;

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
pub struct Workers(Arc<[Worker]>);

impl Workers {
    /// Starts as many; for 0, one for each processor.
    pub fn start(threads: usize) -> Workers {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            threads => threads,
        };
        let worker = |lane| Worker {
            lane: lane as u32,
            arbiter: Arbiter::new().handle(),
            links: PeerLinks::default(),
        };
        Workers((0..threads).map(worker).collect())
    }

    /// All of them, in the order of their lanes.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.0.iter()
    }

    /// The worker for a lane of another broker, which may have more of them or fewer.
    pub fn of_lane(&self, lane: u32) -> &Worker {
        &self.0[lane as usize % self.0.len()]
    }

    /// The worker of a partition's replica. Stable, and the same on every broker with as many
    /// workers: so what comes for a partition comes to its own thread.
    pub fn of_partition(&self, partition: &TopicPartition) -> &Worker {
        &self.0[place(partition, self.0.len())]
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
