//! The examples of the client library, against a cluster.

use std::path::Path;

use baton_client::TopicSettings;

use crate::harness::{Cluster, PATIENCE, free_ports};

/// An example as a module. Its `main` is not run here.
macro_rules! example {
    ($name:ident, $path:literal) => {
        #[path = $path]
        #[allow(dead_code, reason = "`main` takes the arguments of a command line")]
        mod $name;
    };
}

example!(produce_file, "../../../client/examples/produce_file.rs");
example!(tail, "../../../client/examples/tail.rs");
example!(copy, "../../../client/examples/exactly_once_copy.rs");
example!(request_reply, "../../../client/examples/request_reply.rs");
example!(workers, "../../../client/examples/worker_group.rs");
example!(metrics, "../../../client/examples/metrics_bridge.rs");

fn args<const N: usize>(args: [&str; N]) -> impl Iterator<Item = String> {
    args.map(str::to_owned).into_iter()
}

async fn in_time(example: impl Future<Output = anyhow::Result<()>>) {
    let ended = tokio::time::timeout(PATIENCE, example).await;
    ended.expect("in time").expect("it runs");
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("read");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_they_say() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let settings = TopicSettings::default();
    let made = client.admin().create_topic("lines", settings).await;
    made.expect("made");
    let brokers = cluster.bootstrap().join(",");
    let input = dir.path().join("input");
    let text: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
    std::fs::write(&input, text).expect("written");
    let input = input.to_str().expect("a path");

    in_time(produce_file::run(args([input, "lines", &brokers]))).await;
    in_time(tail::run(args(["lines", &brokers, "5000"]))).await;
    let group = ["lines", "workers", &brokers, "3", "5000"];
    in_time(workers::run(args(group))).await;
    in_time(metrics::run(args(["lines", &brokers, "2", "workers"]))).await;
    in_time(request_reply::run(args([&brokers, "20"]))).await;

    // A copy that was broken off in the middle of a line goes on as if nothing had happened.
    let output = dir.path().join("output");
    let path = output.to_str().expect("a path");
    in_time(copy::run(args(["lines", "0", path, &brokers]))).await;
    let whole = lines(&output);
    assert_eq!(whole.len(), 5_000);
    let bytes = std::fs::read(&output).expect("read");
    std::fs::write(&output, &bytes[..bytes.len() / 2]).expect("broken off");
    in_time(copy::run(args(["lines", "0", path, &brokers]))).await;
    assert_eq!(lines(&output), whole);
    in_time(copy::run(args(["lines", "0", path, &brokers]))).await;
    assert_eq!(lines(&output), whole, "there is nothing more to copy");
    let values = whole.iter().enumerate();
    assert!(
        values
            .into_iter()
            .all(|(i, line)| line.ends_with(&format!("\tline {i}")))
    );
}
