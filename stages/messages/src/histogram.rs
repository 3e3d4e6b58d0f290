//! Durations, counted by size.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts durations in buckets. Observing costs two relaxed additions.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds of the buckets, seconds, ascending. A last bucket without a bound follows.
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

/// What a histogram counted.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramCounts {
    /// Upper bound of each bucket, seconds, and the number of durations up to it: cumulative.
    pub buckets: Vec<(f64, u64)>,
    /// Number of durations.
    pub count: u64,
    /// Their sum, seconds.
    pub seconds: f64,
}

impl Histogram {
    /// Creates an empty histogram with these upper bounds of buckets, seconds, ascending.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, nanoseconds: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Returns the sum of the durations, seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64()
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        let mut count = 0;
        let mut add = |bucket: &AtomicU64| {
            count += bucket.load(Relaxed);
            count
        };
        let buckets = self.bounds.iter().zip(&self.buckets).map(|(bound, n)| (*bound, add(n))).collect();
        if let Some(last) = self.buckets.last() {
            add(last);
        }
        HistogramCounts { buckets, count, seconds: self.seconds() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_hold_their_bounds() {
        let histogram = Histogram::new(&[0.01, 0.1]);
        for milliseconds in [5, 10, 11, 100, 5000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let counts = histogram.counts();
        assert_eq!(counts.buckets, [(0.01, 2), (0.1, 4)]);
        assert_eq!(counts.count, 5);
        assert!((counts.seconds - 5.126).abs() < 1e-9, "{}", counts.seconds);
    }
}
