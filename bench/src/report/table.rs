//! The table: a row for each figure, a column for each case, as many beside each other as fit. Each
//! cell is the median, and in parentheses the least and the greatest of the repeats.

use std::fmt::Write;

use super::unit::number;
use super::{Report, Row, Spread};

/// Columns where nobody says how wide the terminal is.
const WIDTH: usize = 100;

/// Between two columns.
const GAP: &str = "   ";

/// The columns of the terminal that standard output is, or what `COLUMNS` says.
pub fn terminal_width() -> usize {
    let told = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let seen = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    told.or_else(seen).unwrap_or(WIDTH)
}

/// A cell, and what its row is labelled with.
pub fn cell(spread: Option<Spread>, factor: f64) -> String {
    let Some(spread) = spread else {
        return "-".into();
    };
    let [median, min, max] =
        [spread.median, spread.min, spread.max].map(|value| number(value / factor));
    match spread.count {
        1 => median,
        _ => format!("{median} ({min}-{max})"),
    }
}

/// The rows' labels and the factors of their values.
pub fn labels(rows: &[Row]) -> Vec<(String, f64)> {
    let label = |row: &Row| match Report::scale(rows, row) {
        ("", factor) => (row.name.clone(), factor),
        (unit, factor) => (format!("{}, {unit}", row.name), factor),
    };
    rows.iter().map(label).collect()
}

/// The report as text for a terminal of this width.
pub fn render(report: &Report, width: usize) -> String {
    let mut out = format!("{}: {}\n", report.scenario, report.about);
    let settings: Vec<String> = report
        .settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    wrap(&mut out, &settings.join(", "), width);
    let rows = report.rows();
    let labels = labels(&rows);
    let label_width = labels
        .iter()
        .map(|(text, _)| text.chars().count() + 2)
        .chain(rows.iter().map(|row| row.group.chars().count()))
        .max()
        .unwrap_or(0);
    let columns: Vec<Column> = (0..report.cases.len())
        .map(|case| column(report, &rows, &labels, case))
        .collect();
    for block in blocks(&columns, width.saturating_sub(label_width)) {
        out.push('\n');
        render_block(&mut out, &rows, &labels, label_width, block);
    }
    for note in &report.notes {
        out.push('\n');
        wrap(&mut out, note, width);
    }
    out
}

/// A case's heading and cells, as wide as the widest of them.
struct Column {
    heading: Vec<String>,
    cells: Vec<String>,
    width: usize,
}

fn column(report: &Report, rows: &[Row], labels: &[(String, f64)], case: usize) -> Column {
    let cells: Vec<String> = rows
        .iter()
        .zip(labels)
        .map(|(row, (_, factor))| cell(row.cells[case], *factor))
        .collect();
    // A long name is broken at its commas rather than pulling the column apart.
    let heading: Vec<String> = report.cases[case]
        .name
        .split(", ")
        .map(str::to_owned)
        .collect();
    let texts = cells.iter().chain(&heading);
    let width = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    Column {
        heading,
        cells,
        width,
    }
}

/// Columns that fit beside each other, at least one at a time.
fn blocks(columns: &[Column], room: usize) -> Vec<&[Column]> {
    let mut blocks = Vec::new();
    let mut rest = columns;
    while !rest.is_empty() {
        let mut used = 0;
        let fitting = rest.iter().take_while(|column| {
            used += GAP.len() + column.width;
            used <= room
        });
        let (block, others) = rest.split_at(fitting.count().max(1));
        blocks.push(block);
        rest = others;
    }
    blocks
}

fn render_block(
    out: &mut String,
    rows: &[Row],
    labels: &[(String, f64)],
    label_width: usize,
    columns: &[Column],
) {
    let lines = columns.iter().map(|column| column.heading.len());
    let lines = lines.max().unwrap_or(0);
    for line in 0..lines {
        let headings = columns.iter().map(|column| {
            // Headings stand on the line above the figures.
            let skipped = lines - column.heading.len();
            let text = line.checked_sub(skipped).map(|at| &column.heading[at]);
            (text.map_or("", String::as_str), column.width)
        });
        push_line(out, "", label_width, headings);
    }
    let mut group = None;
    for (at, row) in rows.iter().enumerate() {
        if columns.iter().all(|column| column.cells[at] == "-") {
            continue;
        }
        if group != Some(&row.group) {
            group = Some(&row.group);
            let _ = writeln!(out, "{}", row.group);
        }
        let cells = columns
            .iter()
            .map(|column| (column.cells[at].as_str(), column.width));
        push_line(out, &format!("  {}", labels[at].0), label_width, cells);
    }
}

fn push_line<'a>(
    out: &mut String,
    label: &str,
    label_width: usize,
    cells: impl Iterator<Item = (&'a str, usize)>,
) {
    let mut line = format!("{label:<label_width$}");
    for (text, width) in cells {
        let _ = write!(line, "{GAP}{text:>width$}");
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

fn wrap(out: &mut String, text: &str, width: usize) {
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_table_has_a_row_for_each_figure_and_a_column_for_each_case() {
        let expected = "\
produce: As many records as go.
replicas 3

                            1 KiB
                      1 partition              100 B
throughput
  records, k/s      320 (300-360)      320 (300-360)
  bytes, MB/s       320 (300-360)      320 (300-360)
ack latency
  p50, ms        1.00 (0.50-1.50)   1.00 (0.50-1.50)
  p90, ms        1.80 (0.90-2.70)   1.80 (0.90-2.70)
  p99, ms        1.98 (0.99-2.97)   1.98 (0.99-2.97)
  max, ms        2.00 (1.00-3.00)   2.00 (1.00-3.00)
roofline
  ratio          0.62 (0.62-0.62)                  -

broker 1 leads
";
        assert_eq!(render(&sample(), 100), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut report = sample();
        for _ in 0..3 {
            report.cases.extend(sample().cases);
        }
        report.notes = vec!["a word and another ".repeat(20)];
        for width in [40, 80, 120] {
            let text = render(&report, width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{text}");
        }
    }
}
