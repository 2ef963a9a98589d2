//! What is known of each of a few brokers, such as a partition's replicas, in the order of their ids.
//!
//! A map that takes the room of its entries and no more, since a process has thousands of them with two
//! or three entries each. Every look-up passes the entries one by one: not for many.

use std::fmt;

use baton_protocol::ids::BrokerId;

/// Something of each of a few brokers.
#[derive(Clone, PartialEq, Eq)]
pub struct ByBroker<T> {
    entries: Vec<(BrokerId, T)>,
}

impl<T> ByBroker<T> {
    /// That of this broker.
    pub fn get(&self, id: &BrokerId) -> Option<&T> {
        self.iter().find(|(known, _)| *known == id).map(|(_, t)| t)
    }

    /// That of this broker, to be changed.
    pub fn get_mut(&mut self, id: &BrokerId) -> Option<&mut T> {
        let mut entries = self.entries.iter_mut();
        entries.find(|(known, _)| known == id).map(|(_, t)| t)
    }

    /// That of this broker; what `new` makes, if there is none.
    pub fn get_or_insert_with(&mut self, id: BrokerId, new: impl FnOnce() -> T) -> &mut T {
        let at = self.entries.partition_point(|(known, _)| *known < id);
        if self.entries.get(at).is_none_or(|(known, _)| *known != id) {
            self.entries.reserve_exact(1);
            self.entries.insert(at, (id, new()));
        }
        &mut self.entries[at].1
    }

    /// Whether there is something of this broker.
    pub fn contains_key(&self, id: &BrokerId) -> bool {
        self.get(id).is_some()
    }

    /// How many brokers there is something of.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing of any broker.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The brokers, and what there is of each.
    pub fn iter(&self) -> impl Iterator<Item = (&BrokerId, &T)> {
        self.entries.iter().map(|(id, t)| (id, t))
    }

    /// The brokers.
    pub fn keys(&self) -> impl Iterator<Item = &BrokerId> {
        self.entries.iter().map(|(id, _)| id)
    }

    /// What there is of each, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, t)| t)
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Keeps those for which this holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&BrokerId, &T) -> bool) {
        self.entries.retain(|(id, t)| keep(id, t));
    }
}

impl<T> Default for ByBroker<T> {
    fn default() -> Self {
        ByBroker {
            entries: Vec::new(),
        }
    }
}

impl<T> FromIterator<(BrokerId, T)> for ByBroker<T> {
    /// Of several for the same broker the last one counts.
    fn from_iter<I: IntoIterator<Item = (BrokerId, T)>>(all: I) -> Self {
        let mut map = ByBroker::default();
        for (id, t) in all {
            map.retain(|known, _| *known != id);
            map.get_or_insert_with(id, || t);
        }
        map
    }
}

impl<T, const N: usize> From<[(BrokerId, T); N]> for ByBroker<T> {
    fn from(all: [(BrokerId, T); N]) -> Self {
        all.into_iter().collect()
    }
}

impl<T: fmt::Debug> fmt::Debug for ByBroker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_in_the_order_of_the_brokers() {
        let mut map = ByBroker::from([(BrokerId(3), 'c'), (BrokerId(1), 'a'), (BrokerId(3), 'd')]);
        assert_eq!(map.get_or_insert_with(BrokerId(2), || 'b'), &'b');
        assert_eq!(map.get_or_insert_with(BrokerId(1), || 'x'), &'a');
        let ids: Vec<u32> = map.keys().map(|id| id.0).collect();
        assert_eq!((ids, map.len()), (vec![1, 2, 3], 3));
        assert_eq!(map.get(&BrokerId(3)), Some(&'d'));
        map.retain(|id, _| id.0 != 2);
        assert!(!map.contains_key(&BrokerId(2)) && map.contains_key(&BrokerId(1)));
        *map.get_mut(&BrokerId(1)).expect("there") = 'y';
        assert_eq!(
            map,
            ByBroker::from([(BrokerId(1), 'y'), (BrokerId(3), 'd')])
        );
    }
}
