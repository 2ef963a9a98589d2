//! Compressed records, as Kafka's batches have them.
//!
//! Who expands them names a bound: a few bytes can stand for gigabytes, and whoever wrote them may
//! mean harm. What is damaged gives an error; nothing here panics. A broker stores compressed
//! batches as they are and never comes here.

use std::io::{Read, Write};

use crate::batch::{BatchError, snappy};

/// What a batch's records may expand to at most, unless a reader says otherwise: 64 MiB.
pub const EXPANDED_BYTES_MAX: usize = 64 << 20;

/// Of a batch's attributes, those that name the codec.
pub(super) const CODEC_BITS: i16 = 7;

/// What room a codec's output gets to begin with, as a multiple of its input.
const RATIO_GUESS: usize = 4;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy; written in the framing of Kafka's Java clients, read with and without it.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard; only in builds with the feature `zstd`.
    Zstd,
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

impl Codec {
    /// The codec that a batch's attributes name; none if it does not exist.
    pub(super) fn from_bits(attributes: i16) -> Option<Codec> {
        match attributes & CODEC_BITS {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// How a batch's attributes name it.
    pub(super) fn bits(self) -> i16 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// Whether this build has it.
    pub fn is_available(self) -> bool {
        self != Codec::Zstd || cfg!(feature = "zstd")
    }

    /// The bytes compressed; none with [`Codec::None`].
    pub(super) fn compress(self, plain: &[u8]) -> Result<Option<Vec<u8>>, BatchError> {
        let compressed = match self {
            Codec::None => return Ok(None),
            Codec::Gzip => gzip(plain),
            Codec::Snappy => snappy::compress(plain).map_err(|error| error.to_string()),
            Codec::Lz4 => lz4(plain).map_err(|error| error.to_string()),
            Codec::Zstd => zstandard::compress(plain),
        };
        let damaged = |why| BatchError::Compressed { codec: self, why };
        compressed.map(Some).map_err(damaged)
    }

    /// The bytes that `compressed` stands for, if they are no more than `bytes_max`.
    pub(super) fn expand(self, compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
        let expanded = match self {
            Codec::None => Ok(compressed.to_vec()),
            Codec::Gzip => {
                let reader = flate2::bufread::MultiGzDecoder::new(compressed);
                read_within(reader, compressed.len(), bytes_max)
            }
            Codec::Snappy => snappy::expand(compressed, bytes_max),
            Codec::Lz4 => {
                let reader = lz4_flex::frame::FrameDecoder::new(compressed);
                read_within(reader, compressed.len(), bytes_max)
            }
            Codec::Zstd => zstandard::expand(compressed, bytes_max),
        };
        expanded.map_err(|error| match error {
            ExpandError::TooFar => BatchError::ExpandsTooFar {
                codec: self,
                max: bytes_max,
            },
            ExpandError::Damaged(why) => BatchError::Compressed { codec: self, why },
        })
    }
}

/// Why bytes cannot be expanded.
pub(super) enum ExpandError {
    TooFar,
    Damaged(String),
}

impl ExpandError {
    pub fn damaged(why: impl ToString) -> Self {
        ExpandError::Damaged(why.to_string())
    }
}

/// Reads to the end, if that comes within `bytes_max`.
fn read_within(
    reader: impl Read,
    input_bytes: usize,
    bytes_max: usize,
) -> Result<Vec<u8>, ExpandError> {
    let guess = input_bytes.saturating_mul(RATIO_GUESS);
    let mut expanded = Vec::with_capacity(guess.min(bytes_max));
    let mut bounded = reader.take(bytes_max as u64 + 1);
    bounded
        .read_to_end(&mut expanded)
        .map_err(ExpandError::damaged)?;
    match expanded.len() > bytes_max {
        true => Err(ExpandError::TooFar),
        false => Ok(expanded),
    }
}

fn gzip(plain: &[u8]) -> Result<Vec<u8>, String> {
    let room = Vec::with_capacity(plain.len() / 2);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::default());
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.map_err(|error| error.to_string())
}

fn lz4(plain: &[u8]) -> Result<Vec<u8>, lz4_flex::frame::Error> {
    // Kafka's Java readers take independent blocks only.
    let frame = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let room = Vec::with_capacity(plain.len() / 2);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, room);
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(feature = "zstd")]
mod zstandard {
    //! Contexts are kept per thread: one takes longer to make than a small batch to compress.

    use std::cell::RefCell;

    use zstd::bulk::{Compressor, Decompressor};
    use zstd::zstd_safe::get_frame_content_size;

    use super::{ExpandError, read_within};

    /// The library's default, and Kafka's.
    const LEVEL: i32 = 3;

    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }

    pub fn compress(plain: &[u8]) -> Result<Vec<u8>, String> {
        COMPRESSOR.with_borrow_mut(|kept| {
            let compressor = match kept {
                Some(kept) => kept,
                None => kept.insert(Compressor::new(LEVEL).map_err(|error| error.to_string())?),
            };
            let compressed = compressor.compress(plain);
            compressed.map_err(|error| error.to_string())
        })
    }

    pub fn expand(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, ExpandError> {
        match get_frame_content_size(compressed) {
            Ok(Some(size)) if size > bytes_max as u64 => Err(ExpandError::TooFar),
            Ok(Some(size)) => at_once(compressed, size as usize),
            Ok(None) => as_stream(compressed, bytes_max),
            Err(_) => Err(ExpandError::damaged("no frame header")),
        }
    }

    /// Where the frame tells its size, no window is kept.
    fn at_once(compressed: &[u8], size: usize) -> Result<Vec<u8>, ExpandError> {
        DECOMPRESSOR.with_borrow_mut(|kept| {
            let decompressor = match kept {
                Some(kept) => kept,
                None => kept.insert(Decompressor::new().map_err(ExpandError::damaged)?),
            };
            let expanded = decompressor.decompress(compressed, size);
            expanded.map_err(ExpandError::damaged)
        })
    }

    /// A frame that was written as a stream, as Kafka's Java clients do.
    fn as_stream(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, ExpandError> {
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(compressed).map_err(ExpandError::damaged)?;
        // A window beyond what may come out is of use to nobody but who wants to take memory.
        let window_log = usize::BITS - bytes_max.max(1 << 10).leading_zeros();
        decoder
            .window_log_max(window_log.min(27))
            .map_err(ExpandError::damaged)?;
        read_within(decoder, compressed.len(), bytes_max)
    }
}

#[cfg(not(feature = "zstd"))]
mod zstandard {
    use super::ExpandError;

    const MISSING: &str = "this program was built without the feature `zstd`";

    pub fn compress(_plain: &[u8]) -> Result<Vec<u8>, String> {
        Err(MISSING.to_owned())
    }

    pub fn expand(_compressed: &[u8], _bytes_max: usize) -> Result<Vec<u8>, ExpandError> {
        Err(ExpandError::damaged(MISSING))
    }
}
