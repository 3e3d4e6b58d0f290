//! The bound on image bytes in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the budget, bytes.
const UNIT_BYTES: usize = 1024;

/// Bytes that samples may hold between the reader and the decoder. Clones share one budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

impl ByteBudget {
    /// Creates a budget of `bytes`, rounded down to KiB, at least 1 KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits for room for `bytes`. A sample larger than the whole budget takes all of it. The permit returns its share
    /// when it is dropped; `None` never comes while the budget exists.
    pub async fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        Arc::clone(&self.semaphore).acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sample_larger_than_the_budget_takes_all_of_it() {
        let budget = ByteBudget::new(4096);
        let permit = budget.acquire(1 << 30).await.expect("a permit");
        assert_eq!(permit.num_permits(), 4);
        assert!(Arc::clone(&budget.semaphore).try_acquire_owned().is_err(), "nothing is left");
        drop(permit);
        assert_eq!(budget.acquire(1).await.expect("a permit").num_permits(), 1);
    }
}
