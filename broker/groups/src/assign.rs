//! Who shall have which partitions: a balanced assignment that moves as little as it can.
//!
//! What holds of the result:
//!
//! 1. Every partition of a topic that somebody subscribes to has exactly one owner, who subscribes
//!    to it.
//! 2. No partition can be moved to another subscriber of its topic that has two fewer. Where all
//!    members have the same subscription, their numbers of partitions hence differ by one at most.
//!    Where subscriptions differ, a chain of several moves might still even out more; that is not
//!    looked for, as each of its moves would stop a consumer.
//! 3. Where all have the same subscription, no balanced assignment moves fewer partitions away from
//!    members that are still there. A member that joins takes its share and nothing else moves;
//!    those that stay when one leaves keep all they have.
//! 4. The same question has the same answer, and asking again with the answer moves nothing.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::ids::{MemberId, PartitionIndex, TopicId, TopicPartition};

/// A member, as far as the assignment goes.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The topics it subscribes to; those that do not exist do not matter.
    pub topics: BTreeSet<TopicId>,
    /// What it has. No partition is in two of these; what is none of its topics' does not matter.
    pub has: BTreeSet<TopicPartition>,
}

/// What each member shall have.
pub type Targets = BTreeMap<MemberId, BTreeSet<TopicPartition>>;

/// Assigns all partitions of these topics (with their numbers of partitions) that are subscribed to.
pub fn assign(members: &BTreeMap<MemberId, Wish>, topics: &BTreeMap<TopicId, u32>) -> Targets {
    let mut board = Board::new(members, topics);
    board.keep(members, topics);
    board.fill(topics);
    board.level();
    board.targets(members)
}

/// Topics with the same subscribers, and who has how much of them. Members go by their number here.
struct Class {
    subscribers: Vec<usize>,
    topics: Vec<TopicId>,
    /// The subscribers by how many partitions they have in all.
    by_load: BTreeSet<(usize, usize)>,
    /// What each subscriber has of this class.
    owned: BTreeMap<usize, BTreeSet<TopicPartition>>,
}

impl Class {
    /// A move that evens out: from whom, to whom.
    fn uneven(&self) -> Option<(usize, usize)> {
        let &(least, to) = self.by_load.first()?;
        let heavy = self.by_load.iter().rev();
        let (_, from) = heavy
            .take_while(|(load, _)| *load > least + 1)
            .find(|(_, member)| self.owned.get(member).is_some_and(|own| !own.is_empty()))?;
        Some((*from, to))
    }
}

struct Board {
    classes: Vec<Class>,
    class_of: BTreeMap<TopicId, usize>,
    classes_of_member: Vec<Vec<usize>>,
    load: Vec<usize>,
}

impl Board {
    fn new(members: &BTreeMap<MemberId, Wish>, topics: &BTreeMap<TopicId, u32>) -> Self {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (number, wish) in members.values().enumerate() {
            for topic in wish.topics.iter().filter(|id| topics.contains_key(id)) {
                subscribers.entry(*topic).or_default().push(number);
            }
        }
        let mut by_subscribers: BTreeMap<(usize, Vec<usize>), Vec<TopicId>> = BTreeMap::new();
        for (topic, numbers) in subscribers {
            // Those with the fewest subscribers come first: they have the least choice.
            let key = (numbers.len(), numbers);
            by_subscribers.entry(key).or_default().push(topic);
        }
        let mut board = Board {
            classes: Vec::new(),
            class_of: BTreeMap::new(),
            classes_of_member: vec![Vec::new(); members.len()],
            load: vec![0; members.len()],
        };
        for ((_, subscribers), topics) in by_subscribers {
            let number = board.classes.len();
            for topic in &topics {
                board.class_of.insert(*topic, number);
            }
            for member in &subscribers {
                board.classes_of_member[*member].push(number);
            }
            board.classes.push(Class {
                by_load: subscribers.iter().map(|member| (0, *member)).collect(),
                subscribers,
                topics,
                owned: BTreeMap::new(),
            });
        }
        board
    }

    fn set_load(&mut self, member: usize, load: usize) {
        let before = std::mem::replace(&mut self.load[member], load);
        for class in &self.classes_of_member[member] {
            let by_load = &mut self.classes[*class].by_load;
            by_load.remove(&(before, member));
            by_load.insert((load, member));
        }
    }

    fn give(&mut self, class: usize, to: usize, what: TopicPartition) {
        self.classes[class]
            .owned
            .entry(to)
            .or_default()
            .insert(what);
        self.set_load(to, self.load[to] + 1);
    }

    /// Everybody keeps what it has and may have.
    fn keep(&mut self, members: &BTreeMap<MemberId, Wish>, topics: &BTreeMap<TopicId, u32>) {
        for (number, wish) in members.values().enumerate() {
            for at in &wish.has {
                let exists = topics
                    .get(&at.topic)
                    .is_some_and(|count| at.partition.0 < *count);
                if let Some(class) = self.class_of.get(&at.topic).copied()
                    && exists
                    && wish.topics.contains(&at.topic)
                {
                    self.give(class, number, *at);
                }
            }
        }
    }

    /// What nobody has goes to whoever has least.
    fn fill(&mut self, topics: &BTreeMap<TopicId, u32>) {
        for number in 0..self.classes.len() {
            let class = &self.classes[number];
            let owned: BTreeSet<TopicPartition> = class.owned.values().flatten().copied().collect();
            let all = class.topics.iter().flat_map(|topic| {
                (0..topics[topic]).map(|index| TopicPartition {
                    topic: *topic,
                    partition: PartitionIndex(index),
                })
            });
            let free: Vec<TopicPartition> = all.filter(|at| !owned.contains(at)).collect();
            for at in free {
                let (_, to) = *self.classes[number].by_load.first().expect("a subscriber");
                self.give(number, to, at);
            }
        }
    }

    /// Moves single partitions until no move evens out any more. Each lowers the sum of the squares
    /// of the loads, so that this ends.
    fn level(&mut self) {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for number in 0..self.classes.len() {
                while let Some((from, to)) = self.classes[number].uneven() {
                    let own = self.classes[number].owned.get_mut(&from);
                    let what = own.and_then(BTreeSet::pop_last).expect("it has one");
                    self.set_load(from, self.load[from] - 1);
                    self.give(number, to, what);
                    moved = true;
                }
            }
        }
    }

    fn targets(self, members: &BTreeMap<MemberId, Wish>) -> Targets {
        let ids: Vec<MemberId> = members.keys().copied().collect();
        let mut targets: Targets = ids.iter().map(|id| (*id, BTreeSet::new())).collect();
        for class in self.classes {
            debug_assert!(class.owned.keys().all(|m| class.subscribers.contains(m)));
            for (member, mut own) in class.owned {
                if let Some(target) = targets.get_mut(&ids[member]) {
                    target.append(&mut own);
                }
            }
        }
        targets
    }
}
