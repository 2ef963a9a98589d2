//! The command line as a user meets it.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use baton_client::{ProducerConfig, Record, TopicSettings};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_goes_in_comes_out_and_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    for (name, followers) in [("none", "0"), ("one", "1"), ("all", "2")] {
        let made = cluster.run(&["topic", "create", name, "--sync-followers", followers]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let mut produce = baton()
            .args([
                "produce",
                name,
                "--bootstrap",
                &cluster.bootstrap().join(","),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let input: String = (0..1_000).map(|i| format!("line {i}\n")).collect();
        produce
            .stdin
            .take()
            .expect("stdin")
            .write_all(input.as_bytes())
            .expect("written");
        let produced = produce.wait_with_output().expect("ends");
        assert!(produced.status.success());
        assert!(text(&produced.stdout).starts_with("1000 records acknowledged"));
        let consumed = cluster.run(&["consume", name, "--from-start", "--until-end"]);
        assert_eq!(text(&consumed.stdout), input);
    }
    cluster.end();
    let cluster = Cluster::start(dir.path(), port);
    let consumed = cluster.run(&[
        "consume",
        "one",
        "--from-start",
        "--until-end",
        "--count",
        "3",
    ]);
    assert_eq!(text(&consumed.stdout), "line 0\nline 1\nline 2\n");
    let deleted = cluster.run(&["topic", "delete", "one", "--yes"]);
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    let listed = cluster.run(&["topic", "list", "--json"]);
    let topics: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let names: Vec<&String> = topics.as_object().expect("topics").keys().collect();
    assert_eq!(names, ["all", "none"]);
}

#[test]
fn a_killed_dev_leaves_no_broker_behind() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let pids: Vec<Pid> = (1..=3)
        .map(|id| Pid::from_raw(cluster.pid(id)).expect("a pid"))
        .collect();
    kill_process(
        Pid::from_raw(cluster.dev_pid()).expect("a pid"),
        Signal::KILL,
    )
    .expect("killed");
    let deadline = Instant::now() + PATIENCE;
    for pid in pids {
        while test_kill_process(pid).is_ok() {
            assert!(Instant::now() < deadline, "a broker lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_and_ends_with_the_right_code() {
    let dir = tempfile::tempdir().expect("dir");
    let port = free_ports();
    let cluster = Cluster::start(dir.path(), port);
    let other = tempfile::tempdir().expect("dir");
    let elsewhere = other.path().to_str().expect("a path");
    let taken = dir.path().join("broker-1");
    let taken = taken.to_str().expect("a path");
    let free = free_ports().to_string();
    let listen = format!("127.0.0.1:{free}");
    for (args, code, said) in [
        (vec!["topic", "create", "no spaces"], 1, "no spaces"),
        (
            vec!["topic", "describe", "nothing"],
            1,
            "no topic named `nothing`",
        ),
        (
            vec!["topic", "create", "wide", "--replicas", "9"],
            1,
            "3 brokers are alive",
        ),
        (vec!["topic", "delete", "nothing"], 1, "--yes"),
        (vec!["produce", "nothing"], 1, "no topic named `nothing`"),
        (vec!["topic", "crate"], 2, "unrecognized subcommand"),
        (
            vec!["dev", "--data-dir", elsewhere, "--port", &port.to_string()],
            1,
            "--port",
        ),
        (
            vec![
                "dev",
                "--data-dir",
                dir.path().to_str().expect("a path"),
                "--port",
                &free,
            ],
            1,
            "--data-dir",
        ),
        (
            vec![
                "broker",
                "start",
                "--id",
                "1",
                "--data-dir",
                taken,
                "--listen",
                &listen,
            ],
            1,
            "in use",
        ),
        (
            vec!["config", "check", "--config", "/nowhere.toml"],
            1,
            "/nowhere.toml",
        ),
        (vec!["log", "verify", elsewhere], 1, "no segment files"),
    ] {
        let output = cluster.run(&args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_a_deleted_topic_fails_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    client
        .create_topic("brief", TopicSettings::default())
        .await
        .expect("made");
    let producer = client
        .producer("brief", ProducerConfig::default())
        .await
        .expect("producer");
    producer
        .send(Record::value("a"))
        .await
        .expect("sent")
        .wait()
        .await
        .expect("stored");
    client.delete_topic("brief").await.expect("deleted");
    let late = producer
        .send(Record::value("b"))
        .await
        .expect("taken")
        .wait();
    let error = tokio::time::timeout(PATIENCE, late)
        .await
        .expect("in time")
        .expect_err("refused");
    assert_eq!(
        error.kind(),
        baton_client::ErrorKind::UnknownTopic,
        "{error}"
    );
}
