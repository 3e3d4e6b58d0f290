//! What the caption workers of a run do, counted while they work.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use recaption_messages::Histogram;

/// Upper bounds of the buckets of durations of model calls, seconds.
const CALL_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// A step is not busy if images were missing for more than one in this many slots.
const STARVED_SHARE: usize = 4;

/// Counts of all caption workers of a run. They share one of these.
#[derive(Debug)]
pub struct CaptionCounters {
    /// Images that became results.
    pub images: AtomicU64,
    /// Bytes of pixels that the captioner's image encoder took.
    pub pixel_bytes: AtomicU64,
    /// Tokens of finished candidates, end tokens included.
    pub tokens: AtomicU64,
    /// Slots with an image in them, summed over the decoder's steps.
    pub slots_used: AtomicU64,
    /// All slots, summed over the decoder's steps.
    pub slots_offered: AtomicU64,
    /// Duration of the captioner's image encoder's calls.
    pub image_encoder: Histogram,
    /// Duration of the decoder's steps, token selection included.
    pub decoder_step: Histogram,
    /// Duration of the scorer's calls.
    pub scorer: Histogram,
    /// Nanoseconds of steps for which images were missing.
    starved: AtomicU64,
    /// Number of workers.
    workers: AtomicUsize,
    /// Whether encoder, generator and scorer have threads of their own.
    is_threaded: AtomicBool,
}

impl Default for CaptionCounters {
    fn default() -> Self {
        let histogram = || Histogram::new(CALL_BOUNDS);
        Self {
            images: AtomicU64::new(0),
            pixel_bytes: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            slots_used: AtomicU64::new(0),
            slots_offered: AtomicU64::new(0),
            image_encoder: histogram(),
            decoder_step: histogram(),
            scorer: histogram(),
            starved: AtomicU64::new(0),
            workers: AtomicUsize::new(1),
            is_threaded: AtomicBool::new(false),
        }
    }
}

impl CaptionCounters {
    /// Sets the number of workers that share the counters.
    pub fn set_workers(&self, workers: usize) {
        self.workers.store(workers, Relaxed);
    }

    /// Returns for how many seconds the workers were busy, on average: with images in more than three quarters of their slots,
    /// or encoding, or scoring. Where these have threads of their own, the busiest of the three counts.
    #[must_use]
    pub fn busy_seconds(&self) -> f64 {
        let starved = Duration::from_nanos(self.starved.load(Relaxed)).as_secs_f64();
        let generate = (self.decoder_step.seconds() - starved).max(0.0);
        let (encode, score) = (self.image_encoder.seconds(), self.scorer.seconds());
        let all = if self.is_threaded.load(Relaxed) {
            encode.max(generate).max(score)
        } else {
            encode + generate + score
        };
        all / self.workers.load(Relaxed).max(1) as f64
    }

    pub(crate) fn set_threaded(&self, is_threaded: bool) {
        self.is_threaded.store(is_threaded, Relaxed);
    }

    pub(crate) fn count_step(&self, duration: Duration, (used, offered): (usize, usize), is_starved: bool) {
        self.decoder_step.observe(duration);
        self.slots_used.fetch_add(used as u64, Relaxed);
        self.slots_offered.fetch_add(offered as u64, Relaxed);
        if is_starved && (offered - used.min(offered)) * STARVED_SHARE > offered {
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            self.starved.fetch_add(nanoseconds, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(counters: &CaptionCounters) -> f64 {
        (counters.busy_seconds() * 1000.0).round() / 1000.0
    }

    #[test]
    fn steps_that_lack_images_are_not_busy() {
        let counters = CaptionCounters::default();
        counters.set_workers(2);
        let second = Duration::from_secs(1);
        counters.count_step(second, (32, 32), true);
        counters.count_step(second, (24, 32), true);
        assert_eq!(seconds(&counters), 1.0, "a quarter may be free, of two workers");
        counters.count_step(second, (23, 32), true);
        counters.count_step(second, (0, 0), true);
        assert_eq!(seconds(&counters), 1.5, "more may not");
        counters.count_step(second, (1, 32), false);
        assert_eq!(seconds(&counters), 2.0, "slots are free although images wait");
        assert_eq!(counters.slots_used.load(Relaxed), 80);
        assert_eq!(counters.slots_offered.load(Relaxed), 128);
    }

    #[test]
    fn busiest_thread_counts_where_there_are_several() {
        let counters = CaptionCounters::default();
        counters.image_encoder.observe(Duration::from_secs(5));
        counters.scorer.observe(Duration::from_secs(1));
        counters.count_step(Duration::from_secs(3), (1, 1), false);
        assert_eq!(seconds(&counters), 9.0);
        counters.set_threaded(true);
        assert_eq!(seconds(&counters), 5.0);
    }
}
