//! What the cluster's status says is wrong, and why.

use baton_controller::core::{Input, SessionId};
use baton_controller::session::ToController;
use baton_protocol::admin::{AdminRequest, AdminResponse, PartitionTrouble};
use baton_protocol::ids::{PartitionIndex, TopicId, TopicPartition};

use crate::stage::{PARTITION, Stage, apply, change};

fn troubles(stage: &mut Stage) -> Vec<PartitionTrouble> {
    let admin = ToController::Admin {
        id: 1,
        request: AdminRequest::ClusterStatus,
        fresh_topic_id: TopicId::default(),
    };
    stage.say(3, admin);
    match stage.last_answer(3) {
        Ok(AdminResponse::ClusterStatus(status)) => status.troubles,
        other => panic!("{other:?}"),
    }
}

/// Why something is wrong with the one partition; empty if nothing is.
fn reason(stage: &mut Stage) -> String {
    let troubles = troubles(stage);
    troubles
        .first()
        .map(|t| t.reason.clone())
        .unwrap_or_default()
}

fn tell(stage: &mut Stage, session: u64, trouble: Option<&str>) {
    let told = vec![(PARTITION, trouble.map(str::to_owned))];
    stage.say(session, ToController::ReplicaTroubles(told));
}

#[test]
fn a_replica_in_the_set_that_has_no_room_is_named_until_it_has() {
    let mut stage = Stage::new(1);
    assert_eq!(reason(&mut stage), "");
    tell(&mut stage, 2, Some("has no room on its disk"));
    assert!(!troubles(&mut stage)[0].leaderless);
    assert_eq!(reason(&mut stage), "broker 2 has no room on its disk");
    tell(&mut stage, 2, None);
    assert_eq!(reason(&mut stage), "");
}

#[test]
fn what_a_broker_says_stands_before_what_follows_from_it() {
    let mut stage = Stage::new(1);
    let leader = stage.life(1);
    let without = change(&stage, &[1, 3], &[]);
    apply(&mut stage, leader, without);
    stage.adopt_log();
    assert_eq!(reason(&mut stage), "broker 2 is catching up");
    tell(&mut stage, 2, Some("cannot read its log"));
    assert_eq!(reason(&mut stage), "broker 2 cannot read its log");
    stage.say(3, ToController::ReportSuspect(vec![PARTITION]));
    let both = reason(&mut stage);
    assert!(
        both.starts_with("broker 2 cannot read its log; broker 3 may have lost"),
        "{both}"
    );
}

#[test]
fn in_an_election_it_is_said_why_an_answer_stays_away() {
    let mut stage = Stage::new(1);
    tell(&mut stage, 2, Some("cannot read its log"));
    stage.kill_leader();
    stage.answer(3, 2, 1, 10);
    let said = reason(&mut stage);
    assert!(said.contains("1 of 2 answers"), "{said}");
    assert!(said.ends_with("; broker 2 cannot read its log"), "{said}");
}

#[test]
fn what_was_said_ends_with_the_session_and_is_bounded() {
    let mut stage = Stage::new(1);
    tell(&mut stage, 2, Some(&"x".repeat(100_000)));
    assert!(reason(&mut stage).len() < 1_000);
    let elsewhere = TopicPartition {
        partition: PartitionIndex(9),
        ..PARTITION
    };
    let told = vec![(elsewhere, Some("is not its own".to_owned()))];
    stage.say(3, ToController::ReplicaTroubles(told));
    assert_eq!(troubles(&mut stage).len(), 1, "of partitions there are");
    stage.step(Input::Closed(SessionId(2)));
    assert_eq!(reason(&mut stage), "");
}
