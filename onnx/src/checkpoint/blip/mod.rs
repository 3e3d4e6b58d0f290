//! A BLIP checkpoint as transformers writes it (`BlipForConditionalGeneration`, `BlipForImageTextRetrieval`): `config.json`, `preprocessor_config.json`, weights
//! as safetensors or as `torch.save` wrote them, and BERT's tokenizer. The weights may have the authors' names instead, in a `.pth`
//! file too.
//!
//! Read as transformers reads it: what `config.json` does not set has transformers' default, keys that do not change what is
//! computed are skipped, and an option that would change it and is not supported is an error that names it.

mod config;
mod files;
mod names;
pub(super) mod preprocess;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::config::{BlipConfig, BlipTask, BlipTextConfig, BlipVisionConfig};
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
    /// File with the configuration.
    pub const CONFIG: &str = files::CONFIG;
    /// Files with the image processor's settings, of which the first that is there is read.
    pub const PROCESSORS: [&str; 2] = [files::PREPROCESSOR, files::PROCESSOR];
    /// File with the weights as safetensors.
    pub const WEIGHTS: &str = files::WEIGHTS[0];
    /// File with the weights as torch writes them.
    pub const TORCH_WEIGHTS: &str = files::WEIGHTS[1];
    /// File with the tokenizer.
    pub const TOKENIZER: &str = super::files::TOKENIZER;
    /// File with the vocabulary, where there is no tokenizer.
    pub const VOCABULARY: &str = tokenizer_files::BERT_VOCABULARY;
    /// File with the settings of a vocabulary's tokenizer.
    pub const VOCABULARY_SETTINGS: &str = tokenizer_files::BERT_SETTINGS;

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
        let tensors = names::as_in_transformers(TensorReader::open(&weights(dir)?)?, config.task);
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

    /// Returns the ids of `[CLS]` and `[ENC]`, with which the texts of a model that scores begin. The tokenizer of the hub's copies
    /// lacks `[ENC]`, which then follows `[DEC]`.
    ///
    /// # Errors
    /// When there is no tokenizer with `[CLS]`.
    pub fn text_starts(&self) -> Result<(i64, i64), CheckpointError> {
        let bad = |what: &str| CheckpointError::Vocabulary { path: self.dir.clone(), what: what.into() };
        let bytes = self.tokenizer()?.ok_or_else(|| {
            bad("has neither tokenizer.json nor vocab.txt, in which a BLIP that scores finds its texts' first token")
        })?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| bad(&e.to_string()))?;
        let cls = tokenizer.token_to_id("[CLS]").ok_or_else(|| bad("the tokenizer has no `[CLS]`"))?;
        let enc = tokenizer.token_to_id("[ENC]").map_or(self.config.text.special.start + 1, i64::from);
        if enc >= self.config.text.vocab_size as i64 {
            return Err(bad("the vocabulary has no place for `[ENC]`"));
        }
        Ok((cls.into(), enc))
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

impl BlipCheckpoint {
    /// Returns the path of the weights in `dir`: the safetensors file, or else torch's, or else the only `.pth` file.
    ///
    /// # Errors
    /// When there is none of them.
    pub fn weights(dir: &Path) -> Result<PathBuf, CheckpointError> {
        weights(dir)
    }
}

/// Returns the path of the weights: the safetensors file, or else torch's, or else the only `.pth` file.
fn weights(dir: &Path) -> Result<PathBuf, CheckpointError> {
    for name in files::WEIGHTS {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let entries =
        std::fs::read_dir(dir).map_err(|source| CheckpointError::BlipIo { path: dir.to_owned(), source })?;
    let of_authors = |path: &PathBuf| path.extension().is_some_and(|e| e == files::AUTHORS_EXTENSION);
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(of_authors);
    if let (Some(path), None) = (paths.next(), paths.next()) {
        return Ok(path);
    }
    Err(CheckpointError::BlipIo {
        path: dir.join(files::WEIGHTS[0]),
        source: std::io::ErrorKind::NotFound.into(),
    })
}
