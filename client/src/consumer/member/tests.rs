//! Scripts: what comes in at which time, and what the member does about it.

use std::fmt::Write;

use baton_protocol::ids::PartitionIndex;
use uuid::Uuid;

use super::*;

/// A member under test. What it does is a line of text: `join 1`, `beat 1 e2` for member 1 and the
/// epoch it shows, `have 1 e2 [0,1] <10000` for an assignment and when it ends.
struct Script {
    member: Member,
    now: Tick,
}

impl Script {
    fn new(instance: Option<&str>) -> Script {
        let settings = Settings {
            group: "g".to_owned(),
            instance: instance.map(str::to_owned),
            topics: vec!["t".to_owned()],
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 30_000,
            client: "test".to_owned(),
        };
        let mut drawn = 0;
        let draw = move || {
            drawn += 1;
            MemberId(Uuid::from_u128(drawn))
        };
        let member = Member::new(settings, draw);
        let now = Tick(0);
        Script { member, now }
    }

    /// One that has joined, and has applied epoch 1 with partitions 0 to 2.
    fn joined(instance: Option<&str>) -> Script {
        let mut script = Script::new(instance);
        assert_eq!(script.at(0, Input::Tick), "join 1 v1");
        assert_eq!(
            script.at(5, answer(1, Some(&[0, 1, 2]), None)),
            "have 1 e1 [0,1,2] <10000"
        );
        assert_eq!(script.at(6, Input::Applied(1, GroupEpoch(1))), "beat 1 e1");
        assert_eq!(
            script.at(10, answer(1, None, None)),
            "have 1 e1 [0,1,2] <10006"
        );
        script
    }

    fn at(&mut self, ms: u64, input: Input) -> String {
        assert!(ms >= self.now.0, "time goes on");
        self.now = Tick(ms);
        let mut out = Vec::new();
        self.member.step(self.now, input, &mut out);
        let lines: Vec<String> = out.iter().map(line).collect();
        lines.join("; ")
    }
}

fn line(output: &Output) -> String {
    let short = |id: &MemberId| id.0.as_u128();
    match output {
        Output::Send(GroupRequest::Heartbeat(beat)) => {
            let id = short(&beat.member);
            let mut text = match (beat.epoch, &beat.subscription) {
                (GroupEpoch::NONE, Some(_)) => format!("join {id}"),
                (epoch, _) => format!("beat {id} e{epoch}"),
            };
            if let Some(wanted) = &beat.subscription {
                write!(text, " v{}", wanted.version).expect("written");
            }
            text
        }
        Output::Send(GroupRequest::Leave {
            member, keep_seat, ..
        }) => format!(
            "leave {}{}",
            short(member),
            if *keep_seat { " kept" } else { "" }
        ),
        Output::Send(other) => format!("{other:?}"),
        Output::Assign(assignment) => {
            let numbers = assignment.partitions.keys();
            let numbers: Vec<String> = numbers.map(|at| at.partition.to_string()).collect();
            let until = assignment.valid_until;
            let until = until.map_or(String::new(), |at| format!(" <{at}"));
            format!(
                "have {} e{} [{}]{until}",
                assignment.membership,
                assignment.epoch,
                numbers.join(",")
            )
        }
        Output::Refused(error) => format!("refused {:?}", error.code),
        Output::Left => "left".to_owned(),
    }
}

fn answer(epoch: u64, partitions: Option<&[u32]>, revoke_within_ms: Option<u32>) -> Input {
    let assignment = partitions.map(|partitions| {
        vec![AssignedTopic {
            topic: Default::default(),
            name: "t".to_owned(),
            partitions: partitions.iter().copied().map(PartitionIndex).collect(),
        }]
    });
    Input::Answered(Ok(HeartbeatAnswer {
        epoch: GroupEpoch(epoch),
        heartbeat_interval_ms: 1_000,
        assignment,
        revoke_within_ms,
    }))
}

fn refused(code: ErrorCode) -> Input {
    Input::Answered(Err(Failure::Refused(WireError::new(code, "no"))))
}

fn no_answer() -> Input {
    Input::Answered(Err(Failure::NoAnswer))
}

#[test]
fn joining_is_repeated_until_it_is_answered() {
    let mut script = Script::new(None);
    assert_eq!(script.at(0, Input::Tick), "join 1 v1");
    assert_eq!(script.at(1, Input::Tick), "", "one at a time");
    assert_eq!(script.at(1_000, no_answer()), "");
    assert_eq!(script.member.wakes_at(), Some(Tick(1_100)));
    assert_eq!(script.at(1_100, Input::Tick), "join 1 v1");
    assert_eq!(script.at(1_200, refused(ErrorCode::NotCoordinator)), "");
    assert_eq!(script.at(1_300, Input::Tick), "join 1 v1");
    assert_eq!(
        script.at(1_305, answer(3, Some(&[0]), None)),
        "have 1 e3 [0] <11300"
    );
    assert_eq!(script.member.wakes_at(), Some(Tick(2_300)));
}

#[test]
fn heartbeats_keep_the_session_from_when_they_were_sent() {
    let mut script = Script::joined(None);
    assert_eq!(script.at(1_005, Input::Tick), "", "too early");
    assert_eq!(script.at(1_006, Input::Tick), "beat 1 e1");
    // The answer takes three seconds: they count as part of the session.
    assert_eq!(
        script.at(4_000, answer(1, None, None)),
        "have 1 e1 [0,1,2] <11006; beat 1 e1"
    );
    assert_eq!(script.at(14_001, Input::Tick), "have 2 e0 []");
}

#[test]
fn a_silent_coordinator_ends_the_session() {
    let mut script = Script::joined(None);
    assert_eq!(script.at(1_006, Input::Tick), "beat 1 e1");
    for at in (2_006..10_000).step_by(1_100) {
        assert_eq!(script.at(at, no_answer()), "");
        assert_eq!(script.at(at + 100, Input::Tick), "beat 1 e1");
    }
    assert_eq!(script.member.wakes_at(), Some(Tick(10_006)));
    assert_eq!(script.at(10_006, Input::Tick), "have 2 e0 []");
}

#[test]
fn an_answer_after_the_session_is_no_answer() {
    let mut script = Script::joined(None);
    assert_eq!(script.at(1_006, Input::Tick), "beat 1 e1");
    assert_eq!(script.at(10_006, answer(1, None, None)), "have 2 e0 []");
}

#[test]
fn what_is_taken_back_is_shown_once_it_was_given_up() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    assert_eq!(
        script.at(1_010, answer(2, Some(&[0, 1]), Some(30_000))),
        "have 1 e2 [0,1] <11006"
    );
    // Not given up yet: the old epoch is shown.
    assert_eq!(script.at(2_006, Input::Tick), "beat 1 e1");
    assert_eq!(
        script.at(2_010, answer(2, Some(&[0, 1]), Some(29_000))),
        "have 1 e2 [0,1] <12006"
    );
    assert_eq!(
        script.at(2_500, Input::Applied(1, GroupEpoch(2))),
        "beat 1 e2"
    );
    assert_eq!(
        script.at(2_510, answer(2, None, None)),
        "have 1 e2 [0,1] <12500"
    );
}

#[test]
fn who_does_not_give_up_in_time_is_out() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    assert_eq!(
        script.at(1_010, answer(2, Some(&[0]), Some(2_000))),
        "have 1 e2 [0] <3006"
    );
    assert_eq!(script.at(2_006, Input::Tick), "beat 1 e1");
    // A later and longer time does not prolong it.
    assert_eq!(
        script.at(2_010, answer(2, Some(&[0]), Some(5_000))),
        "have 1 e2 [0] <3006"
    );
    assert_eq!(
        script.at(3_000, Input::Applied(1, GroupEpoch(2))),
        "beat 1 e2"
    );
    assert_eq!(
        script.at(3_006, Input::Tick),
        "have 2 e0 []",
        "it was not answered"
    );
}

#[test]
fn an_answer_to_the_new_epoch_lifts_the_deadline() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    script.at(1_010, answer(2, Some(&[0]), Some(2_000)));
    assert_eq!(
        script.at(1_500, Input::Applied(1, GroupEpoch(2))),
        "beat 1 e2"
    );
    assert_eq!(
        script.at(1_510, answer(2, None, None)),
        "have 1 e2 [0] <11500"
    );
}

#[test]
fn only_the_newest_epoch_of_this_membership_is_applied() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    script.at(1_010, answer(2, Some(&[0]), Some(30_000)));
    script.at(2_006, Input::Tick);
    script.at(2_010, answer(3, Some(&[1]), Some(30_000)));
    assert_eq!(
        script.at(2_020, Input::Applied(1, GroupEpoch(2))),
        "",
        "of an older epoch"
    );
    assert_eq!(
        script.at(2_020, Input::Applied(7, GroupEpoch(3))),
        "",
        "of another membership"
    );
    assert_eq!(
        script.at(2_020, Input::Applied(1, GroupEpoch(3))),
        "beat 1 e3"
    );
}

#[test]
fn an_older_answer_changes_nothing() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    script.at(1_010, answer(5, Some(&[0, 1, 2]), None));
    script.at(1_020, Input::Applied(1, GroupEpoch(5)));
    assert_eq!(script.at(1_030, answer(4, Some(&[0]), Some(1))), "");
    assert_eq!(script.member.assignment().epoch, GroupEpoch(5));
}

#[test]
fn who_is_unknown_loses_everything_and_joins_anew() {
    for code in [ErrorCode::UnknownMember, ErrorCode::FencedMember] {
        let mut script = Script::joined(None);
        script.at(1_006, Input::Tick);
        assert_eq!(script.at(1_010, refused(code)), "have 2 e0 []");
        assert_eq!(script.at(1_010, Input::Begin(2)), "join 2 v1");
        assert_eq!(
            script.at(1_020, answer(9, Some(&[0]), None)),
            "have 2 e9 [0] <11010"
        );
    }
}

#[test]
fn another_coordinator_is_asked_and_the_session_goes_on_counting() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    for code in [
        ErrorCode::NotCoordinator,
        ErrorCode::NotReady,
        ErrorCode::LeaderChanged,
        ErrorCode::CommitTimeout,
        ErrorCode::Unavailable,
    ] {
        let now = script.now.0;
        assert_eq!(script.at(now + 10, refused(code)), "", "{code:?}");
        assert_eq!(script.at(now + 110, Input::Tick), "beat 1 e1");
    }
    assert_eq!(script.at(10_006, Input::Tick), "have 2 e0 []");
}

#[test]
fn other_topics_are_told_at_once_and_until_they_are_answered() {
    let mut script = Script::joined(None);
    let topics = |name: &str| Input::Subscribe(vec![name.to_owned()]);
    assert_eq!(script.at(100, topics("t")), "", "the same as before");
    assert_eq!(script.at(100, topics("u")), "beat 1 e1 v2");
    assert_eq!(script.at(110, topics("v")), "", "one at a time");
    assert_eq!(script.at(1_100, no_answer()), "");
    assert_eq!(script.at(1_200, Input::Tick), "beat 1 e1 v3");
    let expected = "have 1 e2 [] <11200";
    assert_eq!(script.at(1_210, answer(2, Some(&[]), None)), expected);
    assert_eq!(
        script.at(1_220, Input::Applied(1, GroupEpoch(2))),
        "beat 1 e2"
    );
}

#[test]
fn a_member_leaves_once_and_a_static_one_keeps_its_seat() {
    for (instance, keep_seat, left) in [
        (None, true, "leave 1"),
        (Some("a"), true, "leave 1 kept"),
        (Some("a"), false, "leave 1"),
    ] {
        let mut script = Script::joined(instance);
        assert_eq!(script.at(100, Input::Leave { keep_seat }), left);
        assert_eq!(script.at(200, refused(ErrorCode::NotCoordinator)), "");
        assert_eq!(script.at(300, Input::Tick), left, "again");
        assert_eq!(script.at(310, refused(ErrorCode::UnknownMember)), "left");
        assert_eq!(script.at(99_999, Input::Tick), "");
        assert_eq!(script.member.wakes_at(), None);
    }
}

#[test]
fn leaving_waits_for_what_is_on_its_way() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    // A heartbeat that came after the leave would join anew.
    assert_eq!(script.at(1_010, Input::Leave { keep_seat: false }), "");
    assert_eq!(
        script.at(1_020, answer(1, None, None)),
        "have 1 e1 [0,1,2] <11006; leave 1"
    );
    let mut never = Script::new(None);
    assert_eq!(never.at(0, Input::Leave { keep_seat: false }), "left");
}

#[test]
fn a_seat_that_is_taken_is_waited_for() {
    let mut script = Script::new(Some("a"));
    script.at(0, Input::Tick);
    assert_eq!(
        script.at(10, refused(ErrorCode::InstanceInUse)),
        "refused InstanceInUse"
    );
    assert_eq!(
        script.at(500, Input::Tick),
        "",
        "it is not asked for too often"
    );
    assert_eq!(script.at(1_010, Input::Tick), "join 1 v1");
    assert_eq!(
        script.at(1_020, answer(4, Some(&[2]), None)),
        "have 1 e4 [2] <11010"
    );
}

#[test]
fn a_refusal_for_good_is_told() {
    let mut script = Script::new(None);
    script.at(0, Input::Tick);
    assert_eq!(
        script.at(10, refused(ErrorCode::GroupLimit)),
        "refused GroupLimit"
    );
    assert_eq!(
        script.at(1_010, Input::Tick),
        "join 1 v1",
        "limits may be raised"
    );
}

#[test]
fn a_consumer_that_does_not_know_of_its_loss_asks_for_nothing() {
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    assert_eq!(
        script.at(1_010, refused(ErrorCode::UnknownMember)),
        "have 2 e0 []"
    );
    assert_eq!(script.at(90_000, Input::Tick), "");
    assert_eq!(script.member.wakes_at(), None);
    assert_eq!(script.at(90_000, Input::Begin(1)), "", "that was before");
    assert_eq!(script.at(90_000, Input::Begin(2)), "join 2 v1");
    // One that leaves instead has nothing to take leave of.
    let mut script = Script::joined(None);
    script.at(1_006, Input::Tick);
    script.at(1_010, refused(ErrorCode::UnknownMember));
    assert_eq!(script.at(1_020, Input::Leave { keep_seat: false }), "left");
}
