//! Errors of a scorer.

use recaption_onnx::{runtime::RuntimeError, tokenizer::TokenizerError};

/// The reason why texts cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// An encoder cannot be loaded or run, or a job's image is of the wrong kind.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer cannot be loaded or run.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's features are infinite or NaN for the sample of this key.
    #[error("the similarity of key {0} is not a number: the model's features are broken")]
    NotFinite(String),
    /// The matching head's logits are infinite or NaN for the sample of this key.
    #[error("the matching probability of key {0} is not a number: the model's matching head is broken")]
    MatchNotFinite(String),
}
