//! What the writing stage does: the collector, and the shards that it has handed to their writers.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use recaption_messages::{BusyClock, Histogram, Working};

/// Upper bounds of the buckets of commit durations, seconds.
const COMMIT_BOUNDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counts of the writing stage. It is busy while its collector works or waits for the writer of a shard, and as far as the places
/// for open shards are taken by shards that are being committed.
#[derive(Debug)]
pub struct WriteMeter {
    collecting: BusyClock,
    committing: BusyClock,
    commits: Histogram,
    open: AtomicUsize,
    bytes: AtomicU64,
}

impl Default for WriteMeter {
    fn default() -> Self {
        Self {
            collecting: BusyClock::new(1),
            committing: BusyClock::default(),
            commits: Histogram::new(COMMIT_BOUNDS),
            open: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl WriteMeter {
    /// Sets the number of places for open shards.
    pub fn set_places(&self, places: usize) {
        self.committing.set_workers(places);
    }

    /// How busy the collector is.
    #[must_use]
    pub fn collector(&self) -> &BusyClock {
        &self.collecting
    }

    /// Counts a shard as open until the guard is dropped.
    #[must_use]
    pub fn open(&self) -> OpenShardGuard<'_> {
        self.open.fetch_add(1, Relaxed);
        OpenShardGuard(self)
    }

    /// Counts a shard as being committed until the guard is dropped or done.
    #[must_use]
    pub fn commit(&self) -> CommitGuard<'_> {
        CommitGuard { meter: self, began: Instant::now(), _working: self.committing.work() }
    }

    /// Shards that were begun and have not ended.
    #[must_use]
    pub fn open_shards(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Bytes of the parts that were committed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Durations of commits.
    #[must_use]
    pub fn commits(&self) -> &Histogram {
        &self.commits
    }

    /// Seconds of a fully busy stage.
    #[must_use]
    pub fn busy_seconds(&self) -> f64 {
        self.collecting.seconds().max(self.committing.seconds())
    }
}

/// An open shard.
#[derive(Debug)]
pub struct OpenShardGuard<'a>(&'a WriteMeter);

impl Drop for OpenShardGuard<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A shard that is being committed.
#[derive(Debug)]
pub struct CommitGuard<'a> {
    meter: &'a WriteMeter,
    began: Instant,
    _working: Working<'a>,
}

impl CommitGuard<'_> {
    /// Counts the commit of parts of this many bytes, and its duration.
    pub fn done(self, bytes: u64) {
        self.meter.commits.observe(self.began.elapsed());
        self.meter.bytes.fetch_add(bytes, Relaxed);
    }
}
