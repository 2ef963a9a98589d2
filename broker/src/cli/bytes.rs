//! Keys and values in JSON: text where they are text, base64 where they are not, so that nothing is
//! lost on the way.

use serde_json::{Map, Value};

/// Sets `name` to the text, or `name_base64` where the bytes are not UTF-8; null for none.
pub fn insert(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let (name, value) = match bytes.map(std::str::from_utf8) {
        None => (name.to_owned(), Value::Null),
        Some(Ok(text)) => (name.to_owned(), Value::from(text)),
        Some(Err(_)) => (
            format!("{name}_base64"),
            Value::from(base64(bytes.unwrap_or_default())),
        ),
    };
    object.insert(name, value);
}

/// Base64 of RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit > group.len() {
                text.push('=');
            } else {
                let index = bits >> (18 - 6 * digit) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn what_is_not_text_has_a_field_of_its_own() {
        let mut object = Map::new();
        insert(&mut object, "key", Some(b"k"));
        insert(&mut object, "value", Some(&[0xff]));
        insert(&mut object, "none", None);
        let value = Value::from(object);
        assert_eq!(
            value,
            serde_json::json!({"key": "k", "value_base64": "/w==", "none": null})
        );
    }
}
