//! Three members over loopback: a command is committed, the leader goes, another takes over with
//! everything, and the one that went comes back.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_controller::state::{Command, Outcome};
use baton_protocol::ids::{BrokerId, ClusterId};
use baton_raft::{RaftConfig, RaftNode, form, identify};

const PATIENCE: Duration = Duration::from_secs(20);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

fn start(dir: &Path, broker: u32, address: &str) -> RaftNode {
    RaftNode::start(RaftConfig {
        dir: dir.join(broker.to_string()),
        broker: BrokerId(broker),
        address: address.to_owned(),
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 150,
        election_timeout_max_ms: 300,
    })
    .expect("starts")
}

async fn leader(nodes: &[RaftNode]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (i, node) in nodes.iter().enumerate() {
            if node
                .leader()
                .borrow()
                .as_ref()
                .is_some_and(|leader| leader.is_me)
            {
                return i;
            }
        }
        assert!(Instant::now() < deadline, "no leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn allocate(node: &RaftNode) -> u64 {
    match node
        .propose(Command::AllocateProducerIds { count: 10 })
        .await
    {
        Ok((_, Outcome::ProducerIds { first, .. })) => first,
        other => panic!("{other:?}"),
    }
}

/// Nodes own runtimes, which must not be dropped on a runtime's thread.
fn dispose(node: RaftNode) {
    std::thread::spawn(move || drop(node))
        .join()
        .expect("disposed");
}

#[test]
fn what_is_committed_survives_the_leader() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let dir = tempfile::tempdir().expect("dir");
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let mut nodes: Vec<RaftNode> = (0..3)
        .map(|i| start(dir.path(), i, &addresses[i as usize]))
        .collect();
    runtime.block_on(async {
        let mut members = Vec::new();
        for address in &addresses {
            let identity = identify(address, PATIENCE).await.expect("identifies");
            assert!(!identity.formed);
            members.push(identity);
        }
        let cluster_id = ClusterId(uuid::Uuid::from_u128(7));
        form(cluster_id, members.clone(), PATIENCE)
            .await
            .expect("formed");
        assert!(
            form(cluster_id, members, PATIENCE).await.is_err(),
            "formed twice"
        );
        let first = leader(&nodes).await;
        assert_eq!(allocate(&nodes[first]).await, 0);
        nodes[first].shutdown().await;
        let gone = nodes.remove(first);
        dispose(gone);
        let second = leader(&nodes).await;
        assert_eq!(allocate(&nodes[second]).await, 10);
        let (state, _) = nodes[second].follow();
        assert_eq!(state.cluster_id, cluster_id);
        let back = start_blocking(
            dir.path().to_owned(),
            first as u32,
            addresses[first].clone(),
        );
        let (_, mut commands) = back.follow();
        assert_eq!(allocate(&nodes[leader(&nodes).await]).await, 20);
        let mut seen = 0;
        while seen < 3 {
            let next = tokio::time::timeout(PATIENCE, commands.recv())
                .await
                .expect("in time");
            let applied = next.expect("goes on");
            if matches!(applied.command, Command::AllocateProducerIds { .. }) {
                seen += 1;
            }
        }
        nodes.push(back);
        for node in &nodes {
            node.shutdown().await;
        }
    });
    for node in nodes {
        dispose(node);
    }
}

fn start_blocking(dir: std::path::PathBuf, broker: u32, address: String) -> RaftNode {
    std::thread::spawn(move || start(&dir, broker, &address))
        .join()
        .expect("started")
}
