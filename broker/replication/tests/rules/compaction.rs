//! Logs that lack entries which newer ones supersede: a follower takes what a leader has left, and after an
//! election that may have lost the newer ones, it makes sure that the older ones are there again.

use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, LeaderEpoch, Offset, PartitionVersion, Tick,
};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::{Ack, Append, ReplicaMessage};
use baton_replication::by_broker::ByBroker;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::{Effect, EntryShape, Input, PartitionView, ReplicaView};
use baton_replication::rules::{Rule, Rules};
use baton_replication::{Config, LogShape, Replica};

fn life(id: u32) -> BrokerLife {
    BrokerLife {
        broker: BrokerId(id),
        epoch: BrokerEpoch(1),
    }
}

/// Broker 1 leads in epoch 4; an election before that epoch may have lost entries, if it says so.
fn view(members: &[u32], lossy: u32) -> PartitionView {
    let replica = ReplicaView {
        life: BrokerEpoch(1),
        fenced: false,
        suspect: false,
    };
    PartitionView {
        epoch: LeaderEpoch(4),
        leader: Some(life(1)),
        version: PartitionVersion(1),
        in_sync: members.iter().copied().map(BrokerId).collect(),
        sync_followers_commit: 1,
        sync_followers_elect: 1,
        flush: Flush::Ack,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch(lossy),
        leader_keeps: Offset::MAX,
        compacted: true,
        replicas: ByBroker::from([1, 2, 3].map(|id| (BrokerId(id), replica))),
    }
}

/// The same, in which broker 2 is a suspect.
fn view_of_suspect(mut view: PartitionView) -> PartitionView {
    let replica = view.replicas.get_mut(&BrokerId(2)).expect("a replica");
    replica.suspect = true;
    view
}

/// Broker 2 with a log of these epochs that ends at 60, known to be committed up to there.
fn follower(view: PartitionView, epochs: &[(u32, u64)], high_watermark: u64) -> Replica {
    follower_by(Rules::default(), view, epochs, high_watermark)
}

fn follower_by(
    rules: Rules,
    view: PartitionView,
    epochs: &[(u32, u64)],
    high_watermark: u64,
) -> Replica {
    let runs = epochs
        .iter()
        .map(|(epoch, at)| (LeaderEpoch(*epoch), Offset(*at)));
    let log = LogShape {
        end: Offset(60),
        durable_end: Offset(60),
        high_watermark: Offset(high_watermark),
        epochs: EpochHistory::new(runs.collect()),
        ..LogShape::default()
    };
    Replica::new(life(2), Config::default(), rules, log, view, [])
}

fn entry(epoch: u32, base: u64, end: u64) -> EntryShape {
    EntryShape {
        base: Offset(base),
        end: Offset(end),
        epoch: LeaderEpoch(epoch),
        producer: None,
    }
}

fn append(to: &mut Replica, prev: (u32, u64), entries: &[EntryShape]) -> Vec<Effect> {
    let append = Append {
        epoch: LeaderEpoch(4),
        leader: life(1),
        to: BrokerEpoch(1),
        prev_epoch: LeaderEpoch(prev.0),
        prev_end: Offset(prev.1),
        high_watermark: Offset(40),
        log_start: Offset::ZERO,
    };
    let mut out = Vec::new();
    to.step(Tick(1), Input::Append(append, entries.to_vec()), &mut out);
    out
}

fn cut(out: &[Effect]) -> Option<u64> {
    out.iter().find_map(|effect| match effect {
        Effect::Truncate { to, .. } => Some(to.0),
        _ => None,
    })
}

fn began_anew(out: &[Effect]) -> Option<u64> {
    out.iter().find_map(|effect| match effect {
        Effect::Reset { start, .. } => Some(start.0),
        _ => None,
    })
}

fn taken(out: &[Effect]) -> Option<usize> {
    out.iter().find_map(|effect| match effect {
        Effect::AppendEntries { skip } => Some(*skip),
        _ => None,
    })
}

/// Epoch and end of the log that is acknowledged.
fn acknowledged(out: &[Effect]) -> Option<(u32, u64)> {
    out.iter().find_map(|effect| match effect {
        Effect::Send {
            message: ReplicaMessage::Ack(ack),
            ..
        } => Some((ack.last_epoch.0, ack.durable_end.0)),
        _ => None,
    })
}

fn says_where_it_is(out: &[Effect]) -> bool {
    let is = |effect: &Effect| {
        matches!(
            effect,
            Effect::Send {
                message: ReplicaMessage::Mismatch(_),
                ..
            }
        )
    };
    out.iter().any(is)
}

#[test]
fn a_gap_within_an_epoch_cuts_nothing_of_that_epoch() {
    let mut all = follower(view(&[1, 2], 0), &[(1, 0)], 60);
    let left = [entry(1, 40, 45), entry(1, 70, 75)];
    let out = append(&mut all, (1, 40), &left);
    assert_eq!((cut(&out), taken(&out)), (None, Some(1)));
    assert_eq!(all.log().end, Offset(75));

    let mut further = follower(view(&[1, 2], 0), &[(1, 0)], 60);
    let out = append(&mut further, (1, 40), &[entry(1, 40, 45), entry(1, 50, 55)]);
    assert_eq!((cut(&out), taken(&out)), (None, None), "all of it is held");
}

#[test]
fn what_another_epoch_wrote_is_cut_where_that_began() {
    // Of epoch 2 nothing was committed: the leader has 50 to 60 of epoch 1, and lacks some of it.
    let mut other = follower(view(&[1, 2], 0), &[(1, 0), (2, 50)], 45);
    let out = append(&mut other, (1, 30), &[entry(1, 35, 40), entry(1, 55, 60)]);
    assert_eq!((cut(&out), taken(&out)), (Some(50), Some(1)));
    assert_eq!(other.log().end, Offset(60));

    // Between epochs nothing is missing: the last entry of each is there.
    let mut longer = follower(view(&[1, 2], 0), &[(1, 0)], 45);
    let out = append(&mut longer, (1, 30), &[entry(1, 40, 45), entry(3, 45, 46)]);
    assert_eq!((cut(&out), taken(&out)), (Some(45), Some(1)));
}

#[test]
fn a_member_that_is_cut_below_its_watermark_begins_anew() {
    let mut member = follower(view(&[1, 2], 3), &[(1, 0)], 50);
    let left = [entry(1, 40, 45), entry(3, 90, 91)];
    assert_eq!(append(&mut member, (1, 30), &left), []);
    assert!(member.log().lossy, "the metadata is to know it first");
    let suspect = view_of_suspect(view(&[1, 2], 3));
    member.step(Tick(2), Input::Metadata(suspect.into()), &mut Vec::new());
    assert!(!member.log().lossy);
    let out = append(&mut member, (1, 30), &left);
    assert_eq!((began_anew(&out), cut(&out)), (Some(0), None));
    assert!(says_where_it_is(&out));
    assert_eq!(member.log().end, Offset::ZERO);

    // All of it was written in this life, but for what it found.
    let mut above = follower(view(&[1, 2], 3), &[(1, 0)], 45);
    append(&mut above, (1, 60), &[entry(1, 60, 70)]);
    let out = append(&mut above, (1, 55), &[entry(1, 55, 60), entry(3, 90, 91)]);
    assert_eq!((began_anew(&out), cut(&out)), (None, Some(60)));

    // What an earlier life knew to be committed, and compacted, nobody knows any more.
    let mut restarted = follower(view_of_suspect(view(&[1, 2], 3)), &[(1, 0)], 0);
    let out = append(&mut restarted, (1, 30), &left);
    assert_eq!((began_anew(&out), cut(&out)), (Some(0), None));
    let mut clean = follower(view(&[1, 2], 0), &[(1, 0)], 0);
    let out = append(&mut clean, (1, 30), &left);
    assert_eq!((began_anew(&out), cut(&out)), (None, Some(45)));
}

#[test]
fn one_that_begins_anew_where_the_leader_asks_continues_there() {
    // Were it to say that it does not, it would be told to begin further down, where the leader's log starts.
    let suspect = view_of_suspect(view(&[1, 2], 3));
    let mut bare = follower(suspect.clone(), &[(1, 0)], 50);
    let out = append(&mut bare, (0, 0), &[entry(1, 40, 45), entry(3, 90, 91)]);
    assert_eq!((began_anew(&out), taken(&out)), (Some(0), None));
    assert!(!says_where_it_is(&out));
    assert_eq!(acknowledged(&out), Some((0, 0)));

    let log = LogShape {
        start: Offset(30),
        end: Offset(60),
        durable_end: Offset(60),
        high_watermark: Offset(50),
        epochs: EpochHistory::new(vec![
            (LeaderEpoch(1), Offset(0)),
            (LeaderEpoch(2), Offset(40)),
        ]),
        ..LogShape::default()
    };
    let (config, rules) = (Config::default(), Rules::default());
    let mut expired = Replica::new(life(2), config, rules, log, suspect, []);
    let out = append(&mut expired, (1, 30), &[entry(3, 90, 91)]);
    assert_eq!((began_anew(&out), taken(&out)), (Some(30), None));
    assert!(!says_where_it_is(&out));
    assert_eq!(acknowledged(&out), Some((1, 30)), "it holds what is below");
    let out = append(&mut expired, (1, 30), &[entry(3, 90, 91)]);
    assert_eq!((began_anew(&out), taken(&out)), (None, Some(0)));
}

#[test]
fn one_that_was_no_member_begins_anew_once() {
    let mut outside = follower(view(&[1, 3], 3), &[(1, 0)], 10);
    let out = append(&mut outside, (1, 60), &[]);
    assert_eq!(began_anew(&out), Some(0), "though nothing is to be cut");
    assert!(says_where_it_is(&out));
    let out = append(&mut outside, (0, 0), &[entry(1, 0, 5)]);
    assert_eq!((began_anew(&out), taken(&out)), (None, Some(0)));
    let out = append(&mut outside, (1, 5), &[entry(1, 10, 20)]);
    assert_eq!((began_anew(&out), taken(&out)), (None, Some(0)));

    let mut clean = follower(view(&[1, 3], 0), &[(1, 0)], 10);
    let out = append(&mut clean, (1, 60), &[entry(4, 60, 61)]);
    assert_eq!((began_anew(&out), taken(&out)), (None, Some(0)));
}

#[test]
fn before_the_metadata_tells_how_an_election_ended_nothing_is_taken() {
    let mut early = view(&[1, 3], 0);
    early.epoch = LeaderEpoch(1);
    early.leader = Some(life(3));
    let mut follower = follower(early, &[(1, 0)], 10);
    assert_eq!(append(&mut follower, (1, 60), &[entry(4, 60, 61)]), []);
    follower.step(
        Tick(2),
        Input::Metadata(view(&[1, 3], 3).into()),
        &mut Vec::new(),
    );
    let out = append(&mut follower, (1, 60), &[entry(4, 60, 61)]);
    assert_eq!(began_anew(&out), Some(0));
}

/// A leader of epoch 4 with the log [0, 60), known to be committed up to 50, before it leads.
fn leader_to_be(rules: Rules) -> (Replica, PartitionView) {
    let view = view(&[1, 2, 3], 0);
    let log = LogShape {
        end: Offset(60),
        durable_end: Offset(60),
        high_watermark: Offset(50),
        epochs: EpochHistory::new(vec![(LeaderEpoch(1), Offset(0))]),
        ..LogShape::default()
    };
    let links = [BrokerId(2), BrokerId(3)];
    let leader = Replica::new(life(1), Config::default(), rules, log, view.clone(), links);
    (leader, view)
}

#[test]
fn a_leader_may_be_compacted_as_far_as_all_members_have_come() {
    let (mut leader, view) = leader_to_be(Rules::default());
    assert_eq!(leader.compactable_end(), Offset(50), "while it follows");
    leader.step(Tick(0), Input::Metadata(view.into()), &mut Vec::new());
    assert_eq!(leader.compactable_end(), Offset::ZERO);
    for (from, end, compactable) in [(2, 61, 0), (3, 30, 0), (3, 61, 61)] {
        let flushed = Input::Flushed { end: Offset(61) };
        leader.step(Tick(1), flushed, &mut Vec::new());
        let ack = Ack {
            epoch: LeaderEpoch(4),
            from: life(from),
            last_epoch: LeaderEpoch(if end > 60 { 4 } else { 1 }),
            durable_end: Offset(end),
            log_end: Offset(end),
        };
        leader.step(Tick(1), Input::Ack(ack), &mut Vec::new());
        assert_eq!(
            leader.compactable_end(),
            Offset(compactable),
            "{from} at {end}"
        );
    }
}

#[test]
fn without_the_rules_all_of_this_is_otherwise() {
    let without = Rules::without(Rule::GapsCutNothing);
    let mut all = follower_by(without, view(&[1, 2], 0), &[(1, 0)], 40);
    let left = [entry(1, 40, 45), entry(1, 70, 75)];
    let out = append(&mut all, (1, 40), &left);
    assert_eq!(cut(&out), Some(45), "what is committed, perhaps");

    let without = Rules::without(Rule::LostSupersedersAreMadeGood);
    let mut outside = follower_by(without, view(&[1, 3], 3), &[(1, 0)], 10);
    assert_eq!(began_anew(&append(&mut outside, (1, 60), &[])), None);

    let without = Rules::without(Rule::MembersDiscardNothing);
    let mut member = follower_by(without, view(&[1, 2], 3), &[(1, 0)], 50);
    let out = append(&mut member, (1, 30), &[entry(1, 40, 45), entry(3, 90, 91)]);
    assert_eq!(began_anew(&out), Some(0));

    let without = Rules::without(Rule::CompactionAwaitsTheSet);
    let (mut leader, view) = leader_to_be(without);
    leader.step(Tick(0), Input::Metadata(view.into()), &mut Vec::new());
    assert_eq!(leader.compactable_end(), Offset(50));
}
