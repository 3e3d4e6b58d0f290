//! How the stages of a worker pass results on and how they end early.

use std::fmt::Display;

use recaption_messages::{PreparedSample, SampleResult};
use recaption_schemas::{Reject, RejectReason};

use crate::error::{CaptionError, CaptionFailure};

/// Sends one result to the collector; fails when the collector takes no more.
pub(crate) type Emit<'a> = &'a (dyn Fn(SampleResult) -> Result<(), Interruption> + Sync);

/// The reason why a stage ended before its input did, with the samples that are unfinished.
pub(crate) enum Interruption {
    /// The collector takes no more results: the run is over.
    Closed(Vec<PreparedSample>),
    /// A model failed.
    Failed(CaptionFailure),
}

impl Interruption {
    /// Creates the interruption of a model that failed.
    pub(crate) fn failed(error: impl Into<CaptionError>, unfinished: Vec<PreparedSample>) -> Self {
        Self::Failed(CaptionFailure { error: error.into(), unfinished })
    }

    /// Adds samples that are unfinished too.
    pub(crate) fn with(mut self, samples: impl IntoIterator<Item = PreparedSample>) -> Self {
        match &mut self {
            Self::Closed(unfinished) | Self::Failed(CaptionFailure { unfinished, .. }) => {
                unfinished.extend(samples);
            }
        }
        self
    }

    /// Returns the unfinished samples alone.
    pub(crate) fn into_unfinished(self) -> Vec<PreparedSample> {
        match self {
            Self::Closed(unfinished) | Self::Failed(CaptionFailure { unfinished, .. }) => unfinished,
        }
    }

    /// Merges the ends of two stages: a failure outlives the closed channel that it caused, and the earlier of two failures
    /// stays. No sample is lost.
    pub(crate) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Closed(samples), stop) => stop.with(samples),
            (stop, other) => stop.with(other.into_unfinished()),
        }
    }
}

/// Rejects a sample on which a model failed.
pub(crate) fn model_error(sample: PreparedSample, error: &dyn Display) -> SampleResult {
    let reject = Reject::new(sample.key, RejectReason::ModelError, error.to_string())
        .with_org_caption(sample.org_caption);
    SampleResult::rejected(sample.shard, sample.index, reject)
}
