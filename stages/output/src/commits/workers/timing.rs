//! How often a worker shows that it lives, and looks at the others.
//!
//! On a file system all of it is nearly free. In a bucket every heartbeat and every listing is a request that costs money and
//! counts against the limits of one prefix, and there may be a thousand workers: heartbeats come less often, and the workers
//! are listed only when somebody needs to know, less often the more there are.

use std::time::Duration;

/// Shortest time between two listings of the workers of a file system for one that expired.
pub(super) const MIN_REFRESH: Duration = Duration::from_millis(250);
/// Heartbeats within the duration after which a worker counts as dead.
const HEARTBEATS: u32 = 4;
/// Longest time between two heartbeats on a file system.
const MAX_LOCAL_HEARTBEAT: Duration = Duration::from_secs(2);
/// Heartbeats without progress after which a living worker's shards are processed by idle workers too.
const STUCK_HEARTBEATS: u32 = 4;
/// Shortest time without progress of that kind.
const MIN_STUCK: Duration = Duration::from_secs(8);
/// Workers of a bucket that are listed once per heartbeat; more are listed less often.
const PEERS_PER_HEARTBEAT: usize = 250;

/// The durations of one worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// Time without heartbeat after which a worker counts as dead.
    pub(super) lease: Duration,
    is_local: bool,
}

impl Timing {
    pub(super) fn new(lease: Duration, is_local: bool) -> Self {
        Self { lease, is_local }
    }

    /// Returns the time between two heartbeats.
    pub(super) fn heartbeat(&self) -> Duration {
        let heartbeat = self.lease / HEARTBEATS;
        if self.is_local { heartbeat.min(MAX_LOCAL_HEARTBEAT) } else { heartbeat }
    }

    /// Returns the age from which a listing of this many other workers is too old to say that one of them lives.
    pub(super) fn listing(&self, peers: usize) -> Duration {
        let factor = peers.div_ceil(PEERS_PER_HEARTBEAT).max(1);
        let grown = self.heartbeat().saturating_mul(u32::try_from(factor).unwrap_or(u32::MAX));
        if self.is_local { self.heartbeat() } else { grown.min(self.lease.max(self.heartbeat())) }
    }

    /// Returns the time between two listings that nobody asked for: on a file system each heartbeat comes with one; in a bucket
    /// they keep the number of workers in the metrics from growing old.
    pub(super) fn background_listing(&self, peers: usize) -> Duration {
        if self.is_local { Duration::ZERO } else { self.listing(peers).saturating_mul(HEARTBEATS) }
    }

    /// Returns the time without progress after which a worker counts as stuck.
    pub(super) fn stuck_after(&self) -> Duration {
        (self.heartbeat() * STUCK_HEARTBEATS).max(MIN_STUCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_asked_less_often_the_more_workers_there_are() {
        let seconds = |duration: Duration| duration.as_secs_f64();
        let bucket = Timing::new(Duration::from_secs(60), false);
        assert_eq!(seconds(bucket.heartbeat()), 15.0);
        assert_eq!(
            [0, 250, 251, 1_000, 100_000].map(|n| seconds(bucket.listing(n))),
            [15.0, 15.0, 30.0, 60.0, 60.0]
        );
        assert_eq!(seconds(bucket.background_listing(1_000)), 240.0);
        assert_eq!(seconds(bucket.stuck_after()), 60.0);
        let local = Timing::new(Duration::from_secs(60), true);
        let all =
            [local.heartbeat(), local.listing(9_999), local.background_listing(9_999), local.stuck_after()];
        assert_eq!(all.map(seconds), [2.0, 2.0, 0.0, 8.0]);
    }
}
