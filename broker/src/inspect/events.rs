//! What has happened in the cluster, as this broker has seen it: the latest of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_controller::events;
use baton_controller::state::ClusterState;
use baton_protocol::ids::MetadataIndex;
use baton_protocol::inspect::{ClusterEvent, EVENTS_TOGETHER, InspectResponse};

/// Most events that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// The latest events. The router writes it.
#[derive(Debug, Default)]
pub struct Events {
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    events: VecDeque<ClusterEvent>,
    known_from: MetadataIndex,
    known_to: MetadataIndex,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Whoever panicked held it for as long as it takes to add one.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The metadata is known for the first time: what came before nobody knows here.
    pub fn begin(&self, state: &ClusterState) {
        let mut remembered = self.lock();
        remembered.known_from = state.index;
        remembered.known_to = state.index;
    }

    /// The metadata was this, and has become that.
    pub fn note(&self, before: &ClusterState, after: &ClusterState, at_ms: u64) {
        let mut remembered = self.lock();
        for what in events::between(before, after) {
            let index = after.index;
            remembered
                .events
                .push_back(ClusterEvent { index, at_ms, what });
        }
        remembered.known_to = after.index;
        while remembered.events.len() > REMEMBERED_MAX {
            // Of one change all is remembered, or nothing, so that nobody takes a part for all of it.
            let Some(first) = remembered.events.front().map(|event| event.index) else {
                break;
            };
            if first == after.index {
                break;
            }
            let of_it = |event: &ClusterEvent| event.index == first;
            while remembered.events.front().is_some_and(of_it) {
                remembered.events.pop_front();
            }
            remembered.known_from = first;
        }
    }

    /// The oldest events after this position.
    pub fn after(&self, after: Option<MetadataIndex>) -> InspectResponse {
        let remembered = self.lock();
        let first = match after {
            Some(after) => remembered.events.partition_point(|e| e.index <= after),
            None => 0,
        };
        let mut events: Vec<ClusterEvent> = Vec::new();
        for event in remembered.events.range(first..) {
            let goes_on = events.last().is_none_or(|last| last.index == event.index);
            if events.len() >= EVENTS_TOGETHER && !goes_on {
                break;
            }
            events.push(event.clone());
        }
        let is_all = first + events.len() == remembered.events.len();
        let last = events.last().map(|event| event.index);
        InspectResponse::Events {
            events,
            up_to: last.filter(|_| !is_all).unwrap_or(remembered.known_to),
            known_from: remembered.known_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_controller::command::Command;
    use baton_protocol::ids::{BrokerId, TopicId};
    use baton_protocol::metadata::TopicConfig;
    use uuid::Uuid;

    use super::*;

    /// This many topics were made, one after the other, and each is the only one: what it takes to find
    /// out goes by their number.
    fn grown(events: &Events, state: &mut ClusterState, topics: u128) {
        for i in 0..topics {
            state.topics.clear();
            let before = state.clone();
            let index = MetadataIndex(state.index.0 + 1);
            let create = Command::CreateTopic {
                id: TopicId(Uuid::from_u128(u128::from(index.0) * 1_000_000 + i)),
                name: format!("t{}", index.0),
                config: TopicConfig {
                    replicas: 1,
                    sync_followers: 0,
                    ..serde_json::from_str(r#"{"replicas":1,"sync_followers":0}"#).expect("sound")
                },
                assignments: vec![],
            };
            state.apply(index, &create);
            events.note(&before, state, 7);
        }
    }

    fn asked(events: &Events, after: Option<u64>) -> (Vec<u64>, u64, u64) {
        match events.after(after.map(MetadataIndex)) {
            InspectResponse::Events {
                events,
                up_to,
                known_from,
            } => {
                let indexes = events.iter().map(|event| event.index.0).collect();
                (indexes, up_to.0, known_from.0)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_follows_misses_nothing_and_is_told_where_memory_begins() {
        let (events, mut state) = (Events::default(), ClusterState::default());
        state.index = MetadataIndex(5);
        events.begin(&state);
        assert_eq!(asked(&events, None), (vec![], 5, 5));
        grown(&events, &mut state, 3);
        assert_eq!(asked(&events, None), (vec![6, 7, 8], 8, 5));
        assert_eq!(asked(&events, Some(7)), (vec![8], 8, 5));
        assert_eq!(asked(&events, Some(8)), (vec![], 8, 5));
        // Nothing that people care for: told as seen all the same.
        let before = state.clone();
        state.apply(MetadataIndex(9), &Command::AllocateProducerIds { count: 1 });
        events.note(&before, &state, 8);
        assert_eq!(asked(&events, Some(8)), (vec![], 9, 5));
    }

    #[test]
    fn much_comes_in_pieces_and_the_oldest_is_forgotten() {
        let (events, mut state) = (Events::default(), ClusterState::default());
        events.begin(&state);
        let more = EVENTS_TOGETHER as u128 + 10;
        grown(&events, &mut state, more);
        let (first, up_to, _) = asked(&events, None);
        assert_eq!(
            (first.len(), up_to),
            (EVENTS_TOGETHER, EVENTS_TOGETHER as u64)
        );
        assert_eq!(asked(&events, Some(up_to)).0.len(), 10);
        grown(&events, &mut state, REMEMBERED_MAX as u128);
        let (_, _, known_from) = asked(&events, None);
        assert_eq!(u128::from(known_from), more);
        // Events of one change stay together.
        let mut registered = state.clone();
        for id in 1..=3 {
            let mut record = serde_json::json!({
                "id": id, "epoch": 9, "directory": Uuid::nil(), "client_address": "",
                "peer_address": "", "fenced": false, "draining": false,
            });
            let record = serde_json::from_value(record.take()).expect("sound");
            registered.brokers.insert(BrokerId(id), record);
        }
        registered.index = MetadataIndex(state.index.0 + 1);
        events.note(&state, &registered, 9);
        let (last, ..) = asked(&events, Some(state.index.0));
        assert_eq!(last, [registered.index.0; 3]);
    }
}
