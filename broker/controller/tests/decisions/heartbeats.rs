//! When heartbeats are answered: a leader without synchronous followers goes on by the answers.

use baton_controller::command::Command;
use baton_controller::core::{Input, SessionId};
use baton_controller::rules::{Rule, Rules};
use baton_controller::session::{FromController, ToController};
use baton_protocol::ids::{BrokerLife, Tick};

use crate::stage::Stage;

/// The answers that were sent to a session so far.
fn answers(stage: &Stage, session: u64) -> Vec<bool> {
    let sent = stage.sent[&SessionId(session)].iter();
    let answers = sent.filter_map(|message| match message {
        FromController::HeartbeatAck { alive } => Some(*alive),
        _ => None,
    });
    answers.collect()
}

/// A controller that has answered all there was, at 1,000 ms.
fn stage() -> Stage {
    let mut stage = Stage::new(0);
    stage.now = 1_000;
    stage.surely_led(1_000);
    stage.sent.values_mut().for_each(Vec::clear);
    stage
}

fn beat(stage: &mut Stage, session: u64) {
    let disk_progress = stage.now;
    stage.say(session, ToController::Heartbeat { disk_progress });
}

#[test]
fn a_heartbeat_is_answered_once_the_controller_led_for_sure_when_it_came() {
    let mut stage = stage();
    beat(&mut stage, 1);
    stage.now = 1_040;
    beat(&mut stage, 2);
    stage.step(Input::Tick);
    stage.surely_led(990);
    assert_eq!(
        answers(&stage, 1),
        [],
        "by then another may have been elected"
    );
    stage.surely_led(1_000);
    assert_eq!(
        answers(&stage, 1),
        [],
        "it may have come later in that millisecond"
    );
    stage.surely_led(1_001);
    assert_eq!(answers(&stage, 1), [true]);
    assert_eq!(answers(&stage, 2), []);
    stage.surely_led(1_041);
    stage.surely_led(1_041);
    assert_eq!(answers(&stage, 1), [true], "once");
    assert_eq!(answers(&stage, 2), [true]);
}

#[test]
fn a_controller_that_no_majority_hears_answers_nobody() {
    let mut stage = stage();
    for _ in 0..40 {
        stage.pass(50);
        stage.surely_led(1_000);
    }
    for session in 1..=3 {
        assert_eq!(answers(&stage, session), []);
    }
    // It was away for a while, and nobody else was elected.
    stage.surely_led(stage.now);
    assert!(answers(&stage, 1).len() >= 39);
}

#[test]
fn what_is_learned_of_a_broker_meanwhile_is_in_the_answer() {
    let mut stage = stage();
    for session in 1..=3 {
        beat(&mut stage, session);
    }
    stage.hold = true;
    stage.silent.insert(1);
    stage.pass(1_300);
    stage.surely_led(stage.now);
    assert_eq!(answers(&stage, 1), [false], "its death is proposed");
    assert!(answers(&stage, 2).iter().all(|alive| *alive));
}

#[test]
fn who_is_about_to_lose_its_lead_is_not_told_that_it_is_alive() {
    let mut stage = stage();
    let life = stage.life(1);
    // That its reign ends is proposed when it is fenced, and not committed when it is so no more.
    stage.hold = true;
    let fence = |fence: &[BrokerLife], unfence: &[BrokerLife]| Command::SetFenced {
        fence: fence.to_vec(),
        unfence: unfence.to_vec(),
    };
    stage.commit(fence(&[life], &[]));
    stage.commit(fence(&[], &[life]));
    assert_eq!(stage.partition().leader, Some(life));
    for session in [1, 2] {
        beat(&mut stage, session);
    }
    stage.surely_led(1_001);
    assert_eq!(answers(&stage, 1), [false]);
    assert_eq!(answers(&stage, 2), [true]);
}

#[test]
fn nothing_is_owed_to_a_connection_that_ended() {
    let mut stage = stage();
    for session in [1, 2, 1, 2] {
        beat(&mut stage, session);
    }
    stage.step(Input::Closed(SessionId(1)));
    stage.surely_led(1_500);
    assert_eq!(answers(&stage, 1), []);
    assert_eq!(answers(&stage, 2), [true, true]);
}

#[test]
fn that_this_node_leads_again_says_nothing_of_the_time_between() {
    let mut stage = stage();
    beat(&mut stage, 1);
    let (term, at) = (stage.core.term() + 2, Tick(1_500));
    stage.step(Input::SurelyLed { term, at });
    assert_eq!(answers(&stage, 1), [], "another may have led when it came");
    stage.adopt_log();
    stage.sent.values_mut().for_each(Vec::clear);
    stage.surely_led(1_500);
    assert_eq!(
        answers(&stage, 1),
        [],
        "the next reign owes nothing of the last"
    );
}

#[test]
fn without_the_rule_heartbeats_are_answered_as_they_come() {
    let mut stage = stage();
    stage.log.rules = Rules::without(Rule::HeartbeatsAwaitTheMajority);
    stage.adopt_log();
    beat(&mut stage, 1);
    assert_eq!(answers(&stage, 1), [true]);
}
