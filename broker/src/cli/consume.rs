//! `baton consume`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::bail;
use baton_client::{
    Client, ErrorKind, Message, Offset, PartitionIndex, ReaderBuilder, Start, Until,
};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::format::{self, Template};
use crate::cli::group::group_name;
use crate::cli::interruption::Interruption;
use crate::cli::moment::{self, Moment};
use crate::cli::output::{count, note, unwritten};
use crate::cli::waiting::Waiting;
use crate::cli::{Global, UsageError, block_on, bootstrap, bytes, quantity};

/// Records that are taken at a time, if they are at hand.
const AT_ONCE: usize = 1_024;

/// Flags of `baton consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topic.
    topic: String,
    /// Where to begin: `earliest`; `latest`, with the next record that comes; an offset, for every
    /// partition that is read; or an offset for each partition, as 0:1500,1:1620, where a partition
    /// that is not named begins at its first record.
    /// With --group: where to begin with a partition that the group has committed nothing of.
    #[arg(long, value_parser = parse_start, default_value = "latest")]
    from: Start,
    /// Begin in each partition at the first record with this timestamp or a later one:
    /// 2026-11-21T08:30:00Z (or with an offset such as +01:00), milliseconds since 1970, or as long ago
    /// as -10m (ms, s, m, h, d).
    #[arg(
        long,
        value_name = "TIME",
        value_parser = moment::parse,
        allow_hyphen_values = true,
        conflicts_with_all = ["from", "from_start", "offset"]
    )]
    from_time: Option<Moment>,
    /// The same as --from earliest.
    #[arg(long, conflicts_with_all = ["offset", "from"])]
    from_start: bool,
    /// The same as --from with this offset.
    #[arg(
        long,
        conflicts_with = "from",
        value_parser = quantity::number,
        allow_hyphen_values = true
    )]
    offset: Option<u64>,
    /// Read only this partition.
    #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
    partition: Option<u32>,
    /// Consume as a member of this group: its members share the partitions, and it goes on where it was.
    /// What was printed is committed every 5 s and at the end, also by SIGINT and SIGTERM.
    #[arg(
        long,
        conflicts_with_all = ["offset", "partition", "until_end"],
        value_parser = group_name
    )]
    group: Option<String>,
    /// An id that outlives this process: who comes back under it within 10 s finds its partitions.
    // That it requires --group is checked elsewhere: clap forgets it where another flag excludes that.
    #[arg(long, value_parser = group_name)]
    instance: Option<String>,
    /// End after this many records.
    #[arg(long, value_parser = quantity::number, allow_hyphen_values = true)]
    count: Option<u64>,
    /// End with what is committed now.
    #[arg(long, conflicts_with = "follow")]
    until_end: bool,
    /// Go on for ever; so it is without --until-end or --count.
    #[arg(long)]
    follow: bool,
    /// Print keys too, and this between key and value (\\t stands for a tab, \\n, \\0 and \\\\ are
    /// understood too).
    #[arg(long, value_name = "TEXT", value_parser = format::separator)]
    key_separator: Option<String>,
    /// Print this in place of a value that a record does not have; without it, nothing. With --json such
    /// a value is null.
    #[arg(long, value_name = "TEXT")]
    null_value: Option<String>,
    /// Print partition and offset before each record.
    #[arg(long)]
    show_offsets: bool,
    /// What to print of a record, as '{partition}:{offset} {key}={value}'. Fields are {topic},
    /// {partition}, {offset}, {epoch}, {timestamp} (ms since 1970), {key}, {value}, {headers}
    /// (name=value, separated by commas) and {header:NAME}; what a record does not have is empty.
    /// \n \t \0 \\ are understood, {{ and }} stand for braces. A line feed is added, unless the
    /// template ends with \c.
    #[arg(
        long,
        value_name = "TEMPLATE",
        value_parser = format::parse,
        conflicts_with_all = ["key_separator", "show_offsets"]
    )]
    format: Option<Template>,
}

fn parse_start(text: &str) -> Result<Start, String> {
    let bad = || {
        format!(
            "`{text}` is no place to begin at; earliest, latest, an offset, and partition:offset,... are"
        )
    };
    if let Ok(offset) = text.parse() {
        return Ok(Start::Offset(offset));
    }
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    let mut offsets = BTreeMap::new();
    for part in text.split(',') {
        let (partition, offset) = part.split_once(':').ok_or_else(bad)?;
        let partition: PartitionIndex = partition.trim().parse().map_err(|_| bad())?;
        let offset: Offset = offset.trim().parse().map_err(|_| bad())?;
        if offsets.insert(partition, offset).is_some() {
            return Err(format!("`{text}` names partition {partition} twice"));
        }
    }
    Ok(Start::Offsets(offsets))
}

/// Refuses flags that do not go together.
fn check(args: &ConsumeArgs, global: &Global) -> Result<(), UsageError> {
    let refused = |text: &str| Err(UsageError(text.to_owned()));
    if global.json && args.format.is_some() {
        return refused("--format and --json exclude each other");
    }
    if args.instance.is_some() && args.group.is_none() {
        return refused("--instance goes with --group only");
    }
    match (start(args), args.partition) {
        (Start::Offset(_) | Start::Offsets(_), _) if args.group.is_some() => refused(
            "a group goes on where it was; --from says earliest or latest, for partitions that it has \
             committed nothing of (baton group reset goes elsewhere)",
        ),
        (Start::Offsets(offsets), Some(only))
            if offsets.keys().any(|partition| partition.0 != only) =>
        {
            let text = format!(
                "--from names partitions that are not read: --partition says that only {only} is"
            );
            Err(UsageError(text))
        }
        _ => Ok(()),
    }
}

/// Prints records.
pub fn run(args: &ConsumeArgs, global: &Global) -> anyhow::Result<()> {
    check(args, global)?;
    block_on(async {
        let client = bootstrap::connect(global).await?;
        if args.group.is_none() || args.count == Some(0) {
            check_partitions(args, &client).await?;
        }
        if args.count == Some(0) {
            return Ok(());
        }
        let waiting = Waiting {
            client: &client,
            topic: &args.topic,
            partition: args.partition,
            group: args.group.as_deref(),
            instance: args.instance.as_deref(),
            has_begun: AtomicBool::new(false),
            records: AtomicU64::new(0),
        };
        let printer = Printer {
            out: BufWriter::with_capacity(1 << 16, std::io::stdout()),
            args,
            as_json: global.json,
            left: args.count.unwrap_or(u64::MAX),
            is_at_end: false,
            waiting: &waiting,
        };
        let interruption = Interruption::watch()?;
        let work = async {
            match &args.group {
                Some(group) => consume(args, &client, group, printer, interruption).await,
                None => {
                    let reader = settings(args, client.reader(args.topic.as_str()));
                    read(reader, printer, interruption).await
                }
            }
        };
        tokio::select! {
            ended = work => ended,
            never = waiting.watch_over() => match never {},
        }
    })
}

/// Whether the topic has the partitions that are named.
async fn check_partitions(args: &ConsumeArgs, client: &Client) -> anyhow::Result<()> {
    let partitions = bootstrap::topic(client, &args.topic)
        .await?
        .partitions
        .len() as u32;
    let first = match start(args) {
        Start::Offsets(offsets) => offsets.into_keys().find(|one| one.0 >= partitions),
        _ => None,
    };
    if let Some(partition) = first {
        bail!(
            "--from: topic {} has no partition {partition}; it has {partitions}, numbered from 0",
            args.topic
        );
    }
    Ok(())
}

fn settings(args: &ConsumeArgs, reader: ReaderBuilder) -> ReaderBuilder {
    let reader = match args.partition {
        Some(partition) => reader.partitions([partition]),
        None => reader,
    };
    let reader = reader.from(start(args));
    match args.until_end {
        true => reader.until(Until::End),
        false => reader,
    }
}

fn start(args: &ConsumeArgs) -> Start {
    match (args.offset, args.from_time) {
        (Some(offset), _) => Start::Offset(Offset(offset)),
        (None, Some(moment)) => Start::Time(moment.ms()),
        (None, None) if args.from_start => Start::Earliest,
        (None, None) => args.from.clone(),
    }
}

async fn read(
    reader: ReaderBuilder,
    mut printer: Printer<'_>,
    mut interruption: Interruption,
) -> anyhow::Result<()> {
    let mut reader = tokio::select! {
        built = reader.build() => built?,
        () = interruption.happened() => return printer.end(true),
    };
    printer.waiting.has_begun.store(true, Ordering::Relaxed);
    while printer.left > 0 {
        let messages = tokio::select! {
            biased;
            () = interruption.happened() => break,
            messages = reader.next_batch(AT_ONCE) => messages,
        };
        let Some(messages) = messages else {
            printer.is_at_end = true;
            break;
        };
        printer.print(&messages?)?;
    }
    printer.end(interruption.has_happened())
}

/// Prints what a member of a group is given. It asks for no more than is to be printed: what was given
/// out counts as consumed when it leaves.
async fn consume(
    args: &ConsumeArgs,
    client: &Client,
    group: &str,
    mut printer: Printer<'_>,
    mut interruption: Interruption,
) -> anyhow::Result<()> {
    let consumer = client.consumer(group).subscribe([args.topic.as_str()]);
    let consumer = match &args.instance {
        Some(instance) => consumer.instance(instance),
        None => consumer,
    };
    let mut consumer = tokio::select! {
        built = consumer.start(start(args)).build() => built?,
        () = interruption.happened() => return printer.end(true),
    };
    printer.waiting.has_begun.store(true, Ordering::Relaxed);
    while printer.left > 0 {
        let at_once = usize::try_from(printer.left).map_or(AT_ONCE, |left| left.min(AT_ONCE));
        let messages = tokio::select! {
            biased;
            () = interruption.happened() => break,
            messages = consumer.next_batch(at_once) => messages,
        };
        let Some(messages) = messages else {
            break;
        };
        match messages {
            Ok(messages) => printer.print(&messages)?,
            // It is tried again, or others consume it again; meanwhile there are records.
            Err(error) if error.is_retriable() || error.kind() == ErrorKind::CommitRefused => {
                note!("{error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    printer.out.flush().map_err(unwritten)?;
    consumer.close().await?;
    printer.end(interruption.has_happened())
}

struct Printer<'a> {
    out: BufWriter<std::io::Stdout>,
    args: &'a ConsumeArgs,
    as_json: bool,
    left: u64,
    /// There was an end to read to, and it has been reached.
    is_at_end: bool,
    waiting: &'a Waiting<'a>,
}

impl Printer<'_> {
    fn print(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for message in messages {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.print_message(message).map_err(unwritten)?;
        }
        let records = &self.waiting.records;
        records.fetch_add(messages.len() as u64, Ordering::Relaxed);
        if !self.args.until_end {
            self.out.flush().map_err(unwritten)?;
        }
        Ok(())
    }

    /// Ends the output: a failure where a signal came before all was printed that was asked for.
    fn end(mut self, interrupted: bool) -> anyhow::Result<()> {
        self.out.flush().map_err(unwritten)?;
        let is_bounded = self.args.count.is_some() || self.args.until_end;
        if interrupted && is_bounded && self.left > 0 && !self.is_at_end {
            let records = self.waiting.records.load(Ordering::Relaxed);
            bail!(
                "interrupted; {} printed",
                count(records, "record", "records")
            );
        }
        Ok(())
    }

    fn print_message(&mut self, message: &Message) -> std::io::Result<()> {
        if self.as_json {
            return writeln!(self.out, "{}", as_json(message));
        }
        let null = self.args.null_value.as_deref().unwrap_or_default();
        if let Some(template) = &self.args.format {
            return template.print(&mut self.out, message, null.as_bytes());
        }
        if self.args.show_offsets {
            write!(self.out, "{}\t{}\t", message.partition, message.offset)?;
        }
        if let Some(separator) = &self.args.key_separator {
            let key = message.key.as_deref();
            self.out.write_all(key.unwrap_or_default())?;
            self.out.write_all(separator.as_bytes())?;
        }
        let value = message.value.as_deref();
        self.out.write_all(value.unwrap_or(null.as_bytes()))?;
        self.out.write_all(b"\n")
    }
}

fn as_json(message: &Message) -> Value {
    let mut object = Map::new();
    for (name, field) in [
        ("partition", json!(message.partition)),
        ("offset", json!(message.offset)),
        ("epoch", json!(message.epoch)),
        ("timestamp_ms", json!(message.timestamp_ms)),
        ("timestamp_type", json!(message.timestamp_type)),
    ] {
        object.insert(name.to_owned(), field);
    }
    bytes::insert(&mut object, "key", message.key.as_deref());
    bytes::insert(&mut object, "value", message.value.as_deref());
    let headers = message.headers.iter().map(|(name, value)| {
        let mut header = Map::new();
        bytes::insert(&mut header, "name", Some(&name));
        bytes::insert(&mut header, "value", value.as_deref());
        Value::from(header)
    });
    object.insert("headers".to_owned(), headers.collect());
    Value::from(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_begin_at_are_understood() {
        let both = BTreeMap::from([
            (PartitionIndex(0), Offset(15)),
            (PartitionIndex(2), Offset(7)),
        ]);
        for (text, start) in [
            ("earliest", Start::Earliest),
            ("latest", Start::Latest),
            ("42", Start::Offset(Offset(42))),
            ("0:15,2:7", Start::Offsets(both)),
        ] {
            assert_eq!(parse_start(text), Ok(start), "{text}");
        }
        for bad in ["", "soon", "0:", ":1", "-1", "0:1,", "1=2", "0:2,0:3"] {
            assert!(parse_start(bad).is_err(), "{bad}");
        }
    }
}
