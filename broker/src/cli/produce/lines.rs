//! Standard input, line by line, and none of them longer in memory than a record may be.

use std::io::{BufRead, Read};

use tokio::sync::mpsc;

/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 1024;

/// A line, without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// It has more bytes than are read of one; they are thrown away.
    TooLong,
}

/// Reads standard input, with at most `bytes_max` of each line. An error is the last that comes.
pub fn of_stdin(bytes_max: usize) -> mpsc::Receiver<std::io::Result<Line>> {
    let (lines, read) = mpsc::channel(LINES_AHEAD);
    // Reading blocks, so it has a thread of its own.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Some(next) = next(&mut input, bytes_max).transpose() {
            let failed = next.is_err();
            if lines.blocking_send(next).is_err() || failed {
                return;
            }
        }
    });
    read
}

/// The next line; none at the end.
fn next(input: &mut impl BufRead, bytes_max: usize) -> std::io::Result<Option<Line>> {
    let mut line = Vec::new();
    // One more, for the line feed.
    let mut some = input.by_ref().take(bytes_max as u64 + 1);
    if some.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > bytes_max {
        input.skip_until(b'\n')?;
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(Line::Whole(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_up_to_their_most() {
        let mut input = &b"one\n\nexact\ntoo long\nlast"[..];
        let mut all = Vec::new();
        while let Some(line) = next(&mut input, 5).expect("read") {
            all.push(line);
        }
        let whole = |text: &str| Line::Whole(text.into());
        let expected = [
            whole("one"),
            whole(""),
            whole("exact"),
            Line::TooLong,
            whole("last"),
        ];
        assert_eq!(all, expected);
        let mut endless = &b"without a line feed"[..];
        assert_eq!(next(&mut endless, 5).expect("read"), Some(Line::TooLong));
        assert_eq!(next(&mut endless, 5).expect("read"), None);
    }
}
