//! Histogram of similarities in bins of 0.001, in which every bin's edge is a threshold that `recaption filter` takes.

/// Bins per unit of similarity.
const BINS_PER_UNIT: usize = 1000;
/// Bins from -1 to 1; the last one holds 1 alone.
const BINS: usize = 2 * BINS_PER_UNIT + 1;

/// Returns the lower edge of a bin, equal to what `recaption filter` parses from its three decimals.
pub(super) fn edge(bin: usize) -> f32 {
    ((bin as f64 - BINS_PER_UNIT as f64) / BINS_PER_UNIT as f64) as f32
}

/// Returns the lower edge of a bin as text with three decimals.
pub(super) fn edge_text(bin: usize) -> String {
    format!("{:.3}", (bin as f64 - BINS_PER_UNIT as f64) / BINS_PER_UNIT as f64)
}

/// Counts of similarities. Exact at every edge: a score that equals an edge is in the bin above it.
#[derive(Clone, Debug)]
pub(super) struct SimilarityHistogram {
    bins: Vec<u64>,
    /// Rows with a score.
    pub(super) scored: u64,
    /// Rows without one.
    pub(super) missing: u64,
    sum: f64,
}

impl Default for SimilarityHistogram {
    fn default() -> Self {
        Self { bins: vec![0; BINS], scored: 0, missing: 0, sum: 0.0 }
    }
}

impl SimilarityHistogram {
    /// Counts a score; one that is not a number is missing.
    pub(super) fn push(&mut self, score: Option<f32>) {
        let Some(score) = score.filter(|score| score.is_finite()) else {
            self.missing += 1;
            return;
        };
        let at = ((f64::from(score) + 1.0) * BINS_PER_UNIT as f64).floor().clamp(0.0, (BINS - 1) as f64);
        let mut bin = at as usize;
        while bin > 0 && score < edge(bin) {
            bin -= 1;
        }
        while bin + 1 < BINS && score >= edge(bin + 1) {
            bin += 1;
        }
        self.bins[bin] += 1;
        self.scored += 1;
        self.sum += f64::from(score);
    }

    /// Returns the mean, `None` without scores.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.sum / self.scored as f64)
    }

    /// Returns the first and the last bin that is not empty.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let first = self.bins.iter().position(|n| *n > 0)?;
        Some((first, self.bins.iter().rposition(|n| *n > 0)?))
    }

    /// Returns the counts of some bins.
    pub(super) fn counts(&self, (first, last): (usize, usize)) -> &[u64] {
        &self.bins[first..=last]
    }

    /// Returns the number of scores at or above the edge of a bin.
    pub(super) fn at_least(&self, bin: usize) -> u64 {
        self.bins.iter().skip(bin).sum()
    }

    /// Returns the highest bin at whose edge at least `share` of all rows stay.
    pub(super) fn bin_keeping(&self, share: f64) -> Option<usize> {
        let (first, last) = self.range()?;
        let wanted = share * (self.scored + self.missing) as f64;
        let mut kept = 0;
        for bin in (first..=last).rev() {
            kept += self.bins[bin];
            if kept as f64 >= wanted {
                return Some(bin);
            }
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_at_every_edge_are_those_of_a_comparison() {
        let mut random = recaption_schemas::SplitMix64::new(3);
        let mut scores: Vec<f32> = (0..20_000).map(|_| (random.next_fraction() * 2.0 - 1.0) as f32).collect();
        scores.extend((0..BINS).map(edge));
        scores.extend([-1.0, 1.0, 0.0, -0.0, 0.25, 0.25 - f32::EPSILON / 8.0]);
        let mut histogram = SimilarityHistogram::default();
        scores.iter().for_each(|score| histogram.push(Some(*score)));
        histogram.push(None);
        histogram.push(Some(f32::NAN));
        assert_eq!((histogram.scored, histogram.missing), (scores.len() as u64, 2));
        for bin in (0..BINS).step_by(7).chain([BINS - 1]) {
            let least = edge_text(bin).parse::<f64>().expect("a number") as f32;
            let expected = scores.iter().filter(|score| **score >= least).count() as u64;
            assert_eq!(histogram.at_least(bin), expected, "at {least}");
        }
        assert_eq!(histogram.bin_keeping(1.0), Some(0));
    }
}
