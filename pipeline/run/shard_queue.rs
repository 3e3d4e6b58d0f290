//! The shards that no reader has begun.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Numbers of shards, in the order in which they are begun.
pub(crate) struct ShardQueue {
    waiting: Mutex<VecDeque<usize>>,
    /// Claimed by other workers when it was their turn.
    deferred: Mutex<VecDeque<usize>>,
    shuffled: AtomicBool,
}

impl ShardQueue {
    /// Creates a queue of all of `shards`.
    #[must_use]
    pub(crate) fn new(shards: impl IntoIterator<Item = usize>) -> Self {
        let waiting = Mutex::new(shards.into_iter().collect());
        Self { waiting, deferred: Mutex::default(), shuffled: AtomicBool::new(false) }
    }

    /// Takes the next shard.
    pub(crate) fn take(&self) -> Option<usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Shuffles what is left, once: called when other workers turn out to process the same shards, since workers that started
    /// together would otherwise want every shard at the same time.
    pub(crate) fn shuffle_remaining(&self) {
        if self.shuffled.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        fastrand::shuffle(waiting.make_contiguous());
    }

    /// Returns the number of shards that nobody has begun.
    pub(crate) fn len(&self) -> usize {
        let len =
            |shards: &Mutex<VecDeque<usize>>| shards.lock().unwrap_or_else(PoisonError::into_inner).len();
        len(&self.waiting) + len(&self.deferred)
    }

    /// Defers a shard that another worker claims.
    pub(crate) fn defer(&self, shard: usize) {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner).push_back(shard);
    }

    /// Takes the next deferred shard.
    pub(crate) fn take_deferred(&self) -> Option<usize> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
