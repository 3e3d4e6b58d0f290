//! Settings of requests to stores.

use std::time::Duration;

use crate::RetryPolicy;

/// Further attempts, timeouts and the least throughput of requests to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Further attempts since the last progress. Bytes that arrive are progress.
    pub retry: RetryPolicy,
    /// Longest wait for a response, or for the next bytes of a body.
    pub timeout: Duration,
    /// Least throughput of a body, in bytes per second, measured over `timeout`. A slower body counts as a timeout.
    pub min_bytes_per_second: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::new(8, Duration::from_millis(200), Duration::from_secs(15)),
            timeout: Duration::from_secs(30),
            min_bytes_per_second: 1024,
        }
    }
}
