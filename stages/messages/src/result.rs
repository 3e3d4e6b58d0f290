//! How samples end.

use recaption_schemas::{CaptionRow, Reject};

use crate::PreviousOutcome;

/// How a sample ended: every sample ends exactly once.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleOutcome {
    /// It has a caption: a row of `captions/`.
    Caption(Box<CaptionRow>),
    /// It has none: a row of `rejects/`.
    Reject(Box<Reject>),
    /// Its row of an earlier run stays.
    Kept(PreviousOutcome),
}

/// The end of one sample, and where it belongs.
#[derive(Debug)]
pub struct SampleResult {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard, from 0.
    pub index: u64,
    /// How it ended.
    pub outcome: SampleOutcome,
    /// Number of its texts that were truncated to the scorer's context length.
    pub texts_cut: u64,
    /// The scorer's features of a captioned sample, where they were asked for.
    pub embeddings: Option<Embeddings>,
}

impl SampleResult {
    /// The end of a sample whose row of an earlier run stays.
    #[must_use]
    pub fn kept(shard: usize, index: u64, previous: PreviousOutcome) -> Self {
        Self { shard, index, outcome: SampleOutcome::Kept(previous), texts_cut: 0, embeddings: None }
    }

    /// The end of a sample that was rejected before it was scored.
    #[must_use]
    pub fn rejected(shard: usize, index: u64, reject: Reject) -> Self {
        let outcome = SampleOutcome::Reject(Box::new(reject));
        Self { shard, index, outcome, texts_cut: 0, embeddings: None }
    }
}

/// The scorer's features of a sample, L2-normalised, `[E]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// Image features.
    pub image: Vec<f32>,
    /// Text features of the original caption, if there was one.
    pub original: Option<Vec<f32>>,
}
