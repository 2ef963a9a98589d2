//! A leader without followers, beside a controller that the others cannot hear: neither may go on as if
//! nobody else had been elected.

use std::time::{Duration, Instant};

use baton_client::{Client, Producer, Record, TopicSettings};
use baton_protocol::ids::{BrokerId, PartitionIndex};
use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, free_ports, passed_on, whole};

const TOPIC: &str = "asynchronous";

/// How long a record is given. Well above the second that a lease lasts.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// Which broker is the controller.
async fn controller(client: &Client) -> BrokerId {
    let status = client.admin().cluster_status().await;
    status.expect("there is a controller").controller
}

async fn is_acknowledged(producer: &Producer) -> bool {
    let ack = producer.send(Record::to(TOPIC).value("content")).await;
    ack.expect("taken").await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_nobody_hears_keeps_no_leader_in_office() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let settings = TopicSettings {
        sync_followers: Some(0),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(TOPIC, settings).await;
    made.expect("made");
    let (leader, epoch) = whole(&client, TOPIC, 0).await;
    let alone = controller(&client).await;
    if leader != alone.0 {
        let admin = client.admin();
        let handed = admin.hand_over(TOPIC, PartitionIndex(0), alone).await;
        handed.expect("handed over");
        passed_on(&client, TOPIC, 0, epoch).await;
    }
    let producer = client.producer().delivery_timeout(DELIVERY_TIMEOUT);
    let producer = producer.build().await.expect("a producer");
    assert!(is_acknowledged(&producer).await, "all is well");
    assert_eq!(controller(&client).await, alone);

    // Of all that it could notice it notices nothing: the others are there, and say nothing.
    let others = (1..=3).filter(|broker| *broker != alone.0);
    for other in others.clone() {
        cluster.signal(other, Signal::STOP);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        !is_acknowledged(&producer).await,
        "by now another may be in its place"
    );
    for other in others {
        cluster.signal(other, Signal::CONT);
    }
    let deadline = Instant::now() + PATIENCE;
    while !is_acknowledged(&producer).await {
        assert!(Instant::now() < deadline, "it does not go on");
    }
}
