//! The shards that no reader has begun.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Numbers of shards, in the order in which they are begun.
pub struct Queue {
    waiting: Mutex<VecDeque<usize>>,
}

impl Queue {
    /// All of `shards`.
    #[must_use]
    pub fn new(shards: impl IntoIterator<Item = usize>) -> Self {
        Self { waiting: Mutex::new(shards.into_iter().collect()) }
    }

    /// The next one.
    pub fn take(&self) -> Option<usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Goes on in another order, once it is known that other workers do the same shards: those that began together would
    /// do everything twice.
    pub fn mix(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        fastrand::shuffle(waiting.make_contiguous());
    }
}
