//! The partitions that a consumer holds, and the steps from one assignment to the next. Pure.
//!
//! What a new assignment takes back is given up first; only when that is done, something is taken up
//! and the assignment is applied. What an earlier membership had is lost at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use baton_protocol::groups::CommittingMember;
use baton_protocol::ids::{GroupEpoch, MemberId, Offset, PartitionIndex, TopicPartition};

use super::member::Assignment;
use crate::partition::Partition;
use crate::place::Place;
use crate::streaming::Reached;

/// A partition that is held.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub topic: Arc<str>,
    pub stage: Stage,
    pub is_paused: bool,
    /// Where the user wants to go on, told before it was known where to begin.
    pub sought: Option<Offset>,
    /// The number of the last commit that was ordered before that.
    pub sought_after: u64,
    /// A position that need not be committed: where it began, or what is committed.
    pub settled: Option<Offset>,
    /// The committed offset, if there is one and it is known.
    pub committed: Option<Offset>,
    /// The user went back, so the next commit may.
    pub goes_back: bool,
}

/// How far a partition has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Where to begin is being found out, under this number.
    Opening(u64),
    /// Where to begin could not be found out; the user says so.
    Stuck,
    /// Its records stream.
    Open,
    /// It is given up, and was read up to here, if it was begun.
    GivenUp(Option<Reached>),
}

/// A step towards an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This membership begins. What an earlier one had is not the consumer's any more, and nothing can
    /// be done about it.
    Begin(u64, Vec<(TopicPartition, Arc<str>)>),
    /// These are to be given up: [`Holdings::gave_up`].
    GiveUp(Vec<TopicPartition>),
    /// These are new.
    TakeUp(Vec<TopicPartition>),
    /// Nothing else is held than what this membership and epoch assigns.
    Applied(u64, GroupEpoch),
}

#[derive(Debug, Default)]
pub(super) struct Holdings {
    membership: u64,
    member: MemberId,
    epoch: GroupEpoch,
    applied: GroupEpoch,
    held: BTreeMap<TopicPartition, Held>,
    giving_up: BTreeSet<TopicPartition>,
    openings: u64,
}

impl Holdings {
    /// The next step; none where there is nothing to do, or what is being given up is waited for.
    pub fn next(&mut self, target: &Assignment) -> Option<Step> {
        if target.membership != self.membership {
            self.membership = target.membership;
            self.member = target.member;
            self.epoch = target.epoch;
            self.applied = GroupEpoch::NONE;
            let given_up = std::mem::take(&mut self.giving_up);
            let lost = std::mem::take(&mut self.held).into_iter();
            // What is being given up was told as that.
            let lost = lost.filter(|(at, _)| !given_up.contains(at));
            let lost = lost.map(|(at, held)| (at, held.topic)).collect();
            return Some(Step::Begin(self.membership, lost));
        }
        self.epoch = target.epoch;
        if !self.giving_up.is_empty() {
            return None;
        }
        let is_taken_back = |at: &&TopicPartition| !target.partitions.contains_key(at);
        let losing: Vec<_> = self.held.keys().filter(is_taken_back).copied().collect();
        if !losing.is_empty() {
            self.giving_up = losing.iter().copied().collect();
            return Some(Step::GiveUp(losing));
        }
        let new = target.partitions.iter();
        let new: Vec<_> = new.filter(|(at, _)| !self.held.contains_key(at)).collect();
        if !new.is_empty() {
            let new = new.into_iter().map(|(at, topic)| {
                self.openings += 1;
                let held = Held::new(topic.clone(), self.openings);
                self.held.insert(*at, held);
                *at
            });
            return Some(Step::TakeUp(new.collect()));
        }
        if self.applied != target.epoch {
            self.applied = target.epoch;
            return Some(Step::Applied(self.membership, target.epoch));
        }
        None
    }

    /// Whether something is being given up.
    pub fn is_giving_up(&self) -> bool {
        !self.giving_up.is_empty()
    }

    /// What was to be given up has been.
    pub fn gave_up(&mut self) {
        for at in std::mem::take(&mut self.giving_up) {
            self.held.remove(&at);
        }
    }

    /// Who commits for what is held.
    pub fn committing(&self) -> CommittingMember {
        CommittingMember {
            member: self.member,
            epoch: self.epoch,
        }
    }

    pub fn get(&self, at: TopicPartition) -> Option<&Held> {
        self.held.get(&at)
    }

    pub fn get_mut(&mut self, at: TopicPartition) -> Option<&mut Held> {
        self.held.get_mut(&at)
    }

    /// All, also what is being given up.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Held)> {
        self.held.iter()
    }

    /// What is held, and not being given up.
    pub fn kept(&self) -> impl Iterator<Item = (&TopicPartition, &Held)> {
        let held = self.held.iter();
        held.filter(|(_, held)| !matches!(held.stage, Stage::GivenUp(_)))
    }

    /// The partition of this name, if it is held.
    pub fn named(&self, topic: &str, partition: PartitionIndex) -> Option<TopicPartition> {
        let mut held = self.held.iter();
        let found = held.find(|(at, held)| at.partition == partition && &*held.topic == topic);
        found.map(|(at, _)| *at)
    }

    /// The name of a partition that is held.
    pub fn name(&self, at: TopicPartition) -> Option<Partition> {
        let held = self.held.get(&at)?;
        Some(Partition::new(held.topic.clone(), at.partition))
    }
}

impl Held {
    fn new(topic: Arc<str>, opening: u64) -> Held {
        Held {
            topic,
            stage: Stage::Opening(opening),
            is_paused: false,
            sought: None,
            sought_after: 0,
            settled: None,
            committed: None,
            goes_back: false,
        }
    }

    /// Where it is.
    pub fn place(&self, id: TopicPartition) -> Place {
        let topic = self.topic.clone();
        Place { topic, id }
    }

    /// Whether this position is worth a commit.
    pub fn is_worth_committing(&self, position: Offset) -> bool {
        match self.settled {
            Some(settled) => position > settled || (self.goes_back && position != settled),
            None => true,
        }
    }

    /// The offset that a commit of this one names as where it goes back from.
    pub fn back_from(&self, offset: Offset) -> Option<Offset> {
        let above = |committed: &Offset| *committed > offset;
        self.committed.filter(|at| self.goes_back && above(at))
    }

    /// The user wants to go on there, after this commit was ordered.
    pub fn seek(&mut self, to: Offset, last_commit: u64) {
        self.sought = Some(to);
        self.sought_after = last_commit;
        self.goes_back = self.committed.is_some_and(|committed| to < committed);
    }

    /// This was committed, by the commit of this number.
    pub fn committed(&mut self, offset: Offset, number: u64) {
        self.settled = Some(offset);
        self.committed = Some(offset);
        // One that was under way when the user went back is what the next one goes back from.
        let was_before = number <= self.sought_after;
        self.goes_back = was_before && self.sought.is_some_and(|to| to < offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: Default::default(),
            partition: PartitionIndex(partition),
        }
    }

    fn list(partitions: &[u32]) -> Vec<TopicPartition> {
        partitions.iter().copied().map(at).collect()
    }

    fn begin(membership: u64, lost: &[u32]) -> Option<Step> {
        let lost = list(lost).into_iter().map(|at| (at, "t".into()));
        Some(Step::Begin(membership, lost.collect()))
    }

    fn target(membership: u64, epoch: u64, partitions: &[u32]) -> Assignment {
        let topic: Arc<str> = "t".into();
        Assignment {
            membership,
            member: MemberId::default(),
            epoch: GroupEpoch(epoch),
            partitions: list(partitions)
                .into_iter()
                .map(|at| (at, topic.clone()))
                .collect(),
            valid_until: None,
        }
    }

    fn with(epoch: u64, partitions: &[u32]) -> Holdings {
        let mut holdings = Holdings::default();
        let target = target(1, epoch, partitions);
        while holdings.next(&target).is_some() {}
        holdings
    }

    #[test]
    fn what_is_new_is_taken_up_and_then_applied() {
        let mut holdings = Holdings::default();
        assert_eq!(holdings.next(&target(1, 0, &[])), begin(1, &[]));
        assert_eq!(
            holdings.next(&target(1, 0, &[])),
            None,
            "nothing was told yet"
        );
        let told = target(1, 3, &[0, 1]);
        assert_eq!(holdings.next(&told), Some(Step::TakeUp(list(&[0, 1]))));
        assert_eq!(holdings.next(&told), Some(Step::Applied(1, GroupEpoch(3))));
        assert_eq!(holdings.next(&told), None);
    }

    #[test]
    fn what_is_taken_back_is_given_up_before_anything_is_taken_up() {
        let mut holdings = with(3, &[0, 1]);
        let told = target(1, 4, &[1, 2]);
        assert_eq!(holdings.next(&told), Some(Step::GiveUp(list(&[0]))));
        assert_eq!(holdings.next(&told), None, "it takes its time");
        assert!(holdings.get(at(0)).is_some(), "and can be committed");
        holdings.gave_up();
        assert_eq!(holdings.next(&told), Some(Step::TakeUp(list(&[2]))));
        assert_eq!(holdings.next(&told), Some(Step::Applied(1, GroupEpoch(4))));
        assert!(holdings.get(at(0)).is_none());
    }

    #[test]
    fn an_assignment_that_is_overtaken_is_not_applied() {
        let mut holdings = with(3, &[0, 1]);
        assert_eq!(
            holdings.next(&target(1, 4, &[1])),
            Some(Step::GiveUp(list(&[0])))
        );
        // Before it was given up the next one comes, which has it again and takes another one back.
        let told = target(1, 5, &[0]);
        assert_eq!(holdings.next(&told), None);
        holdings.gave_up();
        assert_eq!(holdings.next(&told), Some(Step::GiveUp(list(&[1]))));
        holdings.gave_up();
        assert_eq!(holdings.next(&told), Some(Step::TakeUp(list(&[0]))));
        assert_eq!(holdings.next(&told), Some(Step::Applied(1, GroupEpoch(5))));
    }

    #[test]
    fn what_an_earlier_membership_had_is_lost_also_if_it_comes_back() {
        let mut holdings = with(3, &[0, 1]);
        let told = target(2, 9, &[0]);
        assert_eq!(holdings.next(&told), begin(2, &[0, 1]));
        assert_eq!(holdings.next(&told), Some(Step::TakeUp(list(&[0]))));
        assert_eq!(holdings.next(&told), Some(Step::Applied(2, GroupEpoch(9))));
    }

    #[test]
    fn what_is_being_given_up_is_not_lost_a_second_time() {
        let mut holdings = with(3, &[0, 1]);
        holdings.next(&target(1, 4, &[1]));
        let told = target(2, 0, &[]);
        assert_eq!(holdings.next(&told), begin(2, &[1]));
        assert!(!holdings.is_giving_up());
        assert_eq!(holdings.next(&told), None);
    }

    #[test]
    fn commits_go_back_only_where_the_user_did() {
        let mut held = Held::new("t".into(), 1);
        assert!(held.is_worth_committing(Offset(0)));
        held.committed(Offset(10), 1);
        assert!(!held.is_worth_committing(Offset(10)));
        assert!(!held.is_worth_committing(Offset(9)));
        assert_eq!(held.back_from(Offset(9)), None);
        held.seek(Offset(9), 1);
        assert!(held.is_worth_committing(Offset(9)));
        assert_eq!(held.back_from(Offset(9)), Some(Offset(10)));
        assert_eq!(held.back_from(Offset(11)), None);
        held.committed(Offset(9), 2);
        assert_eq!(held.back_from(Offset(8)), None, "once");
    }
}
