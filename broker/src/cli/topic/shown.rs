//! A topic as `--json` shows it: what its users and operators can do something with, under names that
//! mean one thing each. What the brokers' protocols keep beside it is their own matter.

use baton_protocol::ids::LeaderEpoch;
use baton_protocol::metadata::{PartitionRecord, TopicConfig, TopicRecord};
use serde_json::{Value, json};

/// All of it.
pub fn topic(topic: &TopicRecord) -> Value {
    let partitions = topic.partitions.iter().map(|one| partition(one));
    json!({
        "name": topic.name, "id": topic.id, "config": config(&topic.config),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

/// What it was made with, or set to since.
pub fn config(config: &TopicConfig) -> Value {
    let policy = &config.policy;
    json!({
        "replicas": config.replicas, "sync_followers": config.sync_followers,
        "flush": config.flush, "unclean_election": config.unclean_election,
        "policy": {
            "cleanup": policy.cleanup, "retention_ms": policy.retention_ms,
            "retention_bytes": policy.retention_bytes,
            "delete_retention_ms": policy.delete_retention_ms,
            "segment_bytes": policy.segment_bytes, "timestamps": policy.timestamps,
        },
    })
}

/// One of its partitions. A broker's life is numbered as in `baton cluster status`, and is no leader epoch.
pub fn partition(partition: &PartitionRecord) -> Value {
    let leader = partition.leader;
    let lossy = partition.lossy_epoch;
    json!({
        "replicas": partition.replicas, "epoch": partition.epoch,
        "leader": leader.map(|leader| json!({"broker": leader.broker, "life": leader.epoch})),
        "in_sync": partition.in_sync, "suspects": partition.suspects,
        "sync_followers": partition.sync_followers_commit,
        "offset_floor": partition.offset_floor,
        "lossy_epoch": (lossy != LeaderEpoch::NONE).then_some(lossy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_no_inner_state_and_one_name_for_each_thing() {
        let record = json!({
            "replicas": [1, 2], "leader": {"broker": 2, "epoch": 17}, "epoch": 3, "in_sync": [1, 2],
            "suspects": [], "version": 4, "sync_followers_commit": 1, "sync_followers_elect": 1,
            "offset_limit": 9, "offset_floor": 0, "lossy_epoch": LeaderEpoch::NONE,
            "leader_keeps": u64::MAX, "begins": [],
        });
        let record: PartitionRecord = serde_json::from_value(record).expect("sound");
        let expected = json!({
            "replicas": [1, 2], "leader": {"broker": 2, "life": 17}, "epoch": 3, "in_sync": [1, 2],
            "suspects": [], "sync_followers": 1, "offset_floor": 0, "lossy_epoch": null,
        });
        assert_eq!(partition(&record), expected);
    }
}
