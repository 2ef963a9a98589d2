//! `baton produce` and `baton consume`: which lines become which records, and what is said of those that
//! do not.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn spawned(cluster: &Cluster, args: &[&str]) -> Child {
    baton()
        .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs")
}

/// What came of a command with this input: its code, its output, what it said beside.
fn fed(cluster: &Cluster, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = spawned(cluster, args);
    let mut stdin = child.stdin.take().expect("stdin");
    // It may have ended before it read everything.
    drop(stdin.write_all(input));
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let code = output.status.code().expect("no signal");
    (code, text(&output.stdout), text(&output.stderr))
}

/// Sends SIGTERM, and waits for the end.
fn terminated(child: Child) -> (i32, String, String) {
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    kill_process(pid, Signal::TERM).expect("signalled");
    let output = child.wait_with_output().expect("ends");
    let code = output.status.code().expect("it ends by itself");
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn each_line_is_a_record_or_is_said_not_to_be() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    for topic in ["t", "keyed"] {
        let made = cluster.run(&["topic", "create", topic]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    // One that is too long, of which no more is read than a record may have.
    let mut input = b"a\n".to_vec();
    input.resize(3 << 20, b'x');
    input.extend(b"\n\nb\n");
    let produce = ["produce", "t", "--json"];
    let (code, out, said) = fed(&cluster, &produce, &input);
    let counted: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 1);
    assert_eq!(
        (&counted["acknowledged"], &counted["failed"]),
        (&1.into(), &1.into()),
        "{out}"
    );
    assert!(
        said.contains("line 2") && said.contains("--keep-going"),
        "{said}"
    );
    let (code, out, said) = fed(
        &cluster,
        &[&produce[..], &["--keep-going"]].concat(),
        &input,
    );
    let counted: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 1);
    assert_eq!(
        (&counted["acknowledged"], &counted["failed"]),
        (&3.into(), &1.into()),
        "{out}"
    );
    assert!(said.contains("line 2: it is too long"), "{said}");

    // Keys, values, and what has none.
    let produce = [
        "produce",
        "keyed",
        "--key-separator",
        "\\t",
        "--null-value",
        "NULL",
        "--keep-going",
    ];
    let lines = b"k\tv\nnothing\nk\tNULL\nk\t\n";
    let (code, out, said) = fed(&cluster, &produce, lines);
    assert_eq!((code, &out[..14]), (1, "3 records ackn"), "{said}");
    assert!(said.contains("line 2: no key"), "{said}");
    let consume = ["consume", "keyed", "--from-start", "--until-end"];
    let with = |more: &[&str]| text(&cluster.run(&[&consume[..], more].concat()).stdout);
    assert_eq!(with(&[]), "v\n\n\n");
    let shown = with(&["--key-separator", "\\t", "--null-value", "none"]);
    assert_eq!(shown, "k\tv\nk\tnone\nk\t\n");
    let shown = with(&["--format", "{key}={value}", "--null-value", "none"]);
    assert_eq!(shown, "k=v\nk=none\nk=\n");

    // Nobody acknowledges anything.
    let (code, out, said) = fed(&cluster, &["produce", "t", "--acks", "none"], b"a\n");
    assert_eq!(code, 0, "{said}");
    assert!(out.starts_with("1 record sent"), "{out}");

    signals_end_both_in_good_order(&cluster);
    what_makes_no_sense_is_refused(&cluster);
    cluster.end();
}

fn signals_end_both_in_good_order(cluster: &Cluster) {
    let mut producer = spawned(cluster, &["produce", "t"]);
    let mut stdin = producer.stdin.take().expect("stdin");
    let mut consumer = spawned(cluster, &["consume", "t", "--from", "earliest"]);
    stdin.write_all(b"the last\n").expect("written");
    let mut seen = String::new();
    let deadline = Instant::now() + PATIENCE;
    let out = consumer.stdout.as_mut().expect("stdout");
    while !seen.contains("the last\n") {
        assert!(Instant::now() < deadline, "{} bytes", seen.len());
        let mut some = [0; 4096];
        let read = out.read(&mut some).expect("read");
        seen.push_str(&text(&some[..read]));
    }
    // The record is there, so its acknowledgement is under way at least.
    std::thread::sleep(Duration::from_millis(500));
    let (code, out, said) = terminated(producer);
    assert_eq!(code, 1, "{said}");
    assert!(out.starts_with("1 record acknowledged"), "{out}");
    assert!(said.contains("interrupted"), "{said}");
    let (code, _, said) = terminated(consumer);
    assert_eq!((code, said.as_str()), (0, ""), "it was to end so");
    let unfinished = ["consume", "keyed", "--from", "earliest", "--count", "100"];
    let mut unfinished = spawned(cluster, &unfinished);
    let out = unfinished.stdout.as_mut().expect("stdout");
    out.read_exact(&mut [0; 4]).expect("records");
    let (code, _, said) = terminated(unfinished);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("interrupted; 3 records printed"), "{said}");
}

fn what_makes_no_sense_is_refused(cluster: &Cluster) {
    for (args, code, said) in [
        (
            &["consume", "t", "--instance", "i", "--until-end"][..],
            2,
            "--group",
        ),
        (&["consume", "t", "--from", "0:2,0:3"], 2, "twice"),
        (
            &["consume", "t", "--from", "0:2", "--partition", "1"],
            2,
            "--partition",
        ),
        (&["consume", "t", "--from", "7:2"], 1, "no partition 7"),
        (&["consume", "t", "--group", "a b"], 2, "a b"),
        (&["consume", "t", "--count", "x"], 2, "no whole number"),
        (&["produce", "t", "--rate", "-5"], 2, "no whole number"),
        (&["produce", "t", "--delivery-timeout", "5x"], 2, "86400"),
        (
            &["produce", "t", "--acks", "none", "--ack-log", "x"],
            2,
            "--ack-log",
        ),
        (
            &["topic", "set", "t", "--retention", "-5d"],
            2,
            "`-5d` is no time",
        ),
        (
            &["topic", "set", "t", "--segment-bytes", "5"],
            2,
            "64KiB to 1GiB",
        ),
        (
            &["group", "reset", "typo", "--to-earliest", "--execute"],
            1,
            "no group `typo`",
        ),
        (&["group", "delete", "typo"], 1, "no group `typo`"),
    ] {
        let output = cluster.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
        assert!(!stderr.contains("invalid digit"), "{args:?}: {stderr}");
    }
}
