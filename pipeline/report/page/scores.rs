//! The section of the threshold: both similarities on one axis, and what the script needs to move a threshold over it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    chart::Chart,
    text::{escaped, grouped, percent, shell_word},
};
use crate::report::{
    content::Report,
    histogram::{SimilarityHistogram, edge_text},
};

/// Steps of the axis, in bins of 0.001.
const MARK_STEPS: [usize; 8] = [5, 10, 20, 50, 100, 200, 500, 1000];
/// Intervals between marks, at most: seven marks fit at 400 px.
const MAX_INTERVALS: usize = 6;
/// The bin of a similarity of 1.
const LAST_BIN: usize = 2000;
/// Bars, at most.
const MAX_BARS: usize = 100;
/// Shares of the table of thresholds, in percent.
const SHARES: [u8; 9] = [99, 95, 90, 80, 70, 50, 30, 20, 10];
/// The share that stays where the threshold begins, in percent.
const FIRST_SHARE: f64 = 0.9;

/// An axis over bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// First bin.
    pub(super) first: usize,
    /// Bin at the end.
    pub(super) last: usize,
    /// Bins between marks.
    step: usize,
}

impl Axis {
    /// Returns the axis that holds all scores of both columns, `None` if there is none.
    pub(super) fn of(columns: [&SimilarityHistogram; 2]) -> Option<Self> {
        let ranges: Vec<(usize, usize)> = columns.iter().filter_map(|column| column.range()).collect();
        let first = ranges.iter().map(|range| range.0).min()?;
        let last = ranges.iter().map(|range| range.1).max()?;
        for step in MARK_STEPS {
            // Every step divides the last bin, that of a similarity of 1, which is drawn in the bar before it.
            let high = ((last + 1).div_ceil(step) * step).min(LAST_BIN);
            let low = (first / step * step).min(high - step);
            if (high - low) / step <= MAX_INTERVALS {
                return Some(Self { first: low, last: high, step });
            }
        }
        None
    }

    fn bins(self) -> usize {
        self.last - self.first
    }

    /// Returns the bins of 0.001 in a bar: a divisor of the axis.
    fn bar(self) -> usize {
        let least = self.bins().div_ceil(MAX_BARS).max(1);
        (least..=self.bins()).find(|width| self.bins().is_multiple_of(*width)).unwrap_or(1)
    }

    fn bars(self, column: &SimilarityHistogram) -> Vec<u64> {
        let below = |bin: usize| if bin >= self.last { 0 } else { column.at_least(bin) };
        let edges: Vec<u64> = (self.first..=self.last).step_by(self.bar()).map(below).collect();
        edges.windows(2).map(|pair| pair[0] - pair[1]).collect()
    }
}

/// Writes the section. `axis` is that of both columns.
pub(super) fn write(html: &mut String, report: &Report, axis: Axis) -> std::fmt::Result {
    let statistics = &report.statistics;
    let bar = axis.bar();
    let name = |bin: usize| format!("{} to {}", edge_text(bin), edge_text(bin + bar));
    let chart = Chart {
        label: "Similarity of captions and images",
        bin_name: "similarity",
        bins: (axis.first..axis.last).step_by(bar).map(name).collect(),
        series: [
            ("chosen captions", axis.bars(&statistics.similarity)),
            ("original captions", axis.bars(&statistics.org_similarity)),
        ],
        marks: (axis.first..=axis.last).step_by(axis.step).map(mark).collect(),
        cut: Some("cut"),
    };
    html.push_str(
        "<section id=\"threshold\"><h2>Choosing a threshold</h2><p class=\"lead\">Similarity of image and caption by the \
         scorer, over all rows; each column as shares of its own rows.</p><div class=\"plot\">",
    );
    chart.write_figure(html)?;
    html.push_str("</div>");
    write_controls(html, report)?;
    chart.write_table(html)?;
    write_tables(html, report)?;
    html.push_str("</section>");
    Ok(())
}

fn mark(bin: usize) -> String {
    let text = edge_text(bin);
    text.strip_suffix('0').map_or(text.clone(), str::to_owned)
}

/// Writes the slider and what follows from it; a script shows them.
fn write_controls(html: &mut String, report: &Report) -> std::fmt::Result {
    let by = if report.source.output.is_some() && report.statistics.org_similarity.scored > 0 {
        "<div class=\"field\"><label for=\"by\">Score</label><select id=\"by\"><option value=\"similarity\">chosen caption</option>\
         <option value=\"org_similarity\">original caption</option></select></div>"
    } else {
        ""
    };
    let (label, note) = if report.source.output.is_some() {
        ("Command", "Writes a new dataset; the output itself is not changed.")
    } else {
        ("Flag of recaption run", "Rejects captions below it while captioning.")
    };
    write!(
        html,
        "<div data-script hidden><div class=\"slider\"><label class=\"sr\" for=\"threshold-range\">Threshold</label>\
         <input type=\"range\" id=\"threshold-range\" step=\"1\"></div>\
         <div class=\"controls\"><div class=\"field\"><label for=\"threshold-number\">Threshold</label>\
         <input type=\"number\" id=\"threshold-number\" step=\"0.001\" min=\"-1\" max=\"1\"></div>{by}\
         <p class=\"kept\" role=\"status\"><strong id=\"kept-share\"></strong> <span id=\"kept-count\"></span></p></div>\
         <div class=\"command\"><div class=\"command-head\"><span id=\"command-label\">{label}</span>\
         <button type=\"button\" id=\"copy\">Copy</button></div><pre><code id=\"command\"></code></pre>\
         <p class=\"note\">{note} <span id=\"copied\" role=\"status\"></span></p></div>\
         <div class=\"around\"><section aria-labelledby=\"above-title\"><h3 id=\"above-title\">Just above: stay</h3>\
         <ul class=\"cards compact\" id=\"above\"></ul></section>\
         <section aria-labelledby=\"below-title\"><h3 id=\"below-title\">Just below: go</h3>\
         <ul class=\"cards compact\" id=\"below\"></ul></section></div></div>"
    )
}

/// Writes thresholds for round shares, which need no script: of similarity, and of the matching probability if there is one.
fn write_tables(html: &mut String, report: &Report) -> std::fmt::Result {
    let statistics = &report.statistics;
    write_table(html, report, ("Thresholds for round shares", &statistics.similarity, ""))?;
    if statistics.itm.scored == 0 {
        return Ok(());
    }
    write_table(html, report, ("Thresholds of itm for round shares", &statistics.itm, " --by itm"))
}

/// Writes the thresholds of one column, whose selection takes the options `by`.
fn write_table(
    html: &mut String,
    report: &Report,
    (title, column, by): (&str, &SimilarityHistogram, &str),
) -> std::fmt::Result {
    let all = column.scored + column.missing;
    write!(
        html,
        "<details class=\"numbers\"><summary>{title}</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{title}\"><table><thead><tr><th scope=\"col\" class=\"n\">at least</th><th scope=\"col\" class=\"n\">threshold</th>\
         <th scope=\"col\" class=\"n\">captions that stay</th><th scope=\"col\" class=\"n\">share</th></tr></thead><tbody>"
    )?;
    for share in SHARES {
        let Some(bin) = column.bin_keeping(f64::from(share) / 100.0) else { continue };
        let kept = column.at_least(bin);
        write!(
            html,
            "<tr><th scope=\"row\" class=\"n\">{share} %</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            edge_text(bin),
            grouped(kept),
            percent(kept, all)
        )?;
    }
    html.push_str("</tbody></table></div>");
    if let Some(output) = &report.source.output {
        write!(
            html,
            "<p class=\"note\">An exact share: <code>recaption filter {} --keep-top 0.3{by} --to {}</code></p>",
            escaped(&shell_word(output)),
            escaped(&shell_word(&format!("{}-best", output.trim_end_matches('/'))))
        )?;
    }
    html.push_str("</details>");
    Ok(())
}

/// Returns what the script needs of both columns.
pub(super) fn data(report: &Report, axis: Axis) -> Value {
    let column = |histogram: &SimilarityHistogram| {
        let Some((first, last)) = histogram.range() else { return Value::Null };
        let start = histogram.bin_keeping(FIRST_SHARE).unwrap_or(first).max(axis.first);
        json!({
            "first": first, "counts": histogram.counts((first, last)), "rows": histogram.scored + histogram.missing,
            "missing": histogram.missing, "start": start,
        })
    };
    json!({
        "first": axis.first, "last": axis.last,
        "similarity": column(&report.statistics.similarity),
        "org_similarity": column(&report.statistics.org_similarity),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(scores: &[f32]) -> SimilarityHistogram {
        let mut histogram = SimilarityHistogram::default();
        scores.iter().for_each(|score| histogram.push(Some(*score)));
        histogram
    }

    #[test]
    fn axis_holds_every_score_in_a_few_marks() {
        let none = histogram(&[]);
        assert_eq!(Axis::of([&none, &none]), None);
        for scores in
            [&[0.25_f32][..], &[0.1, 0.35], &[-1.0, 1.0], &[1.0], &[-1.0], &[0.2, 0.2004], &[-0.08, 0.41]]
        {
            let column = histogram(scores);
            let axis = Axis::of([&column, &none]).expect("an axis");
            let bars = axis.bars(&column);
            assert!(bars.len() <= MAX_BARS && axis.bins().is_multiple_of(axis.step), "{axis:?}");
            assert!(axis.bins() / axis.step <= MAX_INTERVALS, "{axis:?}");
            assert_eq!(bars.iter().sum::<u64>(), scores.len() as u64, "{scores:?} {axis:?}");
        }
    }
}
