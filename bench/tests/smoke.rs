//! The program as a whole, for a moment: that scenarios run, and that what they print can be read. No
//! figure is judged.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The benchmark, as it runs without cargo: it takes the broker that is beside it.
fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_baton-bench"))
        .env_remove("CARGO")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

/// Whether there is a broker to be measured. Tests of the whole workspace have built it; those of this
/// package alone may not have.
fn has_broker() -> bool {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_baton-bench")).with_file_name("baton");
    if !program.exists() {
        eprintln!("left out: there is no {}", program.display());
    }
    program.exists()
}

fn json_of(args: &[&str]) -> serde_json::Value {
    let output = bench(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn the_bare_pipeline_is_measured_without_a_broker() {
    let json = json_of(&[
        "roofline",
        "--seconds",
        "0.1",
        "--in-flight",
        "2",
        "--flush",
        "interval",
        "--repeats",
        "2",
        "--json",
    ]);
    let scenario = &json["scenarios"][0];
    assert_eq!(scenario["scenario"], "roofline");
    let figure = &scenario["cases"][0]["figures"][0];
    assert_eq!(figure["name"], "pipeline");
    assert_eq!(figure["values"].as_array().map(Vec::len), Some(2));
    assert!(figure["median"].as_f64().expect("a number") > 0.0);
}

#[test]
fn producing_is_told_as_a_table_and_a_page() {
    if !has_broker() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("page.html");
    let output = bench(&[
        "produce",
        "--seconds",
        "0.2",
        "--sizes",
        "100",
        "--partitions",
        "1",
        "--repeats",
        "1",
        "--no-roofline",
        "--html",
        page.to_str().expect("a path"),
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8(output.stdout).expect("text");
    for row in ["records", "p99", "broker 3", "client", "all brokers"] {
        assert!(table.contains(row), "{row} is missing: {table}");
    }
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
}

#[test]
fn what_is_sent_is_received() {
    if !has_broker() {
        return;
    }
    let json = json_of(&[
        "end-to-end",
        "--seconds",
        "0.2",
        "--rates",
        "500",
        "--repeats",
        "1",
        "--json",
    ]);
    let latencies = &json["scenarios"][0]["cases"][0]["latencies"];
    for at in 0..2 {
        assert_eq!(latencies[at]["count"], 100, "{latencies}");
    }
}

#[test]
fn a_scenario_that_kills_takes_no_cluster_of_others() {
    let output = bench(&["failover", "--bootstrap", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("leave --bootstrap out"), "{said}");
}

fn failure_of(args: &[&str]) -> String {
    let output = bench(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn peers_are_refused_where_they_cannot_be_compared() {
    let said = failure_of(&["consume", "--peer", "redis"]);
    assert!(said.contains("leave --peer out"), "{said}");
}

/// Nothing else is started either.
#[test]
fn a_peer_that_is_not_installed_is_told_with_its_package() {
    let nothing = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_baton-bench"))
        .env_remove("CARGO")
        .env("PATH", nothing.path())
        .args(["produce", "--peer", "redis"])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("apt install redis-server"), "{said}");
    assert!(output.stdout.is_empty());
}

/// Whether the programs of a peer are where its package puts them.
fn has_peer(files: &[&str]) -> bool {
    let missing = files.iter().find(|file| !PathBuf::from(file).exists());
    if let Some(file) = missing {
        eprintln!("left out: there is no {file}");
    }
    missing.is_none()
}

/// Both scenarios with a peer, for a moment; each column has records.
fn measure_beside(peer: &str, columns: usize) {
    let common = ["--peer", peer, "--repeats", "1", "--no-roofline", "--json"];
    let produce = [
        "produce",
        "--seconds",
        "0.3",
        "--sizes",
        "100",
        "--partitions",
        "2",
    ];
    let lone = ["one-in-flight", "--seconds", "0.3", "--flush", "interval"];
    for (scenario, columns) in [(&produce[..], columns), (&lone[..], 2)] {
        let json = json_of(&[scenario, &common].concat());
        let cases = json["scenarios"][0]["cases"].as_array().expect("cases");
        assert_eq!(cases.len(), columns, "{json}");
        for case in cases {
            let name = case["name"].as_str().expect("a name");
            assert!(
                name.contains("fsync") && name.contains("2 of 3 ack"),
                "{name}"
            );
            let figures = case["figures"].as_array().expect("figures");
            let records = figures.iter().find(|figure| figure["name"] == "records");
            let rate = records.and_then(|figure| figure["median"].as_f64());
            assert!(rate > Some(0.0), "{name}: {case}");
        }
    }
}

#[test]
fn nats_is_measured_beside_baton() {
    if has_broker() && has_peer(&["/usr/sbin/nats-server"]) {
        measure_beside("nats", 2);
    }
}

#[test]
fn redis_is_measured_beside_baton() {
    if has_broker() && has_peer(&["/usr/bin/redis-server"]) {
        measure_beside("redis", 2);
    }
}

#[test]
#[ignore = "three Erlang nodes take most of a minute to start, twice"]
fn rabbitmq_is_measured_beside_baton() {
    if has_broker() && has_peer(&["/usr/bin/epmd", "/usr/lib/rabbitmq/lib"]) {
        measure_beside("rabbitmq", 3);
    }
}

#[test]
fn every_way_of_the_client_is_measured_and_reads_all() {
    if !has_broker() {
        return;
    }
    let args = ["client", "--records", "3000", "--repeats", "1", "--json"];
    let json = json_of(&args);
    let cases = json["scenarios"][0]["cases"].as_array();
    let cases = cases.expect("cases");
    assert_eq!(cases.len(), 5);
    for case in cases {
        let figures = case["figures"].as_array().expect("figures");
        let names = figures.iter().filter_map(|figure| figure["name"].as_str());
        assert!(names.clone().any(|name| name == "client"), "{case}");
        assert!(figures[0]["median"].as_f64() > Some(0.0), "{case}");
    }
}
