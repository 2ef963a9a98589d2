//! Clusters within the test's own process.

use std::time::{Duration, Instant};

use baton::embedded::Cluster;
use baton_client::{Client, Producer, Record, Start, TopicSettings};
use tokio::time::timeout;

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests look at the threads of the process, so they run one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Threads of this process that only brokers have.
fn threads_of_brokers() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        // One that has ended meanwhile has no name any more.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    let names = tasks.filter_map(name).map(|name| name.trim().to_owned());
    let of_brokers = [
        "broker-",
        "control",
        "caretaker",
        "disk-probe",
        "raft",
        "actix",
    ];
    names
        .filter(|name| of_brokers.iter().any(|start| name.starts_with(start)))
        .collect()
}

async fn connect(cluster: &Cluster) -> Client {
    let builder = Client::builder(cluster.bootstrap());
    builder.connect().await.expect("connected")
}

/// Makes the topic, and a producer.
async fn prepare(client: &Client) -> Producer {
    let admin = client.admin();
    let made = admin.create_topic("events", TopicSettings::default());
    made.await.expect("made");
    client.producer().build().await.expect("producer")
}

async fn send(producer: &Producer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let record = Record::to("events").value(number.to_string());
        drop(producer.send(record).await.expect("taken"));
    }
    producer.flush().await.expect("stored");
}

async fn read(client: &Client, count: usize) -> Vec<String> {
    let builder = client.reader("events").from(Start::Earliest);
    let mut reader = builder.build().await.expect("reader");
    let mut values = Vec::new();
    while values.len() < count {
        let message = timeout(PATIENCE, reader.next()).await.expect("in time");
        let value = message.expect("goes on").expect("read").value;
        values.push(String::from_utf8(value.expect("a value").to_vec()).expect("text"));
    }
    values
}

#[tokio::test]
async fn a_cluster_goes_on_without_one_of_its_brokers_and_takes_it_back() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(3).expect("started");
    let client = connect(&cluster).await;
    let producer = prepare(&client).await;
    send(&producer, 0..100).await;
    for id in cluster.ids() {
        cluster.stop_broker(id).expect("ended");
        send(&producer, id * 100..(id + 1) * 100).await;
        cluster.start_broker(id).expect("started again");
    }
    let expected: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    assert_eq!(read(&client, 400).await, expected);
}

#[tokio::test]
async fn clusters_of_one_process_know_nothing_of_each_other_and_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    let clusters = [1, 1].map(|brokers| Cluster::start(brokers).expect("started"));
    for (i, cluster) in clusters.iter().enumerate() {
        let client = connect(cluster).await;
        let producer = prepare(&client).await;
        send(&producer, i as u32..i as u32 + 1).await;
        assert_eq!(read(&client, 1).await, [i.to_string()]);
    }
    for cluster in clusters {
        let (dir, addresses) = (cluster.dir().to_owned(), cluster.bootstrap());
        assert!(dir.exists());
        drop(cluster);
        assert!(!dir.exists(), "the data is gone");
        for address in addresses {
            assert!(std::net::TcpStream::connect(&address).is_err(), "{address}");
        }
    }
    let deadline = Instant::now() + PATIENCE;
    // Those that wait for nothing end a moment later.
    while !threads_of_brokers().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", threads_of_brokers());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
