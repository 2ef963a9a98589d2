//! `baton cluster events`, `config` and `quarantine`: what single brokers tell.

use std::time::Duration;

use anyhow::Context;
use baton_client::{Client, ClusterEvent, Quarantined};
use baton_protocol::ids::BrokerId;
use serde_json::json;

use crate::cli::output::{note, print_json, print_table, say};
use crate::cli::{Global, bootstrap, moment};

/// How often it is asked whether something has happened.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The brokers that are up, who has been longest first; or that one.
fn asked(client: &Client, broker: Option<BrokerId>) -> Vec<BrokerId> {
    let Some(broker) = broker else {
        let brokers = client.admin().brokers().into_values();
        let mut up: Vec<_> = brokers.filter(|broker| !broker.fenced).collect();
        // A life is numbered by its registration.
        up.sort_by_key(|broker| broker.epoch);
        return up.into_iter().map(|broker| broker.id).collect();
    };
    vec![broker]
}

/// What has happened.
pub async fn events(global: &Global, broker: Option<BrokerId>, follow: bool) -> anyhow::Result<()> {
    let client = bootstrap::connect(global).await?;
    let up = asked(&client, broker);
    let broker = *up.first().context("no broker is up")?;
    let mut after = None;
    let mut all = Vec::new();
    loop {
        let told = client.admin().events(broker, after).await?;
        if after.is_none() && told.known_from.0 > 0 {
            note!(
                "broker {broker} knows nothing of what came before position {} of the metadata log",
                told.known_from
            );
        } else if after.is_some_and(|after| after < told.known_from) {
            note!("broker {broker} has forgotten a part, or was started anew");
        }
        let more = told.events.len();
        for event in told.events {
            match global.json && !follow {
                true => all.push(event),
                false => print_event(&event, global.json)?,
            }
        }
        after = Some(told.up_to);
        if more > 0 {
            continue;
        }
        if !follow {
            break;
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
    match global.json {
        true => print_json(&all),
        false => Ok(()),
    }
}

fn print_event(event: &ClusterEvent, as_json: bool) -> anyhow::Result<()> {
    match as_json {
        true => say!("{}", serde_json::to_string(event)?),
        false => say!("{}  {}", moment::shown(event.at_ms), event.what),
    }
}

/// A broker's configuration.
pub async fn configuration(global: &Global, broker: BrokerId) -> anyhow::Result<()> {
    let client = bootstrap::connect(global).await?;
    let settings = client.admin().broker_configuration(broker).await?;
    if global.json {
        return print_json(&settings);
    }
    let row = |one: &baton_client::Setting| {
        vec![one.key.clone(), one.value.clone(), one.source.to_string()]
    };
    let rows: Vec<Vec<String>> = settings.iter().map(row).collect();
    print_table(&["key", "value", "source"], &rows)
}

/// What brokers keep of discarded entries.
pub async fn quarantine(global: &Global, broker: Option<BrokerId>) -> anyhow::Result<()> {
    let client = bootstrap::connect(global).await?;
    let mut all: Vec<(BrokerId, Quarantined)> = Vec::new();
    let mut asked = asked(&client, broker);
    asked.sort_unstable();
    let others = client.admin().brokers().into_keys();
    let left_out: Vec<BrokerId> = match broker {
        Some(_) => Vec::new(),
        None => others.filter(|id| !asked.contains(id)).collect(),
    };
    for id in &left_out {
        note!("broker {id} is down, and was not asked");
    }
    for broker in asked {
        let kept = client.admin().quarantine(broker).await?;
        all.extend(kept.into_iter().map(|one| (broker, one)));
    }
    if global.json {
        let all = all.iter();
        let values: Vec<_> = all
            .map(|(broker, one)| json!({"broker": broker, "kept": one}))
            .collect();
        return print_json(&values);
    }
    if all.is_empty() {
        return match left_out.is_empty() {
            true => say!("nothing is in quarantine"),
            false => say!("nothing is in quarantine at the brokers that are up"),
        };
    }
    let rows: Vec<Vec<String>> = all.iter().map(|(broker, one)| row(*broker, one)).collect();
    print_table(
        &[
            "broker",
            "partition",
            "since",
            "bytes",
            "offsets",
            "why",
            "path",
        ],
        &rows,
    )
}

fn row(broker: BrokerId, one: &Quarantined) -> Vec<String> {
    let topic = one.name.clone().unwrap_or_else(|| one.topic.to_string());
    let entries = one.entries.as_ref();
    vec![
        broker.to_string(),
        format!("{topic}/{}", one.partition),
        one.since_ms.map_or("?".to_owned(), moment::shown),
        one.bytes.to_string(),
        entries.map_or("?".to_owned(), |e| format!("{}..{}", e.from, e.to)),
        entries.map_or("damaged".to_owned(), |e| e.reason.clone()),
        one.path.clone(),
    ]
}
