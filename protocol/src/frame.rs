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
/// payload after them.
pub fn encode_header<T: Serialize>(
    message: &T,
    payload_len: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = out.len();
    out.put_bytes(0, LENGTHS_BYTES);
    rmp_serde::encode::write_named(&mut out.writer(), message)?;
    let header = out.len() - start - LENGTHS_BYTES;
    let frame = 2 + header + payload_len;
    let small = header < usize::from(WHOLE_FRAME);
    if frame > FRAME_BYTES_MAX || (!small && payload_len > 0) {
        out.truncate(start);
        return Err(FrameError::TooLarge {
            len: frame,
            max: FRAME_BYTES_MAX,
        });
    }
    let header = if small { header as u16 } else { WHOLE_FRAME };
    out[start..start + 4].copy_from_slice(&(frame as u32).to_be_bytes());
    out[start + 4..start + 6].copy_from_slice(&header.to_be_bytes());
    Ok(())
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
            buffer.reserve(4 + frame - buffer.len());
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
        let mut out = BytesMut::new();
        assert!(encode_header(&sent, 1, &mut out).is_err());
    }

    #[test]
    fn an_oversized_length_is_refused_before_room_is_made() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let error = Decoder::default().decode(&mut buffer).expect_err("refused");
        assert!(matches!(error, FrameError::TooLarge { .. }));
        assert!(buffer.capacity() < 1 << 20);
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
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Decoder::default().decode(&mut buffer) {
                let _ = frame.message::<ClientRequest>();
            }
        }
    }
}
