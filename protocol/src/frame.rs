//! Framing: `[u32 frame length][u16 header length][header][payload]`, numbers big-endian.
//!
//! The frame length counts everything after itself. The header is a message in MessagePack with
//! named fields, so that either side can add a field; the payload is raw. A header length of
//! `0xffff` means that all the rest of the frame is header: for messages that grow with the cluster.
//!
//! Pure: bytes in, bytes out; sockets are elsewhere.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes of a frame, its length field aside: 16 MiB of payload and room for a header.
pub const FRAME_BYTES_MAX: usize = (16 << 20) + (64 << 10);

/// Most bytes of a header that has a payload beside it. A larger one takes the whole frame.
pub const HEADER_BYTES_MAX: usize = WHOLE_FRAME as usize - 1;

/// Room that is made for the rest of a frame at least.
const RESERVE_BYTES_MIN: usize = 64 << 10;

/// Room that is made for the rest of a frame at most, by the bytes that have come of it. With less, a frame
/// would be copied again and again while it grows.
const RESERVE_BY_BYTE: usize = 8;

/// Bytes of the two length fields.
const LENGTHS_BYTES: usize = 6;

/// A header length that means "the rest of the frame".
const WHOLE_FRAME: u16 = u16::MAX;

/// A frame that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is larger than allowed.
    #[error("a frame of {len} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Its header leaves no room for a payload beside it.
    #[error(
        "a header of {len} bytes; beside a payload at most {max} are allowed: send the message \
         without one"
    )]
    HeaderTooLarge {
        /// Its size.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Its lengths contradict each other.
    #[error("a frame of {frame} bytes with a header of {header}")]
    Lengths {
        /// Bytes of the frame.
        frame: usize,
        /// Bytes of the header.
        header: usize,
    },
    /// Its header is no message.
    #[error("header is not understood: {0}")]
    Header(#[from] rmp_serde::decode::Error),
    /// Its header goes on after the message.
    #[error("{0} bytes follow the message in the header")]
    Trailing(usize),
    /// A message could not be encoded.
    #[error("message cannot be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Appends the lengths and the header of a frame to `out`; the caller sends `payload_len` bytes of
/// payload after them. On an error `out` is as it was, so that it can hold other frames already.
pub fn encode_header<T: Serialize>(
    message: &T,
    payload_len: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = out.len();
    out.put_bytes(0, LENGTHS_BYTES);
    let lengths = rmp_serde::encode::write_named(&mut out.writer(), message)
        .map_err(FrameError::from)
        .and_then(|()| lengths(out.len() - start - LENGTHS_BYTES, payload_len));
    match lengths {
        Ok((frame, header)) => {
            out[start..start + 4].copy_from_slice(&frame.to_be_bytes());
            out[start + 4..start + 6].copy_from_slice(&header.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// The two length fields of a frame with a header and a payload of these sizes.
fn lengths(header: usize, payload: usize) -> Result<(u32, u16), FrameError> {
    let frame = payload.saturating_add(2 + header);
    if frame > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge {
            len: frame,
            max: FRAME_BYTES_MAX,
        });
    }
    if header <= HEADER_BYTES_MAX {
        Ok((frame as u32, header as u16))
    } else if payload == 0 {
        Ok((frame as u32, WHOLE_FRAME))
    } else {
        Err(FrameError::HeaderTooLarge {
            len: header,
            max: HEADER_BYTES_MAX,
        })
    }
}

/// A frame as it came, its parts sharing the buffer it was read into.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// The message, encoded.
    pub header: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl RawFrame {
    /// The message. It must fill the header exactly.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        let mut rest = &self.header[..];
        let message = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest))?;
        if rest.is_empty() {
            Ok(message)
        } else {
            Err(FrameError::Trailing(rest.len()))
        }
    }
}

/// Cuts frames out of what was read. Keeps no bytes of its own.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// Takes the next whole frame off the front of `buffer`, if it is there. The length is checked
    /// before any room is made for it.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<RawFrame>, FrameError> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let frame = u32::from_be_bytes(*length) as usize;
        if frame > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge {
                len: frame,
                max: FRAME_BYTES_MAX,
            });
        }
        if frame < 2 {
            return Err(FrameError::Lengths { frame, header: 0 });
        }
        if buffer.len() < 4 + frame {
            // A length alone, which costs its sender nothing, must not take much room.
            let missing = 4 + frame - buffer.len();
            let earned = buffer.len().saturating_mul(RESERVE_BY_BYTE);
            buffer.reserve(missing.min(earned.max(RESERVE_BYTES_MIN)));
            return Ok(None);
        }
        buffer.advance(4);
        let mut body = buffer.split_to(frame).freeze();
        let header = match body.get_u16() {
            WHOLE_FRAME => body.len(),
            header => usize::from(header),
        };
        if header > body.len() {
            return Err(FrameError::Lengths { frame, header });
        }
        let payload = body.split_off(header);
        Ok(Some(RawFrame {
            header: body,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientRequest, RequestBody};
    use proptest::prelude::*;

    fn request(topics: Vec<String>) -> ClientRequest {
        ClientRequest {
            id: 9,
            body: RequestBody::Metadata {
                topics: Some(topics),
            },
        }
    }

    fn framed(request: &ClientRequest, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode_header(request, payload.len(), &mut out).expect("encodes");
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_frame_split_anywhere_comes_out_whole() {
        let sent = request(vec!["a".into()]);
        let bytes = framed(&sent, b"payload");
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut decoder = Decoder::default();
            assert!(decoder.decode(&mut buffer).expect("no error").is_none());
            buffer.extend_from_slice(&bytes[cut..]);
            let frame = decoder.decode(&mut buffer).expect("ok").expect("whole");
            assert_eq!(frame.message::<ClientRequest>().expect("message"), sent);
            assert_eq!(&frame.payload[..], b"payload");
        }
    }

    #[test]
    fn a_header_larger_than_its_length_field_takes_the_whole_frame() {
        let sent = request(vec!["x".repeat(100_000)]);
        let mut bytes = framed(&sent, b"");
        let frame = Decoder::default()
            .decode(&mut bytes)
            .expect("ok")
            .expect("whole");
        assert_eq!(frame.message::<ClientRequest>().expect("message"), sent);
        let mut out = BytesMut::from(&b"before"[..]);
        let error = encode_header(&sent, 1, &mut out).expect_err("no room for a payload");
        assert!(matches!(error, FrameError::HeaderTooLarge { .. }));
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn the_largest_header_beside_a_payload_is_one_byte_below_the_mark() {
        let overhead = rmp_serde::to_vec_named(&request(vec!["x".repeat(60_000)]))
            .expect("encodes")
            .len()
            - 60_000;
        for (header, fits) in [(HEADER_BYTES_MAX, true), (HEADER_BYTES_MAX + 1, false)] {
            let sent = request(vec!["x".repeat(header - overhead)]);
            let mut out = BytesMut::new();
            assert_eq!(encode_header(&sent, 1, &mut out).is_ok(), fits);
            if fits {
                out.put_u8(7);
                let frame = Decoder::default().decode(&mut out);
                let frame = frame.expect("ok").expect("whole");
                assert_eq!(frame.header.len(), header);
                assert_eq!(&frame.payload[..], [7]);
            }
        }
    }

    #[test]
    fn a_message_that_cannot_be_encoded_leaves_the_buffer_as_it_was() {
        struct Refusing;
        impl Serialize for Refusing {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::{Error, SerializeSeq};
                let mut seq = serializer.serialize_seq(Some(2))?;
                seq.serialize_element("written")?;
                Err(S::Error::custom("refused"))
            }
        }
        let mut out = BytesMut::from(&b"before"[..]);
        let error = encode_header(&Refusing, 0, &mut out).expect_err("refused");
        assert!(matches!(error, FrameError::Encode(_)));
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn a_payload_of_any_length_is_refused_without_overflow() {
        let mut out = BytesMut::new();
        let error = encode_header(&request(vec![]), usize::MAX, &mut out).expect_err("refused");
        assert!(matches!(error, FrameError::TooLarge { .. }));
        assert!(out.is_empty());
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let frame = RawFrame {
            header: vec![0x91; 1 << 20].into(),
            payload: Bytes::new(),
        };
        assert!(frame.message::<ClientRequest>().is_err());
        // The same under a field that no version knows, which a reader skips.
        let mut header = vec![0x81, 0xa1, b'?'];
        header.resize(1 << 20, 0x91);
        let frame = RawFrame {
            header: header.into(),
            payload: Bytes::new(),
        };
        assert!(frame.message::<ClientRequest>().is_err());
    }

    #[test]
    fn an_oversized_length_is_refused_before_room_is_made() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let error = Decoder::default().decode(&mut buffer).expect_err("refused");
        assert!(matches!(error, FrameError::TooLarge { .. }));
        assert!(buffer.capacity() < 1 << 20);
    }

    #[test]
    fn an_announced_length_takes_room_only_as_its_bytes_come() {
        let announced = FRAME_BYTES_MAX as u32;
        let mut buffer = BytesMut::from(&announced.to_be_bytes()[..]);
        assert!(
            Decoder::default()
                .decode(&mut buffer)
                .expect("ok")
                .is_none()
        );
        assert!(buffer.capacity() < 1 << 20, "{}", buffer.capacity());
    }

    #[test]
    fn a_large_frame_gets_its_room_early() {
        let sent = framed(&request(vec![]), &vec![7; 1 << 20]);
        let mut buffer = BytesMut::with_capacity(RESERVE_BYTES_MIN);
        let (mut rooms, mut came) = (std::collections::BTreeSet::new(), 0);
        while came < sent.len() {
            let room = (buffer.capacity() - buffer.len()).min(sent.len() - came);
            buffer.extend_from_slice(&sent[came..came + room]);
            came += room;
            rooms.insert(buffer.capacity() + (came - buffer.len()));
            if let Some(frame) = Decoder::default().decode(&mut buffer).expect("ok") {
                assert_eq!(frame.payload.len(), 1 << 20);
            }
        }
        assert!(rooms.len() <= 3, "{rooms:?}");
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut header = rmp_serde::to_vec_named(&request(vec![])).expect("encodes");
        header.push(0xc0);
        let frame = RawFrame {
            header: header.into(),
            payload: Bytes::new(),
        };
        assert!(matches!(
            frame.message::<ClientRequest>(),
            Err(FrameError::Trailing(1))
        ));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            sent in proptest::collection::vec(
                ("[a-z]{0,40}", proptest::collection::vec(any::<u8>(), 0..300)),
                1..8,
            ),
            cuts in proptest::collection::vec(1usize..200, 1..20),
        ) {
            let mut wire = BytesMut::new();
            for (topic, payload) in &sent {
                wire.extend_from_slice(&framed(&request(vec![topic.clone()]), payload));
            }
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !wire.is_empty() {
                let chunk = wire.len().min(*cuts.next().expect("endless"));
                buffer.extend_from_slice(&wire.split_to(chunk));
                while let Some(frame) = decoder.decode(&mut buffer).expect("sound") {
                    received.push((frame.message::<ClientRequest>().expect("ok"), frame.payload));
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(received.len(), sent.len());
            for ((message, got), (topic, payload)) in received.iter().zip(&sent) {
                prop_assert_eq!(message, &request(vec![topic.clone()]));
                prop_assert_eq!(&got[..], &payload[..]);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Decoder::default().decode(&mut buffer) {
                let _ = frame.message::<ClientRequest>();
            }
        }
    }
}
