//! Replicas that cannot do their part: who asks how the cluster is, or for the replica, is told why.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `cluster status` says it.
fn wait_for_status(cluster: &Cluster, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = text(&cluster.run(&["cluster", "status"]).stdout);
        if status.contains(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "no {wanted:?} in {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Puts a file where a directory is wanted.
fn obstruct(dir: &Path) {
    if dir.exists() {
        std::fs::rename(dir, dir.with_extension("away")).expect("moved");
    }
    std::fs::create_dir_all(dir.parent().expect("a parent")).expect("made");
    std::fs::write(dir, b"in the way").expect("written");
}

#[test]
fn a_replica_that_cannot_be_opened_is_named_with_the_reason() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    for name in ["t", "solo"] {
        let replicas = if name == "t" { "3" } else { "1" };
        let made = cluster.run(&["topic", "create", name, "--replicas", replicas]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    let topics = cluster.run(&["topic", "list", "--json"]);
    let topics: serde_json::Value = serde_json::from_slice(&topics.stdout).expect("JSON");
    let solo_on = topics["solo"]["partitions"][0]["replicas"][0].to_string();
    cluster.end();
    for (topic, broker) in [("t", "2"), ("solo", &solo_on)] {
        let id = topics[topic]["id"].as_str().expect("an id");
        let broker = dir.path().join(format!("broker-{broker}"));
        obstruct(&broker.join("topics").join(id).join("0"));
    }
    let cluster = Cluster::start(dir.path(), port);
    wait_for_status(&cluster, "\nt\t0\tdegraded\tbroker 2 cannot use its log (");
    wait_for_status(
        &cluster,
        &format!("; broker {solo_on} cannot use its log ("),
    );
    let described = cluster.run(&["topic", "describe", "t"]);
    let said = text(&described.stderr);
    assert!(said.contains("t/0: broker 2 cannot use its log"), "{said}");
    let mut http = TcpStream::connect(("127.0.0.1", port + 300)).expect("connected");
    http.write_all(b"GET /api/cluster HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("asked");
    let mut page = String::new();
    http.read_to_string(&mut page).expect("answered");
    assert!(page.contains("broker 2 cannot use its log"), "{page}");
}

#[test]
fn a_producer_is_told_why_the_leader_cannot_lead() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    for id in 1..=3 {
        obstruct(&dir.path().join(format!("broker-{id}")).join("topics"));
    }
    let made = cluster.run(&["topic", "create", "t"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    wait_for_status(&cluster, "; broker 2 cannot use its log (");
    let mut produce = baton()
        .args(["produce", "t", "--delivery-timeout", "2", "--bootstrap"])
        .arg(cluster.bootstrap().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = produce.stdin.take().expect("stdin");
    stdin.write_all(b"a\n").expect("written");
    drop(stdin);
    let said = text(&produce.wait_with_output().expect("ends").stderr);
    assert!(
        said.contains(", which leads t/0, cannot use its log"),
        "{said}"
    );
}

/// Lets each broker open `more` files than it has open; none: as many as it may.
fn limit_files(cluster: &Cluster, more: Option<u64>) {
    for id in 1..=3 {
        let pid = cluster.pid(id);
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("listed");
        let open = open.count() as u64;
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = more.map(|more| open + more).or(maximum);
        let pid = Pid::from_raw(pid).expect("a pid");
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).expect("set");
    }
}

#[test]
fn brokers_without_open_files_live_on_and_take_up_what_they_could_not_open() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let pids = [1, 2, 3].map(|id| cluster.pid(id));
    limit_files(&cluster, Some(40));
    let made = cluster.run(&["topic", "create", "t", "--partitions", "60"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    wait_for_status(
        &cluster,
        "open files left (let the broker open more: `ulimit -n`",
    );
    limit_files(&cluster, None);
    // Every partition gets a share of them.
    let mut produce = baton()
        .args(["produce", "t", "--bootstrap"])
        .arg(cluster.bootstrap().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = produce.stdin.take().expect("stdin");
    let input: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let said = text(&produce.wait_with_output().expect("ends").stdout);
    assert!(said.starts_with("20000 records acknowledged"), "{said}");
    wait_for_status(&cluster, "\nall 60 partitions are led and fully replicated");
    assert_eq!(pids, [1, 2, 3].map(|id| cluster.pid(id)), "none has ended");
    cluster.end();
}
