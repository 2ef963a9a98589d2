//! What the command line says while something is away: brokers, a topic, a seat in a group.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, baton, free_ports};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command that runs, and what it says to standard error.
struct Running {
    child: Child,
    said: std::path::PathBuf,
}

impl Running {
    fn start(cluster: &Cluster, dir: &Path, args: &[&str]) -> Running {
        let said = dir.join(args.join("-"));
        let child = baton()
            .env("BATON_BOOTSTRAP", cluster.bootstrap().join(","))
            .args(args)
            .stdout(Stdio::null())
            .stderr(File::create(&said).expect("a file"))
            .spawn()
            .expect("runs");
        Running { child, said }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("read")
    }

    /// Waits until it says this.
    fn says(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains(wanted) {
            assert!(Instant::now() < deadline, "{wanted}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(mut self) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, Signal::TERM).expect("signalled");
        assert!(self.child.wait().expect("ended").success());
    }
}

#[test]
fn who_waits_is_told_why_and_a_seat_can_be_given_up() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    for topic in ["t", "brief"] {
        let made = cluster.run(&["topic", "create", topic]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    let run = |args: &[&str]| Running::start(&cluster, dir.path(), args);
    let nowhere = run(&["consume", "nowhere", "--group", "g"]);
    nowhere.says("no topic named `nowhere`");
    let brief = run(&["consume", "brief", "--group", "brief"]);
    let first = run(&["consume", "t", "--group", "h", "--instance", "one"]);
    let deadline = Instant::now() + PATIENCE;
    let described = |group: &str| -> Value {
        let output = cluster.run(&["group", "describe", group, "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    for group in ["h", "brief"] {
        while described(group)["phase"] != "stable" {
            assert!(Instant::now() < deadline, "{}", described(group));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let deleted = cluster.run(&["topic", "delete", "brief", "--yes"]);
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    brief.says("no topic named `brief`");
    // The same arguments would be the same file.
    let second = [
        "consume",
        "t",
        "--group",
        "h",
        "--instance",
        "one",
        "--show-offsets",
    ];
    let second = run(&second);
    second.says("another consumer is in group h as instance one");
    for one in [nowhere, brief, second, first] {
        one.end();
    }

    let reset = cluster.run(&[
        "group",
        "reset",
        "h",
        "--to-earliest",
        "--topic",
        "t",
        "--execute",
    ]);
    let said = text(&reset.stderr);
    assert_eq!(reset.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the seats of one are kept") && said.contains("group leave h"),
        "{said}"
    );
    let table = text(&cluster.run(&["group", "describe", "h"]).stdout);
    assert!(table.contains("1 member (1 away)"), "{table}");
    let left = cluster.run(&["group", "leave", "h", "--instance", "one"]);
    assert!(left.status.success(), "{}", text(&left.stderr));
    assert_eq!(described("h")["phase"], "empty");
    let again = cluster.run(&["group", "leave", "h", "--instance", "one"]);
    assert_eq!(again.status.code(), Some(1));
    cluster.end();
}

#[test]
fn status_shows_who_answers_where_no_controller_does() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let made = cluster.run(&["topic", "create", "t"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let waiting = Running::start(&cluster, dir.path(), &["consume", "t", "--from", "latest"]);
    cluster.signal(2, Signal::STOP);
    cluster.signal(3, Signal::STOP);
    let asked = Instant::now();
    let status = cluster.run(&["cluster", "status"]);
    assert!(asked.elapsed() < Duration::from_secs(13), "soon enough");
    let (out, said) = (text(&status.stdout), text(&status.stderr));
    assert_eq!(status.status.code(), Some(1), "{out}{said}");
    assert!(said.contains("1 of 3 voters answers, and 2 must"), "{said}");
    // The one that is left may be the controller of before, or know of none.
    let shown = |broker: u32, words: [&str; 3]| {
        words
            .iter()
            .any(|word| out.contains(&format!("\n{broker}\t{word}\t")))
    };
    assert!(shown(1, ["up", "yes", "yes"]), "{out}");
    assert!(shown(3, ["silent", "down", "no"]), "{out}");
    let status = cluster.run(&["cluster", "status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["voters"], json!([1, 2, 3]));
    assert_eq!(status["brokers"][1]["answers"], false, "{status}");
    cluster.signal(1, Signal::STOP);
    waiting.says("waiting, 0 records so far: ");
    for broker in 1..=3 {
        cluster.signal(broker, Signal::CONT);
    }
    waiting.end();
    cluster.end();
}

#[test]
fn where_no_broker_runs_it_is_said_soon_and_what_to_do() {
    let port = free_ports();
    let nobody = format!("127.0.0.1:{port}");
    let asked = Instant::now();
    let output = baton()
        .args(["topic", "list", "--bootstrap", &nobody])
        .output()
        .expect("runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(13), "{said}");
    assert!(
        said.contains("no broker answers yet") && said.contains("`baton dev` starts one"),
        "{said}"
    );
    let init = baton()
        .args(["cluster", "init", "--voters", "foo"])
        .output()
        .expect("runs");
    assert_eq!(init.status.code(), Some(2), "{}", text(&init.stderr));
}
