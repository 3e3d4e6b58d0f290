//! Errors of reading a checkpoint.

use std::path::PathBuf;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error(
        "checkpoint {path}: {source}; expected a directory as open_clip publishes it, with open_clip_config.json and open_clip_model.safetensors (or open_clip_pytorch_model.bin)"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file of a BLIP is missing or unreadable.
    #[error(
        "checkpoint {path}: {source}; expected a BLIP as transformers publishes it, with config.json, model.safetensors (or pytorch_model.bin) and tokenizer.json (or vocab.txt)"
    )]
    BlipIo {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file of an ALBEF is missing or unreadable.
    #[error(
        "checkpoint {path}: {source}; expected an ALBEF: config.json with its sizes, albef.safetensors (or the authors' only .pth file) and vocab.txt (or tokenizer.json) of bert-base-uncased"
    )]
    AlbefIo {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file of a SigLIP in transformers' layout is missing or unreadable.
    #[error(
        "checkpoint {path}: {source}; expected a SigLIP as transformers publishes it, with config.json, preprocessor_config.json, model.safetensors (or pytorch_model.bin) and tokenizer.json"
    )]
    SiglipIo {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The directory holds something else.
    #[error("checkpoint {path}: {what}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// The configuration cannot be parsed, or sets something unsupported.
    #[error("checkpoint {path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        what: String,
    },
    /// The vocabulary of a tokenizer that is to be built is malformed.
    #[error("checkpoint {path}: {what}")]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong.
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
