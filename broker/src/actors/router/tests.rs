use baton_controller::command::Command;
use baton_protocol::ids::{
    ClusterId, DirectoryId, MetadataIndex, PartitionIndex, ProcessId, TopicId,
};
use baton_protocol::metadata::{Flush, TopicConfig};
use baton_protocol::policy::TopicPolicy;
use uuid::Uuid;

use super::*;

const TOPIC: TopicId = TopicId(Uuid::from_u128(9));

/// Two brokers and a partition on both.
fn cluster() -> ClusterState {
    let mut state = ClusterState::default();
    let cluster_id = ClusterId(Uuid::from_u128(1));
    let register = |id: u32| Command::RegisterBroker {
        id: BrokerId(id),
        directory: DirectoryId(Uuid::from_u128(u128::from(id))),
        client_address: String::new(),
        peer_address: String::new(),
        log_lost: false,
        shown_life: None,
        process: ProcessId::default(),
        unclean_restart: false,
    };
    let config = TopicConfig {
        replicas: 2,
        sync_followers: 0,
        flush: Flush::Ack,
        unclean_election: false,
        policy: TopicPolicy::default(),
    };
    let topic = Command::CreateTopic {
        id: TOPIC,
        name: "t".into(),
        config,
        assignments: vec![vec![BrokerId(1), BrokerId(2)]],
    };
    let more = Command::SetSyncFollowers {
        id: TOPIC,
        sync_followers: 1,
    };
    let formed = Command::FormCluster { cluster_id };
    let commands = [formed, register(1), register(2), topic, more];
    for (index, command) in (1..).zip(&commands) {
        state.apply(MetadataIndex(index), command);
    }
    state
}

fn view(state: &ClusterState) -> PartitionView {
    let topic = &state.topics[&TOPIC];
    view_of(state, topic, &topic.partitions[0])
}

#[test]
fn a_view_tells_who_is_held_for_dead_and_who_for_suspect() {
    let mut state = cluster();
    let second = BrokerId(2);
    let replica = |state: &ClusterState| *view(state).replicas.get(&second).expect("a replica");
    let known = replica(&state);
    assert!(!known.fenced && !known.suspect);
    let broker = state.brokers.get_mut(&second).expect("registered");
    broker.fenced = true;
    assert!(replica(&state).fenced);
    let topic = state.topics.get_mut(&TOPIC).expect("made");
    let partition = &mut Arc::make_mut(topic).partitions[0];
    Arc::make_mut(partition).suspects.insert(second);
    assert!(replica(&state).suspect);
}

#[test]
fn a_view_tells_the_number_for_commits_from_that_for_elections() {
    let view = view(&cluster());
    assert_eq!(view.sync_followers_commit, 1);
    assert_eq!(view.sync_followers_elect, 0);
}

#[test]
fn only_what_has_changed_is_looked_at() {
    let mut state = cluster();
    let other = Command::CreateTopic {
        id: TopicId(Uuid::from_u128(10)),
        name: "u".into(),
        config: state.topics[&TOPIC].config.clone(),
        assignments: vec![vec![BrokerId(1), BrokerId(2)]; 2],
    };
    state.apply(MetadataIndex(6), &other);
    let names = |followed: &Followed, state: &ClusterState| -> Vec<String> {
        let news = followed.news_in(state).into_iter();
        news.map(|topic| topic.name.clone()).collect()
    };
    assert_eq!(names(&Followed::default(), &state), ["t", "u"]);
    let followed = Followed {
        brokers: state.brokers.clone(),
        topics: state.topics.clone(),
    };
    let ids = Command::AllocateProducerIds { count: 1 };
    state.apply(MetadataIndex(7), &ids);
    assert!(names(&followed, &state).is_empty());
    let looked_at = |followed: &Followed, state: &ClusterState, topic: TopicId| -> Vec<u32> {
        let news = followed.news_of(state, &state.topics[&topic]).into_iter();
        news.map(|(id, _)| id.partition.0).collect()
    };
    let other = TopicId(Uuid::from_u128(10));
    assert_eq!(looked_at(&Followed::default(), &state, other), [0, 1]);
    assert!(looked_at(&followed, &state, other).is_empty());
    let begin = Command::BeginElections(vec![(
        TopicPartition {
            topic: other,
            partition: PartitionIndex(1),
        },
        baton_protocol::ids::LeaderEpoch(1),
    )]);
    let mut second = state.clone();
    second.apply(MetadataIndex(8), &begin);
    assert_eq!(looked_at(&followed, &second, other), [1]);
    let fewer = Command::SetSyncFollowers {
        id: other,
        sync_followers: 0,
    };
    second.apply(MetadataIndex(9), &fewer);
    assert_eq!(looked_at(&followed, &second, other), [0, 1]);
    let begin = Command::BeginElections(vec![(
        TopicPartition {
            topic: TOPIC,
            partition: PartitionIndex(0),
        },
        baton_protocol::ids::LeaderEpoch(1),
    )]);
    state.apply(MetadataIndex(8), &begin);
    assert_eq!(names(&followed, &state), ["t"]);
    assert!(followed.gone_from(&state).is_empty());

    let delete = Command::DeleteTopic {
        id: TopicId(Uuid::from_u128(10)),
    };
    state.apply(MetadataIndex(9), &delete);
    assert_eq!(names(&followed, &state), ["t"]);
    let gone = followed.gone_from(&state).into_iter();
    let gone: Vec<u32> = gone.map(|partition| partition.partition.0).collect();
    assert_eq!(gone, [0, 1]);

    // A broker that is held for dead is told to all.
    let mut state = cluster();
    let followed = Followed {
        brokers: state.brokers.clone(),
        topics: state.topics.clone(),
    };
    let life = BrokerLife {
        broker: BrokerId(2),
        epoch: state.brokers[&BrokerId(2)].epoch,
    };
    let fence = Command::SetFenced {
        fence: vec![life],
        unfence: vec![],
    };
    state.apply(MetadataIndex(10), &fence);
    assert_eq!(names(&followed, &state), ["t"]);
}
