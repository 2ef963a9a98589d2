//! `baton log`: a partition's log, looked at offline.

use std::io::Write;
use std::path::{Path, PathBuf};

use ::bytes::Bytes;
use anyhow::{Context, bail};
use baton_protocol::batch::{Codec, EXPANDED_BYTES_MAX, RecordIter, expand_records};
use baton_storage::verify::{self, Report};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::cli::output::unwritten;
use crate::cli::{Global, bytes};

/// Subcommands of `baton log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every entry.
    Verify {
        /// The partition's directory: DATA/topics/TOPIC_ID/PARTITION (`baton topic describe` shows
        /// the ids).
        dir: PathBuf,
    },
    /// Print every entry.
    Dump {
        /// The partition's directory: DATA/topics/TOPIC_ID/PARTITION (`baton topic describe` shows
        /// the ids).
        dir: PathBuf,
        /// The records too, not only the batches: offset, key and value, separated by tabs.
        #[arg(long)]
        records: bool,
    },
}

/// Runs a subcommand.
pub fn run(command: &LogCommand, global: &Global) -> anyhow::Result<()> {
    let (LogCommand::Verify { dir } | LogCommand::Dump { dir, .. }) = command;
    check_partition_dir(dir)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let report = match command {
        LogCommand::Verify { dir } => {
            let report = verify::verify(dir)?;
            if is_log(&report) {
                print_report(&mut out, &report, global.json)?;
            }
            report
        }
        LogCommand::Dump { dir, records } => dump(&mut out, dir, *records, global.json)?,
    };
    out.flush().map_err(unwritten)?;
    if !is_log(&report) {
        bail!("{}: no segment file can be read", dir.display());
    }
    if !report.problems.is_empty() {
        bail!("the log is not sound: {}", report.problems.join("; "));
    }
    Ok(())
}

/// Whether there is a log: one with segments, or one with nothing left in it.
fn is_log(report: &Report) -> bool {
    report.identity.is_some() || report.durable_end.is_some_and(|end| end.0 > 0)
}

/// Refuses what is no partition's directory before anything in it is taken for a log: a broker's own
/// directory has a `broker.log` too.
fn check_partition_dir(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| {
        format!("{} cannot be listed; name the directory of one partition (DATA/topics/TOPIC_ID/PARTITION)", dir.display())
    })?;
    for entry in entries {
        let name = entry?.file_name();
        let is_segment = name.to_str().and_then(|name| name.strip_suffix(".log"));
        // A log of which all has expired has a mark only.
        if name == "durable"
            || is_segment.is_some_and(|base| base.len() == 20 && base.parse::<u64>().is_ok())
        {
            return Ok(());
        }
    }
    bail!(
        "no segment files (<offset>.log) in {}; name the directory of one partition (DATA/topics/TOPIC_ID/PARTITION)",
        dir.display()
    )
}

fn print_report(out: &mut impl Write, report: &Report, as_json: bool) -> anyhow::Result<()> {
    let identity = report
        .identity
        .map_or("unknown: all of it has expired".to_owned(), |identity| {
            identity.to_string()
        });
    let durable = report.durable_end.map(|end| end.0);
    if as_json {
        let epochs: Vec<_> = report
            .epochs
            .iter()
            .map(|(e, o)| json!({"epoch": e, "start": o}))
            .collect();
        let value = json!({
            "partition": identity, "start": report.start, "end": report.end,
            "durable_end": durable, "epochs": epochs, "problems": report.problems,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    writeln!(out, "partition   {identity}")?;
    writeln!(out, "offsets     {} to {}", report.start, report.end)?;
    if let Some(durable) = durable {
        writeln!(out, "durable to  {durable} at least")?;
    }
    for (epoch, start) in &report.epochs {
        writeln!(out, "epoch {epoch:<5} from {start}")?;
    }
    for (path, len) in &report.segments {
        writeln!(out, "segment     {} ({len} bytes)", path.display())?;
    }
    for problem in &report.problems {
        writeln!(out, "problem     {problem}")?;
    }
    Ok(())
}

fn dump(out: &mut impl Write, dir: &Path, records: bool, as_json: bool) -> anyhow::Result<Report> {
    let mut written = Ok(());
    let report = verify::walk(dir, |entry| {
        if written.is_ok() {
            written = dump_entry(out, entry, records, as_json);
        }
    })?;
    written?;
    Ok(report)
}

fn dump_entry(
    out: &mut impl Write,
    entry: &baton_protocol::batch::EntryRef<'_>,
    records: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    let header = &entry.header;
    let producer = header.producer();
    let codec = header
        .codec()
        .map_or("unknown".to_owned(), |c| c.to_string());
    if as_json {
        let value = json!({
            "base": header.base_offset(), "end": header.next_offset(),
            "epoch": header.leader_epoch(), "control": header.is_control(),
            "records": header.record_count(), "bytes": entry.bytes.len(),
            "codec": codec,
            "producer": producer.map(|p| json!({"id": p.id, "epoch": p.epoch, "sequence": p.sequence})),
        });
        writeln!(out, "{value}")?;
    } else {
        let kind = if header.is_control() {
            "epoch start"
        } else {
            "batch"
        };
        write!(
            out,
            "{:>10} to {:<10} epoch {:<4} {kind}, {} records, {} bytes",
            header.base_offset(),
            header.next_offset(),
            header.leader_epoch(),
            header.record_count(),
            entry.bytes.len()
        )?;
        if header.codec() != Some(Codec::None) {
            write!(out, ", {codec}")?;
        }
        match producer {
            Some(p) => writeln!(
                out,
                ", producer {} epoch {} sequence {}",
                p.id, p.epoch, p.sequence
            )?,
            None => writeln!(out)?,
        }
    }
    if records && !header.is_control() {
        let batch = Bytes::copy_from_slice(entry.batch);
        let plain = expand_records(&batch, header, EXPANDED_BYTES_MAX)?;
        for record in RecordIter::of(&plain, header) {
            let record = record?;
            if as_json {
                let mut object = Map::new();
                object.insert("offset".to_owned(), json!(record.offset));
                object.insert("timestamp".to_owned(), json!(record.timestamp));
                bytes::insert(&mut object, "key", record.key);
                bytes::insert(&mut object, "value", record.value);
                writeln!(out, "{}", Value::from(object))?;
            } else {
                let (key, value) = (show(record.key), show(record.value));
                writeln!(out, "{:>14}\t{key}\t{value}", record.offset)?;
            }
        }
    }
    Ok(())
}

/// A key or value as text on one line; what is not printable is escaped.
fn show(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.escape_debug().to_string(),
            Err(_) => bytes.escape_ascii().to_string(),
        },
    }
}
