//! A leader whose process ends is replaced before any time-out; one voter that is cut off alone
//! replaces nobody.

use std::path::Path;

use openraft::raft::VoteRequest;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::bereaved::{Followed, Follower, Loss, agrees};
use crate::network::{Request, RequestBody, Response, call};
use crate::types::Vote;

/// An election time-out that no test lives to see; the lease is as long.
const NEVER_MS: u64 = 600_000;

/// Long enough for what takes milliseconds.
const A_WHILE: Duration = Duration::from_millis(500);

/// Three members that elect nobody for a time-out's sake.
struct Trio {
    runtime: Runtime,
    dir: TempDir,
    addresses: Vec<String>,
    nodes: Vec<RaftNode>,
}

impl Trio {
    /// Formed, with a leader that everybody follows, and is connected with.
    fn formed() -> Trio {
        let dir = tempfile::tempdir().expect("dir");
        let listeners: Vec<_> = (0..3)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("its address").to_string())
            .collect();
        drop(listeners);
        let nodes = (0..3).map(|i| start(dir.path(), i, &addresses)).collect();
        let runtime = Runtime::new().expect("runtime");
        let mut trio = Trio {
            runtime,
            dir,
            addresses,
            nodes,
        };
        trio.runtime.block_on(trio.form());
        trio.settle();
        trio
    }

    async fn form(&self) {
        let mut members = Vec::new();
        for address in &self.addresses {
            members.push(identify(address, PATIENCE).await.expect("identifies"));
        }
        let first = &self.nodes[0].raft;
        let electing = async {
            while !first.is_initialized().await.expect("runs") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            first.trigger().elect(false).await.expect("runs");
        };
        let (formed, ()) = tokio::join!(form(cluster(7), members, PATIENCE), electing);
        formed.expect("formed");
    }

    /// Waits until all follow one leader; which.
    fn settle(&mut self) -> usize {
        self.runtime.block_on(async {
            let (leader, _) = self.leader().await;
            for node in &self.nodes {
                let broker = BrokerId(leader as u32);
                wait_for_leader(node, |seen| {
                    seen.as_ref().is_some_and(|leader| leader.broker == broker)
                })
                .await;
            }
            tokio::time::sleep(A_WHILE).await;
            leader
        })
    }

    /// Which member leads, and in which term.
    async fn leader(&self) -> (usize, u64) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            for (i, node) in self.nodes.iter().enumerate() {
                let leader = node.leader.borrow().clone();
                if let Some(leader) = leader.filter(|leader| leader.is_me) {
                    return (i, leader.term);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader");
    }

    async fn allocate(&self, node: usize) -> u64 {
        let command = Command::AllocateProducerIds { count: 10 };
        match self.nodes[node].propose(command).await {
            Ok((_, Outcome::ProducerIds { first, .. })) => first,
            other => panic!("{other:?}"),
        }
    }

    /// A follower, and what it follows.
    fn follower(&mut self) -> (usize, Followed) {
        let follower = (self.settle() + 1) % 3;
        let metrics = self.nodes[follower].raft.server_metrics();
        let followed = Followed::by(&metrics.borrow_watched()).expect("it follows");
        (follower, followed)
    }
}

fn start(dir: &Path, broker: usize, addresses: &[String]) -> RaftNode {
    RaftNode::start(RaftConfig {
        dir: dir.join(broker.to_string()),
        broker: BrokerId(broker as u32),
        address: addresses[broker].clone(),
        voters: Vec::new(),
        cluster_id: None,
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: NEVER_MS,
        election_timeout_max_ms: 2 * NEVER_MS,
    })
    .expect("starts")
}

#[test]
fn a_leader_whose_process_ends_is_replaced_before_any_time_out() {
    let mut trio = Trio::formed();
    for round in 0..3 {
        let gone = trio.settle();
        assert_eq!(trio.runtime.block_on(trio.allocate(gone)), round * 20);
        let node = trio.nodes.remove(gone);
        trio.runtime.block_on(node.shutdown());
        // With its threads its sockets go, as a killed process's do.
        drop(node);
        let (next, _) = trio.runtime.block_on(trio.leader());
        let first = trio.runtime.block_on(trio.allocate(next));
        assert_eq!(first, round * 20 + 10, "what was committed is there");
        let back = start(trio.dir.path(), gone, &trio.addresses);
        trio.nodes.insert(gone, back);
    }
}

#[test]
fn a_leader_is_sure_that_it_leads_as_long_as_a_majority_says_so() {
    let mut trio = Trio::formed();
    let leader = trio.settle();
    let follower = (leader + 1) % 3;
    assert_eq!(trio.nodes[follower].surely_led().map(|led| led.at), None);
    let asked_at = tokio::time::Instant::now();
    trio.runtime.block_on(async {
        let deadline = std::time::Instant::now() + PATIENCE;
        while trio.nodes[leader].surely_led().map(|led| led.at) < Some(asked_at) {
            assert!(std::time::Instant::now() < deadline, "it is not sure");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    // One follower makes a majority with the leader, none does not.
    for (away, sure) in [(1, true), (2, false)] {
        let node = &trio.nodes[(leader + away) % 3];
        let away_at = trio.runtime.block_on(async {
            node.shutdown().await;
            tokio::time::sleep(A_WHILE).await;
            let away_at = tokio::time::Instant::now();
            tokio::time::sleep(A_WHILE).await;
            away_at
        });
        assert!(
            trio.nodes[leader].surely_led().map(|led| led.at) <= Some(tokio::time::Instant::now())
        );
        assert_eq!(
            trio.nodes[leader].surely_led().map(|led| led.at) > Some(away_at),
            sure
        );
        assert!(
            trio.nodes[leader]
                .leader
                .borrow()
                .as_ref()
                .is_some_and(|l| l.is_me)
        );
    }
}

#[test]
fn a_voter_that_is_cut_off_alone_deposes_nobody() {
    let mut trio = Trio::formed();
    let (follower, mut followed) = trio.follower();
    let raft = trio.nodes[follower].raft.clone();
    trio.runtime.block_on(async {
        let before = trio.leader().await;
        // To this voter alone the leader seems to be there, and then gone.
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        followed.address = port.local_addr().expect("its address").to_string();
        let loss = Loss::none();
        let watching = Follower {
            raft,
            loss: loss.clone(),
        };
        let (reign, cut_off) = (followed.reign, followed.clone());
        let watching = tokio::spawn(async move { watching.attend(&cut_off).await });
        let (socket, _) = port.accept().await.expect("it connects");
        drop((socket, port));
        let deadline = std::time::Instant::now() + PATIENCE;
        while !loss.is_of(&reign) {
            assert!(std::time::Instant::now() < deadline, "it notices nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It asks again and again, and is told no.
        tokio::time::sleep(2 * A_WHILE).await;
        assert_eq!(trio.leader().await, before);
        let (vote, _) = crate::bereaved::standing(&trio.nodes[follower].raft)
            .await
            .expect("runs");
        assert_eq!(vote, reign, "it has not so much as raised its term");
        watching.abort();
    });
}

#[test]
fn a_voter_that_hears_its_leader_gives_its_vote_to_nobody_else_whatever_the_request_says() {
    let mut trio = Trio::formed();
    let (follower, _) = trio.follower();
    let candidate = trio.nodes[(follower + 1) % 3].node_id();
    trio.runtime.block_on(async {
        let before = trio.leader().await;
        let to = Some(trio.nodes[follower].node_id());
        let standing = crate::bereaved::standing(&trio.nodes[follower].raft).await;
        let (_, last_log_id) = standing.expect("runs");
        let body = RequestBody::Vote(VoteRequest {
            vote: Vote::new(before.1 + 1, candidate),
            last_log_id,
            leadership_transfer: true,
        });
        let asked = call(&trio.addresses[follower], &Request { to, body }, PATIENCE).await;
        match asked.expect("answers") {
            Response::Vote(answer) => assert!(!answer.vote_granted, "{answer:?}"),
            _ => panic!("an answer to another question"),
        }
        assert_eq!(trio.leader().await, before);
    });
}

#[test]
fn a_voter_agrees_only_to_what_it_finds_itself_and_to_no_shorter_log() {
    let mut trio = Trio::formed();
    let (follower, followed) = trio.follower();
    let raft = &trio.nodes[follower].raft;
    let loss = Loss::none();
    trio.runtime.block_on(async {
        let standing = crate::bereaved::standing(raft).await;
        let (reign, last) = standing.expect("runs");
        assert_eq!(reign, followed.reign);
        assert!(last.is_some(), "the cluster's identity is in the log");
        assert!(!agrees(raft, &loss, &reign, last).await, "it hears it");
        loss.set(Some(reign));
        assert!(agrees(raft, &loss, &reign, last).await);
        assert!(!agrees(raft, &loss, &reign, None).await, "a shorter log");
        let earlier = Vote::new_committed(0, 1);
        assert!(!agrees(raft, &loss, &earlier, last).await, "another reign");
    });
}
