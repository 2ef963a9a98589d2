//! `baton group`, and `baton consume --group`.

use std::io::Write;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn produce(cluster: &Cluster, topic: &str, input: &str) {
    let mut produce = baton()
        .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
        .args(["produce", topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    let mut stdin = produce.stdin.take().expect("stdin");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    assert!(produce.wait().expect("ends").success());
}

fn run(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.run(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn json_of(cluster: &Cluster, args: &[&str]) -> Value {
    let printed = run(cluster, &[args, &["--json"]].concat());
    serde_json::from_str(&printed).expect("JSON")
}

/// Waits until this holds of a described group.
fn until(cluster: &Cluster, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let described = json_of(cluster, &["group", "describe", "g"]);
        if wanted(&described) {
            return described;
        }
        assert!(std::time::Instant::now() < deadline, "{described}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn member(cluster: &Cluster) -> Child {
    baton()
        .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
        .args(["consume", "t", "--group", "g", "--instance", "one"])
        .stdout(Stdio::null())
        .spawn()
        .expect("runs")
}

#[test]
fn groups_are_consumed_listed_described_reset_and_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    assert_eq!(json_of(&cluster, &["group", "list"]), json!([]));
    run(&cluster, &["topic", "create", "t", "--partitions", "1"]);
    let input: String = (0..100).map(|i| format!("line {i}\n")).collect();
    produce(&cluster, "t", &input);

    let consume = [
        "consume", "t", "--group", "g", "--from", "earliest", "--count",
    ];
    let first = run(&cluster, &[&consume[..], &["60"]].concat());
    let second = run(&cluster, &[&consume[..], &["40"]].concat());
    assert_eq!(first + &second, input);
    let listed = json_of(&cluster, &["group", "list"]);
    let expected = json!([{"group": "g", "phase": "empty", "members": 0, "offsets": 1}]);
    assert_eq!(listed, expected);
    let described = json_of(&cluster, &["group", "describe", "g"]);
    let partition = &described["partitions"][0];
    assert_eq!(
        (&partition["topic"], &partition["lag"]),
        (&json!("t"), &json!(0))
    );
    let end = partition["committed"].as_u64().expect("an offset");

    // A reset is shown first.
    let back = ["group", "reset", "g", "--shift-by", "-10"];
    let shown = json_of(&cluster, &back);
    assert_eq!(shown["executed"], false);
    assert_eq!(shown["partitions"][0]["to"], end - 10);
    let unchanged = json_of(&cluster, &["group", "describe", "g"]);
    assert_eq!(unchanged["partitions"][0]["committed"], end);
    let printed = run(&cluster, &[&back[..], &["--execute"]].concat());
    assert_eq!(
        printed,
        format!(
            "topic\tpartition\tfrom\tto\tlag\nt\t0\t{end}\t{}\t10\n",
            end - 10
        )
    );
    let again = run(&cluster, &[&consume[..], &["10"]].concat());
    assert_eq!(again.lines().next(), Some("line 90"));
    let table = run(&cluster, &["group", "describe", "g"]);
    assert!(
        table.starts_with("group g is empty: 0 members, 1 partition, 0 offsets behind\n"),
        "{table}"
    );
    assert!(
        table.ends_with(&format!("t\t0\t{end}\t0\t{end}\t0\t-\n")),
        "{table}"
    );

    let shown = json_of(&cluster, &["group", "reset", "g", "--to-time", "-1h"]);
    let to = shown["partitions"][0]["to"].as_u64().expect("an offset");
    assert!(to < 5, "all of it is younger");

    // Not while a member is there.
    let mut member = member(&cluster);
    let described = until(&cluster, |group| {
        group["phase"] == "stable" && !group["partitions"][0]["member"].is_null()
    });
    assert_eq!(described["members"][0]["instance"], "one");
    for args in [
        vec!["group", "reset", "g", "--to-earliest", "--execute"],
        vec!["group", "delete", "g", "--yes"],
    ] {
        let output = cluster.run(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            text(&output.stderr).contains("has members"),
            "{}",
            text(&output.stderr)
        );
    }
    let pid = Pid::from_raw(member.id() as i32).expect("a pid");
    kill_process(pid, Signal::TERM).expect("signalled");
    assert!(
        member.wait().expect("ends").success(),
        "it leaves in good order"
    );
    // Its seat is kept for a session.
    until(&cluster, |group| group["phase"] == "empty");
    run(
        &cluster,
        &[
            "group",
            "reset",
            "g",
            "--to-offset",
            "5",
            "--topic",
            "t:0",
            "--execute",
        ],
    );
    let described = json_of(&cluster, &["group", "describe", "g"]);
    assert_eq!(described["partitions"][0]["committed"], 5);
    run(&cluster, &["group", "delete", "g", "--yes"]);

    for (args, code, said) in [
        (vec!["group", "describe", "g"], 1, "no group `g`"),
        (vec!["group", "delete", "g", "--yes"], 1, "no group `g`"),
        (vec!["group", "reset", "g"], 2, "--to-earliest"),
        (
            vec!["group", "reset", "g", "--to-latest", "--topic", "no"],
            1,
            "no topic named `no`",
        ),
        (
            vec!["group", "reset", "g", "--to-latest", "--topic", "t:9"],
            1,
            "t/9: there is no such partition",
        ),
        (vec!["group", "describe", "no spaces"], 2, "no spaces"),
        (
            vec!["consume", "t", "--group", "g", "--from", "7"],
            2,
            "group reset",
        ),
        (vec!["consume", "t", "--instance", "i"], 2, "--group"),
        (
            vec!["consume", "t", "--group", "g", "--until-end"],
            2,
            "--until-end",
        ),
    ] {
        let output = cluster.run(&args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    cluster.end();
}
