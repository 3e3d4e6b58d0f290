//! Ends the reading of a run after some number of samples: `run --limit`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The limit. Shards are read one after the other, since only a shard that was read to its end is counted: which shards are
/// begun must not depend on timing. Captioning goes on meanwhile.
#[derive(Debug)]
pub(crate) struct ReadLimit {
    samples: u64,
    read: Arc<Mutex<u64>>,
    is_reached: AtomicBool,
}

/// The right to read the next shard.
#[derive(Debug)]
pub(super) struct Turn(OwnedMutexGuard<u64>);

impl ReadLimit {
    /// Allows shards to be begun until this many samples were read.
    #[must_use]
    pub(crate) fn new(samples: u64) -> Self {
        Self { samples, read: Arc::default(), is_reached: AtomicBool::new(false) }
    }

    /// Waits until no shard is being read; returns `None` once enough samples were.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let read = Arc::clone(&self.read).lock_owned().await;
        if *read >= self.samples {
            self.is_reached.store(true, Relaxed);
            return None;
        }
        Some(Turn(read))
    }

    /// Returns whether a shard was not begun because enough samples were read.
    pub(super) fn is_reached(&self) -> bool {
        self.is_reached.load(Relaxed)
    }
}

impl Turn {
    /// Counts the samples of the shard that was read, and ends the turn.
    pub(super) fn end(mut self, samples: u64) {
        *self.0 = self.0.saturating_add(samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shards_are_begun_until_enough_samples_were_read() {
        let limit = ReadLimit::new(10);
        for samples in [4, 0, 5, 3] {
            assert!(!limit.is_reached());
            limit.turn().await.expect("a turn").end(samples);
        }
        assert!(limit.turn().await.is_none(), "12 samples were read");
        assert!(limit.is_reached());
    }

    #[tokio::test]
    async fn next_shard_waits_for_the_count_of_the_one_before() {
        let limit = Arc::new(ReadLimit::new(1));
        let first = limit.turn().await.expect("a turn");
        let second = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move { limit.turn().await.is_none() }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "the first shard is not counted yet");
        first.end(1);
        assert!(second.await.expect("no panic"), "one sample is enough");
    }
}
