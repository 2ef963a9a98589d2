//! What was measured, in one form for every scenario, and its three faces: a table, JSON, a page.
//! Knows nothing of how anything is measured.

pub mod charts;
pub mod html;
pub mod json;
pub mod table;
pub mod unit;

use hdrhistogram::Histogram;

pub use self::unit::Unit;

/// The result of a scenario.
#[derive(Debug, Default)]
pub struct Report {
    /// Its name on the command line.
    pub scenario: &'static str,
    /// What it measures, in a sentence or two.
    pub about: String,
    /// How: names and values.
    pub settings: Vec<(&'static str, String)>,
    /// What was compared; each becomes a column.
    pub cases: Vec<Case>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// One configuration, measured several times.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// A measurement each.
    pub runs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Default)]
pub struct Run {
    /// Its figures, in the order in which they are shown.
    pub figures: Vec<Figure>,
    /// Latencies in nanoseconds, by name.
    pub curves: Vec<(&'static str, Histogram<u64>)>,
    /// What went through at which time.
    pub timeline: Option<Timeline>,
}

/// A number with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is about; figures of one group stand together.
    pub group: String,
    /// Its name within the group.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// The number, in the unit's base.
    pub value: f64,
}

/// Throughput over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// The length of a step, in seconds.
    pub step_seconds: f64,
    /// Acknowledged megabytes a second in each step.
    pub mb_per_s: Vec<f64>,
    /// What was done to the cluster, and when, in seconds.
    pub faults: Vec<(f64, String)>,
}

/// A figure of a case, over its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of some values; none of none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted.get(middle.wrapping_sub(1))? + sorted[middle]) / 2.0,
        };
        Some(Spread {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            count: sorted.len(),
        })
    }
}

/// The quantiles that are told of a latency.
pub const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

impl Run {
    /// Adds a figure.
    pub fn add(
        &mut self,
        group: impl Into<String>,
        name: impl Into<String>,
        unit: Unit,
        value: f64,
    ) {
        self.figures.push(Figure {
            group: group.into(),
            name: name.into(),
            unit,
            value,
        });
    }

    /// Adds the quantiles of a latency, as far as there are enough records for them, and its curve.
    pub fn add_latency(&mut self, group: &'static str, nanos: Histogram<u64>) {
        if nanos.is_empty() {
            return;
        }
        for (name, quantile) in QUANTILES {
            let beyond = (1.0 - quantile) * nanos.len() as f64;
            if quantile > 0.5 && quantile < 1.0 && beyond < 0.999 {
                continue;
            }
            let value = nanos.value_at_quantile(quantile) as f64 / 1e9;
            self.add(group, name, Unit::Seconds, value);
        }
        self.curves.push((group, nanos));
    }

    /// The value of a figure, if it has one.
    pub fn get(&self, group: &str, name: &str) -> Option<f64> {
        let found = self
            .figures
            .iter()
            .find(|figure| figure.group == group && figure.name == name);
        found.map(|figure| figure.value)
    }
}

/// A line of the table: a figure in every case that has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is about.
    pub group: String,
    /// The figure's name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// By case.
    pub cells: Vec<Option<Spread>>,
}

impl Report {
    /// All figures of all cases: groups in the order in which they first appear, and within a group
    /// the figures.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let figures = self.cases.iter().flat_map(|case| &case.runs);
        for figure in figures.flat_map(|run| &run.figures) {
            let same = |row: &Row| row.group == figure.group && row.name == figure.name;
            if rows.iter().any(same) {
                continue;
            }
            let of_group = rows.iter().rposition(|row| row.group == figure.group);
            let row = Row {
                group: figure.group.clone(),
                name: figure.name.clone(),
                unit: figure.unit,
                cells: self.cells(figure),
            };
            rows.insert(of_group.map_or(rows.len(), |last| last + 1), row);
        }
        rows
    }

    fn cells(&self, figure: &Figure) -> Vec<Option<Spread>> {
        let of_case = |case: &Case| {
            let runs = case.runs.iter();
            let values: Vec<f64> = runs
                .filter_map(|run| run.get(&figure.group, &figure.name))
                .collect();
            Spread::of(&values)
        };
        self.cases.iter().map(of_case).collect()
    }

    /// The unit that the values of a row are shown in, and what they are divided by: the same for
    /// all rows of a group that count the same, and fit for the least of them, as long as the greatest
    /// does not become unreadable.
    pub fn scale(rows: &[Row], row: &Row) -> (&'static str, f64) {
        let alike = rows
            .iter()
            .filter(|other| other.group == row.group && other.unit == row.unit);
        let medians = alike.flat_map(|row| row.cells.iter().flatten());
        let medians = medians.map(|spread| spread.median).filter(|m| *m > 0.0);
        let (least, greatest) = medians.fold((f64::MAX, 0.0), |(least, greatest), median| {
            (median.min(least), median.max(greatest))
        });
        row.unit.scale(least, greatest)
    }

    /// The curves of a case by name, its runs taken together.
    pub fn curves(case: &Case) -> Vec<(&'static str, Histogram<u64>)> {
        let mut merged: Vec<(&'static str, Histogram<u64>)> = Vec::new();
        for (name, nanos) in case.runs.iter().flat_map(|run| &run.curves) {
            match merged.iter_mut().find(|(known, _)| known == name) {
                Some((_, all)) => all.add(nanos).expect("it grows by itself"),
                None => merged.push((name, nanos.clone())),
            }
        }
        merged
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two cases, of which the second lacks a figure.
    pub fn sample() -> Report {
        let run = |rate: f64, latency_ms: u64, with_ratio: bool| {
            let mut run = Run::default();
            run.add("throughput", "records", Unit::PerSecond, rate);
            let mut nanos = Histogram::new(3).expect("a histogram");
            for step in 1..=100 {
                nanos.record(latency_ms * step * 10_000).expect("recorded");
            }
            run.add_latency("ack latency", nanos);
            if with_ratio {
                run.add("roofline", "ratio", Unit::Ratio, 0.625);
            }
            run.add("throughput", "bytes", Unit::MegabytesPerSecond, rate / 1e3);
            run.timeline = Some(Timeline {
                step_seconds: 0.1,
                mb_per_s: vec![100.0, 120.0, 0.0, 110.0],
                faults: vec![(0.2, "kill".into())],
            });
            run
        };
        let case = |name: &str, with_ratio| Case {
            name: name.into(),
            runs: vec![
                run(300_000.0, 2, with_ratio),
                run(360_000.0, 3, with_ratio),
                run(320_000.0, 1, with_ratio),
            ],
        };
        Report {
            scenario: "produce",
            about: "As many records as go.".into(),
            settings: vec![("replicas", "3".into())],
            cases: vec![case("1 KiB, 1 partition", true), case("100 B", false)],
            notes: vec!["broker 1 leads".into()],
        }
    }

    #[test]
    fn a_spread_has_its_median_between_its_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("values");
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[1.0, 4.0]).expect("values").median, 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn figures_of_a_group_stand_together_and_gaps_stay_gaps() {
        let rows = sample().rows();
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let expected = ["records", "bytes", "p50", "p90", "p99", "max", "ratio"];
        assert_eq!(names, expected);
        let ratio = rows.last().expect("rows");
        assert!(ratio.cells[0].is_some() && ratio.cells[1].is_none());
    }
}
