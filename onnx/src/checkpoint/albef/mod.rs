//! An ALBEF checkpoint with the names of the authors' code (github.com/salesforce/ALBEF): `config.json`, weights as safetensors or as
//! `torch.save` wrote them, and BERT's tokenizer.
//!
//! The authors' files have no configuration: `config.json` has the keys of their YAML files and, as `bert`, those of
//! `config_bert.json`; what it leaves out has the value of their code. Two variants are told apart by their names: pre-training
//! (`text_encoder.bert.*`, with a head that predicts masked words) and retrieval (`text_encoder.*`, without one). What serves training
//! alone (momentum copies, queues, temperature) is left out by name.

mod config;
mod names;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::config::AlbefConfig;
use super::{error::CheckpointError, tensors::TensorReader, tokenizer_files};
use crate::model::SpecialIds;

/// File with the configuration.
const CONFIG: &str = "config.json";
/// Files with the weights, first to last.
const WEIGHTS: [&str; 3] = ["albef.safetensors", "model.safetensors", "pytorch_model.bin"];
/// Extension of the authors' files, without the dot.
const AUTHORS_EXTENSION: &str = "pth";
/// Longest text of the authors' pre-training, in ids.
const PRETRAINING_TEXT: usize = 25;
/// Longest text of the authors' retrieval, in ids.
const RETRIEVAL_TEXT: usize = 30;

/// An opened ALBEF checkpoint: configuration and tensor directory.
#[derive(Debug)]
pub struct AlbefCheckpoint {
    /// The directory.
    pub dir: PathBuf,
    /// The parsed configuration.
    pub config: AlbefConfig,
    /// The weights, without what serves training alone.
    pub tensors: TensorReader,
    /// Prefix of the text encoder's tensors, without the last dot.
    pub text_prefix: &'static str,
    /// Whether there is a head that predicts masked words.
    pub has_mlm: bool,
    /// Side of the stored grid of position embeddings, which are interpolated where the image's grid is another.
    pub position_grid: usize,
    /// Longest text, in ids.
    pub max_text_tokens: usize,
}

impl AlbefCheckpoint {
    /// Returns whether `dir` holds an ALBEF: a `config.json` with the authors' `image_res`, which is of no other `model_type`.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        let text = std::fs::read(dir.join(CONFIG)).ok();
        let root: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        root.is_some_and(|root| {
            let kind = root.get("model_type").and_then(Value::as_str);
            kind == Some("albef") || (kind.is_none() && root.get("image_res").is_some())
        })
    }

    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// When a file is missing, an option is unsupported, the tensor directory is malformed, or the weights contradict the
    /// configuration.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut config = Self::read_config(dir)?;
        let path = weights(dir)?;
        let bad = |what| CheckpointError::Tensors { path: path.clone(), what };
        let tensors =
            TensorReader::open(&path)?.renamed(|name| Some(names::without_parallel(name).to_owned()));
        names::check_queues(&tensors, &config).map_err(bad)?;
        let tensors = tensors.renamed(|name| (!names::is_training_only(name)).then(|| name.to_owned()));
        let text_prefix = names::text_prefix(&tensors).map_err(bad)?;
        let position_grid = names::position_grid(&tensors).map_err(bad)?;
        if let Some(width) = names::vision_mlp_width(&tensors) {
            config.vision.mlp_width = width;
        }
        if position_grid != config.vision.image_size / config.vision.patch_size {
            tracing::info!(
                stored = position_grid,
                wanted = config.vision.image_size / config.vision.patch_size,
                "position embeddings are interpolated to the image's grid"
            );
        }
        let default = if text_prefix == names::RETRIEVAL_TEXT { RETRIEVAL_TEXT } else { PRETRAINING_TEXT };
        let has_mlm = tensors.names().any(|name| name.starts_with(names::MLM_HEAD));
        Ok(Self {
            dir: dir.to_owned(),
            has_mlm,
            max_text_tokens: config.max_text_tokens.unwrap_or(default).min(config.text.context_length),
            config,
            tensors,
            text_prefix,
            position_grid,
        })
    }

    /// Reads the configuration in `dir`; weights need not be there.
    ///
    /// # Errors
    /// When it is missing, an option is unsupported, or the tokenizer has other special ids.
    pub fn read_config(dir: &Path) -> Result<AlbefConfig, CheckpointError> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CheckpointError::AlbefIo { path: path.clone(), source })?;
        let tokenizer = special_ids(dir)?;
        AlbefConfig::parse(&text, tokenizer).map_err(|what| CheckpointError::Config { path, what })
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

/// Returns the special ids of the tokenizer in `dir`, if there is one.
fn special_ids(dir: &Path) -> Result<Option<SpecialIds>, CheckpointError> {
    let Some(bytes) = tokenizer_files::read_bert(dir)? else { return Ok(None) };
    let bad = |what: String| CheckpointError::Vocabulary { path: dir.to_owned(), what };
    let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| bad(e.to_string()))?;
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .map(i64::from)
            .ok_or_else(|| bad(format!("the tokenizer has no `{token}`")))
    };
    Ok(Some(SpecialIds { pad: id("[PAD]")?, start: id("[CLS]")?, end: id("[SEP]")? }))
}

/// Returns the path of the weights: the first of [`WEIGHTS`] that is there, or else the only `.pth` file.
fn weights(dir: &Path) -> Result<PathBuf, CheckpointError> {
    if let Some(path) = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
        return Ok(path);
    }
    let entries =
        std::fs::read_dir(dir).map_err(|source| CheckpointError::AlbefIo { path: dir.to_owned(), source })?;
    let of_authors = |path: &PathBuf| path.extension().is_some_and(|e| e == AUTHORS_EXTENSION);
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(of_authors);
    match (paths.next(), paths.next()) {
        (Some(path), None) => Ok(path),
        (first, _) => Err(CheckpointError::AlbefIo {
            path: if first.is_some() { dir.to_owned() } else { dir.join(WEIGHTS[0]) },
            source: match first {
                Some(_) => std::io::Error::other("there are several .pth files"),
                None => std::io::ErrorKind::NotFound.into(),
            },
        }),
    }
}
