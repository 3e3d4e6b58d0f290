//! Differences between computed rows and their references.

/// The largest differences of all rows that were added. NaN counts as larger than any difference, so no bound holds for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison {
    /// Largest absolute difference.
    pub(crate) difference: f32,
    /// Smallest cosine of a row and its reference.
    pub(crate) cosine: f32,
    /// Largest absolute difference in standard deviations of the reference's row. Unlike the cosine, it shows one wrong number
    /// among thousands.
    pub(crate) deviation: f32,
    /// Rows compared.
    pub(crate) rows: usize,
    /// Rows of unequal length, which cannot be compared.
    pub(crate) mismatched: usize,
    /// Root mean square of all differences, in standard deviations of the reference's rows. It varies least with rounding, and a
    /// wrong constant increases it in every row.
    pub(crate) error: f32,
    squares: f64,
    values: usize,
}

impl Comparison {
    /// Starts without any rows.
    pub(crate) fn new() -> Self {
        Self {
            difference: 0.0,
            cosine: f32::INFINITY,
            deviation: 0.0,
            rows: 0,
            mismatched: 0,
            error: 0.0,
            squares: 0.0,
            values: 0,
        }
    }

    /// Compares rows of `width` numbers.
    pub(crate) fn of_rows(got: &[f32], want: &[f32], width: usize) -> Self {
        let mut comparison = Self::new();
        if got.len() != want.len() || width == 0 || !want.len().is_multiple_of(width) {
            comparison.mismatched += 1;
            return comparison;
        }
        for (got, want) in got.chunks_exact(width).zip(want.chunks_exact(width)) {
            comparison.add(got, want);
        }
        comparison
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, got: &[f32], want: &[f32]) {
        if got.len() != want.len() {
            self.mismatched += 1;
            return;
        }
        let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, max_or_nan);
        if difference != 0.0 {
            let unit = standard_deviation(want);
            self.deviation = max_or_nan(self.deviation, difference / unit);
            let square = |(a, b): (&f32, &f32)| f64::from((a - b) / unit).powi(2);
            self.squares += got.iter().zip(want).map(square).sum::<f64>();
        }
        self.values += want.len();
        self.error = (self.squares / self.values as f64).sqrt() as f32;
        self.difference = max_or_nan(self.difference, difference);
        self.cosine = min_or_nan(self.cosine, cosine(got, want));
        self.rows += 1;
    }

    /// Returns whether anything was compared, and nothing could not be.
    pub(crate) fn is_complete(&self) -> bool {
        self.rows > 0 && self.mismatched == 0
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.mismatched > 0 {
            return f.write_str("the number of computed values differs");
        }
        write!(
            f,
            "{} rows, max abs difference {:.2e} ({:.4} standard deviations, {:.5} on average), smallest cosine {:.7}",
            self.rows, self.difference, self.deviation, self.error, self.cosine
        )
    }
}

/// Returns the larger of two differences, NaN if either is NaN.
pub(crate) fn max_or_nan(m: f32, d: f32) -> f32 {
    if m.is_nan() || d <= m { m } else { d }
}

/// Returns the smaller of two cosines, NaN if either is NaN.
pub(crate) fn min_or_nan(m: f32, c: f32) -> f32 {
    if m.is_nan() || c >= m { m } else { c }
}

/// Returns the cosine of two vectors, NaN if one of them is zero or holds a NaN.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// Returns the standard deviation of a row.
pub(crate) fn standard_deviation(row: &[f32]) -> f32 {
    let n = row.len() as f64;
    let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let square = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    square.sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_wrong_number_shows_in_the_deviation() {
        let want: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut got = want.clone();
        got[500] += 1.0;
        let comparison = Comparison::of_rows(&got, &want, 1000);
        assert!(comparison.cosine > 0.998 && comparison.deviation > 1.0, "{comparison}");
        assert!(comparison.is_complete() && (comparison.difference - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nan_makes_all_measures_nan() {
        let comparison = Comparison::of_rows(&[1.0, f32::NAN, 1.0, 2.0], &[1.0, 2.0, 1.0, 2.0], 2);
        assert!(
            comparison.difference.is_nan() && comparison.cosine.is_nan() && comparison.deviation.is_nan()
        );
        // In the reference too.
        let comparison = Comparison::of_rows(&[1.0, 2.0], &[f32::NAN, 2.0], 2);
        assert!(
            comparison.difference.is_nan() && comparison.cosine.is_nan() && comparison.deviation.is_nan()
        );
    }

    #[test]
    fn no_rows_and_unequal_lengths_are_incomplete() {
        assert!(!Comparison::new().is_complete());
        assert!(!Comparison::of_rows(&[1.0], &[1.0, 2.0], 1).is_complete());
    }
}
