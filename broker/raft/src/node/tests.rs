//! A member that cannot write any more says so; one that is empty joins a cluster once.

use baton_protocol::ids::ClusterId;

use super::*;
use crate::network::{form, identify, join};

mod lost_leader;

const PATIENCE: Duration = Duration::from_secs(20);

fn cluster(id: u128) -> ClusterId {
    ClusterId(uuid::Uuid::from_u128(id))
}

/// A group of one member, formed, and its log.
fn alone(dir: &std::path::Path) -> (RaftNode, LogStore, tokio::runtime::Runtime) {
    let (node, log, address) = unformed(dir);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(form_alone(&node, &address));
    (node, log, runtime)
}

async fn form_alone(node: &RaftNode, address: &str) {
    let me = identify(address, PATIENCE).await.expect("identifies");
    form(cluster(7), vec![me], PATIENCE).await.expect("formed");
    wait_for_leader(node, Option::is_some).await;
}

fn unformed(dir: &std::path::Path) -> (RaftNode, LogStore, String) {
    let (node_id, log, machine) = member_dir::open(dir).expect("opens");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let config = RaftConfig {
        dir: dir.to_owned(),
        broker: BrokerId(1),
        address: address.clone(),
        voters: Vec::new(),
        cluster_id: None,
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 150,
        election_timeout_max_ms: 300,
    };
    let binding = Binding::open(dir, None).expect("opens");
    let node = RaftNode::start_on(config, node_id, log.clone(), machine, binding).expect("starts");
    (node, log, address)
}

async fn wait_for_leader(node: &RaftNode, is_it: impl FnMut(&Option<RaftLeader>) -> bool) {
    let mut leader = node.leader();
    let waiting = tokio::time::timeout(PATIENCE, leader.wait_for(is_it));
    waiting.await.expect("in time").expect("is shown");
}

#[test]
fn a_log_that_cannot_be_written_ends_the_member_and_says_where_and_why() {
    let dir = tempfile::tempdir().expect("dir");
    let (node, log, runtime) = alone(dir.path());
    runtime.block_on(async {
        log.fail();
        let command = Command::AllocateProducerIds { count: 1 };
        node.propose(command).await.expect_err("not committed");
        let failure = tokio::time::timeout(PATIENCE, node.failed()).await;
        let text = failure.expect("in time").to_string();
        let path = dir.path().display().to_string();
        assert!(text.contains(&path), "{text}");
        assert!(text.contains("an earlier write failed"), "{text}");
        wait_for_leader(&node, Option::is_none).await;
    });
}

#[test]
fn a_snapshot_that_cannot_be_written_ends_the_member_too() {
    let dir = tempfile::tempdir().expect("dir");
    let (node, _, runtime) = alone(dir.path());
    runtime.block_on(async {
        std::fs::create_dir(dir.path().join("snapshot.tmp")).expect("in the way");
        let triggered = node.raft.trigger().snapshot().await;
        triggered.expect("still runs");
        let failure = tokio::time::timeout(PATIENCE, node.failed()).await;
        let text = failure.expect("in time").to_string();
        assert!(text.contains("Is a directory"), "{text}");
    });
}

#[test]
fn an_end_in_good_order_is_no_failure() {
    let dir = tempfile::tempdir().expect("dir");
    let (node, _, runtime) = alone(dir.path());
    runtime.block_on(async {
        node.shutdown().await;
        wait_for_leader(&node, Option::is_none).await;
        let failed = tokio::time::timeout(Duration::from_millis(200), node.failed());
        failed.await.expect_err("nothing failed");
    });
}

#[test]
fn an_empty_member_joins_one_cluster_and_never_another() {
    let dir = tempfile::tempdir().expect("dir");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    for round in 0..2 {
        let (node, _, address) = unformed(dir.path());
        let id = node.node_id();
        runtime.block_on(async {
            let me = identify(&address, PATIENCE).await.expect("identifies");
            assert_eq!(me.formed, round > 0);
            for _ in 0..2 {
                join(&address, id, cluster(1), PATIENCE)
                    .await
                    .expect("joins");
                let error = join(&address, id, cluster(2), PATIENCE).await;
                let text = error.expect_err("is refused").to_string();
                assert!(text.contains("it belongs to cluster"), "{text}");
            }
            let me = identify(&address, PATIENCE).await.expect("identifies");
            assert!(me.formed);
            assert_eq!(me.cluster_id, Some(cluster(1)));
            let formed = form(cluster(3), vec![me], PATIENCE).await;
            formed.expect_err("it founds no cluster of its own");
            let other = join(&address, id + 1, cluster(1), PATIENCE).await;
            other.expect_err("another node is meant");
            node.shutdown().await;
        });
    }
}

#[test]
fn a_formed_member_joins_no_other_cluster() {
    let dir = tempfile::tempdir().expect("dir");
    let (node, _, address) = unformed(dir.path());
    let id = node.node_id();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        form_alone(&node, &address).await;
        join(&address, id, cluster(7), PATIENCE)
            .await
            .expect("is there already");
        let error = join(&address, id, cluster(8), PATIENCE).await;
        error.expect_err("is refused");
    });
}
