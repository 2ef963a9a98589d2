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
