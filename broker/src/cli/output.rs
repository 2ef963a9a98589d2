//! How commands print: tables on a terminal, tab-separated lines in a pipe.
//!
//! Nothing here panics. Whoever reads standard output may close it at any time, which is no failure
//! (`main` sees to that); and where nobody reads standard error, nobody misses it.

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};

use comfy_table::{Table, presets};

/// Prints a line of data to standard output, as `println!` does, but fails instead of panicking.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

/// Prints a line for a person to standard error.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::cli::output::note_line(format_args!($($text)*))
    };
}

pub(crate) use {note, say};

/// Prints a line to standard output.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    data(&format!("{text}\n"))
}

/// Prints a line to standard error; where it cannot be written, it is lost.
pub fn note_line(text: fmt::Arguments<'_>) {
    // In one piece: several processes may write there.
    drop(std::io::stderr().write_all(format!("baton: {text}\n").as_bytes()));
}

fn data(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(unwritten)
}

/// What is said when standard output does not take what was to be printed.
pub fn unwritten(error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("standard output cannot be written to")
}

/// Whether a command failed only because nobody reads its output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
}

/// An error with its causes, each said once: some name their cause in their own text, and those of the
/// client tell all there is to tell.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = cause.to_string();
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        if cause.is::<baton_client::Error>() {
            break;
        }
    }
    text
}

/// Prints rows under headings.
pub fn print_table(headings: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    if std::io::stdout().is_terminal() {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(headings);
        table.add_rows(rows);
        return say!("{table}");
    }
    let mut text = format!("{}\n", headings.join("\t"));
    for row in rows {
        text.push_str(&row.join("\t"));
        text.push('\n');
    }
    data(&text)
}

/// Prints one JSON value.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?)
}

/// Numbers separated by commas.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

/// The first of several, and how many more there are.
pub fn named(all: &[String]) -> String {
    const NAMED_MAX: usize = 8;
    let first = list(&all[..all.len().min(NAMED_MAX)]);
    match all.len().checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => format!("{first} and {more} more"),
        _ => first,
    }
}

/// A number of things, in words.
pub fn count(number: impl TryInto<u64>, one: &str, several: &str) -> String {
    let number: u64 = number.try_into().unwrap_or(u64::MAX);
    let name = if number == 1 { one } else { several };
    format!("{number} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_named_already_is_not_said_again() {
        let cause = std::io::Error::from(ErrorKind::NotFound);
        let told = anyhow::anyhow!("{cause}").context(format!("cannot read x: {cause}"));
        assert_eq!(with_causes(&told), "cannot read x: entity not found");
        let untold = anyhow::Error::new(cause).context("cannot read x");
        assert_eq!(with_causes(&untold), "cannot read x: entity not found");
    }
}
