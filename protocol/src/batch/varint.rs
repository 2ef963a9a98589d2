//! Zigzag varints, as the record format has them.

/// Encoded size of a signed number.
pub fn size(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (zigzag | 1).leading_zeros() as usize) / 7
}

/// Appends a signed number.
#[inline]
pub fn put(out: &mut bytes::BytesMut, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = [0u8; 10];
    let mut len = 0;
    while zigzag >= 0x80 {
        bytes[len] = (zigzag as u8) | 0x80;
        zigzag >>= 7;
        len += 1;
    }
    bytes[len] = zigzag as u8;
    out.extend_from_slice(&bytes[..=len]);
}

/// Takes a signed 64-bit number off the front of `bytes`; none if there is no whole one there that
/// fits.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = take_bits::<64>(bytes)?;
    Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

/// Takes a signed 32-bit number, as lengths, counts and offset deltas are, off the front of
/// `bytes`. Other readers of the format stop after five bytes, so a longer one is none here either.
#[inline]
pub fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let zigzag = take_bits::<32>(bytes)? as u32;
    Some((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32))
}

/// Takes an unsigned number of at most `BITS` bits, in no more bytes than those need.
#[inline]
fn take_bits<const BITS: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate() {
        let left = BITS - 7 * i;
        // In the last byte neither a bit beyond the number nor a continuation has a place.
        if left < 7 && byte >> left != 0 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}
