//! `baton log`: a partition's log, looked at offline.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use baton_protocol::batch::RecordIter;
use baton_storage::verify::{self, Report};
use clap::Subcommand;
use serde_json::json;

use crate::cli::Global;

/// Subcommands of `baton log`. The directory is that of one partition:
/// `<data>/topics/<topic id>/<partition>`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every entry.
    Verify {
        /// The partition's directory.
        dir: PathBuf,
    },
    /// Print every entry.
    Dump {
        /// The partition's directory.
        dir: PathBuf,
        /// The records too, not only the batches.
        #[arg(long)]
        records: bool,
    },
}

/// Runs a subcommand.
pub fn run(command: &LogCommand, global: &Global) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let report = match command {
        LogCommand::Verify { dir } => {
            let report = verify::verify(dir)?;
            print_report(&mut out, &report, global.json)?;
            report
        }
        LogCommand::Dump { dir, records } => dump(&mut out, dir, *records, global.json)?,
    };
    if report.identity.is_none() {
        bail!("no segment files (*.log) in this directory; name the directory of one partition");
    }
    if !report.problems.is_empty() {
        bail!("the log is not sound: {}", report.problems.join("; "));
    }
    Ok(())
}

fn print_report(out: &mut impl Write, report: &Report, as_json: bool) -> anyhow::Result<()> {
    let identity = report
        .identity
        .map(|identity| identity.to_string())
        .unwrap_or_default();
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

fn dump(
    out: &mut impl Write,
    dir: &std::path::Path,
    records: bool,
    as_json: bool,
) -> anyhow::Result<Report> {
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
    if as_json {
        let value = json!({
            "base": header.base_offset(), "end": header.next_offset(),
            "epoch": header.leader_epoch(), "control": header.is_control(),
            "records": header.record_count(), "bytes": entry.bytes.len(),
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
        for record in RecordIter::new(entry.batch, header) {
            let record = record?;
            let show =
                |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
            if as_json {
                let value = json!({"offset": record.offset, "timestamp": record.timestamp, "key": show(record.key), "value": show(record.value)});
                writeln!(out, "{value}")?;
            } else {
                let value = show(record.value).unwrap_or_default();
                writeln!(out, "{:>14}  {}", record.offset, value.escape_debug())?;
            }
        }
    }
    Ok(())
}
