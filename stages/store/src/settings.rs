//! How stores are spoken to.

use std::time::Duration;

/// Further attempts and waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Further attempts since the last that went well; bytes that arrive count as well.
    pub retries: u32,
    /// Time in which an answer, or the next bytes of one, are due.
    pub timeout: Duration,
    /// Least throughput of an object that is read, over as long as an answer may take; slower is as good as silent.
    pub min_bytes_per_second: u64,
    /// Longest pause before the second attempt; every later one may be twice as long. The pause is a random share of it.
    pub first_pause: Duration,
    /// Longest pause of all.
    pub longest_pause: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retries: 8,
            timeout: Duration::from_secs(30),
            min_bytes_per_second: 1024,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
        }
    }
}
