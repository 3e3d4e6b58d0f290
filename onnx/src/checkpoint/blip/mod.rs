//! A BLIP checkpoint as transformers writes it (`BlipForConditionalGeneration`): `config.json`, `preprocessor_config.json`, weights
//! as safetensors or as `torch.save` wrote them, and BERT's tokenizer.
//!
//! Read as transformers reads it: what `config.json` does not set has transformers' default, keys that do not change what is
//! computed are skipped, and an option that would change it and is not supported is an error that names it.

mod config;
mod files;
mod preprocess;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::config::{BlipConfig, BlipTextConfig, BlipVisionConfig};
use super::{error::CheckpointError, tensors::TensorReader, tokenizer_files};

/// An opened BLIP checkpoint: configuration and tensor directory.
#[derive(Debug)]
pub struct BlipCheckpoint {
    /// The directory.
    pub dir: PathBuf,
    /// The parsed configuration.
    pub config: BlipConfig,
    /// The weights.
    pub tensors: TensorReader,
}

impl BlipCheckpoint {
    /// Returns whether `dir` holds a BLIP, by the `model_type` of its `config.json`.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        let text = std::fs::read(dir.join(files::CONFIG)).ok();
        let root: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        root.is_some_and(|root| root.get("model_type").and_then(Value::as_str) == Some(config::MODEL_TYPE))
    }

    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// When a file is missing, an option is unsupported, or the tensor directory is malformed.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config = Self::read_config(dir)?;
        let tensors = TensorReader::open(&weights(dir)?)?;
        Ok(Self { dir: dir.to_owned(), config, tensors })
    }

    /// Reads the configuration in `dir`; weights need not be there.
    ///
    /// # Errors
    /// When it is missing, or an option is unsupported.
    pub fn read_config(dir: &Path) -> Result<BlipConfig, CheckpointError> {
        let path = dir.join(files::CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CheckpointError::BlipIo { path: path.clone(), source })?;
        let processor = preprocess::read(dir)?;
        BlipConfig::parse(&text, processor.as_ref()).map_err(|what| CheckpointError::Config { path, what })
    }

    /// Returns the contents of the checkpoint's `tokenizer.json`, or of one built from its `vocab.txt`; `None` where there is
    /// neither.
    ///
    /// # Errors
    /// When a file is unreadable or malformed.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        tokenizer_files::read_bert(&self.dir)
    }
}

/// Returns the path of the weights: the safetensors file, or else torch's.
fn weights(dir: &Path) -> Result<PathBuf, CheckpointError> {
    for name in files::WEIGHTS {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(CheckpointError::BlipIo {
        path: dir.join(files::WEIGHTS[0]),
        source: std::io::ErrorKind::NotFound.into(),
    })
}
