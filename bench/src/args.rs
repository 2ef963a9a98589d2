//! What several scenarios are told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use baton_client::{Acks, Flush};
use clap::{Args, ValueEnum};

use crate::peers::PeerArg;

/// What all scenarios are told.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "For every scenario")]
pub struct Common {
    /// A cluster that runs already, as host:port, separated by commas; without it, one is started.
    #[arg(long, global = true, value_delimiter = ',', value_name = "ADDRESSES")]
    pub bootstrap: Vec<String>,
    /// With --bootstrap: process ids of brokers on this machine, whose processor time, memory and
    /// writes are to be shown.
    #[arg(long, global = true, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// How often each measurement is made; shown are the median and, in parentheses, the least and
    /// the greatest.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// Leave out the bare pipeline that throughput is compared with.
    #[arg(long, global = true)]
    pub no_roofline: bool,
    /// With produce, one-in-flight and all: other systems to measure in the same run, three nodes of each,
    /// as far as they are installed.
    #[arg(long, global = true, value_delimiter = ',')]
    pub peer: Vec<PeerArg>,
    /// Where the own cluster and the bare pipeline keep their files: on the disk that is to be
    /// measured. [default: the system's directory for temporary files]
    #[arg(long, global = true)]
    pub dir: Option<PathBuf>,
    /// Print JSON: every value of every repeat, in base units.
    #[arg(long, global = true)]
    pub json: bool,
    /// Write a page with tables and charts to this file.
    #[arg(long, global = true, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The topic that is measured on.
#[derive(Clone, Debug, Args)]
pub struct TopicArgs {
    /// Copies of each partition.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: u32,
    /// Followers that must hold a record before it is acknowledged.
    #[arg(long, default_value_t = 1)]
    pub sync_followers: u32,
}

impl TopicArgs {
    /// What is told about it in a report.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("replicas", self.replicas.to_string()),
            ("synchronous followers", self.sync_followers.to_string()),
        ]
    }
}

/// When records are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlushArg {
    /// Before they are acknowledged.
    Ack,
    /// Now and then.
    Interval,
}

impl FlushArg {
    /// As the topic is made with it.
    pub fn flush(self) -> Flush {
        match self {
            FlushArg::Ack => Flush::Ack,
            FlushArg::Interval => Flush::Interval,
        }
    }

    /// Whether the bare pipeline flushes before it acknowledges.
    pub fn waits(self) -> bool {
        self == FlushArg::Ack
    }
}

impl std::fmt::Display for FlushArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FlushArg::Ack => "flush ack",
            FlushArg::Interval => "flush interval",
        })
    }
}

/// How firmly a record must be stored before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    /// Sent is enough.
    None,
    /// By the leader.
    Leader,
    /// By the leader and the synchronous followers.
    Committed,
}

impl AcksArg {
    /// As the producer is made with it.
    pub fn acks(self) -> Acks {
        match self {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::Committed => Acks::Committed,
        }
    }
}

impl std::fmt::Display for AcksArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AcksArg::None => "none",
            AcksArg::Leader => "leader",
            AcksArg::Committed => "committed",
        })
    }
}

/// A duration in seconds, which need not be whole.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("more than no seconds, and no more than there are".to_owned()),
    }
}

/// A size in bytes: "1024", "1KiB", "1MiB", "1GiB".
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => return Err(format!("`{other}` is no unit; KiB, MiB and GiB are")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| {
        "a number of bytes, like 1024, or with a unit, like 1KiB, 1MiB, 1GiB".to_owned()
    })?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("more than no bytes, and no more than there are".to_owned()),
    }
}

/// A rate: more than none.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1e9 => Ok(rate),
        _ => Err("a number greater than 0".to_owned()),
    }
}

/// "1 partition", "3 partitions".
pub fn count(number: u32, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_none() {
        assert_eq!(size("100"), Ok(100));
        assert_eq!(size("1KiB"), Ok(1024));
        assert_eq!(size("128KiB"), Ok(131_072));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        for wrong in ["", "KiB", "1kb", "-1", "0", "1.5MiB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_need_not_be_whole_but_there_must_be_some() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "soon", "nan", "inf"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
