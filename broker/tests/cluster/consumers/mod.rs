//! Consumers of groups, as the client library offers them, against a cluster.

mod chaos;
mod cli;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_client::{
    AutoCommit, Client, Consumer, ConsumerBuilder, ErrorCode, ErrorKind, Event, Message, Offset,
    Partition, Record, ResetScope, ResetTo, Start, TopicSettings, Until,
};
use tokio::time::timeout;

use crate::harness::{Cluster, PATIENCE, free_ports};

async fn make_topic(client: &Client, name: &str, partitions: u32) {
    let settings = TopicSettings {
        partitions: Some(partitions),
        ..TopicSettings::default()
    };
    let made = client.admin().create_topic(name, settings).await;
    made.expect("made");
}

/// Sends numbers, to the partitions in turn.
async fn send(client: &Client, topic: &str, partitions: u32, numbers: std::ops::Range<u32>) {
    let producer = client.producer().build().await.expect("a producer");
    let records = numbers.map(|number| {
        let record = Record::to(topic).value(number.to_string());
        record.partition(number % partitions)
    });
    let sent = timeout(PATIENCE, producer.send_all(records)).await;
    sent.expect("in time").expect("stored");
}

fn number(message: &Message) -> u32 {
    let value = message.value.as_deref().expect("a value");
    let text = std::str::from_utf8(value).expect("text");
    text.parse().expect("a number")
}

async fn build(consumer: ConsumerBuilder) -> Consumer {
    let built = timeout(PATIENCE, consumer.build()).await;
    built.expect("in time").expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> Event {
    let next = timeout(PATIENCE, consumer.next()).await;
    next.expect("in time").expect("open").expect("no error")
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(next(consumer).await.into_record());
    }
    taken
}

fn numbers(messages: &[Message]) -> BTreeSet<u32> {
    messages.iter().map(number).collect()
}

/// Asks for items until one of another kind than a record comes.
async fn event(consumer: &mut Consumer) -> Event {
    loop {
        match next(consumer).await {
            Event::Record(_) => {}
            other => return other,
        }
    }
}

/// What comes of a consumer in this time.
async fn during(consumer: &mut Consumer, time: Duration) -> Vec<Event> {
    let mut events = Vec::new();
    let until = tokio::time::Instant::now() + time;
    while let Ok(item) = tokio::time::timeout_at(until, consumer.next()).await {
        events.push(item.expect("open").expect("no error"));
    }
    events
}

fn names(topic: &str, partitions: impl IntoIterator<Item = u32>) -> Vec<Partition> {
    let partitions = partitions.into_iter();
    partitions.map(|p| Partition::new(topic, p)).collect()
}

async fn committed(client: &Client, group: &str) -> BTreeMap<Partition, u64> {
    let offsets = client.offsets(group).fetch().await.expect("told");
    let offsets = offsets.into_iter();
    offsets.map(|(p, one)| (p, one.offset.0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 3).await;
    send(&client, "t", 3, 0..300).await;
    let workers = || client.consumer("g").subscribe(["t"]);

    let mut first = build(workers()).await;
    assert_eq!(event(&mut first).await, Event::Assigned(names("t", 0..3)));
    let taken = take(&mut first, 300).await;
    assert_eq!(numbers(&taken), (0..300).collect());
    assert_eq!(first.assignment(), names("t", 0..3));
    first.close().await.expect("committed");

    send(&client, "t", 3, 300..600).await;
    let mut second = build(workers()).await;
    let taken = take(&mut second, 300).await;
    assert_eq!(
        numbers(&taken),
        (300..600).collect(),
        "nothing twice, nothing skipped"
    );
    // Dropped, it commits nothing: the next one gets the same again.
    drop(second);
    let mut third = build(workers().auto_commit(AutoCommit::EachAsk)).await;
    let taken = take(&mut third, 300).await;
    assert_eq!(numbers(&taken), (300..600).collect());
    // What is done is committed while the next item is waited for.
    let nothing = timeout(Duration::from_secs(1), third.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    drop(third);
    let mut fourth = build(workers()).await;
    send(&client, "t", 3, 600..603).await;
    assert_eq!(numbers(&take(&mut fourth, 3).await), (600..603).collect());
    fourth.close().await.expect("committed");

    // A group that begins at the end does not skip what comes while it is away.
    let latest = || {
        client
            .consumer("late")
            .subscribe(["t"])
            .start(Start::Latest)
    };
    let mut late = build(latest()).await;
    event(&mut late).await;
    while committed(&client, "late").await.len() < 3 {
        during(&mut late, Duration::from_millis(50)).await;
    }
    drop(late);
    send(&client, "t", 3, 603..606).await;
    let mut late = build(latest()).await;
    assert_eq!(numbers(&take(&mut late, 3).await), (603..606).collect());
    drop(late);
    let since = client
        .consumer("since")
        .subscribe(["t"])
        .start(Start::Time(0));
    let mut since = build(since).await;
    assert_eq!(take(&mut since, 606).await.len(), 606);
    drop(since);
    drop(client);
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_move_no_more_than_they_must() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 6).await;
    send(&client, "t", 6, 0..600).await;
    let never = AutoCommit::Every(Duration::from_secs(3_600));
    let mut one = build(client.consumer("g").subscribe(["t"]).auto_commit(never)).await;
    assert_eq!(event(&mut one).await, Event::Assigned(names("t", 0..6)));
    assert_eq!(numbers(&take(&mut one, 600).await), (0..600).collect());

    // The second member takes half; the first keeps the other half, and goes on with it.
    let other = client.clone();
    let joining = tokio::spawn(async move {
        let builder = other.consumer("g").subscribe(["t"]);
        let mut two = build(builder.auto_commit(never)).await;
        let assigned = event(&mut two).await;
        (two, assigned)
    });
    let Event::Revoked(revoked) = event(&mut one).await else {
        panic!("it goes on with half of it");
    };
    assert_eq!(revoked.len(), 3);
    let kept: Vec<Partition> = names("t", 0..6);
    let kept: Vec<Partition> = kept.into_iter().filter(|p| !revoked.contains(p)).collect();
    let more = during(&mut one, Duration::from_millis(500)).await;
    assert!(more.is_empty(), "{more:?}");
    assert_eq!(one.assignment(), kept);
    let committed = committed(&client, "g").await;
    for partition in &revoked {
        assert!(
            committed[partition] >= 100,
            "{partition} was committed before it went"
        );
    }
    let (mut two, assigned) = timeout(PATIENCE, joining)
        .await
        .expect("in time")
        .expect("joins");
    assert_eq!(assigned, Event::Assigned(revoked.clone()));

    send(&client, "t", 6, 600..1_200).await;
    let first = take(&mut one, 300).await;
    let second = take(&mut two, 300).await;
    assert!(first.iter().all(|message| kept.contains(&message.place())));
    assert!(
        second
            .iter()
            .all(|message| revoked.contains(&message.place()))
    );
    let mut all = numbers(&first);
    all.extend(numbers(&second));
    assert_eq!(
        all,
        (600..1_200).collect(),
        "nothing twice: it was committed when it went"
    );

    // When it leaves, its partitions come back, and nothing else moves.
    two.close().await.expect("committed");
    assert_eq!(event(&mut one).await, Event::Assigned(revoked));
    send(&client, "t", 6, 1_200..1_206).await;
    assert_eq!(numbers(&take(&mut one, 6).await), (1_200..1_206).collect());
    let described = client.admin().describe_group("g").await.expect("told");
    assert_eq!(described.members.len(), 1);
    let groups = client.admin().groups().await.expect("told");
    assert_eq!((groups.len(), groups[0].members), (1, 1));
    one.close().await.expect("committed");
    drop(client);
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_come_and_go() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "a", 2).await;
    let workers = client.consumer("g").subscribe(["a", "b"]);
    let mut consumer = build(workers.auto_commit(AutoCommit::EachAsk)).await;
    assert_eq!(
        event(&mut consumer).await,
        Event::Assigned(names("a", 0..2))
    );
    // A topic that is made later counts from then on.
    make_topic(&client, "b", 1).await;
    assert_eq!(
        event(&mut consumer).await,
        Event::Assigned(names("b", 0..1))
    );
    send(&client, "a", 2, 0..10).await;
    send(&client, "b", 1, 10..20).await;
    assert_eq!(numbers(&take(&mut consumer, 20).await), (0..20).collect());
    // One that is not wanted any more is given up, and the offsets stay.
    consumer.subscribe(["b"]).expect("one topic");
    assert_eq!(event(&mut consumer).await, Event::Revoked(names("a", 0..2)));
    send(&client, "a", 2, 20..22).await;
    send(&client, "b", 1, 22..23).await;
    assert_eq!(numbers(&take(&mut consumer, 1).await), [22].into());
    assert_eq!(committed(&client, "g").await.len(), 3);
    consumer.subscribe(["a", "b"]).expect("two topics");
    assert_eq!(
        event(&mut consumer).await,
        Event::Assigned(names("a", 0..2))
    );
    assert_eq!(numbers(&take(&mut consumer, 2).await), (20..22).collect());
    // One that is deleted is gone, without an error.
    client.admin().delete_topic("b").await.expect("deleted");
    assert_eq!(event(&mut consumer).await, Event::Revoked(names("b", 0..1)));
    let nothing = during(&mut consumer, Duration::from_millis(500)).await;
    assert!(nothing.is_empty(), "{nothing:?}");
    assert_eq!(committed(&client, "g").await.len(), 2);
    consumer.close().await.expect("committed");
    drop(client);
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_comes_back_finds_its_partitions() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 4).await;
    let worker = |instance: &str| client.consumer("g").subscribe(["t"]).instance(instance);
    let mut one = build(worker("one")).await;
    event(&mut one).await;
    let two = client.clone();
    let two = tokio::spawn(async move {
        let worker = two.consumer("g").subscribe(["t"]).instance("two");
        let mut two = build(worker).await;
        event(&mut two).await;
        two
    });
    assert!(matches!(event(&mut one).await, Event::Revoked(_)));
    during(&mut one, Duration::from_millis(100)).await;
    let two = timeout(PATIENCE, two)
        .await
        .expect("in time")
        .expect("joins");
    let (of_one, of_two) = (one.assignment(), two.assignment());
    assert_eq!((of_one.len(), of_two.len()), (2, 2));
    two.close().await.expect("closed");
    let nothing = during(&mut one, Duration::from_millis(1_500)).await;
    assert!(nothing.is_empty(), "nobody else notices: {nothing:?}");
    let mut two = build(worker("two")).await;
    assert_eq!(event(&mut two).await, Event::Assigned(of_two.clone()));
    let nothing = during(&mut one, Duration::from_millis(1_500)).await;
    assert!(nothing.is_empty(), "{nothing:?}");
    // Who gives the seat up for good is not waited for.
    two.leave().await.expect("left");
    assert_eq!(event(&mut one).await, Event::Assigned(of_two));
    drop((one, client));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_paused_resumed_and_sought() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 2).await;
    send(&client, "t", 2, 0..200).await;
    let off = client
        .consumer("g")
        .subscribe(["t"])
        .auto_commit(AutoCommit::Off);
    let mut consumer = build(off).await;
    event(&mut consumer).await;
    consumer.pause([("t", 1)]).expect("its own");
    assert!(consumer.pause([("t", 2)]).is_err(), "there is none");
    let taken = take(&mut consumer, 100).await;
    assert!(taken.iter().all(|message| message.partition.0 == 0));
    let more = during(&mut consumer, Duration::from_millis(500)).await;
    assert!(more.is_empty(), "{more:?}");
    consumer.resume([("t", 1)]).expect("its own");
    let taken = take(&mut consumer, 100).await;
    assert!(taken.iter().all(|message| message.partition.0 == 1));
    consumer.commit().await.expect("committed");
    let whole = committed(&client, "g").await;

    // Back, and committed there, because the user went back.
    let first = taken[0].offset;
    consumer.seek(("t", 1), first).expect("its own");
    let again = take(&mut consumer, 50).await;
    assert_eq!(again[..50], taken[..50]);
    consumer.commit().await.expect("it may go back");
    let half = committed(&client, "g").await;
    let (p0, p1) = (Partition::new("t", 0), Partition::new("t", 1));
    assert_eq!(half[&p0], whole[&p0]);
    assert_eq!(half[&p1], taken[49].offset.0 + 1);
    // An offset of the user's own must not go back by mistake.
    let back = [(p1.clone(), first), (p0.clone(), Offset(whole[&p0]))];
    let error = consumer.commit_offsets(back).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::CommitRefused);
    let refused = error.refused();
    assert_eq!((refused.len(), &refused[0].partition), (1, &p1));
    assert_eq!(refused[0].code, ErrorCode::OffsetMovedBack);
    assert_eq!(refused[0].committed, Some(taken[49].offset.plus(1)));
    let forth = taken[60].offset.plus(1);
    consumer
        .commit_offsets([(p1.clone(), forth)])
        .await
        .expect("forth");
    assert_eq!(committed(&client, "g").await[&p1], forth.0);
    let lag = consumer.lag();
    assert_eq!((lag[&p0], lag[&p1]), (0, 50));

    // Beyond the end there is nothing; the other partition goes on.
    consumer.seek(p1, Offset(1 << 40)).expect("its own");
    let error = timeout(PATIENCE, consumer.next())
        .await
        .expect("in time")
        .expect("open");
    let error = error.expect_err("beyond the end");
    assert!(
        matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }),
        "{error}"
    );
    send(&client, "t", 1, 200..201).await;
    assert_eq!(number(&take(&mut consumer, 1).await[0]), 200);
    drop((consumer, client));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_refused_are_errors_and_who_is_put_out_comes_back() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 2).await;
    send(&client, "t", 2, 0..20).await;
    let worker = || {
        let builder = client
            .consumer("g")
            .subscribe(["t"])
            .auto_commit(AutoCommit::Off);
        let builder = builder.session_timeout(Duration::from_secs(1));
        builder.rebalance_timeout(Duration::from_secs(1))
    };
    let mut slow = build(worker()).await;
    event(&mut slow).await;
    take(&mut slow, 20).await;
    // A reader that is no member does not commit beside members.
    let error = client.offsets("g").commit([(("t", 0), Offset(3))]).await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::CommitRefused);
    assert_eq!(error.code(), Some(ErrorCode::GroupActive));

    // Another one joins, and the first does not ask in time, so it is put out.
    let mut other = build(worker()).await;
    let mut assigned = 0;
    while assigned < 2 {
        if let Event::Assigned(partitions) = next(&mut other).await {
            assigned += partitions.len();
        }
    }
    let error = slow.commit().await.expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::CommitRefused, "{error}");
    assert!(committed(&client, "g").await.is_empty());
    assert_eq!(
        numbers(&take(&mut other, 20).await),
        (0..20).collect(),
        "once more"
    );
    let Event::Lost(lost) = event(&mut slow).await else {
        panic!("it was put out");
    };
    assert_eq!(lost, names("t", 0..2));
    // It has joined anew, and gets its share once the other has given it up.
    let sharing = tokio::spawn(async move {
        let revoked = event(&mut other).await;
        during(&mut other, Duration::from_millis(500)).await;
        (other, revoked)
    });
    let assigned = event(&mut slow).await;
    let (other, revoked) = timeout(PATIENCE, sharing)
        .await
        .expect("in time")
        .expect("shares");
    match (assigned, revoked) {
        (Event::Assigned(assigned), Event::Revoked(revoked)) => assert_eq!(assigned, revoked),
        other => panic!("{other:?}"),
    }
    drop((slow, other));

    // Names and numbers that cannot be are refused before anything is asked.
    for builder in [
        client.consumer("no spaces").subscribe(["t"]),
        client.consumer("g"),
        client
            .consumer("g")
            .subscribe(["t"])
            .start(Start::Offset(Offset(1))),
        client
            .consumer("g")
            .subscribe(["t"])
            .session_timeout(Duration::ZERO),
    ] {
        let error = builder.build().await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
    let long = client.consumer("g").subscribe(["t"]);
    let error = long
        .session_timeout(Duration::from_secs(90_000))
        .build()
        .await;
    let error = error.err().expect("refused");
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest), "{error}");
    drop(client);
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_kept_for_readers_and_reset_by_operators() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    make_topic(&client, "t", 2).await;
    send(&client, "t", 2, 0..100).await;
    let admin = client.admin();
    assert!(admin.groups().await.expect("told").is_empty());

    let read = |until: Until| {
        let reader = client.reader("t").from(Start::Committed("g".into()));
        reader.until(until).build()
    };
    let mut reader = read(Until::End).await.expect("a reader");
    let mut taken = Vec::new();
    while let Some(message) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        taken.push(message.expect("readable"));
    }
    assert_eq!(numbers(&taken), (0..100).collect());
    let offsets = client.offsets("g");
    let done = reader.positions().into_iter();
    let done: Vec<_> = done.map(|(partition, at)| (("t", partition), at)).collect();
    offsets.commit(done.clone()).await.expect("committed");
    let error = offsets.commit([(("t", 0), Offset(1))]).await;
    assert_eq!(error.expect_err("back").refused().len(), 1);
    send(&client, "t", 2, 100..102).await;
    let mut reader = read(Until::Forever).await.expect("a reader");
    for _ in 0..2 {
        let message = timeout(PATIENCE, reader.next()).await.expect("in time");
        assert!(number(&message.expect("one").expect("readable")) >= 100);
    }

    // A shift back by 10, seen before it is done.
    let scope = ResetScope::Committed;
    let plan = admin
        .plan_reset("g", ResetTo::Shift(-10), scope.clone())
        .await
        .expect("told");
    let rows: Vec<_> = plan.rows.iter().map(|row| (row.from, row.to.0)).collect();
    let expected: Vec<_> = done.iter().map(|(_, at)| (Some(*at), at.0 - 10)).collect();
    assert_eq!(rows, expected);
    assert_eq!(
        committed(&client, "g").await[&Partition::new("t", 0)],
        done[0].1.0
    );
    admin.execute_reset(&plan).await.expect("reset");
    admin
        .execute_reset(&plan)
        .await
        .expect("the same again does no harm");
    assert_eq!(
        committed(&client, "g").await[&Partition::new("t", 0)],
        done[0].1.0 - 10
    );
    let late = admin
        .plan_reset("g", ResetTo::Earliest, scope.clone())
        .await
        .expect("told");
    offsets
        .commit([(("t", 1), done[1].1)])
        .await
        .expect("forth");
    let error = admin.execute_reset(&late).await.expect_err("changed since");
    assert_eq!(error.code(), Some(ErrorCode::OffsetChanged));

    // By time: all records are younger than 1970, and none is of the year 2200.
    for (ms, is_first) in [(0, true), (7_258_118_400_000, false)] {
        let plan = admin
            .plan_reset("g", ResetTo::Time(ms), scope.clone())
            .await;
        let plan = plan.expect("told");
        assert_eq!(plan.rows.len(), 2);
        for row in &plan.rows {
            // A log begins with an entry that is for no consumer.
            let (first, end) = (row.log_start.0, row.high_watermark.0);
            let from = if is_first { first } else { end };
            assert!((from..from + 2).contains(&row.to.0), "{ms}: {row:?}");
        }
    }

    // Not while there are members.
    let mut member = build(client.consumer("g").subscribe(["t"])).await;
    event(&mut member).await;
    let plan = admin
        .plan_reset("g", ResetTo::Earliest, scope)
        .await
        .expect("told");
    for error in [
        admin.execute_reset(&plan).await.expect_err("active"),
        admin.delete_group("g").await.expect_err("active"),
    ] {
        assert_eq!(error.code(), Some(ErrorCode::GroupActive), "{error}");
    }
    member.close().await.expect("closed");
    let one = ResetScope::Partitions(names("t", [0]));
    let plan = admin
        .plan_reset("g", ResetTo::Offset(Offset(1 << 40)), one)
        .await;
    let plan = plan.expect("told");
    assert!(plan.rows[0].clamped && plan.rows[0].to == plan.rows[0].high_watermark);
    admin.delete_group("g").await.expect("deleted");
    let gone = admin.describe_group("g").await.expect_err("gone");
    assert_eq!(gone.code(), Some(ErrorCode::UnknownGroup));
    let plan = admin.plan_reset("g", ResetTo::Shift(1), ResetScope::Topics(vec!["t".into()]));
    assert_eq!(plan.await.expect("told").left_out, names("t", 0..2));
    drop(client);
    cluster.end();
}
