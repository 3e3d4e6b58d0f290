//! The kinds of score that a threshold can be set on: similarity, and the probability of matching where the scorer matches.

use serde_json::{Map, Value, json};

use super::axis::Axis;
use crate::report::{histogram::SimilarityHistogram, page::chart::Chart, statistics::Statistics};

/// The share that stays where the threshold begins.
const FIRST_SHARE: f64 = 0.9;

/// A column of scores.
pub(super) struct Score<'a> {
    /// Name of the column.
    pub(super) name: &'static str,
    /// What has this score, as one chooses it.
    pub(super) choice: &'static str,
    /// Its name in the rows of the page's data.
    field: &'static str,
    /// What chooses the column in a call of `recaption filter`.
    pub(super) by: &'static str,
    /// Counts over all rows.
    pub(super) histogram: &'a SimilarityHistogram,
}

/// A kind of score with an axis of its own: that of chosen captions, and that of original ones.
pub(in crate::report::page) struct Scale<'a> {
    /// What the figure shows.
    pub(super) label: &'static str,
    /// Title of the table of thresholds.
    pub(super) thresholds: &'static str,
    /// The score in short, before its bins.
    bin_name: &'static str,
    /// Id of the line that marks the threshold.
    cut: &'static str,
    /// The threshold as an option of `recaption filter`, up to its number.
    least: &'static str,
    /// The threshold as an option of `recaption run`, up to its number.
    run: &'static str,
    /// What the name of the filtered output has between the output's and the threshold.
    suffix: &'static str,
    axis: Axis,
    /// Scores of chosen captions and of original ones.
    pub(super) scores: [Score<'a>; 2],
}

impl<'a> Scale<'a> {
    /// Returns those of which chosen captions have scores.
    pub(in crate::report::page) fn all(statistics: &'a Statistics) -> Vec<Self> {
        [Self::similarity(statistics), Self::matching(statistics)].into_iter().flatten().collect()
    }

    fn similarity(statistics: &'a Statistics) -> Option<Self> {
        let scores = [
            Score {
                name: "similarity",
                choice: "chosen caption",
                field: "v",
                by: "",
                histogram: &statistics.similarity,
            },
            Score {
                name: "org_similarity",
                choice: "original caption",
                field: "ov",
                by: " --by org_similarity",
                histogram: &statistics.org_similarity,
            },
        ];
        Some(Self {
            label: "Similarity of captions and images",
            thresholds: "Thresholds for round shares",
            bin_name: "similarity",
            cut: "cut",
            least: "--min-similarity ",
            run: "--min-similarity ",
            suffix: "-above-",
            axis: axis_of(&scores)?,
            scores,
        })
    }

    fn matching(statistics: &'a Statistics) -> Option<Self> {
        let scores = [
            Score {
                name: "itm",
                choice: "itm of chosen",
                field: "itm",
                by: " --by itm",
                histogram: &statistics.itm,
            },
            Score {
                name: "org_itm",
                choice: "itm of original",
                field: "oitm",
                by: " --by org_itm",
                histogram: &statistics.org_itm,
            },
        ];
        Some(Self {
            label: "Probability that captions and images match (itm)",
            thresholds: "Thresholds of itm for round shares",
            bin_name: "probability",
            cut: "cut-itm",
            least: "--min-itm ",
            run: "--set filter.min_itm=",
            suffix: "-itm-above-",
            axis: axis_of(&scores)?,
            scores,
        })
    }

    /// Returns the figure of both columns.
    pub(super) fn chart(&self) -> Chart<'static> {
        let [chosen, original] = &self.scores;
        Chart {
            label: self.label,
            bin_name: self.bin_name,
            bins: self.axis.bar_names(),
            series: [
                ("chosen captions", self.axis.bars(chosen.histogram)),
                ("original captions", self.axis.bars(original.histogram)),
            ],
            marks: self.axis.marks(),
            cut: Some(self.cut),
        }
    }

    /// Returns the columns that a threshold can be set on; without an output, those that a run can reject by.
    pub(super) fn choices(&self, has_output: bool) -> impl Iterator<Item = &Score<'a>> {
        let [chosen, original] = &self.scores;
        [Some(chosen), Some(original).filter(|score| has_output && score.histogram.scored > 0)]
            .into_iter()
            .flatten()
    }

    /// Adds what the script needs of the columns, by their names.
    pub(super) fn add_data(&self, has_output: bool, data: &mut Map<String, Value>) {
        // The threshold alone means the chosen caption's score.
        for (score, by) in self.choices(has_output).zip(["", self.scores[1].by]) {
            let histogram = score.histogram;
            let Some((first, last)) = histogram.range() else { continue };
            let start = histogram.bin_keeping(FIRST_SHARE).unwrap_or(first).max(self.axis.first);
            let values = json!({
                "axis": [self.axis.first, self.axis.last], "cut": self.cut, "field": score.field,
                "least": if has_output { self.least } else { self.run }, "by": by, "suffix": self.suffix,
                "first": first, "counts": histogram.counts((first, last)), "rows": histogram.scored + histogram.missing,
                "missing": histogram.missing, "start": start,
            });
            data.insert(score.name.to_owned(), values);
        }
    }
}

/// Returns the axis of both columns, if chosen captions have scores.
fn axis_of([chosen, original]: &[Score<'_>; 2]) -> Option<Axis> {
    Axis::of([chosen.histogram, original.histogram]).filter(|_| chosen.histogram.scored > 0)
}
