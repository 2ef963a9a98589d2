//! What has happened between two states of the metadata, for people.

use std::sync::Arc;

use baton_protocol::ids::{BrokerId, PartitionIndex};
use baton_protocol::inspect::Happening;
use baton_protocol::metadata::{PartitionRecord, TopicRecord};

use crate::state::ClusterState;

/// What has happened, in an order in which one may have led to the other.
pub fn between(before: &ClusterState, after: &ClusterState) -> Vec<Happening> {
    let mut events = Vec::new();
    brokers(before, after, &mut events);
    for (id, topic) in &after.topics {
        match before.topics.get(id) {
            Some(old) if Arc::ptr_eq(old, topic) => {}
            Some(old) => changed(old, topic, &mut events),
            None => events.push(Happening::TopicCreated {
                topic: topic.name.clone(),
                partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
            }),
        }
    }
    for (id, topic) in &before.topics {
        if !after.topics.contains_key(id) {
            let topic = topic.name.clone();
            events.push(Happening::TopicDeleted { topic });
        }
    }
    events
}

fn brokers(before: &ClusterState, after: &ClusterState, events: &mut Vec<Happening>) {
    for (id, record) in &after.brokers {
        let broker = *id;
        let old = before.brokers.get(id);
        let same_life = old.filter(|old| old.epoch == record.epoch);
        if same_life.is_none() {
            let life = record.epoch;
            events.push(Happening::BrokerRegistered { broker, life });
        }
        match (same_life.is_some_and(|old| old.fenced), record.fenced) {
            (false, true) => events.push(Happening::BrokerDown { broker }),
            (true, false) => events.push(Happening::BrokerUp { broker }),
            _ => {}
        }
    }
}

fn changed(old: &TopicRecord, new: &TopicRecord, events: &mut Vec<Happening>) {
    if old.config.sync_followers != new.config.sync_followers {
        events.push(Happening::SyncFollowersSet {
            topic: new.name.clone(),
            sync_followers: new.config.sync_followers,
        });
    }
    if old.config.policy != new.config.policy {
        events.push(Happening::PolicySet {
            topic: new.name.clone(),
            policy: new.config.policy,
        });
    }
    let pairs = old.partitions.iter().zip(&new.partitions);
    for (index, (old, record)) in (0..).zip(pairs) {
        if !Arc::ptr_eq(old, record) {
            partition(&new.name, PartitionIndex(index), old, record, events);
        }
    }
}

fn partition(
    topic: &str,
    partition: PartitionIndex,
    old: &PartitionRecord,
    new: &PartitionRecord,
    events: &mut Vec<Happening>,
) {
    let name = || topic.to_owned();
    let suspected = new.suspects.difference(&old.suspects);
    events.extend(suspected.map(|broker| Happening::Suspected {
        topic: name(),
        partition,
        broker: *broker,
    }));
    let epoch = new.epoch;
    let is_another = old.epoch != epoch || old.leader != new.leader;
    match new.leader {
        Some(leader) if is_another => events.push(Happening::LeaderNamed {
            topic: name(),
            partition,
            leader: leader.broker,
            epoch,
            may_have_lost: new.lossy_epoch == epoch,
        }),
        None if is_another => events.push(Happening::LeaderLost {
            topic: name(),
            partition,
            leader: old.leader.map(|leader| leader.broker),
            epoch,
        }),
        _ => {}
    }
    let left: Vec<BrokerId> = old.in_sync.difference(&new.in_sync).copied().collect();
    let joined: Vec<BrokerId> = new.in_sync.difference(&old.in_sync).copied().collect();
    if !left.is_empty() || !joined.is_empty() {
        events.push(Happening::InSyncChanged {
            topic: name(),
            partition,
            left,
            joined,
        });
    }
    let cleared = old.suspects.difference(&new.suspects);
    events.extend(cleared.map(|broker| Happening::Cleared {
        topic: name(),
        partition,
        broker: *broker,
    }));
}
