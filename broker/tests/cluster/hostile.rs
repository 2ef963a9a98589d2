//! What comes from outside may be nonsense: it is answered or cut off, and hurts nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use baton_client::{Cleanup, Record, TopicPolicy, TopicSettings};
use baton_protocol::batch::{BatchBuilder, Codec};
use baton_protocol::client::{Acks, ClientRequest, RequestBody, ResponseBody, ServerMessage};
use baton_protocol::error::ErrorCode;
use baton_protocol::frame::{Decoder, encode_header};
use baton_protocol::ids::{ClusterId, PartitionIndex, TopicId};
use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::harness::{Cluster, free_ports};

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

fn frame(id: u64, body: RequestBody, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_header(&ClientRequest { id, body }, payload.len(), &mut bytes).expect("encodes");
    bytes.put_slice(payload);
    bytes
}

fn hello(version: u16, cluster_id: Option<ClusterId>) -> BytesMut {
    let body = RequestBody::Hello {
        version_min: version,
        version_max: version,
        cluster_id,
        client: "test".into(),
    };
    frame(1, body, b"")
}

/// The next answer; none if the broker closed the connection.
fn answer(socket: &mut TcpStream) -> Option<Result<ResponseBody, ErrorCode>> {
    let mut buffer = BytesMut::new();
    let mut bytes = [0; 4096];
    loop {
        if let Some(frame) = Decoder::default().decode(&mut buffer).expect("a frame") {
            match frame.message().expect("a message") {
                ServerMessage::Response { result, .. } => {
                    return Some(result.map_err(|error| error.code));
                }
                other => panic!("{other:?}"),
            }
        }
        match socket.read(&mut bytes) {
            Ok(0) => return None,
            Ok(read) => buffer.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_the_broker_serves_on() {
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let topic = client
        .admin()
        .create_topic("t", TopicSettings::default())
        .await
        .expect("made");
    let leader = topic.partitions[0].leader.expect("led").broker.0 as u16;
    let port = cluster.port + leader - 1;

    let mut silent = [connect(port), connect(port)];
    silent[1].write_all(b"\0\0").expect("written");

    for garbage in [
        &b"\xff\xff\xff\xff garbage"[..],
        b"\0\0\0\x08\0\x06\xc1\xc1\xc1\xc1\xc1\xc1",
        b"\0\0\0\0",
    ] {
        for port in [port, port + 100] {
            let mut socket = connect(port);
            socket.write_all(garbage).expect("written");
            socket.shutdown(std::net::Shutdown::Write).expect("shut");
            assert!(answer(&mut socket).is_none(), "cut off");
        }
    }
    let mut socket = connect(port);
    socket.write_all(&hello(99, None)).expect("written");
    assert_eq!(
        answer(&mut socket),
        Some(Err(ErrorCode::UnsupportedVersion))
    );
    let mut socket = connect(port);
    socket
        .write_all(&hello(1, Some(ClusterId(Uuid::from_u128(5)))))
        .expect("written");
    assert_eq!(answer(&mut socket), Some(Err(ErrorCode::WrongCluster)));
    let mut socket = connect(port);
    socket
        .write_all(&frame(1, RequestBody::InitProducer, b""))
        .expect("written");
    assert_eq!(
        answer(&mut socket),
        Some(Err(ErrorCode::InvalidRequest)),
        "no hello"
    );

    let mut socket = connect(port);
    socket.write_all(&hello(1, None)).expect("written");
    assert!(matches!(
        answer(&mut socket),
        Some(Ok(ResponseBody::Hello { .. }))
    ));
    let produce = |topic: TopicId, partition: u32| RequestBody::Produce {
        topic,
        partition: PartitionIndex(partition),
        acks: Acks::Committed,
        timeout_ms: 5_000,
    };
    let mut builder = BatchBuilder::default();
    builder.push(1, None, Some(b"good"), &[]);
    let good = builder.build(None);
    let mut flipped = good.to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let huge = vec![0; 2 << 20];
    for (body, payload, code) in [
        (produce(topic.id, 0), &flipped[..], ErrorCode::InvalidBatch),
        (produce(topic.id, 0), &good[..20], ErrorCode::InvalidBatch),
        (produce(topic.id, 0), &huge[..], ErrorCode::MessageTooLarge),
        (produce(topic.id, 7), &good[..], ErrorCode::UnknownPartition),
        (
            produce(TopicId(Uuid::from_u128(1)), 0),
            &good[..],
            ErrorCode::UnknownTopic,
        ),
    ] {
        socket.write_all(&frame(2, body, payload)).expect("written");
        assert_eq!(answer(&mut socket), Some(Err(code)));
    }
    let deadline = Instant::now() + PATIENCE;
    let served = loop {
        socket
            .write_all(&frame(3, produce(topic.id, 0), &good))
            .expect("written");
        match answer(&mut socket) {
            // The topic is new: its leader may be about to take the lead.
            Some(Err(code)) if code.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => break other,
        }
    };
    assert!(
        matches!(served, Some(Ok(ResponseBody::Produced { .. }))),
        "the same connection serves on: {served:?}"
    );

    let producer = client.producer().build().await.expect("producer");
    let after = producer.send(Record::to("t").value("after")).await;
    after.expect("sent").await.expect("stored");

    for socket in &mut silent {
        assert!(answer(socket).is_none(), "nobody is waited for for ever");
    }
}

/// A batch of one record with a key, small on the wire, of so many bytes once it is expanded.
fn that_expands_to(bytes: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::default();
    builder.push(1, Some(b"key"), Some(&vec![0; bytes]), &[]);
    builder.build_with(None, Codec::Zstd).expect("built")
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_expand_far_hold_up_nobody_else() {
    const BATCHES: u64 = 60;
    let dir = tempfile::tempdir().expect("dir");
    let cluster = Cluster::start(dir.path(), free_ports());
    let client = cluster.client().await;
    let policy = TopicPolicy {
        cleanup: Some(Cleanup::Compact),
        ..TopicPolicy::default()
    };
    let settings = TopicSettings {
        policy,
        ..TopicSettings::default()
    };
    let topic = client.admin().create_topic("t", settings).await;
    let topic = topic.expect("made");
    let leader = topic.partitions[0].leader.expect("led").broker.0 as u16;
    let port = cluster.port + leader - 1;
    let large = that_expands_to(60 << 20);
    let mut hostile = connect(port);
    hostile.write_all(&hello(1, None)).expect("written");
    answer(&mut hostile).expect("answered").expect("greeted");
    let produce = || RequestBody::Produce {
        topic: topic.id,
        partition: PartitionIndex(0),
        acks: Acks::Committed,
        timeout_ms: 5_000,
    };
    for id in 0..BATCHES {
        hostile
            .write_all(&frame(id, produce(), &large))
            .expect("written");
    }
    answer(&mut hostile).expect("answered").expect("stored");
    // Others are answered long before all of these are.
    let mut other = connect(port);
    other.write_all(&hello(1, None)).expect("written");
    answer(&mut other).expect("answered").expect("greeted");
    let small = that_expands_to(1_000);
    for id in 0..10 {
        let request = frame(id, produce(), &small);
        other.write_all(&request).expect("written");
        answer(&mut other).expect("answered").expect("stored");
    }
    hostile.set_nonblocking(true).expect("set");
    let (mut bytes, mut came) = (vec![0; 1 << 20], BytesMut::new());
    while let Ok(read @ 1..) = hostile.read(&mut bytes) {
        came.extend_from_slice(&bytes[..read]);
    }
    let mut answered = 1;
    while let Ok(Some(_)) = Decoder::default().decode(&mut came) {
        answered += 1;
    }
    assert!(answered < BATCHES, "others had to wait for all of them");
}
