//! What a scorer takes and returns.

use bytes::Bytes;
use recaption_schemas::{MatchProbability, Similarity};

use super::error::ScoreError;

/// The image of a [`ScoreJob`].
#[derive(Clone, Debug)]
pub enum ScoreImage {
    /// The captioner's image features, f32 `[E]`, L2-normalised: for [`Scorer::of_captioner`](super::Scorer::of_captioner).
    Features(Vec<f32>),
    /// Pixels at the scorer's size, u8 RGB `[S, S, 3]`, row-major: for [`Scorer::separate`](super::Scorer::separate).
    Pixels(Bytes),
    /// What a scorer with a matching head has made of pixels.
    Encoded {
        /// Image features, f32 `[E]`, L2-normalised.
        features: Vec<f32>,
        /// The tokens that texts attend to, f32 `[Q, W]`.
        tokens: Vec<f32>,
    },
}

impl ScoreImage {
    /// Returns the image features, f32 `[E]`; `None` of pixels.
    pub(super) fn features(&self) -> Option<&[f32]> {
        match self {
            Self::Features(features) | Self::Encoded { features, .. } => Some(features),
            Self::Pixels(_) => None,
        }
    }

    /// Returns the tokens that texts attend to; empty without any.
    pub(super) fn tokens(&self) -> &[f32] {
        match self {
            Self::Encoded { tokens, .. } => tokens,
            Self::Features(_) | Self::Pixels(_) => &[],
        }
    }
}

/// Texts to be scored against one image.
#[derive(Clone, Debug)]
pub struct ScoreJob<T> {
    /// Value of the caller, returned with the result.
    pub payload: T,
    /// The sample's key, for errors.
    pub key: String,
    /// The image.
    pub image: ScoreImage,
    /// The texts, in any number.
    pub texts: Vec<String>,
}

/// A text with its similarity to the job's image.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredText {
    /// The text.
    pub text: String,
    /// Cosine of image and text features; finite, in [-1, 1].
    pub similarity: Similarity,
    /// Probability that image and text match, if this text was matched.
    pub itm: Option<MatchProbability>,
}

/// The features that similarities were computed from, f32, L2-normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreFeatures {
    /// Image features, `[E]`.
    pub image: Vec<f32>,
    /// Text features in the job's order, `[texts, E]`.
    pub texts: Vec<f32>,
}

/// A job's result.
#[derive(Clone, Debug)]
pub struct ScoredJob<T> {
    /// The job's payload.
    pub payload: T,
    /// The job's texts with their similarities, in the job's order.
    pub texts: Vec<ScoredText>,
    /// Number of texts that were truncated to the scorer's context length.
    pub texts_cut: u64,
    /// The features, if [`Scorer::keep_features`](super::Scorer::keep_features) asked for them.
    pub features: Option<ScoreFeatures>,
}

/// Jobs that could not be scored together.
#[derive(Debug)]
pub struct FailedJobs<T> {
    /// The error of the batch.
    pub error: ScoreError,
    /// All jobs, unchanged but that pixels of a separate scorer may be encoded.
    pub jobs: Vec<ScoreJob<T>>,
}
