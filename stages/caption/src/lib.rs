//! `Image -> Encoded -> Candidates -> Scored`: a captioner, which owns the models' sessions.
//!
//! ```text
//! ImageQueue -> encode -> generate -> score and filter -> outcomes
//! ```
//! On the CPU one thread does the three in turn, since every core is busy already. On a device each has a thread, with bounded
//! channels between: one encoded batch waits for slots while the next is encoded, and captions are detokenised, scored and
//! handed on while tokens are generated. Rows do not depend on it, nor does their order, which the collector restores.
//!
//! A captioner drops nothing: what it had taken and not finished when a model failed comes back with the error.

mod encode;
pub mod filter;
mod generate;
mod queue;
pub mod rules;
pub mod score;
mod scoring;
mod worker;

use recaption_onnx::{caption::CaptionSettings, runtime::RuntimeError, tokenizer::TokenizerError};
use recaption_schemas::{Reject, RejectReason};

pub use self::{queue::ImageQueue, worker::CaptionWorker};
use crate::{filter::Filter, score::ScoreError};
use recaption_messages::{PreparedSample, SampleResult};

/// Why a captioner ended.
#[derive(Debug, thiserror::Error)]
pub enum CaptionError {
    /// A model.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Scoring.
    #[error(transparent)]
    Score(#[from] ScoreError),
}

impl CaptionError {
    /// Whether memory did not suffice.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Runtime(error) | Self::Score(ScoreError::Runtime(error)) => error.is_out_of_memory(),
            Self::Tokenizer(_) | Self::Score(_) => false,
        }
    }
}

/// The error that ended a captioner, and what it had not finished.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CaptionFailure {
    /// The error.
    #[source]
    pub error: CaptionError,
    /// Samples that are neither rows nor rejects yet.
    pub unfinished: Vec<PreparedSample>,
}

/// Why a stage of a captioner ends before its time.
enum Stop {
    /// Nobody wants more outcomes: the run is over.
    Closed(Vec<PreparedSample>),
    /// A model failed.
    Failed(CaptionFailure),
}

impl Stop {
    fn failed(error: impl Into<CaptionError>, unfinished: Vec<PreparedSample>) -> Self {
        Self::Failed(CaptionFailure { error: error.into(), unfinished })
    }

    /// With further samples that are unfinished.
    fn with(mut self, samples: impl IntoIterator<Item = PreparedSample>) -> Self {
        match &mut self {
            Self::Closed(unfinished) | Self::Failed(CaptionFailure { unfinished, .. }) => {
                unfinished.extend(samples);
            }
        }
        self
    }
}

/// Takes an outcome; fails when nobody wants more of them.
type Emit<'a> = &'a (dyn Fn(SampleResult) -> Result<(), Stop> + Sync);

/// What a worker does with captions.
#[derive(Clone, Debug)]
pub struct CaptionWorkerSettings {
    /// Decoding.
    pub caption: CaptionSettings,
    /// Seed of sampling.
    pub seed: u64,
    /// Whether captions begin with the prompt that the model was given.
    pub keep_prompt: bool,
    /// Filtering.
    pub filter: Filter,
    /// Whether rows carry the stored image.
    pub embed_images: bool,
    /// Whether outcomes carry embeddings.
    pub keep_features: bool,
}

fn model_error(sample: PreparedSample, error: &dyn std::fmt::Display) -> SampleResult {
    let reject = Reject::new(sample.key, RejectReason::ModelError, error.to_string())
        .with_org_caption(sample.org_caption);
    SampleResult::rejected(sample.shard, sample.index, reject)
}

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
