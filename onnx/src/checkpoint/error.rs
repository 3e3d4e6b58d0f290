//! Errors of reading a checkpoint.

use std::path::PathBuf;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error(
        "checkpoint {path}: {source}; expected a directory as open_clip publishes it, with open_clip_config.json and open_clip_model.safetensors"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The configuration cannot be parsed, or sets something unsupported.
    #[error("checkpoint {path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        what: String,
    },
    /// The weights are malformed, or contradict the configuration.
    #[error("checkpoint {path}: {what}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the tensor.
        what: String,
    },
}
