//! How stores are spoken to.

use std::time::Duration;

/// Further attempts and waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Further attempts since the last that went well; bytes that arrive count as well.
    pub retries: u32,
    /// Time in which an answer, or the next bytes of one, are due.
    pub timeout: Duration,
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
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
        }
    }
}
