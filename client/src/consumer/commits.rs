//! The task that commits: one commit at a time, in the order in which they were asked for, so that an
//! earlier one never comes after a later.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::groups::{Commit, CommittingMember, GroupRequest, GroupResponse, OffsetCommit};
use baton_protocol::ids::{Offset, TopicPartition};
use tokio::sync::mpsc;

use super::mailbox::{Committed, Mailbox, Notice};
use crate::ask::unexpected;
use crate::client::Client;
use crate::coordinator::given_up;
use crate::error::{Error, ErrorKind};

/// Partitions of one request; a coordinator takes no more.
const AT_ONCE: usize = 1_000;

/// A commit.
pub(super) struct Order {
    pub number: u64,
    pub member: CommittingMember,
    pub offsets: Vec<OffsetCommit>,
}

/// Carries orders out until nobody gives any.
pub(super) async fn carry_out(
    client: Client,
    group: String,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mailbox: Arc<Mailbox>,
) {
    let limit = client.inner.config.request_timeout;
    while let Some(order) = orders.recv().await {
        let committed = commit(&client, &group, order, limit).await;
        mailbox.note(Notice::Committed(committed));
    }
}

async fn commit(client: &Client, group: &str, order: Order, limit: Duration) -> Committed {
    let mut done = Committed {
        number: order.number,
        offsets: Vec::new(),
        refused: Vec::new(),
        failure: None,
    };
    for part in order.offsets.chunks(AT_ONCE) {
        let commit = Commit {
            group: group.to_owned(),
            member: Some(order.member),
            offsets: part.to_vec(),
        };
        let request = GroupRequest::Commit(commit);
        match client.ask_group(group, request, limit).await {
            Ok(GroupResponse::Committed { refused }) => {
                done.offsets.extend(part.iter().map(place));
                done.refused.extend(refused);
            }
            Ok(other) => done.failure = Some(unexpected(&other)),
            Err(failures) => done.failure = Some(refused_as_a_whole(given_up(failures))),
        }
    }
    done
}

fn place(one: &OffsetCommit) -> (TopicPartition, Offset) {
    let at = TopicPartition {
        topic: one.topic,
        partition: one.partition,
    };
    (at, one.offset)
}

/// A refusal for good is one of the commit; what can be tried again stays what it is.
pub(crate) fn refused_as_a_whole(error: Error) -> Error {
    match error.is_retriable() {
        true => error.reworded(|why| {
            format!("whether offsets were committed is not known, to commit them again does no harm: {why}")
        }),
        false => error
            .reworded(|why| format!("offsets were not committed: {why}"))
            .of_kind(ErrorKind::CommitRefused),
    }
}
