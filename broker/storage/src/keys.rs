//! Which record of a key is the newest, for as many keys as memory is given for.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use baton_protocol::ids::Offset;

/// The newest offsets of some keys. Keys are kept as digests of 128 bits, made with secrets of this map's
/// own: that two of them agree by chance or by design need not be feared.
#[derive(Debug, Default)]
pub(crate) struct KeyMap {
    secrets: [RandomState; 2],
    newest: HashMap<[u64; 2], Offset>,
}

impl KeyMap {
    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Takes note of a record.
    pub fn note(&mut self, key: &[u8], offset: Offset) {
        let newest = self.newest.entry(self.digest(key)).or_insert(offset);
        *newest = offset.max(*newest);
    }

    /// Whether a newer record of this key than the one at `offset` is known.
    pub fn supersedes(&self, key: &[u8], offset: Offset) -> bool {
        let newest = self.newest.get(&self.digest(key));
        newest.is_some_and(|newest| *newest > offset)
    }

    fn digest(&self, key: &[u8]) -> [u64; 2] {
        [0, 1].map(|i: usize| self.secrets[i].hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_a_key_supersedes_all_others_and_not_itself() {
        let mut keys = KeyMap::default();
        for offset in [5, 9, 7] {
            keys.note(b"a", Offset(offset));
        }
        keys.note(b"b", Offset(6));
        assert_eq!(keys.len(), 2);
        let superseded = |key: &[u8], offset| keys.supersedes(key, Offset(offset));
        assert!(superseded(b"a", 8) && !superseded(b"a", 9) && !superseded(b"a", 10));
        assert!(superseded(b"b", 5) && !superseded(b"b", 6));
        assert!(!superseded(b"c", 0));
    }
}
