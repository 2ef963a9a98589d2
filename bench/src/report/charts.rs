//! The charts of the page, as SVG: latency by percentile, throughput over time. What each line means is
//! told by the page, so that no legend lies over a line.

use hdrhistogram::Histogram;
use plotters::prelude::*;
use plotters::style::RGBColor;

use super::Timeline;

const SIZE: (u32, u32) = (860, 380);

const FONT: &str = "sans-serif";

/// Colours that differ in lightness too, so that they can be told apart without seeing hues.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 90, 20),
    RGBColor(0, 140, 110),
    RGBColor(170, 60, 150),
    RGBColor(230, 170, 0),
    RGBColor(90, 90, 90),
    RGBColor(90, 180, 230),
    RGBColor(120, 20, 20),
];

/// The colour of the line of this number.
fn colour(at: usize) -> RGBColor {
    COLOURS[at % COLOURS.len()]
}

/// The same, as a page names it.
pub fn colour_name(at: usize) -> String {
    let RGBColor(red, green, blue) = colour(at);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The most nines behind the point that a percentile is drawn with.
const NINES_MAX: f64 = 4.0;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A chart as SVG, or why there is none.
pub type Svg = Result<String, Box<dyn std::error::Error>>;

/// Latencies by percentile: to the right each step is a tenth of the records of the one before.
pub fn latencies(curves: &[(String, Histogram<u64>)]) -> Svg {
    let mut svg = String::new();
    draw_latencies(&mut svg, curves)?;
    Ok(svg)
}

fn draw_latencies(svg: &mut String, curves: &[(String, Histogram<u64>)]) -> Drawn {
    let lines: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|(_, nanos)| percentile_line(nanos))
        .collect();
    let points = || lines.iter().flatten();
    let right = points().map(|point| point.0).fold(2.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::MAX, f64::min);
    let high = points().map(|point| point.1).fold(0.0, f64::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..right, (low * 0.8..high * 1.25).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency, ms")
        .x_labels(right as usize + 1)
        .x_label_formatter(&|nines| percentile_name(*nines))
        .y_label_formatter(&|ms| super::unit::number(*ms))
        .label_style((FONT, 14))
        .light_line_style(WHITE)
        .draw()?;
    for (at, line) in lines.into_iter().enumerate() {
        chart.draw_series(LineSeries::new(line, colour(at).stroke_width(2)))?;
    }
    area.present()?;
    Ok(())
}

/// Points of a curve: nines of the percentile (2 for 99 %), and milliseconds.
fn percentile_line(nanos: &Histogram<u64>) -> Vec<(f64, f64)> {
    // Beyond one record in as many as there are, the curve is flat.
    let nines = (nanos.len().max(1) as f64).log10().min(NINES_MAX);
    let steps = 200;
    let point = |step: u32| {
        let nines = nines * f64::from(step) / f64::from(steps);
        let nanos = nanos.value_at_quantile(1.0 - 10f64.powf(-nines));
        (nines, nanos.max(1) as f64 / 1e6)
    };
    (0..=steps).map(point).collect()
}

fn percentile_name(nines: f64) -> String {
    match nines.round() as i32 {
        whole if (nines - f64::from(whole)).abs() > 1e-6 => String::new(),
        0 => "0".into(),
        1 => "90".into(),
        2 => "99".into(),
        whole => format!("99.{}", "9".repeat(whole as usize - 2)),
    }
}

/// Throughput over time, with a line where something was done to the cluster.
pub fn timelines(timelines: &[(String, &Timeline)]) -> Svg {
    let mut svg = String::new();
    draw_timelines(&mut svg, timelines)?;
    Ok(svg)
}

fn draw_timelines(svg: &mut String, timelines: &[(String, &Timeline)]) -> Drawn {
    let right = timelines
        .iter()
        .map(|(_, line)| line.step_seconds * line.mb_per_s.len() as f64)
        .fold(0.1, f64::max);
    let high = ceiling(timelines);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..right, 0.0..high)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("acknowledged, MB/s")
        .y_label_formatter(&|value| super::unit::number(*value))
        .label_style((FONT, 14))
        .light_line_style(WHITE)
        .draw()?;
    for (at, (_, line)) in timelines.iter().enumerate() {
        let middle = |step: usize| (step as f64 + 0.5) * line.step_seconds;
        let points = line.mb_per_s.iter().enumerate();
        let points = points.map(|(step, value)| (middle(step), value.min(high)));
        chart.draw_series(LineSeries::new(points, colour(at).stroke_width(2)))?;
    }
    let mark_style = BLACK.mix(0.6);
    for (at, (seconds, what)) in marks(timelines).into_iter().enumerate() {
        let mark = [(seconds, 0.0), (seconds, high)];
        chart.draw_series(DashedLineSeries::new(mark, 5, 4, mark_style.into()))?;
        let style = (FONT, 14).into_font().color(&mark_style);
        let at = (seconds, high * (0.98 - 0.06 * at as f64));
        chart.draw_series([Text::new(format!(" {what}"), at, style)])?;
    }
    area.present()?;
    Ok(())
}

/// How high the chart goes: what waited for the end of a fault comes all at once, and would make
/// everything else a flat line.
fn ceiling(timelines: &[(String, &Timeline)]) -> f64 {
    let values = timelines.iter().flat_map(|(_, line)| &line.mb_per_s);
    let mut values: Vec<f64> = values.copied().filter(|value| *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    let greatest = values.last().copied().unwrap_or(0.001);
    let usual = values.get(values.len() / 2).copied().unwrap_or(greatest);
    greatest.min(usual * 4.0) * 1.1
}

/// Faults, each once: those of several lines are often the same.
fn marks(timelines: &[(String, &Timeline)]) -> Vec<(f64, String)> {
    let mut marks: Vec<(f64, String)> = Vec::new();
    for (seconds, what) in timelines.iter().flat_map(|(_, line)| &line.faults) {
        let same = |(at, known): &(f64, String)| known == what && (at - seconds).abs() < 0.05;
        if !marks.iter().any(same) {
            marks.push((*seconds, what.clone()));
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_named_at_whole_nines_only() {
        let names: Vec<String> = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
            .into_iter()
            .map(percentile_name)
            .collect();
        assert_eq!(names, ["0", "", "90", "99", "99.9", "99.99"]);
    }

    #[test]
    fn a_curve_ends_where_its_records_do() {
        let mut nanos = Histogram::new(3).expect("a histogram");
        for value in 1..=100 {
            nanos.record(value * 1_000_000).expect("recorded");
        }
        let line = percentile_line(&nanos);
        let (nines, _) = line[line.len() - 1];
        assert!((nines - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_fault_of_several_lines_is_marked_once_and_what_follows_is_cut() {
        let line = |at: f64| Timeline {
            step_seconds: 0.1,
            mb_per_s: vec![1.0, 1.0, 0.0, 100.0, 1.0],
            faults: vec![(at, "killed".into())],
        };
        let (one, same, later) = (line(0.2), line(0.21), line(0.4));
        let lines = [&one, &same, &later].map(|line| (String::new(), line));
        assert_eq!(marks(&lines).len(), 2);
        assert!((ceiling(&lines) - 4.4).abs() < 1e-9);
    }

    #[test]
    fn charts_of_nothing_much_can_be_drawn() {
        let mut nanos = Histogram::new(3).expect("a histogram");
        nanos.record(0).expect("recorded");
        assert!(latencies(&[("one".into(), nanos)]).is_ok());
        assert!(timelines(&[("none".into(), &Timeline::default())]).is_ok());
    }
}
