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

/// Takes a signed number off the front of `bytes`; none if there is no whole one of at most ten
/// bytes.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}
