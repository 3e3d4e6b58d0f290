//! How samples ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use recaption_messages::SampleOutcome;
use recaption_schemas::RejectReason;

/// Samples by how they ended, in this run: shards that are retried count again.
#[derive(Debug, Default)]
pub struct Outcomes {
    captioned: AtomicU64,
    kept: AtomicU64,
    rejected: [AtomicU64; RejectReason::ALL.len()],
}

impl Outcomes {
    /// Counts a sample.
    pub fn count(&self, outcome: &SampleOutcome) {
        let counter = match outcome {
            SampleOutcome::Caption(_) => &self.captioned,
            SampleOutcome::Kept(_) => &self.kept,
            SampleOutcome::Reject(reject) => &self.rejected[reject.reason as usize],
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Samples with a caption.
    #[must_use]
    pub fn captioned(&self) -> u64 {
        self.captioned.load(Relaxed)
    }

    /// Samples whose row of an earlier run stays.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// Samples without a caption.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Samples without a caption, for this reason.
    #[must_use]
    pub fn rejected_for(&self, reason: RejectReason) -> u64 {
        self.rejected[reason as usize].load(Relaxed)
    }

    /// All of them.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.captioned() + self.kept() + self.rejected()
    }
}

#[cfg(test)]
mod tests {
    use recaption_messages::PreviousOutcome;
    use recaption_schemas::Reject;

    use super::*;

    #[test]
    fn every_outcome_counts_once() {
        let outcomes = Outcomes::default();
        for reason in RejectReason::ALL {
            outcomes.count(&SampleOutcome::Reject(Box::new(Reject::new("", reason, ""))));
            assert_eq!(outcomes.rejected_for(reason), 1, "{reason:?}");
        }
        outcomes.count(&SampleOutcome::Kept(PreviousOutcome::Captioned));
        let reasons = RejectReason::ALL.len() as u64;
        assert_eq!((outcomes.rejected(), outcomes.kept(), outcomes.finished()), (reasons, 1, reasons + 1));
    }
}
