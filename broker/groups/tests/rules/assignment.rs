//! Properties of assignments, over random groups.

use std::collections::{BTreeMap, BTreeSet};

use baton_groups::assign::{Targets, Wish, assign};
use baton_protocol::ids::{MemberId, PartitionIndex, TopicId, TopicPartition};
use uuid::Uuid;

use crate::rng::Rng;

type Members = BTreeMap<MemberId, Wish>;
type Sizes = BTreeMap<TopicId, u32>;

fn member(n: usize) -> MemberId {
    MemberId(Uuid::from_u128(n as u128))
}

fn sizes(rng: &mut Rng) -> Sizes {
    let topics = 1 + rng.below(4);
    (0..topics)
        .map(|n| (TopicId(Uuid::from_u128(n as u128)), rng.below(13) as u32))
        .collect()
}

fn group(rng: &mut Rng, sizes: &Sizes, alike: bool) -> Members {
    let members = 1 + rng.below(7);
    let topics = |rng: &mut Rng| -> BTreeSet<TopicId> {
        let ids = sizes.keys().copied();
        ids.filter(|_| alike || rng.percent(60)).collect()
    };
    (0..members)
        .map(|n| {
            let wish = Wish {
                topics: topics(rng),
                has: BTreeSet::new(),
            };
            (member(n), wish)
        })
        .collect()
}

fn settle(members: &mut Members, sizes: &Sizes) -> Targets {
    let targets = assign(members, sizes);
    for (id, wish) in members {
        wish.has = targets[id].clone();
    }
    targets
}

fn all_owned_once(members: &Members, sizes: &Sizes, targets: &Targets) {
    let mut owner: BTreeMap<TopicPartition, MemberId> = BTreeMap::new();
    for (id, target) in targets {
        for at in target {
            assert!(members[id].topics.contains(&at.topic), "asked for");
            assert!(at.partition.0 < sizes[&at.topic], "exists");
            assert_eq!(owner.insert(*at, *id), None, "has one owner");
        }
    }
    for (topic, count) in sizes {
        let subscribers: Vec<MemberId> = members
            .iter()
            .filter(|(_, wish)| wish.topics.contains(topic))
            .map(|(id, _)| *id)
            .collect();
        for index in 0..*count {
            let at = TopicPartition {
                topic: *topic,
                partition: PartitionIndex(index),
            };
            let Some(own) = owner.get(&at) else {
                assert!(subscribers.is_empty(), "{at} has no owner");
                continue;
            };
            for other in &subscribers {
                let (heavy, light) = (targets[own].len(), targets[other].len());
                assert!(heavy <= light + 1, "{at} could move: {heavy} to {light}");
            }
        }
    }
}

/// How many partitions members that are still there have to give up at least: the fullest keep the
/// larger share.
fn fewest_moves(members: &Members, total: usize) -> usize {
    let mut has: Vec<usize> = members.values().map(|wish| wish.has.len()).collect();
    has.sort_unstable_by(|a, b| b.cmp(a));
    let (share, larger) = (total / has.len(), total % has.len());
    let over = |(n, has): (usize, &usize)| has.saturating_sub(share + usize::from(n < larger));
    has.iter().enumerate().map(over).sum()
}

fn given_up(members: &Members, targets: &Targets) -> usize {
    let lost = |(id, wish): (&MemberId, &Wish)| wish.has.difference(&targets[id]).count();
    members.iter().map(lost).sum()
}

#[test]
fn every_partition_has_one_owner_and_no_move_evens_out() {
    for seed in 0..2_000 {
        let mut rng = Rng(seed);
        let sizes = sizes(&mut rng);
        let mut members = group(&mut rng, &sizes, seed % 2 == 0);
        let targets = settle(&mut members, &sizes);
        all_owned_once(&members, &sizes, &targets);
        assert_eq!(
            targets,
            assign(&members, &sizes),
            "asking again moves nothing"
        );
    }
}

#[test]
fn members_alike_differ_by_one_at_most() {
    for seed in 0..1_000 {
        let mut rng = Rng(seed);
        let sizes = sizes(&mut rng);
        let mut members = group(&mut rng, &sizes, true);
        let loads: Vec<usize> = settle(&mut members, &sizes)
            .values()
            .map(BTreeSet::len)
            .collect();
        let (least, most) = (loads.iter().min(), loads.iter().max());
        assert!(most.copied() <= least.map(|least| least + 1), "{loads:?}");
    }
}

/// Joins, leaves and growth, one after the other.
#[test]
fn members_alike_move_as_little_as_can_be() {
    for seed in 0..2_000 {
        let mut rng = Rng(seed);
        let mut sizes = sizes(&mut rng);
        let mut members = group(&mut rng, &sizes, true);
        settle(&mut members, &sizes);
        for n in 100..106 {
            match rng.below(3) {
                0 => {
                    let topics = sizes.keys().copied().collect();
                    let has = BTreeSet::new();
                    members.insert(member(n), Wish { topics, has });
                }
                1 if members.len() > 1 => {
                    let nth = rng.below(members.len());
                    let id = members.keys().nth(nth).copied();
                    members.remove(&id.expect("one of them"));
                }
                _ => {
                    for count in sizes.values_mut() {
                        *count += rng.below(3) as u32;
                    }
                }
            }
            let total: u32 = sizes.values().sum();
            let fewest = fewest_moves(&members, total as usize);
            let targets = assign(&members, &sizes);
            assert_eq!(given_up(&members, &targets), fewest, "seed {seed}");
            settle(&mut members, &sizes);
            all_owned_once(&members, &sizes, &targets);
        }
    }
}

#[test]
fn who_stays_keeps_all_when_another_leaves() {
    for seed in 0..1_000 {
        let mut rng = Rng(seed);
        let sizes = sizes(&mut rng);
        let mut members = group(&mut rng, &sizes, true);
        settle(&mut members, &sizes);
        members.pop_first();
        if !members.is_empty() {
            let targets = assign(&members, &sizes);
            assert_eq!(given_up(&members, &targets), 0);
        }
    }
}

/// As large as limits allow, in a time that stops nobody.
#[test]
fn a_thousand_members_and_fifty_thousand_partitions() {
    let sizes: Sizes = (0..5)
        .map(|n| (TopicId(Uuid::from_u128(n)), 10_000))
        .collect();
    let topics: BTreeSet<TopicId> = sizes.keys().copied().collect();
    let wish = |_| Wish {
        topics: topics.clone(),
        has: BTreeSet::new(),
    };
    let mut members: Members = (0..999).map(|n| (member(n), wish(n))).collect();
    settle(&mut members, &sizes);
    members.insert(member(999), wish(999));
    let begun = std::time::Instant::now();
    let targets = assign(&members, &sizes);
    println!("{:?} for a member more", begun.elapsed());
    assert_eq!(targets[&member(999)].len(), 50);
    assert_eq!(given_up(&members, &targets), 50);
}
