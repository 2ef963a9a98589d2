//! `baton cluster status`: as the controller sees the cluster; and where none answers, what is known
//! without one: who answers, and who should.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use baton_client::{BrokerId, Client, Setting};
use baton_protocol::admin::{ClusterStatus, PartitionTrouble};
use baton_protocol::metadata::{BrokerRecord, ClusterView};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::output::{count, named, note, print_json, print_table, say};
use crate::cli::{Global, bootstrap};

/// How long a controller may take to answer. A new one is there sooner, where one can be.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(4);

/// How long each broker may take to answer.
const BROKER_LIMIT: Duration = Duration::from_secs(2);

/// Brokers asked at a time.
const ASKED_MAX: usize = 64;

/// Most lines about partitions: whoever wants more has `--json`.
const LINES_MAX: usize = 100;

/// Shows the cluster.
pub async fn status(global: &Global) -> anyhow::Result<()> {
    let client = bootstrap::connect(global).await?;
    // A controller that has lost the other voters does not notice, and knows less with every second: so
    // the brokers are asked, too.
    let admin = client.admin();
    let (asked, told) = tokio::join!(
        timeout(CONTROLLER_LIMIT, admin.cluster_status()),
        configurations(&client)
    );
    let view = client.view();
    let answering = Answering::of(&told);
    match asked {
        Ok(Ok(mut status)) => {
            // The controller orders them by the topics' ids, which nobody knows by heart.
            let order = |trouble: &PartitionTrouble| (trouble.topic.clone(), trouble.partition);
            status.troubles.sort_by_key(order);
            seen_by_controller(&view, &status, &answering, global.json)
        }
        Ok(Err(error)) if !error.is_retriable() => Err(error.into()),
        Ok(Err(_)) | Err(_) => without_controller(&view, &answering, global.json),
    }
}

/// Who answers.
struct Answering {
    brokers: BTreeSet<BrokerId>,
    voters: BTreeSet<BrokerId>,
}

impl Answering {
    fn of(told: &BTreeMap<BrokerId, Vec<Setting>>) -> Answering {
        let voters = told.values().map(|settings| voters(settings));
        Answering {
            brokers: told.keys().copied().collect(),
            voters: voters.max_by_key(BTreeSet::len).unwrap_or_default(),
        }
    }

    fn has(&self, broker: BrokerId) -> bool {
        self.brokers.contains(&broker)
    }

    /// How many voters answer, and how many must.
    fn quorum(&self) -> (usize, usize) {
        let answering = self.voters.intersection(&self.brokers).count();
        (answering, self.voters.len() / 2 + 1)
    }

    /// Whether it is known that there are too few voters to decide anything.
    fn are_too_few(&self) -> bool {
        let (answering, needed) = self.quorum();
        !self.voters.is_empty() && answering < needed
    }
}

impl std::fmt::Display for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.voters.is_empty() {
            return f.write_str("no broker that answers tells who the voters are");
        }
        let (answering, needed) = self.quorum();
        let voters = count(self.voters.len(), "voter", "voters");
        let answer = if answering == 1 { "answers" } else { "answer" };
        write!(f, "{answering} of {voters} {answer}, and {needed} must")
    }
}

fn leads(view: &ClusterView, id: BrokerId) -> usize {
    let partitions = view.topics.values().flat_map(|topic| &topic.partitions);
    let led = partitions.filter(|one| one.leader.is_some_and(|leader| leader.broker == id));
    led.count()
}

fn brokers_json(view: &ClusterView, answering: &Answering) -> Vec<Value> {
    let brokers = view.brokers.values();
    brokers
        .map(|broker| broker_json(view, broker, answering))
        .collect()
}

fn broker_json(view: &ClusterView, broker: &BrokerRecord, answering: &Answering) -> Value {
    json!({
        "id": broker.id, "epoch": broker.epoch, "alive": !broker.fenced,
        "client_address": broker.client_address, "peer_address": broker.peer_address,
        "leads": leads(view, broker.id), "answers": answering.has(broker.id),
    })
}

fn print_brokers(
    view: &ClusterView,
    heading: &str,
    state: impl Fn(&BrokerRecord) -> &'static str,
) -> anyhow::Result<()> {
    let rows = view.brokers.values().map(|broker| {
        vec![
            broker.id.to_string(),
            state(broker).to_owned(),
            leads(view, broker.id).to_string(),
            broker.client_address.clone(),
            broker.peer_address.clone(),
            broker.epoch.to_string(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let headings = ["broker", heading, "leads", "clients", "brokers", "life"];
    print_table(&headings, &rows)
}

fn seen_by_controller(
    view: &ClusterView,
    status: &ClusterStatus,
    answering: &Answering,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        print_json(&json!({
            "cluster_id": view.cluster_id, "controller": status.controller, "term": status.term,
            "metadata_index": status.index, "partitions": status.partitions,
            "brokers": brokers_json(view, answering), "voters": answering.voters,
            "troubles": status.troubles,
        }))?;
    } else {
        print_status(view, status, answering)?;
    }
    if answering.are_too_few() {
        bail!(
            "the controller has lost the others: {answering}; what it shows is old, and it can change nothing"
        );
    }
    Ok(())
}

fn print_status(
    view: &ClusterView,
    status: &ClusterStatus,
    answering: &Answering,
) -> anyhow::Result<()> {
    say!("cluster     {}", view.cluster_id)?;
    say!(
        "controller  broker {} (term {}, metadata at {})\n",
        status.controller,
        status.term,
        status.index
    )?;
    print_brokers(view, "state", |broker| match broker.fenced {
        true => "down",
        false if answering.has(broker.id) => "up",
        false => "silent",
    })?;
    say!("")?;
    if status.troubles.is_empty() {
        return match status.partitions {
            0 => say!("there are no topics yet (make one: baton topic create NAME)"),
            1 => say!("the one partition is led and fully replicated"),
            number => say!("all {number} partitions are led and fully replicated"),
        };
    }
    print_troubles(&status.troubles)?;
    if status.partitions == 0 {
        bail!("the controller reports troubles of partitions it does not know");
    }
    Ok(())
}

/// Prints partitions of a topic in one line where the same is wrong with them.
fn print_troubles(troubles: &[PartitionTrouble]) -> anyhow::Result<()> {
    let rows = rows(troubles);
    let headings = ["topic", "partitions", "trouble", "reason"];
    print_table(&headings, &rows[..rows.len().min(LINES_MAX)])?;
    if let Some(more) = rows.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
        let more = count(more, "line", "lines");
        note!(
            "{more} more, of {} in all with something wrong; --json has them all",
            count(troubles.len(), "partition", "partitions")
        );
    }
    Ok(())
}

fn rows(troubles: &[PartitionTrouble]) -> Vec<Vec<String>> {
    let mut alike: BTreeMap<(&str, bool, &str), Vec<String>> = BTreeMap::new();
    for trouble in troubles {
        // Those without a leader first, of each topic.
        let of = (
            trouble.topic.as_str(),
            !trouble.leaderless,
            trouble.reason.as_str(),
        );
        let partition = trouble.partition.to_string();
        alike.entry(of).or_default().push(partition);
    }
    let rows = alike.into_iter().map(|((topic, is_led, reason), indexes)| {
        let trouble = if is_led { "degraded" } else { "no leader" };
        let cells = [topic, &named(&indexes), trouble, reason];
        cells.map(str::to_owned).to_vec()
    });
    rows.collect()
}

/// The numbers of the voters, by the configuration of a broker.
fn voters(settings: &[Setting]) -> BTreeSet<BrokerId> {
    let found = settings
        .iter()
        .find(|setting| setting.key == "cluster.voters");
    let list = found.map_or("", |setting| setting.value.as_str());
    let each = list.trim_matches(['[', ']']).split(',');
    let ids = each.filter_map(|one| {
        let (id, _) = one.trim().trim_matches('"').split_once('@')?;
        id.parse().ok().map(BrokerId)
    });
    ids.collect()
}

/// The configuration of each broker that answers: that shows that it does, and who the voters are.
async fn configurations(client: &Client) -> BTreeMap<BrokerId, Vec<Setting>> {
    let turns = Arc::new(Semaphore::new(ASKED_MAX));
    let mut asking = JoinSet::new();
    for broker in client.view().brokers.keys().copied() {
        let (client, turns) = (client.clone(), turns.clone());
        asking.spawn(async move {
            let _turn = turns.acquire().await;
            let admin = client.admin();
            let told = timeout(BROKER_LIMIT, admin.broker_configuration(broker)).await;
            Some((broker, told.ok()?.ok()?))
        });
    }
    asking.join_all().await.into_iter().flatten().collect()
}

/// What is known where no controller answers. It fails, whatever it is.
fn without_controller(
    view: &ClusterView,
    answering: &Answering,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        print_json(&json!({
            "cluster_id": view.cluster_id, "controller": null, "term": null,
            "metadata_index": view.index, "partitions": null,
            "brokers": brokers_json(view, answering), "voters": answering.voters, "troubles": null,
        }))?;
    } else {
        say!("cluster     {}", view.cluster_id)?;
        say!("controller  none: {answering}\n")?;
        print_brokers(view, "answers", |broker| match answering.has(broker.id) {
            true => "yes",
            false => "no",
        })?;
        note!("who leads how much is as it was when a controller was there");
    }
    bail!(
        "no controller answers: {answering}; nothing is made, elected or moved meanwhile, and leaders that are there go on"
    )
}

#[cfg(test)]
mod tests {
    use baton_client::{LeaderEpoch, PartitionIndex, SettingSource};

    use super::*;

    #[test]
    fn voters_are_found_in_a_configuration() {
        let setting = |value: &str| Setting {
            key: "cluster.voters".to_owned(),
            value: value.to_owned(),
            source: SettingSource::Default,
        };
        let told = setting(r#"["1@127.0.0.1:7601", "3@[::1]:7603"]"#);
        assert_eq!(voters(&[told]), BTreeSet::from([BrokerId(1), BrokerId(3)]));
        assert_eq!(voters(&[setting("[]")]), BTreeSet::new());
        assert_eq!(voters(&[]), BTreeSet::new());
    }

    #[test]
    fn how_many_voters_are_missing_is_said() {
        let brokers = |ids: &[u32]| ids.iter().copied().map(BrokerId).collect();
        let answering = |answering: &[u32], voters: &[u32]| Answering {
            brokers: brokers(answering),
            voters: brokers(voters),
        };
        let one = answering(&[1, 4], &[1, 2, 3]);
        assert_eq!(one.to_string(), "1 of 3 voters answers, and 2 must");
        assert!(one.are_too_few());
        assert!(!answering(&[1, 3, 4], &[1, 2, 3]).are_too_few());
        assert!(!answering(&[], &[]).are_too_few(), "nothing is known");
    }

    #[test]
    fn partitions_with_the_same_trouble_share_a_line() {
        let trouble = |topic: &str, partition: u32, leaderless: bool| PartitionTrouble {
            topic: topic.to_owned(),
            partition: PartitionIndex(partition),
            leaderless,
            epoch: LeaderEpoch(1),
            reason: "broker 2 is down".to_owned(),
        };
        let mut all: Vec<_> = (0..10).map(|i| trouble("a", i, false)).collect();
        all.push(trouble("a", 10, true));
        all.push(trouble("b", 0, false));
        let rows = rows(&all);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row[1].as_str(), row[2].as_str()))
            .collect();
        let expected = [
            ("10", "no leader"),
            ("0,1,2,3,4,5,6,7 and 2 more", "degraded"),
            ("0", "degraded"),
        ];
        assert_eq!(shown, expected);
    }
}
