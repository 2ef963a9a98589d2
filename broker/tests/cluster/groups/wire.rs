//! The protocol of consumer groups, spoken as it is: to whoever leads the group's partition.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use baton_client::Client;
use baton_protocol::client::{
    CLIENT_PROTOCOL_VERSION, ClientRequest, RequestBody, ResponseBody, ServerMessage,
};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::frame::{Decoder, encode_header};
use baton_protocol::groups::{
    Commit, CommitRefused, CommittedOffset, CommittingMember, GROUPS_TOPIC, GroupRequest,
    GroupResponse, Heartbeat, HeartbeatAnswer, OffsetCommit, Subscription, coordinator_partition,
};
use baton_protocol::ids::{
    GroupEpoch, LeaderEpoch, MemberId, Offset, PartitionIndex, TopicId, TopicPartition,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::harness::PATIENCE;

/// How long one broker is given for an answer.
const ATTEMPT: Duration = Duration::from_secs(3);

pub type Answer = Result<GroupResponse, WireError>;

/// A connection to one broker.
pub struct Wire {
    socket: TcpStream,
    buffer: BytesMut,
    next: u64,
}

impl Wire {
    pub async fn connect(address: &str) -> std::io::Result<Wire> {
        let mut wire = Wire {
            socket: TcpStream::connect(address).await?,
            buffer: BytesMut::new(),
            next: 0,
        };
        let hello = RequestBody::Hello {
            version_min: CLIENT_PROTOCOL_VERSION,
            version_max: CLIENT_PROTOCOL_VERSION,
            cluster_id: None,
            client: "test".into(),
        };
        wire.ask(hello).await?.expect("greeted");
        Ok(wire)
    }

    pub async fn ask(
        &mut self,
        body: RequestBody,
    ) -> std::io::Result<Result<ResponseBody, WireError>> {
        self.ask_with(body, Bytes::new()).await
    }

    pub async fn ask_with(
        &mut self,
        body: RequestBody,
        payload: Bytes,
    ) -> std::io::Result<Result<ResponseBody, WireError>> {
        self.next += 1;
        let mut frame = BytesMut::new();
        let request = ClientRequest {
            id: self.next,
            body,
        };
        encode_header(&request, payload.len(), &mut frame).expect("encodes");
        frame.extend_from_slice(&payload);
        self.socket.write_all(&frame).await?;
        loop {
            if let Some(frame) = Decoder::default()
                .decode(&mut self.buffer)
                .expect("a frame")
            {
                match frame.message().expect("a message") {
                    ServerMessage::Response { id, result } if id == self.next => return Ok(result),
                    other => panic!("{other:?}"),
                }
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Asks a broker once; none if it does not answer.
pub async fn ask_at(
    address: &str,
    partition: PartitionIndex,
    request: GroupRequest,
) -> Option<Answer> {
    let body = RequestBody::Group { partition, request };
    let ask = async { Wire::connect(address).await?.ask(body).await };
    match timeout(ATTEMPT, ask).await {
        Ok(Ok(Ok(ResponseBody::Group(response)))) => Some(Ok(response)),
        Ok(Ok(Ok(other))) => panic!("{other:?}"),
        Ok(Ok(Err(error))) => Some(Err(error)),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// The partition of the internal topic that keeps a group, and its leader's address, as far as known.
pub fn coordinator_of(client: &Client, group: &str) -> (PartitionIndex, String) {
    let view = client.view();
    let any = || {
        let brokers = view.brokers.values().filter(|broker| !broker.fenced);
        brokers.map(|broker| broker.client_address.clone()).next()
    };
    let Some(topic) = view.topics.get(GROUPS_TOPIC) else {
        return (PartitionIndex(0), any().expect("a broker"));
    };
    let index = coordinator_partition(group, topic.partitions.len() as u32);
    let leader = topic.partitions[index.0 as usize].leader;
    let leader = leader.and_then(|leader| view.brokers.get(&leader.broker));
    let address = leader.map(|broker| broker.client_address.clone());
    (index, address.or_else(any).expect("a broker"))
}

/// Asks the coordinator of a group, again until it answers with something that lasts.
pub async fn ask(client: &Client, group: &str, request: GroupRequest) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (partition, address) = coordinator_of(client, group);
        match ask_at(&address, partition, request.clone()).await {
            Some(Err(error))
                if error.code.is_retriable() && error.code != ErrorCode::InstanceInUse =>
            {
                assert!(Instant::now() < deadline, "still {error}");
            }
            Some(answer) => return answer,
            None => assert!(Instant::now() < deadline, "{address} does not answer"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn offsets(client: &Client, group: &str) -> Vec<CommittedOffset> {
    let request = GroupRequest::FetchOffsets {
        group: group.to_owned(),
    };
    match ask(client, group, request).await {
        Ok(GroupResponse::Offsets(offsets)) => offsets,
        other => panic!("{other:?}"),
    }
}

/// A member of a group, which does what it is told at once.
#[derive(Clone)]
pub struct Member {
    pub client: Client,
    pub group: String,
    pub id: MemberId,
    pub epoch: GroupEpoch,
    pub owns: BTreeSet<TopicPartition>,
    topic: String,
}

impl Member {
    pub async fn join(client: &Client, group: &str, topic: &str) -> Member {
        let mut member = Member {
            client: client.clone(),
            group: group.to_owned(),
            id: MemberId(Uuid::new_v4()),
            epoch: GroupEpoch::NONE,
            owns: BTreeSet::new(),
            topic: topic.to_owned(),
        };
        member.beat().await.expect("joined");
        member
    }

    /// Shows that it lives, and takes what it is told.
    pub async fn beat(&mut self) -> Result<HeartbeatAnswer, WireError> {
        let subscription = Subscription {
            version: 1,
            topics: vec![self.topic.clone()],
            session_timeout_ms: 60_000,
            rebalance_timeout_ms: 60_000,
            client: "test".into(),
        };
        let request = GroupRequest::Heartbeat(Heartbeat {
            group: self.group.clone(),
            member: self.id,
            instance: None,
            epoch: self.epoch,
            subscription: (self.epoch == GroupEpoch::NONE).then_some(subscription),
        });
        let answer = match ask(&self.client, &self.group, request).await? {
            GroupResponse::Heartbeat(answer) => answer,
            other => panic!("{other:?}"),
        };
        if let Some(assignment) = &answer.assignment
            && answer.epoch > self.epoch
        {
            self.epoch = answer.epoch;
            let topics = assignment.iter();
            let partitions = topics.flat_map(|topic| {
                topic.partitions.iter().map(|partition| TopicPartition {
                    topic: topic.topic,
                    partition: *partition,
                })
            });
            self.owns = partitions.collect();
        }
        Ok(answer)
    }

    pub async fn commit(
        &self,
        offset: impl Fn(TopicPartition) -> Offset,
    ) -> Result<Vec<CommitRefused>, WireError> {
        let one = |at: &TopicPartition| commit_of(at.topic, at.partition, offset(*at));
        let request = GroupRequest::Commit(Commit {
            group: self.group.clone(),
            member: Some(CommittingMember {
                member: self.id,
                epoch: self.epoch,
            }),
            offsets: self.owns.iter().map(one).collect(),
        });
        match ask(&self.client, &self.group, request).await? {
            GroupResponse::Committed { refused } => Ok(refused),
            other => panic!("{other:?}"),
        }
    }
}

pub fn commit_of(topic: TopicId, partition: PartitionIndex, offset: Offset) -> OffsetCommit {
    OffsetCommit {
        topic,
        partition,
        offset,
        leader_epoch: LeaderEpoch(1),
        metadata: String::new(),
        back_from: None,
    }
}

/// Lets members show themselves until each partition is one's, and they have as many each.
pub async fn balance(members: &mut [Member], partitions: usize) {
    let deadline = Instant::now() + PATIENCE;
    let each = partitions / members.len();
    while members.iter().any(|member| member.owns.len() != each) {
        assert!(Instant::now() < deadline, "not in balance");
        for member in members.iter_mut() {
            member.beat().await.expect("known");
        }
    }
    let owned: BTreeSet<TopicPartition> = members.iter().flat_map(|m| m.owns.clone()).collect();
    assert_eq!(owned.len(), partitions, "each has one owner");
}
