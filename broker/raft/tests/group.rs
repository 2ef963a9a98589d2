//! Three members over loopback: what is committed survives the loss of a leader, and of a disk.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_controller::command::{Command, Outcome};
use baton_protocol::ids::{BrokerId, ClusterId};
use baton_raft::{ConfiguredVoter, RaftConfig, RaftNode, form, identify};

const PATIENCE: Duration = Duration::from_secs(20);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

/// Starts the member of the broker with this number.
fn start(dir: &Path, broker: usize, addresses: &[String]) -> RaftNode {
    let voters = addresses
        .iter()
        .zip(0..)
        .map(|(address, id)| ConfiguredVoter {
            broker: BrokerId(id),
            address: address.clone(),
        });
    RaftNode::start(RaftConfig {
        dir: dir.join(broker.to_string()),
        broker: BrokerId(broker as u32),
        address: addresses[broker].clone(),
        voters: voters.collect(),
        cluster_id: None,
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

/// Starts one on a thread of its own: nodes bring a runtime, which starts on no runtime's thread.
fn start_again(dir: &Path, broker: usize, addresses: &[String]) -> RaftNode {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| start(dir, broker, addresses));
        started.join().expect("started")
    })
}

async fn form_of(addresses: &[String]) -> ClusterId {
    let mut members = Vec::new();
    for address in addresses {
        let identity = identify(address, PATIENCE).await.expect("identifies");
        assert!(!identity.formed);
        members.push(identity);
    }
    let cluster_id = ClusterId(uuid::Uuid::from_u128(7));
    let alone = vec![members[0].clone()];
    let formed = form(cluster_id, alone, PATIENCE).await;
    formed.expect_err("not without the other voters");
    form(cluster_id, members.clone(), PATIENCE)
        .await
        .expect("formed");
    let formed = form(cluster_id, members, PATIENCE).await;
    formed.expect_err("formed twice");
    cluster_id
}

#[test]
fn what_is_committed_survives_the_leader() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let dir = tempfile::tempdir().expect("dir");
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let mut nodes: Vec<RaftNode> = (0..3).map(|i| start(dir.path(), i, &addresses)).collect();
    runtime.block_on(async {
        let cluster_id = form_of(&addresses).await;
        let first = leader(&nodes).await;
        assert_eq!(allocate(&nodes[first]).await, 0);
        nodes[first].shutdown().await;
        let gone = nodes.remove(first);
        dispose(gone);
        let second = leader(&nodes).await;
        assert_eq!(allocate(&nodes[second]).await, 10);
        let (state, _) = nodes[second].follow();
        assert_eq!(state.cluster_id, cluster_id);
        let back = start_again(dir.path(), first, &addresses);
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

/// Commits `count` commands, many at a time.
async fn allocate_many(nodes: &[RaftNode], count: u64) {
    let leader = &nodes[leader(nodes).await];
    for _ in 0..count / 200 {
        futures::future::join_all((0..200).map(|_| allocate(leader))).await;
    }
}

/// Broker `broker` loses its disk, comes back with an empty one, and gets its vote back.
async fn wipe(dir: &Path, nodes: &mut [RaftNode], broker: usize, addresses: &[String]) {
    let old = nodes[broker].node_id();
    nodes[broker].shutdown().await;
    let place = &mut nodes[broker];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The port is taken until the old one has been dropped.
            let elsewhere = dir.join("elsewhere");
            let filler = [free_address()];
            drop(std::mem::replace(place, start(&elsewhere, 0, &filler)));
            std::fs::remove_dir_all(dir.join(broker.to_string())).expect("wiped");
            *place = start(dir, broker, addresses);
        });
    });
    let new = nodes[broker].node_id();
    assert_ne!(old, new);
    let me = identify(&addresses[broker], PATIENCE)
        .await
        .expect("identifies");
    let formed = form(ClusterId(uuid::Uuid::from_u128(8)), vec![me], PATIENCE).await;
    formed.expect_err("a wiped voter founds no cluster");
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        // Both have a vote while the change is joint: it must come out of that.
        let voters = nodes[broker].voters();
        if voters.contains_key(&new) && !voters.contains_key(&old) {
            assert_eq!(voters.len(), 3, "{voters:?}");
            return;
        }
        assert!(Instant::now() < deadline, "no vote: {voters:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_voter_that_lost_its_disk_gets_its_vote_back() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let dir = tempfile::tempdir().expect("dir");
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let mut nodes: Vec<RaftNode> = (0..3).map(|i| start(dir.path(), i, &addresses)).collect();
    runtime.block_on(async {
        let cluster_id = form_of(&addresses).await;
        // More than the log keeps: what is wiped gets a snapshot.
        allocate_many(&nodes, 5_400).await;
        // One after the other, each of the three; the leader among them.
        for wiped in 0..3 {
            wipe(dir.path(), &mut nodes, wiped, &addresses).await;
            let snapshot = dir.path().join(wiped.to_string()).join("snapshot");
            assert!(snapshot.exists(), "the log alone cannot have been enough");
        }
        let gone = leader(&nodes).await;
        nodes[gone].shutdown().await;
        dispose(nodes.remove(gone));
        let leader = leader(&nodes).await;
        assert_eq!(allocate(&nodes[leader]).await, 54_000);
        let (state, _) = nodes[leader].follow();
        assert_eq!(state.cluster_id, cluster_id);
        assert_eq!(state.next_producer_id, 54_010);
    });
    for node in nodes {
        dispose(node);
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[test]
fn a_leader_whose_disk_was_put_back_overwrites_nothing() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let dir = tempfile::tempdir().expect("dir");
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let start_all = || (0..3).map(|i| start(dir.path(), i, &addresses)).collect();
    let end_all = |nodes: Vec<RaftNode>| {
        for node in nodes {
            runtime.block_on(node.shutdown());
            drop(node);
        }
    };
    let nodes: Vec<RaftNode> = start_all();
    let led = runtime.block_on(async {
        form_of(&addresses).await;
        let led = leader(&nodes).await;
        assert_eq!(allocate(&nodes[led]).await, 0);
        led
    });
    end_all(nodes);
    let (present, copy) = (dir.path().join(led.to_string()), dir.path().join("copy"));
    copy_dir(&present, &copy);
    let nodes: Vec<RaftNode> = start_all();
    runtime.block_on(async {
        for expected in 1..=5 {
            let leader = &nodes[leader(&nodes).await];
            assert_eq!(allocate(leader).await, expected * 10);
        }
    });
    end_all(nodes);
    std::fs::remove_dir_all(&present).expect("removed");
    std::fs::rename(&copy, &present).expect("put back");
    let nodes: Vec<RaftNode> = start_all();
    runtime.block_on(async {
        let leader = &nodes[leader(&nodes).await];
        assert_eq!(allocate(leader).await, 60, "what was committed is there");
    });
    end_all(nodes);
}
