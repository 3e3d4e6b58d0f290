//! How far computed rows are from the rows that they should equal.

/// Differences of rows, the worst of all that were added. A value that is not a number is the worst of all, so no bound
/// holds for it.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Largest absolute difference.
    pub difference: f32,
    /// Smallest cosine of a row and its reference.
    pub cosine: f32,
    /// Largest absolute difference in standard deviations of the reference's row. One wrong number in a row of thousands
    /// hardly moves the cosine, but it shows here.
    pub deviation: f32,
    /// Rows compared.
    pub rows: usize,
    /// Rows of unequal length, which cannot be compared.
    pub misfits: usize,
    /// Root of the mean square of all differences, in standard deviations of the reference's rows. The steadiest measure of all:
    /// rounding makes it, and a wrong constant adds to it in every row.
    pub error: f32,
    squares: f64,
    values: usize,
}

impl Comparison {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Self {
            difference: 0.0,
            cosine: f32::INFINITY,
            deviation: 0.0,
            rows: 0,
            misfits: 0,
            error: 0.0,
            squares: 0.0,
            values: 0,
        }
    }

    /// Compares rows of `width` numbers.
    pub fn of_rows(got: &[f32], want: &[f32], width: usize) -> Self {
        let mut comparison = Self::new();
        if got.len() != want.len() || width == 0 || !want.len().is_multiple_of(width) {
            comparison.misfits += 1;
            return comparison;
        }
        for (got, want) in got.chunks_exact(width).zip(want.chunks_exact(width)) {
            comparison.add(got, want);
        }
        comparison
    }

    /// Adds a row.
    pub fn add(&mut self, got: &[f32], want: &[f32]) {
        if got.len() != want.len() {
            self.misfits += 1;
            return;
        }
        let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, worst);
        if difference != 0.0 {
            let unit = standard_deviation(want);
            self.deviation = worst(self.deviation, difference / unit);
            let square = |(a, b): (&f32, &f32)| f64::from((a - b) / unit).powi(2);
            self.squares += got.iter().zip(want).map(square).sum::<f64>();
        }
        self.values += want.len();
        self.error = (self.squares / self.values as f64).sqrt() as f32;
        self.difference = worst(self.difference, difference);
        self.cosine = least(self.cosine, cosine(got, want));
        self.rows += 1;
    }

    /// Whether anything was compared, and everything could be.
    pub fn is_complete(&self) -> bool {
        self.rows > 0 && self.misfits == 0
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.misfits > 0 {
            return f.write_str("the model computed another number of values");
        }
        write!(
            f,
            "{} rows, max abs difference {:.2e} ({:.4} standard deviations, {:.5} on average), smallest cosine {:.7}",
            self.rows, self.difference, self.deviation, self.error, self.cosine
        )
    }
}

/// The larger of two differences; not a number wins and stays, so that no comparison with it passes.
pub fn worst(m: f32, d: f32) -> f32 {
    if m.is_nan() || d <= m { m } else { d }
}

/// The smaller of two cosines, likewise.
pub fn least(m: f32, c: f32) -> f32 {
    if m.is_nan() || c >= m { m } else { c }
}

/// Cosine of two vectors; not a number when one of them is zero or has a number that is none.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// Standard deviation of a row's numbers.
pub fn standard_deviation(row: &[f32]) -> f32 {
    let n = row.len() as f64;
    let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let square = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    square.sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_wrong_number_shows_in_the_deviation() {
        let want: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut got = want.clone();
        got[500] += 1.0;
        let comparison = Comparison::of_rows(&got, &want, 1000);
        assert!(comparison.cosine > 0.998 && comparison.deviation > 1.0, "{comparison}");
        assert!(comparison.is_complete() && (comparison.difference - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nan_is_never_within_a_bound() {
        let comparison = Comparison::of_rows(&[1.0, f32::NAN, 1.0, 2.0], &[1.0, 2.0, 1.0, 2.0], 2);
        assert!(
            comparison.difference.is_nan() && comparison.cosine.is_nan() && comparison.deviation.is_nan()
        );
        // Also not in the reference.
        let comparison = Comparison::of_rows(&[1.0, 2.0], &[f32::NAN, 2.0], 2);
        assert!(
            comparison.difference.is_nan() && comparison.cosine.is_nan() && comparison.deviation.is_nan()
        );
    }

    #[test]
    fn nothing_and_unequal_lengths_are_incomplete() {
        assert!(!Comparison::new().is_complete());
        assert!(!Comparison::of_rows(&[1.0], &[1.0, 2.0], 1).is_complete());
    }
}
