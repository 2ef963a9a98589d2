//! What `baton consume --format` prints of a record.

use std::io::{self, Write};

use baton_client::Message;

/// What a template can name.
pub const FIELDS: &str = "{topic} {partition} {offset} {epoch} {timestamp} {key} {value} {headers} \
                          {header:NAME}";

/// A template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    ends_line: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Epoch,
    Timestamp,
    Key,
    Value,
    Headers,
    Header(String),
}

/// Takes a template apart. The error says what is wrong with it.
pub fn parse(text: &str) -> Result<Template, String> {
    let mut template = Template {
        parts: Vec::new(),
        ends_line: true,
    };
    let mut plain = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('c') if rest.as_str().is_empty() => template.ends_line = false,
                Some('c') => return Err("`\\c` stands at the end only".to_owned()),
                other => plain.push(escaped(other)? as u8),
            },
            '{' | '}' if rest.as_str().starts_with(c) => {
                rest.next();
                plain.push(c as u8);
            }
            '{' => {
                let (name, after) = rest
                    .as_str()
                    .split_once('}')
                    .ok_or("a `{` is not closed; `{{` stands for one")?;
                template.parts.push(Part::Text(std::mem::take(&mut plain)));
                template.parts.push(field(name)?);
                rest = after.chars();
            }
            '}' => return Err("a `}` closes nothing; `}}` stands for one".to_owned()),
            c => plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    template.parts.push(Part::Text(plain));
    let is_empty = |part: &Part| matches!(part, Part::Text(text) if text.is_empty());
    template.parts.retain(|part| !is_empty(part));
    Ok(template)
}

/// What a character after a backslash stands for.
fn escaped(name: Option<char>) -> Result<char, String> {
    match name {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        other => {
            let other = other.map_or(String::new(), String::from);
            Err(format!(
                "`\\{other}` is not known; \\n \\t \\0 \\\\ are, and \\c at the end of a template"
            ))
        }
    }
}

/// Reads what separates keys and values: text that may have escapes, as in a template.
pub fn separator(text: &str) -> Result<String, String> {
    let mut separator = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        separator.push(match c {
            '\\' => escaped(rest.next())?,
            c => c,
        });
    }
    match separator.is_empty() {
        true => Err("a separator has one character at least".to_owned()),
        false => Ok(separator),
    }
}

fn field(name: &str) -> Result<Part, String> {
    Ok(match name {
        "topic" => Part::Topic,
        "partition" => Part::Partition,
        "offset" => Part::Offset,
        "epoch" => Part::Epoch,
        "timestamp" => Part::Timestamp,
        "key" => Part::Key,
        "value" => Part::Value,
        "headers" => Part::Headers,
        other => match other.strip_prefix("header:") {
            Some(name) => Part::Header(name.to_owned()),
            None => return Err(format!("`{{{other}}}` is not known; {FIELDS} are")),
        },
    })
}

impl Template {
    /// Prints a record: `null` in place of a value that it does not have, and nothing in place of anything
    /// else.
    pub fn print(&self, out: &mut impl Write, message: &Message, null: &[u8]) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(message.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", message.partition)?,
                Part::Offset => write!(out, "{}", message.offset)?,
                Part::Epoch => write!(out, "{}", message.epoch)?,
                Part::Timestamp => write!(out, "{}", message.timestamp_ms)?,
                Part::Key => out.write_all(message.key.as_deref().unwrap_or_default())?,
                Part::Value => out.write_all(message.value.as_deref().unwrap_or(null))?,
                Part::Headers => print_headers(out, message)?,
                Part::Header(name) => {
                    let value = message.headers.get(name);
                    out.write_all(value.as_deref().unwrap_or_default())?;
                }
            }
        }
        match self.ends_line {
            true => out.write_all(b"\n"),
            false => Ok(()),
        }
    }
}

fn print_headers(out: &mut impl Write, message: &Message) -> io::Result<()> {
    for (i, (name, value)) in message.headers.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(&name)?;
        out.write_all(b"=")?;
        out.write_all(value.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_taken_apart() {
        let template = parse("{partition}:{offset}\\t{{{header:a}}}\\c").expect("understood");
        let parts = [
            Part::Partition,
            Part::Text(b":".to_vec()),
            Part::Offset,
            Part::Text(b"\t{".to_vec()),
            Part::Header("a".to_owned()),
            Part::Text(b"}".to_vec()),
        ];
        assert_eq!(template.parts, parts);
        assert!(!template.ends_line);
        assert!(parse("").expect("nothing").ends_line);
    }

    #[test]
    fn separators_have_the_escapes_of_templates() {
        for (text, expected) in [("=", "="), ("\\t", "\t"), ("a\\\\", "a\\"), ("é", "é")] {
            assert_eq!(separator(text).as_deref(), Ok(expected));
        }
        for bad in ["", "\\", "\\q", "\\c"] {
            assert!(separator(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said() {
        for (bad, why) in [
            ("{nothing}", "{offset}"),
            ("{key", "not closed"),
            ("key}", "closes nothing"),
            ("\\q", "not known"),
            ("\\c{key}", "at the end only"),
            ("\\", "not known"),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
