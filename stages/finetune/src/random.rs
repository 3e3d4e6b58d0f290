//! Reproducible random numbers for shuffling, crops and initial weights.

/// A stream of random numbers: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Creates a stream of `seed`; different `stream`s of one seed are independent.
    #[must_use]
    pub fn new(seed: u64, stream: &[u64]) -> Self {
        let mut random = Self(seed);
        for part in stream {
            random.0 = random.bits().wrapping_add(*part);
        }
        random
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws a number in [0, 1), in steps of 2^-53.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws an integer in 0..n; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of a product (Lemire 2019): no measurable bias for any n that a list can have.
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
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
