//! Stops a run in which too many samples fail: `run.max_failure_ratio`.

use std::collections::{BTreeMap, HashMap};

use recaption_messages::SampleOutcome;
use recaption_schemas::RejectReason;

/// Samples that must have ended before a ratio of failures counts.
const MIN_SAMPLES: u64 = 1000;
/// Shards whose tallies are kept. Of more, those with the most failures: only the worst one matters.
const MAX_SHARDS: usize = 4096;

/// Too many samples failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{failed} of {ended} samples failed ({reasons}), more than run.max_failure_ratio = {limit} allows: something is wrong \
     with the inputs, the model or the connection to them. Committed shards stay; after a repair `recaption retry` redoes those \
     with transient failures, and a larger run.max_failure_ratio (1 is off) continues as it is"
)]
pub(super) struct TooManyFailures {
    failed: u64,
    ended: u64,
    limit: f64,
    reasons: String,
}

/// Samples of a shard, or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ended: u64,
    failed: u64,
}

impl Tally {
    fn exceeds(self, limit: f64) -> bool {
        self.failed as f64 > limit * self.ended as f64
    }
}

/// Counts samples that failed in decoding, transport or a model; never those that a filter rejects.
#[derive(Debug)]
pub(crate) struct FailureGuard {
    limit: f64,
    all: Tally,
    shards: HashMap<usize, Tally>,
    reasons: BTreeMap<RejectReason, u64>,
}

impl FailureGuard {
    /// Allows this share of failed samples, 0 to 1.
    #[must_use]
    pub(crate) fn new(limit: f64) -> Self {
        Self { limit, all: Tally::default(), shards: HashMap::new(), reasons: BTreeMap::new() }
    }

    /// Counts a sample that ended.
    ///
    /// # Errors
    /// When enough samples ended, too many of them failed, and not in one shard alone.
    pub(super) fn count(&mut self, shard: usize, outcome: &SampleOutcome) -> Result<(), TooManyFailures> {
        let failure = match outcome {
            SampleOutcome::Reject(reject) if reject.reason.is_failure() => Some(reject.reason),
            _ => None,
        };
        if self.shards.len() >= MAX_SHARDS && !self.shards.contains_key(&shard) {
            self.forget_good_shards();
        }
        let one = self.shards.entry(shard).or_default();
        for tally in [&mut self.all, one] {
            tally.ended += 1;
            tally.failed += u64::from(failure.is_some());
        }
        let Some(reason) = failure else { return Ok(()) };
        *self.reasons.entry(reason).or_default() += 1;
        if self.all.ended < MIN_SAMPLES || !self.all.exceeds(self.limit) {
            return Ok(());
        }
        // A single bad shard is no evidence about the run: the others must be as bad.
        let worst = self.shards.values().max_by_key(|tally| tally.failed).copied().unwrap_or_default();
        let others = Tally { ended: self.all.ended - worst.ended, failed: self.all.failed - worst.failed };
        if !others.exceeds(self.limit) {
            return Ok(());
        }
        let reasons: Vec<String> = self.reasons.iter().map(|(r, n)| format!("{n} {}", r.as_str())).collect();
        Err(TooManyFailures {
            failed: self.all.failed,
            ended: self.all.ended,
            limit: self.limit,
            reasons: reasons.join(", "),
        })
    }

    /// Drops the half of the shards with the fewest failures.
    fn forget_good_shards(&mut self) {
        let mut failed: Vec<(u64, usize)> =
            self.shards.iter().map(|(shard, tally)| (tally.failed, *shard)).collect();
        failed.sort_unstable();
        for (_, shard) in &failed[..MAX_SHARDS / 2] {
            self.shards.remove(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use recaption_schemas::Reject;

    use super::*;

    fn reject(reason: RejectReason) -> SampleOutcome {
        SampleOutcome::Reject(Box::new(Reject::new("", reason, "")))
    }

    /// Samples that ended when the guard spoke up, of shards of `(samples, failures)`.
    fn stops(limit: f64, shards: &[(u64, u64)], reason: RejectReason) -> Option<u64> {
        let mut guard = FailureGuard::new(limit);
        for (shard, (samples, failures)) in shards.iter().enumerate() {
            for at in 0..*samples {
                let outcome = if at < *failures { reject(reason) } else { reject(RejectReason::CaptionRule) };
                if guard.count(shard, &outcome).is_err() {
                    return Some(guard.all.ended);
                }
            }
        }
        None
    }

    #[test]
    fn tallies_do_not_grow_with_the_number_of_shards() {
        let mut guard = FailureGuard::new(0.5);
        for at in 0..5000 {
            guard.count(7, &reject(RejectReason::CorruptImage)).expect("one bad shard");
            guard.count(100 + at, &reject(RejectReason::CaptionRule)).expect("a good one");
        }
        assert!(guard.shards.len() <= MAX_SHARDS);
        assert_eq!(guard.shards[&7].failed, 5000, "the worst one is kept");
    }

    #[test]
    fn only_many_failures_in_many_shards_stop_a_run() {
        use RejectReason::{CorruptImage, TooSmall};
        assert_eq!(stops(0.5, &[(100, 100); 20], CorruptImage), Some(1000));
        assert_eq!(stops(0.5, &[(99, 99); 10], CorruptImage), None, "not enough were read");
        assert_eq!(stops(0.5, &[(5000, 5000)], CorruptImage), None, "a single shard never does");
        assert_eq!(
            stops(0.5, &[(100, 0), (5000, 5000), (100, 0)], CorruptImage),
            None,
            "nor among good ones"
        );
        assert_eq!(stops(0.5, &[(100, 100); 20], TooSmall), None, "filters are no failures");
        assert_eq!(stops(0.5, &[(100, 40); 20], CorruptImage), None, "less than half is allowed");
        assert_eq!(stops(1.0, &[(100, 100); 20], CorruptImage), None, "1 is off");
    }
}
