//! A broker that is none: it speaks the protocol, leads every partition of one topic, coordinates groups of
//! one member, and does what a test wants of it.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_client::Client;
use baton_protocol::batch::{BatchBuilder, BatchHeader, Codec, LeaderStamp, assign, entry_crc};
use baton_protocol::client::{
    ClientRequest, PartitionStatus, RequestBody, ResponseBody, ServerMessage,
};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::frame::{Decoder, encode_header};
use baton_protocol::groups::{
    AssignedTopic, CommittedOffset, GROUPS_TOPIC, GroupRequest, GroupResponse, HeartbeatAnswer,
};
use baton_protocol::ids::{
    BrokerEpoch, BrokerId, BrokerLife, ClusterId, DirectoryId, GroupEpoch, LeaderEpoch,
    MetadataIndex, Offset, PartitionIndex, PartitionVersion, ProcessId, ProducerId, TopicId,
};
use baton_protocol::metadata::{
    BrokerRecord, ClusterView, Flush, PartitionRecord, TopicConfig, TopicRecord,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const TOPIC: &str = "t";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Records of each batch that is pushed.
pub const BATCH_RECORDS: u64 = 100;

/// What the broker does.
#[derive(Default)]
pub struct Conduct {
    /// Takes batches and never answers.
    pub is_silent: AtomicBool,
    /// Reads nothing more from a connection once a batch has come by it.
    pub is_deaf: AtomicBool,
    /// Takes so many milliseconds for each batch, as on a slow link.
    pub pause_ms: AtomicU64,
    /// Refuses this many batches first, as one that has just lost its office.
    pub refusals: AtomicU64,
    /// How many records its log has.
    pub records: AtomicU64,
    /// How pushed batches are compressed.
    pub codec: Mutex<Codec>,
    /// Batches, by their first offsets, that are compressed with Zstandard all the same.
    pub compressed: Mutex<BTreeSet<u64>>,
    /// Breaks the connection after so many batches were pushed on it; 0: never.
    pub pushes_per_connection: AtomicU64,
    /// Does not keep what came.
    pub is_forgetful: AtomicBool,
    /// Batches that came, in order.
    pub produced: Mutex<Vec<(u32, Bytes)>>,
    /// Records of each partition that came.
    pub taken: Mutex<BTreeMap<u32, u64>>,
    /// Bytes that were pushed.
    pub pushed_bytes: AtomicU64,
    /// Subscriptions that were asked for.
    pub subscriptions: AtomicU64,
    /// Where its log starts.
    pub log_start: AtomicU64,
    /// Where its log starts from the next subscription on; 0: where it did.
    pub expires_then: AtomicU64,
    /// Committed offsets of each partition, whoever's.
    pub committed: Mutex<BTreeMap<u32, u64>>,
}

impl Conduct {
    fn is_compressed(&self, base: u64) -> bool {
        let compressed = self.compressed.lock().expect("offsets");
        compressed.contains(&base)
    }
}

pub struct FakeBroker {
    pub address: String,
    pub conduct: Arc<Conduct>,
    /// Where a broker is that takes connections and says nothing.
    frozen: Option<TcpListener>,
}

impl FakeBroker {
    pub async fn start(partitions: u32) -> FakeBroker {
        FakeBroker::start_with(partitions, None).await
    }

    /// The same beside another broker, which leads the last partition and is frozen.
    pub async fn start_beside_a_frozen_one(partitions: u32) -> FakeBroker {
        let frozen = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        FakeBroker::start_with(partitions, Some(frozen)).await
    }

    async fn start_with(partitions: u32, frozen: Option<TcpListener>) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("an address").to_string();
        let conduct = Arc::new(Conduct::default());
        let mut view = view(&address, partitions);
        if let Some(frozen) = &frozen {
            let frozen = frozen.local_addr().expect("an address").to_string();
            let mut other = view.brokers[&BrokerId(1)].clone();
            (other.id, other.client_address) = (BrokerId(2), frozen);
            let topic = view.topics.get_mut(TOPIC).expect("a topic");
            let mut partition = PartitionRecord::clone(topic.partitions.last().expect("one"));
            partition.leader = Some(BrokerLife {
                broker: other.id,
                epoch: other.epoch,
            });
            *topic.partitions.last_mut().expect("one") = Arc::new(partition);
            view.brokers.insert(other.id, other);
        }
        let served = conduct.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let session = Session {
                    socket,
                    view: view.clone(),
                    conduct: served.clone(),
                    subscriptions: BTreeMap::new(),
                    pushes: 0,
                };
                tokio::spawn(session.serve());
            }
        });
        FakeBroker {
            address,
            conduct,
            frozen,
        }
    }

    pub async fn client(&self) -> Client {
        let client = Client::builder([self.address.clone()]).connect().await;
        client.expect("connects")
    }
}

/// One entry of the fake log.
pub fn entry(base: u64, codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::default();
    for number in base..base + BATCH_RECORDS {
        let value = format!("{number:0>100}");
        builder.push(number as i64, None, Some(value.as_bytes()), &[]);
    }
    let mut batch = builder.build_with(None, codec).expect("built").to_vec();
    let stamp = LeaderStamp::new(Offset(base), LeaderEpoch(1));
    assign(&mut batch, &stamp);
    let mut entry = entry_crc(&batch).to_be_bytes().to_vec();
    entry.extend_from_slice(&batch);
    entry.into()
}

struct Subscription {
    position: u64,
    credit: u64,
}

struct Session {
    socket: TcpStream,
    view: ClusterView,
    conduct: Arc<Conduct>,
    subscriptions: BTreeMap<u32, Subscription>,
    pushes: u64,
}

impl Session {
    /// Serves until the client leaves, or it breaks the connection itself.
    async fn serve(mut self) {
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = Decoder::default().decode(&mut buffer).expect("sound") {
                let request: ClientRequest = frame.message().expect("a request");
                if !self.obey(request, frame.payload).await {
                    return;
                }
            }
            match self.socket.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn say(&mut self, message: &ServerMessage, payload: &[u8]) -> bool {
        let mut out = BytesMut::new();
        encode_header(message, payload.len(), &mut out).expect("encoded");
        out.extend_from_slice(payload);
        self.socket.write_all(&out).await.is_ok()
    }

    async fn obey(&mut self, request: ClientRequest, payload: Bytes) -> bool {
        let result = match request.body {
            RequestBody::Hello { .. } => Ok(ResponseBody::Hello {
                version: 1,
                cluster_id: self.view.cluster_id,
                broker: BrokerId(1),
                message_bytes_max: 1 << 20,
            }),
            RequestBody::WatchMetadata | RequestBody::Metadata { .. } => {
                Ok(ResponseBody::Metadata(self.view.clone()))
            }
            RequestBody::InitProducer => Ok(ResponseBody::Producer {
                producer_id: ProducerId(7),
                producer_epoch: 0,
            }),
            RequestBody::Produce { .. } if self.conduct.is_deaf.load(Ordering::SeqCst) => {
                std::future::pending().await
            }
            RequestBody::Produce { partition, .. } => {
                let pause_ms = self.conduct.pause_ms.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                match self.take(partition.0, payload) {
                    Some(answer) => answer,
                    None => return true,
                }
            }
            RequestBody::PartitionStatus { .. } => Ok(self.status()),
            RequestBody::Subscribe {
                subscription,
                offset,
                credit_bytes,
                ..
            } => self.subscribe(subscription, offset, credit_bytes),
            RequestBody::Credit {
                subscription,
                bytes,
            } => {
                if let Some(subscription) = self.subscriptions.get_mut(&subscription) {
                    subscription.credit += bytes;
                }
                return self.push().await;
            }
            RequestBody::Unsubscribe { subscription } => {
                self.subscriptions.remove(&subscription);
                Ok(ResponseBody::Done)
            }
            RequestBody::Group { request, .. } => Ok(ResponseBody::Group(self.coordinate(request))),
            other => panic!("{other:?}"),
        };
        let id = request.id;
        let answer = ServerMessage::Response { id, result };
        self.say(&answer, b"").await && self.push().await
    }

    fn take(&self, partition: u32, batch: Bytes) -> Option<Result<ResponseBody, WireError>> {
        let conduct = &self.conduct;
        let left = |left: u64| left.checked_sub(1);
        let refused = conduct
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        if refused.is_ok() {
            return Some(Err(WireError::new(ErrorCode::NoLeader, "not now")));
        }
        let records = BatchHeader::parse(&batch).expect("a batch").record_count();
        let mut taken = conduct.taken.lock().expect("counted");
        let taken = taken.entry(partition).or_default();
        let before = *taken;
        *taken += u64::from(records);
        if !conduct.is_forgetful.load(Ordering::SeqCst) {
            let mut produced = conduct.produced.lock().expect("produced");
            produced.push((partition, batch));
        }
        (!conduct.is_silent.load(Ordering::SeqCst)).then_some(Ok(ResponseBody::Produced {
            base_offset: Some(Offset(before)),
            epoch: LeaderEpoch(1),
        }))
    }

    /// The only member has everything.
    fn coordinate(&self, request: GroupRequest) -> GroupResponse {
        let topic = TopicId::default();
        let mut committed = self.conduct.committed.lock().expect("offsets");
        match request {
            GroupRequest::Heartbeat(heartbeat) => {
                let count = self.view.topics[TOPIC].partitions.len() as u32;
                let assigned = AssignedTopic {
                    topic,
                    name: TOPIC.to_owned(),
                    partitions: (0..count).map(PartitionIndex).collect(),
                };
                GroupResponse::Heartbeat(HeartbeatAnswer {
                    epoch: GroupEpoch(1),
                    heartbeat_interval_ms: 100,
                    assignment: (heartbeat.epoch != GroupEpoch(1)).then(|| vec![assigned]),
                    revoke_within_ms: None,
                })
            }
            GroupRequest::Commit(commit) => {
                let offsets = commit.offsets.iter();
                committed.extend(offsets.map(|one| (one.partition.0, one.offset.0)));
                let refused = Vec::new();
                GroupResponse::Committed { refused }
            }
            GroupRequest::FetchOffsets { .. } => {
                let offsets = committed.iter().map(|(partition, offset)| CommittedOffset {
                    topic,
                    partition: PartitionIndex(*partition),
                    offset: Offset(*offset),
                    leader_epoch: LeaderEpoch(1),
                    metadata: String::new(),
                    committed_at_ms: 0,
                });
                GroupResponse::Offsets(offsets.collect())
            }
            GroupRequest::Leave { .. } => GroupResponse::Done,
            other => panic!("{other:?}"),
        }
    }

    fn start(&self) -> Offset {
        Offset(self.conduct.log_start.load(Ordering::SeqCst))
    }

    fn end(&self) -> Offset {
        Offset(self.conduct.records.load(Ordering::SeqCst))
    }

    fn status(&self) -> ResponseBody {
        ResponseBody::PartitionStatus(PartitionStatus {
            epoch: LeaderEpoch(1),
            log_start: self.start(),
            log_end: self.end(),
            high_watermark: self.end(),
            ready: true,
            acknowledged: Vec::new(),
        })
    }

    fn subscribe(
        &mut self,
        number: u32,
        offset: Offset,
        credit: u64,
    ) -> Result<ResponseBody, WireError> {
        self.conduct.subscriptions.fetch_add(1, Ordering::SeqCst);
        match self.conduct.expires_then.swap(0, Ordering::SeqCst) {
            0 => {}
            start => self.conduct.log_start.store(start, Ordering::SeqCst),
        }
        if !(self.start()..=self.end()).contains(&offset) {
            let code = ErrorCode::OffsetOutOfRange;
            let error = WireError::new(code, "not in the log");
            return Err(error.with_offsets(self.start(), self.end()));
        }
        let position = offset.0 / BATCH_RECORDS * BATCH_RECORDS;
        let subscription = Subscription { position, credit };
        self.subscriptions.insert(number, subscription);
        Ok(ResponseBody::Subscribed {
            log_start: self.start(),
            high_watermark: self.end(),
        })
    }

    /// Pushes as far as the credit goes; one batch may overdraw it, as with the true broker.
    async fn push(&mut self) -> bool {
        let end = self.end().0;
        let codec = *self.conduct.codec.lock().expect("a codec");
        let numbers: Vec<u32> = self.subscriptions.keys().copied().collect();
        for number in numbers {
            while let Some(wanted) = self.subscriptions.get_mut(&number)
                && wanted.position < end
                && wanted.credit > 0
            {
                let limit = self.conduct.pushes_per_connection.load(Ordering::SeqCst);
                if limit > 0 && self.pushes == limit {
                    return false;
                }
                let entry = match self.conduct.is_compressed(wanted.position) {
                    true => entry(wanted.position, Codec::Zstd),
                    false => entry(wanted.position, codec),
                };
                let bytes = entry.len() as u64;
                wanted.credit = wanted.credit.saturating_sub(bytes);
                wanted.position += BATCH_RECORDS;
                self.pushes += 1;
                self.conduct.pushed_bytes.fetch_add(bytes, Ordering::SeqCst);
                let message = ServerMessage::Records {
                    subscription: number,
                    high_watermark: Offset(end),
                };
                if !self.say(&message, &entry).await {
                    return false;
                }
            }
        }
        true
    }
}

fn view(address: &str, partitions: u32) -> ClusterView {
    let life = BrokerLife {
        broker: BrokerId(1),
        epoch: BrokerEpoch(1),
    };
    let broker = BrokerRecord {
        id: life.broker,
        epoch: life.epoch,
        directory: DirectoryId::default(),
        shown_life: None,
        process: ProcessId::default(),
        client_address: address.to_owned(),
        peer_address: address.to_owned(),
        fenced: false,
        draining: false,
    };
    let partition = PartitionRecord {
        replicas: vec![life.broker],
        leader: Some(life),
        epoch: LeaderEpoch(1),
        in_sync: BTreeSet::from([life.broker]),
        suspects: BTreeSet::new(),
        version: PartitionVersion(1),
        sync_followers_commit: 0,
        sync_followers_elect: 0,
        offset_limit: Offset::MAX,
        offset_floor: Offset::ZERO,
        lossy_epoch: LeaderEpoch::NONE,
        leader_keeps: Offset::ZERO,
        begins: Vec::new(),
    };
    let partition = Arc::new(partition);
    let topic = TopicRecord {
        id: TopicId::default(),
        name: TOPIC.to_owned(),
        config: TopicConfig {
            replicas: 1,
            sync_followers: 0,
            flush: Flush::Ack,
            unclean_election: false,
            policy: baton_protocol::policy::TopicPolicy::default(),
        },
        partitions: vec![partition; partitions as usize],
    };
    let mut groups = topic.clone();
    groups.id = "1".repeat(32).parse().expect("an id");
    groups.name = GROUPS_TOPIC.to_owned();
    groups.partitions.truncate(1);
    ClusterView {
        cluster_id: ClusterId::default(),
        index: MetadataIndex(1),
        controller: Some(BrokerId(1)),
        brokers: BTreeMap::from([(life.broker, broker)]),
        topics: BTreeMap::from([(TOPIC.to_owned(), topic), (GROUPS_TOPIC.to_owned(), groups)]),
    }
}
