//! Random numbers that depend on a seed alone: shuffling, crops, initial weights.

use recaption_schemas::SplitMix64;

/// Random numbers of a seed and a purpose.
#[derive(Clone, Debug)]
pub struct Random(SplitMix64);

impl Random {
    /// Of a seed and what it is for: different `stream`s of one seed have nothing in common.
    #[must_use]
    pub fn new(seed: u64, stream: &[u64]) -> Self {
        let mut random = SplitMix64::new(seed);
        for part in stream {
            random = SplitMix64::new(random.next_u64().wrapping_add(*part));
        }
        Self(random)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// In [0, 1).
    pub fn fraction(&mut self) -> f64 {
        self.0.next_fraction()
    }

    /// In 0..n; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.next_below(n)
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.fraction()).cos()
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
