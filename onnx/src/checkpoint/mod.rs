//! An open_clip checkpoint directory, read strictly: what is not understood is an error that names it.
//!
//! First step of the exporter. No tensor is held here longer than it is worked on.

mod config;
mod parameters;
mod tensors;

use std::path::{Path, PathBuf};

pub use config::{
    Activation, DecoderConfig, ModelConfig, MultimodalInput, Normalisation, PoolerConfig, PoolerKind,
    TextConfig, TextPooling, VisionConfig,
};
pub use parameters::{Init, Parameter};
pub use safetensors::Dtype;
pub use tensors::TensorReader;

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
        /// Why.
        source: std::io::Error,
    },
    /// The configuration cannot be parsed or asks for something unsupported.
    #[error("checkpoint {path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        what: String,
    },
    /// The weights contradict the configuration.
    #[error("checkpoint {path}: {what}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the tensor.
        what: String,
    },
}

/// An opened checkpoint: configuration and tensor directory.
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// What the configuration says.
    pub config: ModelConfig,
    /// The weights.
    pub tensors: TensorReader,
}

impl Checkpoint {
    /// File with `model_cfg` and `preprocess_cfg`.
    pub const CONFIG: &str = "open_clip_config.json";
    /// File with the weights.
    pub const WEIGHTS: &str = "open_clip_model.safetensors";
    /// File with the tokenizer, optional for export.
    pub const TOKENIZER: &str = "tokenizer.json";

    /// Opens `dir`.
    ///
    /// # Errors
    /// A missing file, a configuration outside the supported set (the option is named), an unreadable tensor directory.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(Self::CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let mut config =
            ModelConfig::parse(&text).map_err(|what| CheckpointError::Config { path: path.clone(), what })?;
        let tensors = TensorReader::open(&dir.join(Self::WEIGHTS))?;
        // A CLIP without `custom_text` has its text tower at the top; open_clip loads such weights either way.
        if config.decoder.is_none() && tensors.contains("positional_embedding") {
            config.text.prefix = "";
        }
        Ok(Self { dir: dir.to_owned(), config, tensors })
    }
}
