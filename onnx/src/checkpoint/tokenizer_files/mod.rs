//! The tokenizer of a checkpoint: its `tokenizer.json`, or one built from the files that CLIP's or BERT's vocabulary comes in.
//!
//! Files of an open_clip checkpoint, first to last: `tokenizer.json`; `vocab.json` with `merges.txt`, as transformers writes them;
//! `bpe_simple_vocab_16e6.txt.gz`, CLIP's own. Where there is none, the configuration has CLIP's number of entries and names
//! no other tokenizer, CLIP's vocabulary inside the program is taken (`onnx/vocabulary`). What is built is what
//! `scripts/build_tokenizer.py` builds from open_clip's: the same ids for the same texts. A model with another tokenizer
//! than CLIP's (SigLIP, CLIPA) has `tokenizer.json` alone. A BLIP has `tokenizer.json` or BERT's
//! `vocab.txt`.

mod build;
#[cfg(test)]
mod tests;
mod word_piece;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::{
    config::{TextConfig, TokenizerFamily},
    error::CheckpointError,
    files,
};
pub use build::{from_merges, from_vocabulary};

/// Vocabulary of transformers' tokenizers: entry to id.
pub const VOCABULARY: &str = "vocab.json";
/// Merges of transformers' tokenizers.
pub const MERGES: &str = "merges.txt";
/// CLIP's own file of merges.
pub const CLIP_MERGES: &str = "bpe_simple_vocab_16e6.txt.gz";
/// A BERT's vocabulary, a word a line.
pub const BERT_VOCABULARY: &str = word_piece::VOCABULARY;
/// Settings of the tokenizer with that vocabulary.
pub const BERT_SETTINGS: &str = word_piece::SETTINGS;
/// SentencePiece models, as SigLIP and Gemma have them.
const SENTENCE_PIECE: [&str; 2] = ["spiece.model", "tokenizer.model"];
/// Entries of CLIP's vocabulary: 256 bytes, each also at the end of a word, the merges, and two special entries.
const CLIP_ENTRIES: usize = 49_408;
/// Merges that CLIP uses of its file.
const CLIP_MERGE_COUNT: usize = 48_894;
/// CLIP's merges, one a line, compressed with gzip: see `onnx/vocabulary/README.md`.
const BUNDLED_MERGES: &[u8] = include_bytes!("../../../vocabulary/clip_merges.txt.gz");
/// Largest file of a vocabulary that is read, in bytes, decompressed; CLIP's has 3.2 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Returns the contents of the tokenizer of the checkpoint in `dir`, `None` where there is none.
pub(super) fn read(dir: &Path, text: &TextConfig) -> Result<Option<Vec<u8>>, CheckpointError> {
    if let Some(bytes) = optional(&dir.join(files::TOKENIZER))? {
        return Ok(Some(bytes));
    }
    if text.tokens.family != TokenizerFamily::Clip {
        return refuse_sentence_piece(dir).map(|()| None);
    }
    let bad = |name: &str, what: String| CheckpointError::Vocabulary { path: dir.join(name), what };
    if let Some((vocabulary, merges)) = optional(&dir.join(VOCABULARY))?.zip(optional(&dir.join(MERGES))?) {
        let merges = utf8(merges).map_err(|what| bad(MERGES, what))?;
        return from_vocabulary(&vocabulary, &merges).map(Some).map_err(|what| bad(VOCABULARY, what));
    }
    if let Some(bytes) = optional(&dir.join(CLIP_MERGES))? {
        let built = gunzip(&bytes).and_then(|text| {
            // The first line is a title, and what follows the merges is not used.
            let lines: Vec<&str> = text.lines().skip(1).take(CLIP_MERGE_COUNT).collect();
            from_merges(lines)
        });
        return built.map(Some).map_err(|what| bad(CLIP_MERGES, what));
    }
    if text.vocab_size == CLIP_ENTRIES && !names_tokenizer(dir) {
        tracing::info!("the checkpoint has CLIP's vocabulary and no tokenizer.json: built CLIP's tokenizer");
        return clip().map(Some).map_err(|what| bad(files::TOKENIZER, what));
    }
    Ok(None)
}

/// Fails where `dir` holds a SentencePiece model, of which no tokenizer is built here.
fn refuse_sentence_piece(dir: &Path) -> Result<(), CheckpointError> {
    match SENTENCE_PIECE.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
        None => Ok(()),
        Some(path) => Err(CheckpointError::Vocabulary {
            what: format!(
                "a SentencePiece model without tokenizer.json beside it: make that with `python scripts/build_siglip_tokenizer.py {}` \
                 (pip install sentencepiece tokenizers protobuf)",
                path.display()
            ),
            path,
        }),
    }
}

/// Returns the contents of the tokenizer of a BLIP or BERT in `dir`, `None` where there is none.
pub(crate) fn read_bert(dir: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    if let Some(bytes) = optional(&dir.join(files::TOKENIZER))? {
        return Ok(Some(bytes));
    }
    let path = dir.join(word_piece::VOCABULARY);
    let Some(vocabulary) = optional(&path)? else { return Ok(None) };
    let settings = optional(&dir.join(word_piece::SETTINGS))?;
    let bad = |what| CheckpointError::Vocabulary { path: path.clone(), what };
    let vocabulary = utf8(vocabulary).map_err(bad)?;
    word_piece::from_vocabulary(&vocabulary, settings.as_deref()).map(Some).map_err(bad)
}

/// Returns the contents of CLIP's `tokenizer.json`, built from the vocabulary inside the program.
///
/// # Errors
/// When that vocabulary is damaged, which a test excludes.
pub fn clip() -> Result<Vec<u8>, String> {
    from_merges(gunzip(BUNDLED_MERGES)?.lines().collect())
}

/// Returns a file's bytes, `None` where there is none.
pub(super) fn optional(path: &PathBuf) -> Result<Option<Vec<u8>>, CheckpointError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Io { path: path.clone(), source }),
    }
}

/// Returns whether the configuration names a tokenizer of its own.
fn names_tokenizer(dir: &Path) -> bool {
    let config = std::fs::read(dir.join(files::CONFIG)).ok();
    let config: Option<serde_json::Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.is_some_and(|c| {
        c.pointer("/model_cfg/text_cfg/hf_tokenizer_name").is_some_and(|name| !name.is_null())
    })
}

fn gunzip(bytes: &[u8]) -> Result<String, String> {
    let mut out = Vec::new();
    GzDecoder::new(bytes)
        .take(MAX_BYTES)
        .read_to_end(&mut out)
        .map_err(|e| format!("cannot be decompressed: {e}"))?;
    utf8(out)
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}
