//! Prints what was measured.

use std::io::Write;

use serde_json::{Map, Value};

/// One row: names and values, in order.
pub type Row = Vec<(&'static str, Value)>;

/// Prints rows of the same columns as a table, or as JSON.
pub fn print(rows: &[Row], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let objects: Vec<Value> = rows
            .iter()
            .map(|row| {
                let fields = row
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()));
                Value::Object(fields.collect::<Map<_, _>>())
            })
            .collect();
        serde_json::to_writer_pretty(&mut out, &objects)?;
        writeln!(out)?;
        return Ok(());
    }
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let mut lines = vec![
        first
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        lines.push(row.iter().map(|(_, value)| show(value)).collect());
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..first.len()).map(width).collect();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            write!(out, "{cell:>width$}  ")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.1}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
