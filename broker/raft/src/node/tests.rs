//! A member that cannot write any more says so.

use baton_protocol::ids::ClusterId;

use super::*;
use crate::network::{form, identify};

const PATIENCE: Duration = Duration::from_secs(20);

/// A group of one member, formed, and its log.
fn alone(dir: &std::path::Path) -> (RaftNode, LogStore, tokio::runtime::Runtime) {
    let (node_id, log, machine) = member_dir::open(dir).expect("opens");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let config = RaftConfig {
        dir: dir.to_owned(),
        broker: BrokerId(1),
        address: address.clone(),
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 150,
        election_timeout_max_ms: 300,
    };
    let node = RaftNode::start_on(config, node_id, log.clone(), machine).expect("starts");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let me = identify(&address, PATIENCE).await.expect("identifies");
        let cluster_id = ClusterId(uuid::Uuid::from_u128(7));
        form(cluster_id, vec![me], PATIENCE).await.expect("formed");
        wait_for_leader(&node, Option::is_some).await;
    });
    (node, log, runtime)
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
