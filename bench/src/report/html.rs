//! The report as one page that needs nothing beside itself: tables and charts.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::charts::{self, Svg};
use super::table::{cell, labels};
use super::{Report, Timeline};

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}
dl{display:grid;grid-template-columns:max-content auto;gap:.1rem 1rem;margin:.5rem 0}dt{color:#666}dd{margin:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.15rem .8rem;text-align:right;white-space:nowrap}td small{color:#777}
thead th{white-space:normal;vertical-align:bottom;border-bottom:1px solid #999}
tbody th{font-weight:400;text-align:left}tr.group th{font-weight:600;padding-top:.7rem}
tbody tr:not(.group):hover{background:#f2f5f9}svg{max-width:100%;height:auto}p.note{color:#444}\
.legend span{margin-right:1.4rem}.legend b{display:inline-block;width:1.4rem;height:.25rem;margin-right:.4rem;vertical-align:middle}";

/// The page of some reports and the machine that they were measured on.
pub fn render(machine: &[(&'static str, String)], reports: &[Report]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>Baton benchmarks</title>\n<style>{STYLE}</style></head><body>\n<h1>Baton benchmarks</h1>\n"
    );
    pairs(&mut out, machine);
    out.push_str("<p>Each figure is the median of the repeats, with the least and the greatest beside it.</p>\n");
    for report in reports {
        section(&mut out, report);
    }
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "<section><h2>{}</h2>\n<p>{}</p>",
        escape(report.scenario),
        escape(&report.about)
    );
    pairs(out, &report.settings);
    table(out, report);
    for note in &report.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    for (name, curves) in latency_charts(report) {
        figure(
            out,
            &format!("{name}, all repeats together"),
            curves.iter().map(|(case, _)| case),
            charts::latencies(&curves),
        );
    }
    let timelines: Vec<(String, &Timeline)> = report
        .cases
        .iter()
        .filter_map(|case| {
            let line = case.runs.iter().find_map(|run| run.timeline.as_ref())?;
            Some((case.name.clone(), line))
        })
        .collect();
    if !timelines.is_empty() {
        figure(
            out,
            "throughput over time, first repeat",
            timelines.iter().map(|(case, _)| case),
            charts::timelines(&timelines),
        );
    }
    out.push_str("</section>\n");
}

/// The latencies of cases, by the cases' names.
type Curves = Vec<(String, Histogram<u64>)>;

/// A chart for each latency that is told, with a curve for each case.
fn latency_charts(report: &Report) -> Vec<(&'static str, Curves)> {
    let mut charts: Vec<(&'static str, Curves)> = Vec::new();
    for case in &report.cases {
        for (name, nanos) in Report::curves(case) {
            let curve = (case.name.clone(), nanos);
            match charts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, curves)) => curves.push(curve),
                None => charts.push((name, vec![curve])),
            }
        }
    }
    charts
}

fn figure<'a>(out: &mut String, caption: &str, lines: impl Iterator<Item = &'a String>, svg: Svg) {
    match svg {
        Ok(svg) => {
            let _ = writeln!(out, "<h3>{}</h3>\n<p class=\"legend\">", escape(caption));
            for (at, name) in lines.enumerate() {
                let (colour, name) = (charts::colour_name(at), escape(name));
                let _ = writeln!(
                    out,
                    "<span><b style=\"background:{colour}\"></b>{name}</span>"
                );
            }
            let _ = writeln!(out, "</p>\n{svg}");
        }
        Err(error) => {
            let text = format!("{caption}: no chart, {error}");
            let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(&text));
        }
    }
}

fn pairs(out: &mut String, pairs: &[(&'static str, String)]) {
    out.push_str("<dl>");
    for (name, value) in pairs {
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out.push_str("</dl>\n");
}

fn table(out: &mut String, report: &Report) {
    out.push_str("<div class=\"scroll\"><table><thead><tr><th></th>");
    for case in &report.cases {
        let _ = write!(out, "<th>{}</th>", escape(&case.name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let mut group = None;
    let rows = report.rows();
    for (row, (name, factor)) in rows.iter().zip(labels(&rows)) {
        if group != Some(&row.group) {
            group = Some(&row.group);
            let _ = writeln!(
                out,
                "<tr class=\"group\"><th colspan=\"{}\">{}</th></tr>",
                report.cases.len() + 1,
                escape(&row.group)
            );
        }
        let _ = write!(out, "<tr><th>{}</th>", escape(&name));
        for spread in &row.cells {
            let text = escape(&cell(*spread, factor));
            let text = match text.split_once(" (") {
                Some((median, rest)) => format!("{median} <small>({rest}</small>"),
                None => text,
            };
            let _ = write!(out, "<td>{text}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_page_needs_nothing_beside_itself() {
        let page = render(&[("cores", "2".into())], &[sample()]);
        assert_eq!(page.matches("<svg").count(), 2);
        for outside in ["src=", "href=", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("320 <small>(300-360)</small>"));
    }

    #[test]
    fn names_are_text_and_not_markup() {
        let mut report = sample();
        report.cases[0].name = "a < b & c".into();
        let page = render(&[], &[report]);
        assert!(page.contains("<th>a &lt; b &amp; c</th>"));
        assert!(!page.contains("a < b"));
    }
}
