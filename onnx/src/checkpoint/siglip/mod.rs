//! A SigLIP checkpoint as transformers writes it (`SiglipModel`): `config.json`, `preprocessor_config.json`, `model.safetensors` or
//! `pytorch_model.bin`, and `tokenizer.json`. SigLIP 2 of one image size is the same model with Gemma's tokenizer.
//!
//! It becomes a [`Checkpoint`](super::Checkpoint): the configuration is translated to open_clip's, and the tensors get open_clip's
//! names, so that both layouts have one exporter.

mod config;
mod names;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{
    blip::preprocess,
    config::{ModelConfig, TokenizerFamily},
    error::CheckpointError,
    files,
    tensors::TensorReader,
};

/// File with the configuration.
const CONFIG: &str = "config.json";
/// Files with the weights, first to last.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Directory of weights in several files.
const SHARDS: &str = "model.safetensors.index.json";
/// `model_type` of SigLIP, and of SigLIP 2 for images of any shape (NaFlex), which is not supported.
const MODEL_TYPES: [&str; 2] = ["siglip", "siglip2"];

/// The part of `tokenizer.json` that tells SigLIP's tokenizer from SigLIP 2's.
#[derive(Deserialize)]
struct TokenizerHead {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Returns whether `dir` holds a SigLIP, by the `model_type` of its `config.json`.
pub(super) fn is_in(dir: &Path) -> bool {
    let text = std::fs::read(dir.join(CONFIG)).ok();
    let root: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let kind = root.as_ref().and_then(|root| root.get("model_type")).and_then(Value::as_str);
    kind.is_some_and(|kind| MODEL_TYPES.contains(&kind))
}

/// Reads the configuration in `dir`; weights need not be there.
pub(super) fn read_config(dir: &Path) -> Result<ModelConfig, CheckpointError> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|source| io(path.clone(), source))?;
    let processor = preprocess::read(dir)?;
    let family = tokenizer_family(dir)?;
    config::parse(&text, processor.as_ref(), family).map_err(|what| CheckpointError::Config { path, what })
}

/// Opens the weights in `dir`, with open_clip's names.
pub(super) fn open_weights(dir: &Path) -> Result<TensorReader, CheckpointError> {
    if let Some(name) = WEIGHTS.iter().find(|name| dir.join(name).is_file()) {
        return names::as_in_open_clip(TensorReader::open(&dir.join(name))?);
    }
    if dir.join(SHARDS).is_file() {
        return Err(CheckpointError::Tensors {
            path: dir.join(SHARDS),
            what: "weights in several files are not read: load the model with transformers and save it with max_shard_size=\"100GB\"".into(),
        });
    }
    Err(io(dir.join(WEIGHTS[0]), std::io::ErrorKind::NotFound.into()))
}

/// Returns the family of the tokenizer in `dir` by its model: SigLIP's are unigram models, Gemma's merges pairs. `None` where there is no
/// tokenizer.
fn tokenizer_family(dir: &Path) -> Result<Option<TokenizerFamily>, CheckpointError> {
    let path = dir.join(files::TOKENIZER);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(path, source)),
    };
    let bad = |what: String| CheckpointError::Vocabulary { path: path.clone(), what };
    let head: TokenizerHead = serde_json::from_slice(&text).map_err(|e| bad(format!("malformed: {e}")))?;
    match head.model.kind.as_deref() {
        Some("Unigram") => Ok(Some(TokenizerFamily::Siglip)),
        Some("BPE") => Ok(Some(TokenizerFamily::Gemma)),
        kind => Err(bad(format!(
            "its model is {}, but a SigLIP's is Unigram (SentencePiece) and a SigLIP 2's BPE (Gemma)",
            kind.unwrap_or("missing")
        ))),
    }
}

fn io(path: PathBuf, source: std::io::Error) -> CheckpointError {
    CheckpointError::SiglipIo { path, source }
}
