//! One broker: its replica, its log as a list of entries, and what of it a power cut would leave.

use std::fmt;

use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::Append;
use baton_replication::epochs::EpochHistory;
use baton_replication::event::EntryShape;
use baton_replication::producers::{ProducerTable, RememberedBatch};
use baton_replication::{LogShape, Replica};

/// How large an entry is, per record.
pub const RECORD_BYTES: u64 = 10;

/// What is in an entry: its name, of at most eight letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content([u8; 8]);

impl Content {
    /// The content of this name.
    pub fn new(name: &str) -> Self {
        assert!(name.len() <= 8, "{name} is too long a name");
        let mut bytes = [0; 8];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Content(bytes)
    }

    /// An epoch-start entry, as written by this life.
    pub fn epoch_start(life: BrokerLife) -> Self {
        Content::new(&format!("*{}", life.epoch))
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0[0] {
            b'*' => f.write_str("*"),
            _ => f.write_str(String::from_utf8_lossy(&self.0).trim_end_matches('\0')),
        }
    }
}

/// An entry in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is and whose it is.
    pub shape: EntryShape,
    /// What is in it.
    pub content: Content,
}

impl Entry {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.shape.end.since(self.shape.base) * RECORD_BYTES
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EntryShape {
            epoch, base, end, ..
        } = self.shape;
        write!(f, "{epoch}:{base}-{end}{}", self.content)
    }
}

/// When logs are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// At once, whenever the core asks.
    #[default]
    Auto,
    /// When the script says so.
    Manual,
    /// Not waited for by the core, and never asked for by it in time: `flush = "interval"`.
    Interval,
    /// As that, and when the script says so, once the core asks.
    IntervalManual,
}

impl FlushMode {
    /// Whether nothing waits for durability.
    pub fn at_intervals(self) -> bool {
        self.of_the_topic() == Flush::Interval
    }

    /// Whether a flush ends when the script says so.
    pub fn is_manual(self) -> bool {
        matches!(self, FlushMode::Manual | FlushMode::IntervalManual)
    }

    /// The topic's setting.
    pub fn of_the_topic(self) -> Flush {
        match self {
            FlushMode::Auto | FlushMode::Manual => Flush::Ack,
            FlushMode::Interval | FlushMode::IntervalManual => Flush::Interval,
        }
    }
}

impl std::str::FromStr for FlushMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(FlushMode::Auto),
            "manual" => Ok(FlushMode::Manual),
            "interval" => Ok(FlushMode::Interval),
            "interval_manual" => Ok(FlushMode::IntervalManual),
            _ => Err(format!("{text} is no flush mode")),
        }
    }
}

/// How long it takes to read what is to be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// No time.
    Quick,
    /// Until the script says so.
    Slow,
}

impl std::str::FromStr for ReadMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quick" => Ok(ReadMode::Quick),
            "slow" => Ok(ReadMode::Slow),
            _ => Err(format!("{text} is no way to read")),
        }
    }
}

/// Entries that are being read, to be pushed.
pub struct Reading {
    /// To whom.
    pub to: BrokerId,
    /// The message to send them with.
    pub append: Append,
    /// Most bytes of them; 0 for a message without entries.
    pub bytes_max: u64,
    /// What was there when the reading began.
    pub entries: Vec<Entry>,
}

/// One broker with its replica.
pub struct Node {
    /// The running replica; none while the broker is down.
    pub replica: Option<Replica>,
    /// The log.
    pub log: Vec<Entry>,
    /// What of it a power cut would leave.
    pub disk: Vec<Entry>,
    /// Where the log starts. What lies below stays in these lists, for the checker: as if nothing had
    /// expired.
    pub start: Offset,
    /// Where an end of the process would leave the start.
    pub disk_start: Offset,
    /// It lost what it had acknowledged, and nobody has verified it since.
    pub lost: bool,
    /// The watermark it last published.
    pub published: Offset,
    /// How many states of the partition it has learned.
    pub learned: usize,
    /// When its log is made durable.
    pub flush: FlushMode,
    /// A flush is on: it makes these entries durable.
    pub flushing: Option<Vec<Entry>>,
    /// What it reads, oldest first.
    pub reading: Vec<Reading>,
}

impl Node {
    /// The epoch it leads in.
    pub fn leading(&self) -> Option<LeaderEpoch> {
        self.replica.as_ref().and_then(Replica::leading)
    }

    /// The entries that this message is to carry, as the log is now.
    pub fn read(&self, append: &Append, bytes_max: u64) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let from = append.prev_end;
        for entry in self.log.iter().filter(|entry| entry.shape.base >= from) {
            let first = entries.is_empty() && bytes_max > 0;
            if !first && bytes + entry.bytes() > bytes_max {
                break;
            }
            bytes += entry.bytes();
            entries.push(*entry);
        }
        entries
    }

    /// Whether it tells the core of flushes that have not happened.
    pub fn flushes_at_intervals(&self) -> bool {
        self.flush.at_intervals()
    }

    /// Whether a flush waits to be finished.
    pub fn is_flushing(&self) -> bool {
        self.replica.is_some() && self.flushing.is_some()
    }

    /// Whether it would bring the entry through an election: it holds it, by the durability that
    /// was chosen, and its log ends in this epoch or a later one.
    pub fn counts_as_holder_of(&self, entry: &Entry, epoch: Option<LeaderEpoch>) -> bool {
        let log = match self.flushes_at_intervals() {
            true => &self.log,
            false => &self.disk,
        };
        log.contains(entry) && log.last().map(|last| last.shape.epoch) >= epoch
    }

    /// Makes durable what of the covered entries is in the log still.
    pub fn write_to_disk(&mut self, covered: &[Entry]) {
        let pairs = self.log.iter().zip(covered);
        let count = pairs.take_while(|(held, flushed)| held == flushed).count();
        if count > self.disk.len() {
            self.disk = self.log[..count].to_vec();
        }
        self.disk_start = self.start;
    }
}

/// A log as a start finds it.
pub fn shape_of(log: &[Entry], start: Offset) -> LogShape {
    let mut epochs = EpochHistory::default();
    let mut producers = ProducerTable::default();
    let mut before = Offset::ZERO;
    for EntryShape {
        epoch,
        base,
        end,
        producer,
    } in log.iter().map(|entry| entry.shape)
    {
        epochs.append(epoch, before);
        before = end;
        if let Some(stamp) = producer {
            let batch = RememberedBatch {
                stamp,
                base,
                end,
                leader_epoch: epoch,
            };
            producers.append(batch, Offset::ZERO);
        }
    }
    let end = log.last().map_or(Offset::ZERO, |entry| entry.shape.end);
    epochs.advance_start(start);
    LogShape {
        start,
        end,
        durable_end: end,
        high_watermark: start,
        epochs,
        producers,
        lossy: false,
    }
}
