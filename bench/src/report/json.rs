//! The report as JSON, with every value of every repeat, and nothing scaled or rounded.

use serde_json::{Value, json};

use super::{Case, QUANTILES, Report, Timeline};

/// Reports, and what they were measured on.
pub fn render(machine: &[(&'static str, String)], reports: &[Report]) -> Value {
    json!({
        "machine": object(machine),
        "scenarios": reports.iter().map(of_report).collect::<Vec<_>>(),
    })
}

fn object(pairs: &[(&'static str, String)]) -> Value {
    let pairs = pairs.iter();
    Value::Object(pairs.map(|(k, v)| ((*k).to_owned(), json!(v))).collect())
}

fn of_report(report: &Report) -> Value {
    let rows = report.rows();
    let of_case = |(at, case): (usize, &Case)| {
        let figures = rows.iter().filter_map(|row| {
            let spread = row.cells[at]?;
            let runs = case.runs.iter();
            let values: Vec<f64> = runs
                .filter_map(|run| run.get(&row.group, &row.name))
                .collect();
            Some(json!({
                "group": row.group, "name": row.name, "unit": row.unit.base(),
                "median": spread.median, "min": spread.min, "max": spread.max, "values": values,
            }))
        });
        json!({
            "name": case.name,
            "figures": figures.collect::<Vec<_>>(),
            "latencies": latencies(case),
            "timelines": case.runs.iter()
                .filter_map(|run| run.timeline.as_ref().map(timeline))
                .collect::<Vec<_>>(),
        })
    };
    json!({
        "scenario": report.scenario,
        "about": report.about,
        "settings": object(&report.settings),
        "cases": report.cases.iter().enumerate().map(of_case).collect::<Vec<_>>(),
        "notes": report.notes,
    })
}

/// All repeats together.
fn latencies(case: &Case) -> Vec<Value> {
    let curves = Report::curves(case).into_iter();
    let of_curve = |(name, nanos): (&str, hdrhistogram::Histogram<u64>)| {
        let quantiles = QUANTILES.iter().map(|(name, quantile)| {
            let seconds = nanos.value_at_quantile(*quantile) as f64 / 1e9;
            ((*name).to_owned(), json!(seconds))
        });
        json!({
            "name": name, "count": nanos.len(),
            "seconds": Value::Object(quantiles.collect()),
        })
    };
    curves.map(of_curve).collect()
}

fn timeline(timeline: &Timeline) -> Value {
    let faults = timeline.faults.iter();
    json!({
        "step_seconds": timeline.step_seconds,
        "mb_per_s": timeline.mb_per_s,
        "faults": faults.map(|(at, what)| json!({"seconds": at, "what": what})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn every_value_of_every_repeat_is_there() {
        let json = render(&[("cores", "2".into())], &[sample()]);
        let case = &json["scenarios"][0]["cases"][0];
        assert_eq!(json["machine"]["cores"], "2");
        assert_eq!(case["figures"][0]["name"], "records");
        assert_eq!(case["figures"][0]["values"][1], 360_000.0);
        assert_eq!(case["figures"][0]["median"], 320_000.0);
        assert_eq!(case["latencies"][0]["count"], 300);
        assert_eq!(case["timelines"][2]["faults"][0]["what"], "kill");
    }
}
