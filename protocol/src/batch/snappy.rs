//! Snappy as Kafka's Java clients write it: blocks of 32 KiB, each behind its length, after a header
//! of 16 bytes. Other clients write one bare block; that is read, too.

use crate::batch::codec::ExpandError;

/// `\x82SNAPPY\0`, then the version and the oldest version that can read it, both 1.
const HEADER: [u8; 16] = *b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";

/// What tells the framing from a bare block.
const MAGIC_BYTES: usize = 8;

/// Plain bytes of one block.
const BLOCK_BYTES: usize = 32 << 10;

/// The bytes compressed, framed.
pub(super) fn compress(plain: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let mut encoder = snap::raw::Encoder::new();
    let mut out = Vec::with_capacity(HEADER.len() + plain.len() / 2);
    out.extend_from_slice(&HEADER);
    let mut block = vec![0; snap::raw::max_compress_len(BLOCK_BYTES)];
    for plain in plain.chunks(BLOCK_BYTES) {
        let bytes = encoder.compress(plain, &mut block)?;
        out.extend_from_slice(&(bytes as u32).to_be_bytes());
        out.extend_from_slice(&block[..bytes]);
    }
    Ok(out)
}

/// What framed or bare bytes stand for.
pub(super) fn expand(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, ExpandError> {
    let mut out = Vec::new();
    if !compressed.starts_with(&HEADER[..MAGIC_BYTES]) {
        expand_block(compressed, &mut out, bytes_max)?;
        return Ok(out);
    }
    let mut rest = compressed
        .get(HEADER.len()..)
        .ok_or_else(|| ExpandError::damaged("the header is cut short"))?;
    while !rest.is_empty() {
        let (length, after) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| ExpandError::damaged("a block's length is cut short"))?;
        let (block, after) = after
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or_else(|| ExpandError::damaged("a block is cut short"))?;
        expand_block(block, &mut out, bytes_max)?;
        rest = after;
    }
    Ok(out)
}

fn expand_block(block: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), ExpandError> {
    // The block says its size itself; it is believed only as far as there may be memory for it.
    let bytes = snap::raw::decompress_len(block).map_err(ExpandError::damaged)?;
    let begin = out.len();
    let end = begin.saturating_add(bytes);
    if end > bytes_max {
        return Err(ExpandError::TooFar);
    }
    out.resize(end, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[begin..])
        .map_err(ExpandError::damaged)?;
    out.truncate(begin + written);
    Ok(())
}
