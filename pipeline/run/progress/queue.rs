//! How full a queue between two stages is.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The length of a queue, as its receiver saw it last, and its capacity.
#[derive(Debug, Default)]
pub struct QueueGauge {
    length: AtomicUsize,
    capacity: AtomicUsize,
}

impl QueueGauge {
    /// Sets the length.
    pub fn set(&self, length: usize) {
        self.length.store(length, Relaxed);
    }

    /// Sets the capacity.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
    }

    /// Returns the length.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// Returns the capacity; 0 as long as there is no queue.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }
}

/// `12/64`: length and capacity.
impl fmt::Display for QueueGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.length(), self.capacity())
    }
}
