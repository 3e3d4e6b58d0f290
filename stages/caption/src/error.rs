//! Errors that end a caption worker.

use recaption_messages::PreparedSample;
use recaption_onnx::{runtime::RuntimeError, tokenizer::TokenizerError};

use crate::scorer::ScoreError;

/// The reason why a caption worker could not be loaded or ended early.
#[derive(Debug, thiserror::Error)]
pub enum CaptionError {
    /// The captioner's graphs cannot be loaded or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer cannot be loaded or cannot detokenise generated ids.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The scorer cannot be loaded or run.
    #[error(transparent)]
    Score(#[from] ScoreError),
}

impl CaptionError {
    /// Returns whether the host or the device ran out of memory.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Runtime(error) | Self::Score(ScoreError::Runtime(error)) => error.is_out_of_memory(),
            Self::Tokenizer(_) | Self::Score(_) => false,
        }
    }
}

/// The error that ended a caption worker, with the samples that are neither rows nor rejects yet.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CaptionFailure {
    /// The error that ended the worker.
    #[source]
    pub error: CaptionError,
    /// Samples that the worker had taken and not finished, in no particular order.
    pub unfinished: Vec<PreparedSample>,
}
