//! What a member may have must fit its record.

use baton_groups::rules::Rules;
use baton_groups::{Config, Refusal, Topic, Topics};
use baton_protocol::groups::{GroupRequest, Heartbeat, Subscription};
use baton_protocol::ids::{GroupEpoch, MemberId, TopicId};
use uuid::Uuid;

use baton_groups::event::RequestId;

use crate::host::Host;

fn join(member: u128, topic: &str) -> GroupRequest {
    GroupRequest::Heartbeat(Heartbeat {
        group: "g".to_owned(),
        member: MemberId(Uuid::from_u128(member)),
        instance: None,
        epoch: GroupEpoch::NONE,
        subscription: Some(Subscription {
            version: 1,
            topics: vec![topic.to_owned()],
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            client: String::new(),
        }),
    })
}

#[test]
fn a_subscription_that_may_not_fit_a_record_is_refused() {
    let config = Config {
        member_bytes_max: 4_000,
        ..Config::default()
    };
    let topic = |name: &str, id, partitions| {
        let id = TopicId(Uuid::from_u128(id));
        (name.to_owned(), Topic { id, partitions })
    };
    let topics = Topics::new([topic("small", 1, 50), topic("large", 2, 1_000)]);
    let mut host = Host::new(config, Rules::default(), topics);
    host.request(RequestId(1), join(1, "large"));
    let (_, refused) = host.answers.pop().expect("at once");
    let Err(refusal @ Refusal::TooLarge { max: 4_000, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(refusal.to_string().contains("at most 4000 can be stored"));
    assert!(host.in_flight.is_none(), "nothing was changed");
    host.request(RequestId(2), join(2, "small"));
    let records = host.commit().expect("it joined");
    assert!(records.iter().all(|record| {
        let value = record.value().map_or(0, |value| value.len());
        record.key().len() + value <= 4_000
    }));
}
