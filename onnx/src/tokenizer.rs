//! Text to ids and back, with a `tokenizer.json` as Hugging Face's tokenizers write it.

use std::path::{Path, PathBuf};

use crate::model::{ModelFolder, SpecialIds, TOKENIZER_FILE};

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The model has none.
    #[error(
        "model {0} has no tokenizer.json, so no text can be read or written: put the checkpoint's tokenizer.json beside its weights and export again (for CLIP's vocabulary it is on the Hugging Face hub, for instance in openai/clip-vit-base-patch32)"
    )]
    Missing(PathBuf),
    /// It cannot be loaded or does not fit the model.
    #[error("tokenizer {path}: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Ids of a text, ready for the text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextIds {
    /// Start, words, end.
    pub ids: Vec<i64>,
    /// Whether words were cut to fit the context.
    pub cut: bool,
}

/// A tokenizer with the model's special ids and context.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    context: usize,
}

impl Tokenizer {
    /// Loads a model folder's tokenizer.
    ///
    /// # Errors
    /// When there is none, it is malformed, or its vocabulary is larger than the model's.
    pub fn load(model: &ModelFolder) -> Result<Self, TokenizerError> {
        if !model.has_tokenizer() {
            return Err(TokenizerError::Missing(model.dir.clone()));
        }
        let d = &model.spec.dimensions;
        Self::from_file(&model.path(TOKENIZER_FILE), model.spec.special_ids, d.context_length, d.vocab_size)
    }

    fn from_file(
        path: &Path,
        special: SpecialIds,
        context: usize,
        vocab: usize,
    ) -> Result<Self, TokenizerError> {
        let unusable = |what: String| TokenizerError::Unusable { path: path.to_owned(), what };
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(|e| unusable(e.to_string()))?;
        // Length is our business: a file may carry settings of its own.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| unusable(e.to_string()))?;
        let size = inner.get_vocab_size(true);
        if size > vocab {
            return Err(unusable(format!("{size} entries, the model's vocabulary has {vocab}")));
        }
        Ok(Self { inner, special, context })
    }

    /// Ids of `text` between start and end token, cut to the context.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<TextIds, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Unusable {
            path: TOKENIZER_FILE.into(),
            what: format!("cannot encode a text of {} bytes: {e}", text.len()),
        })?;
        let words = encoding.get_ids();
        let room = self.context - 2;
        let mut ids = vec![self.special.start];
        ids.extend(words.iter().take(room).map(|id| i64::from(*id)));
        ids.push(self.special.end);
        Ok(TextIds { ids, cut: words.len() > room })
    }

    /// Text of generated ids: special ids left out, tidied.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        let special = [self.special.pad, self.special.start, self.special.end];
        let words: Vec<u32> =
            ids.iter().filter(|id| !special.contains(id)).filter_map(|id| u32::try_from(*id).ok()).collect();
        let text = self.inner.decode(&words, true).map_err(|e| TokenizerError::Unusable {
            path: TOKENIZER_FILE.into(),
            what: format!("cannot decode {} ids: {e}", ids.len()),
        })?;
        Ok(tidy(&text))
    }
}

/// One space between words, none before `, . ; : ! ?`, trimmed. CLIP's decoder leaves "left , a".
#[must_use]
pub fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() && !word.starts_with([',', '.', ';', ':', '!', '?']) {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn spaces_are_tidied() {
        assert_eq!(tidy("  a  cat , a dog\t. ok !"), "a cat, a dog. ok!");
        assert_eq!(tidy(" . "), ".");
        assert_eq!(tidy(""), "");
    }
}
