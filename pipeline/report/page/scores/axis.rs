//! The axis of a kind of score, over bins of 0.001.

use crate::report::histogram::{SimilarityHistogram, edge_text};

/// Steps of the axis, in bins of 0.001.
const MARK_STEPS: [usize; 8] = [5, 10, 20, 50, 100, 200, 500, 1000];
/// Intervals between marks, at most: seven marks fit at 400 px.
const MAX_INTERVALS: usize = 6;
/// The bin of a score of 1.
const LAST_BIN: usize = 2000;
/// Bars, at most.
const MAX_BARS: usize = 100;

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
            // Every step divides the last bin, that of a score of 1, which is drawn in the bar before it.
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

    /// Returns the counts of a column, bar by bar.
    pub(super) fn bars(self, column: &SimilarityHistogram) -> Vec<u64> {
        let below = |bin: usize| if bin >= self.last { 0 } else { column.at_least(bin) };
        let edges: Vec<u64> = (self.first..=self.last).step_by(self.bar()).map(below).collect();
        edges.windows(2).map(|pair| pair[0] - pair[1]).collect()
    }

    /// Returns the names of the bars.
    pub(super) fn bar_names(self) -> Vec<String> {
        let bar = self.bar();
        let name = |bin: usize| format!("{} to {}", edge_text(bin), edge_text(bin + bar));
        (self.first..self.last).step_by(bar).map(name).collect()
    }

    /// Returns the marks, from the axis's begin to its end.
    pub(super) fn marks(self) -> Vec<String> {
        let mark = |bin: usize| {
            let text = edge_text(bin);
            text.strip_suffix('0').map_or(text.clone(), str::to_owned)
        };
        (self.first..=self.last).step_by(self.step).map(mark).collect()
    }
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
            assert_eq!(bars.len(), axis.bar_names().len());
            assert!(bars.len() <= MAX_BARS && axis.bins().is_multiple_of(axis.step), "{axis:?}");
            assert!(axis.bins() / axis.step <= MAX_INTERVALS, "{axis:?}");
            assert_eq!(bars.iter().sum::<u64>(), scores.len() as u64, "{scores:?} {axis:?}");
        }
    }
}
