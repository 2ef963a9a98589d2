//! The command line as a user meets it.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use baton_client::{Record, TopicSettings};
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
    let elsewhere = baton()
        .args(["dev", "--port", &free_ports().to_string(), "--data-dir"])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert_eq!(elsewhere.status.code(), Some(1));
    let said = text(&elsewhere.stderr);
    let formed = format!("--port {port} --brokers 3");
    assert!(
        said.contains(&formed),
        "the voters stay where they are: {said}"
    );
    let cluster = Cluster::start(dir.path(), port);
    let listed = cluster.run(&["topic", "list", "--json"]);
    let topics: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    for topic in topics.as_object().expect("topics").values() {
        for partition in topic["partitions"].as_array().expect("partitions") {
            assert_eq!(partition["suspects"], serde_json::json!([]), "{partition}");
            assert_eq!(partition["offset_floor"], 0, "nothing was given up");
        }
    }
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
        (
            vec!["topic", "delete", "nothing"],
            1,
            "no topic named `nothing`",
        ),
        (
            vec!["produce", "nothing"],
            1,
            "no topic named `nothing` (make it: baton topic create nothing)",
        ),
        (vec!["topic", "crate"], 2, "unrecognized subcommand"),
        (
            vec!["topic", "list", "--bootstrap", "nowhere"],
            2,
            "host:port",
        ),
        (vec!["topic", "list", "--bootstrap", ""], 2, "host:port"),
        (vec!["dev", "--json"], 2, "--json"),
        (
            vec!["produce", "t", "--delivery-timeout", "18446744073709551615"],
            2,
            "86400",
        ),
        (vec!["produce", "t", "--delivery-timeout", "0"], 2, "86400"),
        (
            vec!["produce", "t", "--key-separator", ""],
            2,
            "--key-separator",
        ),
        (vec!["log", "verify", taken], 1, "no segment files"),
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
        .admin()
        .create_topic("brief", TopicSettings::default())
        .await
        .expect("made");
    let producer = client.producer().build().await.expect("producer");
    let brief = |value: &'static str| Record::to("brief").value(value);
    let ack = producer.send(brief("a")).await.expect("sent");
    ack.await.expect("stored");
    client.admin().delete_topic("brief").await.expect("deleted");
    let late = producer.send(brief("b")).await.expect("taken");
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

/// Runs a command with this standard input.
fn feed(cluster: &Cluster, args: &[&str], input: &[u8]) -> Output {
    let mut child = baton()
        .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = child.stdin.take().expect("stdin");
    // It may have ended before it read everything.
    drop(stdin.write_all(input));
    drop(stdin);
    child.wait_with_output().expect("ends")
}

#[test]
fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_no_panic() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let run = |args: &[&str], stdout: Stdio| {
        baton()
            .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
            .args(args)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .expect("runs")
    };
    for args in [
        &["topic", "create", "t"][..],
        &["topic", "list", "--json"],
        &["topic", "describe", "t"],
        &["cluster", "status"],
        &["cluster", "status", "--json"],
        &["produce", "t"],
        &["consume", "t", "--from-start", "--until-end"],
        &["config", "default"],
        &["config", "check", "--json"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = run(args, writer.into());
        assert_eq!(text(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
    assert!(feed(&cluster, &["produce", "t"], b"a\n").status.success());
    for args in [
        &["cluster", "status"][..],
        &["topic", "list", "--json"],
        &["consume", "t", "--from-start", "--count", "1"],
    ] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("opened");
        let output = run(args, full.into());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("standard output"), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_accounted_for_and_come_back_as_they_were() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    assert!(cluster.run(&["topic", "create", "t"]).status.success());

    let produced = feed(
        &cluster,
        &["produce", "t", "--key-separator", "="],
        b"a=1\nb=\xff\nnothing\nc=3\n",
    );
    assert_eq!(produced.status.code(), Some(1));
    let (out, said) = (text(&produced.stdout), text(&produced.stderr));
    assert!(out.starts_with("2 records acknowledged"), "{out}");
    assert!(said.contains("line 3"), "{said}");
    let missing = feed(&cluster, &["produce", "t", "--partition", "9"], b"");
    assert_eq!(missing.status.code(), Some(1), "no such partition");

    let consumed = cluster.run(&["consume", "t", "--from-start", "--until-end", "--json"]);
    let consumed = text(&consumed.stdout);
    let records: Vec<serde_json::Value> = consumed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(records[0]["key"], "a");
    assert_eq!(records[0]["value"], "1");
    assert_eq!(records[1]["value_base64"], "/w==");
    assert_eq!(records[1].get("value"), None);
    let none = cluster.run(&["consume", "t", "--count", "0"]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(0), 0));
    let beyond = cluster.run(&["consume", "t", "--offset", "99999999", "--until-end"]);
    assert_eq!(beyond.status.code(), Some(1));

    // A refused record takes no room: with room for one, many can be refused.
    let client = cluster.client().await;
    let small = client.producer().max_in_flight_bytes(100);
    let producer = small.build().await.expect("producer");
    for _ in 0..100 {
        let lost = producer.send(Record::to("t").value("x".repeat(50)).partition(7));
        let lost = tokio::time::timeout(PATIENCE, lost).await;
        lost.expect("in time").expect_err("no such partition");
    }
    let kept = producer.send(Record::to("t").value("x")).await;
    kept.expect("taken").await.expect("stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_an_answer_is_not_called_a_failure() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let made = cluster.run(&["topic", "create", "t", "--partitions", "6"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    cluster.signal(2, Signal::STOP);
    cluster.signal(3, Signal::STOP);
    let only = cluster.bootstrap().remove(0);
    let run = |args: &[&str]| {
        baton()
            .args(args)
            .args(["--bootstrap", &only])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs")
    };
    let began = Instant::now();
    let create = run(&["topic", "create", "late"]);
    let describe = run(&["topic", "describe", "t"]);
    let described = describe.wait_with_output().expect("ends");
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "leaders one by one"
    );
    let said = text(&described.stderr);
    assert_eq!(text(&described.stdout).lines().count(), 7, "{said}");
    assert!(said.contains("are not known"), "{said}");
    let created = create.wait_with_output().expect("ends");
    let said = text(&created.stderr);
    assert_eq!(created.status.code(), Some(1), "{said}");
    assert!(
        said.contains("not known") && said.contains("the list of topics"),
        "{said}"
    );
    cluster.signal(2, Signal::CONT);
    cluster.signal(3, Signal::CONT);
}

#[test]
fn headers_compression_and_places_go_in_and_come_out() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let made = cluster.run(&["topic", "create", "t", "--partitions", "2"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let log = dir.path().join("acks");
    let log = log.to_str().expect("a path");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let args = [
            "produce",
            "t",
            "--key-separator",
            "=",
            "--partition",
            "1",
            "--header",
            "a=1",
            "--header",
            "codec=x=y",
            "--compression",
            codec,
            "--ack-log",
            log,
        ];
        let produced = feed(&cluster, &args, b"k=one\nk=two\n");
        assert!(produced.status.success(), "{}", text(&produced.stderr));
    }
    let acks = std::fs::read_to_string(log).expect("a log");
    let acks: Vec<Vec<&str>> = acks
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(acks.len(), 10, "what was there is kept");
    assert_eq!((acks[1][0], acks[1][1], acks[2][0]), ("2", "1", "1"));

    let format = "{topic}/{partition}@{offset}#{epoch} {key}={value} {header:codec} ({headers})";
    let from = format!("1:{}", acks[9][2]);
    let last = cluster.run(&[
        "consume",
        "t",
        "--from",
        &from,
        "--until-end",
        "--format",
        format,
    ]);
    let (offset, epoch) = (acks[9][2], acks[9][3]);
    let expected = format!("t/1@{offset}#{epoch} k=two x=y (a=1,codec=x=y)\n");
    assert_eq!(text(&last.stdout), expected, "{}", text(&last.stderr));
    let values = [
        "consume",
        "t",
        "--from",
        "earliest",
        "--count",
        "3",
        "--format",
        "{value}\\c",
    ];
    assert_eq!(text(&cluster.run(&values).stdout), "onetwoone");
    let json = cluster.run(&["consume", "t", "--from-start", "--count", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        json["headers"][0],
        serde_json::json!({"name": "a", "value": "1"})
    );
    for bad in [
        &["consume", "t", "--format", "{nothing}"][..],
        &["consume", "t", "--from", "yesterday"],
        &["consume", "t", "--format", "{key}", "--json"],
        &["produce", "t", "--header", "none"],
    ] {
        assert_eq!(cluster.run(bad).status.code(), Some(2), "{bad:?}");
    }
    let unwritable = feed(
        &cluster,
        &["produce", "t", "--ack-log", "/nowhere/acks"],
        b"a\n",
    );
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(text(&unwritable.stderr).contains("/nowhere/acks"));
}

#[test]
fn shells_and_man_are_told_what_the_help_says() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = baton().args(["completions", shell]).output().expect("runs");
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("hand-over"), "{shell}");
    }
    for (words, said) in [
        (&[][..], "hand their lead over"),
        (&["topic", "create"], "sync"),
    ] {
        let output = baton().arg("man").args(words).output().expect("runs");
        let page = text(&output.stdout);
        assert!(
            page.starts_with(".ie") || page.contains(".TH baton"),
            "{page}"
        );
        assert!(page.contains(said), "{page}");
    }
    let unknown = baton().args(["man", "nothing"]).output().expect("runs");
    assert_eq!(unknown.status.code(), Some(1));
}
