//! Reproducible random numbers for shuffling, crops and initial weights.

use recaption_schemas::SplitMix64;

/// A stream of random numbers of a seed: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(SplitMix64);

impl Random {
    /// Creates a stream of `seed`; different `stream`s of one seed are independent.
    #[must_use]
    pub fn new(seed: u64, stream: &[u64]) -> Self {
        let mut random = SplitMix64::new(seed);
        for part in stream {
            random = SplitMix64::new(random.next_u64().wrapping_add(*part));
        }
        Self(random)
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws a number in [0, 1), in steps of 2^-53.
    pub fn fraction(&mut self) -> f64 {
        self.0.next_fraction()
    }

    /// Draws an integer in 0..n; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.next_below(n)
    }

    /// Draws from the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.fraction()).cos()
    }

    /// Shuffles `items` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
