//! What operators are told of single brokers: what has happened, how they are set, what they keep.

use std::time::{Duration, Instant};

use baton_client::{BrokerId, ErrorKind, Happening, SettingSource, TopicSettings};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, free_ports};

fn said(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.run(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_tell_what_has_happened_how_they_are_set_and_what_they_keep() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", TopicSettings::default()).await;
    let topic = made.expect("made");
    let leader = topic.partitions[0].leader.expect("led").broker;
    assert_eq!(admin.brokers().len(), 3);

    let other = BrokerId(leader.0 % 3 + 1);
    let known = admin.events(other, None).await.expect("told");
    let created = Happening::TopicCreated {
        topic: "orders".into(),
        partitions: 1,
    };
    assert!(known.events.iter().any(|e| e.what == created), "{known:?}");
    cluster.signal(leader.0, Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    let (mut after, mut what) = (known.up_to, Vec::new());
    let named = |what: &[Happening]| {
        what.iter().any(|what| {
            matches!(what, Happening::LeaderNamed { topic, leader: now, may_have_lost: false, .. }
                if topic == "orders" && *now != leader)
        })
    };
    while !named(&what) {
        assert!(Instant::now() < deadline, "{what:?}");
        let news = admin.events(other, Some(after)).await.expect("told");
        assert!(news.events.iter().all(|event| event.index > after));
        after = news.up_to;
        what.extend(news.events.into_iter().map(|event| event.what));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It may be back before it was missed.
    let ended = |what: &Happening| match what {
        Happening::BrokerDown { broker } | Happening::BrokerRegistered { broker, .. } => {
            *broker == leader
        }
        _ => false,
    };
    assert!(what.iter().any(ended), "{what:?}");

    let settings = admin.broker_configuration(other).await.expect("told");
    let of = |key: &str| {
        let found = settings.iter().find(|setting| setting.key == key);
        found.unwrap_or_else(|| panic!("no {key}")).clone()
    };
    assert_eq!(of("broker.id").value, other.to_string());
    assert_eq!(of("broker.id").source, SettingSource::Flag("--id".into()));
    assert_eq!(of("log.segment_bytes_max").source, SettingSource::Default);
    let nobody = admin.broker_configuration(BrokerId(9)).await;
    let nobody = nobody.expect_err("there is none");
    assert_eq!(nobody.kind(), ErrorKind::Refused);
    assert!(nobody.to_string().contains("it has 1, 2, 3"), "{nobody}");

    assert!(admin.quarantine(other).await.expect("told").is_empty());
    let kept = dir.path().join(format!(
        "broker-{other}/topics/{}/0/quarantine/x.damaged",
        topic.id
    ));
    std::fs::create_dir_all(&kept).expect("made");
    let told = admin.quarantine(other).await.expect("told");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].name.as_deref(), Some("orders"));

    let number = other.to_string();
    let events = said(&cluster, &["cluster", "events", "--broker", &number]);
    assert!(
        events.contains("Z  orders: made with 1 partition\n"),
        "{events}"
    );
    let events = said(
        &cluster,
        &["cluster", "events", "--broker", &number, "--json"],
    );
    let events: Value = serde_json::from_str(&events).expect("JSON");
    assert!(events.as_array().is_some_and(|all| all.len() > 3));
    let settings = said(&cluster, &["cluster", "config", &number]);
    assert!(
        settings.contains(&format!("broker.id\t{other}\tflag --id\n")),
        "{settings}"
    );
    let kept = said(&cluster, &["cluster", "quarantine", "--broker", &number]);
    assert!(
        kept.contains("orders/0") && kept.contains("x.damaged"),
        "{kept}"
    );
    cluster.end();
}
