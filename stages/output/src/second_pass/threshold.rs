//! The exact score of a rank, in two passes over a column and bounded memory.
//!
//! Numbers are ordered as integers (sign flipped, bits of negative ones inverted). A histogram of the upper 16 bits finds the
//! 65,536 adjacent numbers that contain the score of the rank, and a histogram of the lower 16 bits of these finds it
//! exactly (radix selection; Knuth, The Art of Computer Programming, volume 3). Nothing is estimated.

/// Buckets of either histogram: 16 bits.
const BUCKETS: usize = 1 << 16;

/// Returns an integer of the same order. Both zeros are one number.
fn ordered(number: f32) -> u32 {
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Returns the number of an [`ordered`] integer.
fn number(ordered: u32) -> f32 {
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

fn add(counts: &mut [u64], others: &[u64]) {
    counts.iter_mut().zip(others).for_each(|(count, other)| *count += other);
}

/// Returns the bucket of the `rank`-th largest number (1 is the largest), and the number of those in higher buckets.
fn locate(counts: &[u64], rank: u64) -> Option<(usize, u64)> {
    let mut above = 0;
    for (bucket, count) in counts.iter().enumerate().rev() {
        if above + count >= rank {
            return Some((bucket, above));
        }
        above += count;
    }
    None
}

/// First pass: a histogram of the scores' upper 16 bits.
#[derive(Clone, Debug)]
pub struct CoarseHistogram {
    counts: Vec<u64>,
    /// Number of rows with a score.
    pub scored: u64,
    /// Number of rows without one.
    pub missing: u64,
}

impl Default for CoarseHistogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], scored: 0, missing: 0 }
    }
}

impl CoarseHistogram {
    /// Counts one row's score. It must not be NaN.
    pub fn push(&mut self, score: Option<f32>) {
        match score {
            Some(score) => {
                self.counts[(ordered(score) >> 16) as usize] += 1;
                self.scored += 1;
            }
            None => self.missing += 1,
        }
    }

    /// Adds the counts of other rows.
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.counts, &other.counts);
        self.scored += other.scored;
        self.missing += other.missing;
    }

    /// Returns the empty histogram of the second pass, which finds the `rank`-th largest score (1 is the largest). Returns
    /// `None` when there are fewer scores, or `rank` is 0.
    #[must_use]
    pub fn refine(&self, rank: u64) -> Option<FineHistogram> {
        let (bucket, above) = locate(&self.counts, rank).filter(|_| rank > 0)?;
        Some(FineHistogram { bucket: bucket as u32, above, rank, counts: vec![0; BUCKETS] })
    }
}

/// Second pass: a histogram of the lower 16 bits of one bucket's scores.
#[derive(Clone, Debug)]
pub struct FineHistogram {
    bucket: u32,
    /// Scores in higher buckets.
    above: u64,
    rank: u64,
    counts: Vec<u64>,
}

impl FineHistogram {
    /// Counts one row's score. It must not be NaN.
    pub fn push(&mut self, score: f32) {
        let bits = ordered(score);
        if bits >> 16 == self.bucket {
            self.counts[(bits & 0xFFFF) as usize] += 1;
        }
    }

    /// Adds the counts of other rows. Both histograms must come from the same [`CoarseHistogram::refine`].
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.counts, &other.counts);
    }

    /// Returns the score of the rank, and the number of scores that are at least as large. Returns `None` when the second
    /// pass saw fewer scores than the first: the column changed in between.
    #[must_use]
    pub fn threshold(&self) -> Option<(f32, u64)> {
        let (low, above) = locate(&self.counts, self.rank - self.above)?;
        Some((number(self.bucket << 16 | low as u32), self.above + above + self.counts[low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(scores: &[f32], rank: u64) -> Option<(f32, u64)> {
        // Two histograms each, as the pipeline merges them.
        let (left, right) = scores.split_at(scores.len() / 2);
        let (mut coarse, mut other) = (CoarseHistogram::default(), CoarseHistogram::default());
        left.iter().for_each(|s| coarse.push(Some(*s)));
        right.iter().for_each(|s| other.push(Some(*s)));
        coarse.merge(&other);
        let mut fine = coarse.refine(rank)?;
        let mut other = fine.clone();
        left.iter().for_each(|s| fine.push(*s));
        right.iter().for_each(|s| other.push(*s));
        fine.merge(&other);
        fine.threshold()
    }

    #[test]
    fn integers_have_the_order_of_numbers() {
        let numbers = [
            f32::NEG_INFINITY,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            0.1,
            0.100_000_01,
            1.0,
            f32::MAX,
        ];
        assert!(numbers.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
        assert_eq!(ordered(-0.0), ordered(0.0));
        for n in numbers {
            assert_eq!(number(ordered(n)).to_bits(), n.to_bits());
        }
    }

    #[test]
    fn every_rank_equals_that_of_a_sort() {
        let mut state = 1_u32;
        let mut scores: Vec<f32> = (0..997)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Near neighbours, ties, both signs and both zeros.
                match i % 4 {
                    0 => f32::from_bits(0.25_f32.to_bits() + (state >> 16) % 50),
                    1 => (state >> 8) as f32 / (1 << 23) as f32 - 1.0,
                    2 => 0.0 * if state >> 31 == 0 { 1.0 } else { -1.0 },
                    _ => 0.25,
                }
            })
            .collect();
        let shuffled = scores.clone();
        scores.sort_by(|a, b| b.total_cmp(a));
        for rank in 1..=scores.len() {
            let wanted = scores[rank - 1];
            let at_least = scores.iter().filter(|s| **s >= wanted).count() as u64;
            assert_eq!(find(&shuffled, rank as u64), Some((wanted + 0.0, at_least)), "rank {rank}");
        }
        assert_eq!(find(&shuffled, 998), None);
        assert_eq!(find(&shuffled, 0), None);
        assert_eq!(find(&[], 1), None);
        assert_eq!(find(&[0.5; 7], 3), Some((0.5, 7)), "equal scores are all kept");
    }
}
