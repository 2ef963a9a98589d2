//! As much of Redis's protocol as a load needs: commands, and the answers to them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, bail, ensure};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A line of text.
    Line(String),
    /// A number.
    Number(i64),
    /// Bytes, as text where they are wanted; the bytes of an entry's id are passed over.
    Bulk(String),
}

/// Appends a command.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    // Writing to memory does not fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads answers.
pub struct Replies {
    from: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Replies {
    pub fn of(socket: &TcpStream) -> anyhow::Result<Replies> {
        Ok(Replies {
            from: BufReader::with_capacity(64 << 10, socket.try_clone()?),
            line: String::new(),
            body: Vec::new(),
        })
    }

    /// The next answer.
    ///
    /// # Errors
    /// If it is an error, or is not understood.
    pub fn next(&mut self) -> anyhow::Result<Reply> {
        Ok(match self.kind()? {
            '+' => Reply::Line(self.line[1..].trim_end().to_owned()),
            ':' => Reply::Number(self.number()?),
            '$' => {
                let bytes = self.bulk()?;
                Reply::Bulk(String::from_utf8_lossy(bytes).into_owned())
            }
            other => bail!("an answer that begins with `{other}` is not expected"),
        })
    }

    /// Passes over an answer of bytes, or returns a number.
    ///
    /// # Errors
    /// If it is another one.
    pub fn number_or_bulk(&mut self) -> anyhow::Result<Option<i64>> {
        match self.kind()? {
            ':' => Ok(Some(self.number()?)),
            '$' => self.bulk().map(|_| None),
            other => bail!("an answer that begins with `{other}` is not expected"),
        }
    }

    fn kind(&mut self) -> anyhow::Result<char> {
        self.line.clear();
        let bytes = self.from.read_line(&mut self.line)?;
        ensure!(bytes > 0, "the server has closed the connection");
        let kind = self.line.chars().next().unwrap_or_default();
        ensure!(kind != '-', "the server says {}", self.line[1..].trim_end());
        Ok(kind)
    }

    fn number(&self) -> anyhow::Result<i64> {
        let text = self.line[1..].trim_end();
        text.parse()
            .with_context(|| format!("`{text}` is no number"))
    }

    fn bulk(&mut self) -> anyhow::Result<&[u8]> {
        let bytes = usize::try_from(self.number()?).context("there is nothing")?;
        self.body.resize(bytes + 2, 0);
        self.from.read_exact(&mut self.body)?;
        Ok(&self.body[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_list_of_words_with_their_lengths() {
        let mut out = Vec::new();
        command(&mut out, &[b"WAIT", b"1"]);
        assert_eq!(out, b"*2\r\n$4\r\nWAIT\r\n$1\r\n1\r\n");
    }
}
