//! What an earlier run made of a shard's samples, for a retry: samples that ended keep their rows, those that were rejected for
//! a transient reason are processed again.
//!
//! Rows carry no position, but both parts are in the shard's order, and a repeated key is always a reject after its first
//! sample. Walking the shard with one cursor in each part therefore finds every sample's row.

use recaption_schemas::RejectReason;

/// How an earlier run ended a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviousOutcome {
    /// With a caption.
    Captioned,
    /// With a reject, for this reason.
    Rejected(String),
}

/// What a retry does with a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Keeps its row.
    Keep(PreviousOutcome),
    /// Processes it again and replaces its row.
    Reprocess,
}

/// A shard's rows of an earlier run, as far as a retry needs them: keys and reasons.
#[derive(Debug, Default)]
pub struct PreviousRows {
    captions: std::vec::IntoIter<String>,
    rejects: std::vec::IntoIter<(String, String)>,
    caption: Option<String>,
    reject: Option<(String, String)>,
    retried: Vec<RejectReason>,
}

impl PreviousRows {
    /// Takes the keys of `captions/` and the keys and reasons of `rejects/`, both in the shard's order. Rejects for one of the
    /// `retried` reasons are processed again.
    #[must_use]
    pub fn new(captions: Vec<String>, rejects: Vec<(String, String)>, retried: &[RejectReason]) -> Self {
        let (mut captions, mut rejects) = (captions.into_iter(), rejects.into_iter());
        let retried = retried.to_vec();
        Self { caption: captions.next(), reject: rejects.next(), captions, rejects, retried }
    }

    /// Returns what to do with the shard's next sample; `None` when the next row is not `key`'s: the shard has changed.
    pub fn decide(&mut self, key: &str) -> Option<RetryDecision> {
        if self.caption.as_deref() == Some(key) {
            self.caption = self.captions.next();
            return Some(RetryDecision::Keep(PreviousOutcome::Captioned));
        }
        let (_, reason) = self.reject.take_if(|(rejected, _)| rejected == key)?;
        self.reject = self.rejects.next();
        let is_retried = self.retried.iter().any(|r| r.as_str() == reason);
        Some(if is_retried {
            RetryDecision::Reprocess
        } else {
            RetryDecision::Keep(PreviousOutcome::Rejected(reason))
        })
    }

    /// Returns whether every row was met.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.caption.is_none() && self.reject.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transient_rejects_are_processed_again() {
        let rejects = [("b", "fetch"), ("a", "duplicate_key"), ("d", "model_error"), ("d", "duplicate_key")];
        let rejects = rejects.map(|(key, reason)| (key.to_owned(), reason.to_owned())).to_vec();
        let mut rows = PreviousRows::new(vec!["a".into(), "c".into()], rejects, &[RejectReason::ModelError]);
        let kept = |reason: &str| Some(RetryDecision::Keep(PreviousOutcome::Rejected(reason.into())));
        assert_eq!(rows.decide("a"), Some(RetryDecision::Keep(PreviousOutcome::Captioned)));
        assert_eq!(rows.decide("b"), kept("fetch"));
        assert_eq!(rows.decide("a"), kept("duplicate_key"));
        assert_eq!(rows.decide("x"), None, "a sample without a row");
        assert_eq!(rows.decide("c"), Some(RetryDecision::Keep(PreviousOutcome::Captioned)));
        assert_eq!(rows.decide("d"), Some(RetryDecision::Reprocess));
        assert!(!rows.is_at_end());
        assert_eq!(rows.decide("d"), kept("duplicate_key"));
        assert!(rows.is_at_end());
        assert_eq!(rows.decide("d"), None);
    }
}
