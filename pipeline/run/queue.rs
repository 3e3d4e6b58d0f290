//! The shards that no reader has begun.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Numbers of shards, in the order in which they are begun.
pub struct Queue {
    waiting: Mutex<VecDeque<usize>>,
    /// In other workers' hands when it was their turn.
    elsewhere: Mutex<VecDeque<usize>>,
    mixed: AtomicBool,
}

impl Queue {
    /// All of `shards`.
    #[must_use]
    pub fn new(shards: impl IntoIterator<Item = usize>) -> Self {
        let waiting = Mutex::new(shards.into_iter().collect());
        Self { waiting, elsewhere: Mutex::default(), mixed: AtomicBool::new(false) }
    }

    /// The next one.
    pub fn take(&self) -> Option<usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Goes on in another order, once it is known that other workers do the same shards: those that began together would
    /// want every shard at the same time.
    pub fn mix(&self) {
        if self.mixed.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        fastrand::shuffle(waiting.make_contiguous());
    }

    /// Puts one back that is in another worker's hands.
    pub fn defer(&self, shard: usize) {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).push_back(shard);
    }

    /// The next of those that were put back.
    pub fn take_deferred(&self) -> Option<usize> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
