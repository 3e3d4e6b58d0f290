//! Errors of captioning.

use recaption_image::DecodeError;

use crate::{model::ModelError, runtime::RuntimeError, tokenizer::TokenizerError};

/// Why images cannot be captioned.
#[derive(Debug, thiserror::Error)]
pub enum CaptionError {
    /// The model folder cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer cannot be loaded, or fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A graph cannot be loaded or fails, or an option does not fit the model.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An image cannot be decoded or resized.
    #[error("image {index}: {source}")]
    Image {
        /// Index of the image in the batch, 0 for a single one.
        index: usize,
        /// Cause.
        source: DecodeError,
    },
}
