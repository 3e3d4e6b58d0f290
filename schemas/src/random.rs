//! The one seeded generator: scenes, sampled captions and training draw reproducible random numbers from it.
//!
//! A number depends on the seed alone, on every machine. Rows, datasets and weights follow from these numbers, so the
//! algorithm never changes. Random numbers that need not be reproducible (jitter of pauses, unique names) come from
//! `fastrand`.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). Cheap to copy; every state
/// starts a stream of 2^64 numbers.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns the generator in this state.
    #[must_use]
    pub const fn new(state: u64) -> Self {
        Self(state)
    }

    /// Returns the next 64 bits. The first number is a bijection of the state in which every input bit reaches every output
    /// bit, so it also serves as a hash of the state.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1), in steps of 2^-53.
    pub fn next_fraction(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number in 0..`n`, 0 for `n` = 0. Multiply and shift (Lemire 2019) without rejection: for `n` < 100 the
    /// probabilities are off by less than 2^-57.
    pub fn next_below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        let mut random = SplitMix64::new(1_234_567);
        let first: [u64; 3] = std::array::from_fn(|_| random.next_u64());
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn fractions_and_indices_stay_in_range() {
        let mut random = SplitMix64::new(7);
        for n in 1..1000 {
            assert!((0.0..1.0).contains(&random.next_fraction()));
            assert!(random.next_below(n) < n);
        }
        assert_eq!(random.next_below(0), 0);
    }
}
